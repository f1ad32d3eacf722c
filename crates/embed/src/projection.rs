//! How native vectors reach their slots: Gaussian rows for sparse vectors, zero padding, and
//! seeded orthonormal maps.
//!
//! None of these is trained. A checkpoint's own projection, where there is one, is loaded with
//! the model's weights and not here.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::embedding::{SparseVector, require_finite, require_len};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::tensor_file::{DigestRule, TensorFile, TensorFileWriter, TensorShape};

/// Bump when a generator of this file changes.
pub const PROJECTION_VERSION: u16 = 1;

/// The seed of the published slots.
pub const PROJECTION_SEED_DEFAULT: u64 = 42;

/// A matrix `[in, out]` of N(0, 1 / out), of which any row can be made alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaussianRows {
    seed: u64,
    in_len: usize,
    out_len: usize,
}

impl GaussianRows {
    /// E6: 30,522 terms to 1,536 elements, seed 42.
    pub const SPARSE: Self = Self { seed: PROJECTION_SEED_DEFAULT, in_len: 30_522, out_len: 1_536 };

    /// Rows of `out_len` elements for `in_len` inputs.
    ///
    /// # Errors
    /// [`EmbeddingError::InvalidDimension`] for a length of zero or inputs beyond `u32`.
    pub fn new(seed: u64, in_len: usize, out_len: usize) -> EmbeddingResult<Self> {
        require_some("projection input", in_len)?;
        require_some("projection output", out_len)?;
        Ok(Self { seed, in_len, out_len })
    }

    /// Rows: the length of what is projected.
    pub fn in_len(&self) -> usize {
        self.in_len
    }

    /// Elements of a row: the length of the result.
    pub fn out_len(&self) -> usize {
        self.out_len
    }

    /// Makes one row: ChaCha20 stream `row_index`, Box–Muller in f64 on pairs of u32 (cosine
    /// first), divided by √out. Shape `[out]`.
    ///
    /// # Panics
    /// When `out` has another length or the row is not there: a bug in the caller.
    pub fn row_into(&self, row_index: u32, out: &mut [f32]) {
        assert_eq!(out.len(), self.out_len);
        assert!((row_index as usize) < self.in_len);

        let mut normals = Normals::new(self.seed, u64::from(row_index));
        let scale = (self.out_len as f64).sqrt();
        for it in out {
            *it = (normals.next() / scale) as f32;
        }
    }

    /// Writes all rows as tensor `projection.weight` `[in, out]`; the digest comes back. Rows
    /// of another machine may differ in the last bit, because its cosine may; the file does not.
    ///
    /// # Errors
    /// [`EmbeddingError::IoError`].
    pub fn save(&self, path: &Path) -> EmbeddingResult<[u8; 32]> {
        let notes = [
            ("seed", self.seed.to_string()),
            ("projection_version", PROJECTION_VERSION.to_string()),
        ];
        let mut out = TensorFileWriter::create(path, &[self.tensor()], &notes)?;
        let mut row = vec![0.0; self.out_len];
        for row_index in 0..self.in_len as u32 {
            self.row_into(row_index, &mut row);
            out.write(&row)?;
        }
        out.finish()
    }

    /// A file of [`GaussianRows::save`] or a learned matrix of that shape, verified.
    ///
    /// # Errors
    /// As [`TensorFile::open`] and [`TensorFile::require`].
    pub fn open(&self, path: &Path) -> EmbeddingResult<TensorFile> {
        let file = TensorFile::open(path, DigestRule::Required)?;
        file.require(&self.tensor())?;
        Ok(file)
    }

    fn tensor(&self) -> TensorShape {
        TensorShape { name: ROWS_NAME.to_owned(), shape: vec![self.in_len, self.out_len] }
    }
}

/// What the rows are called in their file.
pub(crate) const ROWS_NAME: &str = "projection.weight";

/// Projects sparse vectors through [`GaussianRows`], which are made, or read from a file, as they
/// are needed and kept within a bound.
#[derive(Debug)]
pub struct SparseProjection {
    rows: GaussianRows,
    file: Option<TensorFile>,
    cache: Mutex<RowCache>,
}

impl SparseProjection {
    /// Makes rows on demand; keeps at most `cached_rows_max` of them.
    pub fn generated(rows: GaussianRows, cached_rows_max: usize) -> Self {
        Self { rows, file: None, cache: Mutex::new(RowCache::new(cached_rows_max)) }
    }

    /// Reads rows from a file of [`GaussianRows::save`] or a learned matrix of that shape. The
    /// file is verified here, once.
    ///
    /// # Errors
    /// As [`TensorFile::open`] and [`TensorFile::require`].
    pub fn open(rows: GaussianRows, path: &Path, cached_rows_max: usize) -> EmbeddingResult<Self> {
        let file = rows.open(path)?;
        Ok(Self { rows, file: Some(file), cache: Mutex::new(RowCache::new(cached_rows_max)) })
    }

    /// The sum of value × row over the elements of `sparse`, in f64. Shape `[out]`.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`] for an index beyond the rows;
    /// [`EmbeddingError::IoError`].
    pub fn apply(&self, sparse: &SparseVector) -> EmbeddingResult<Vec<f32>> {
        if let Some(last) = sparse.indices().last() {
            let (want_len, got_len) = (self.rows.in_len, *last as usize + 1);
            if want_len < got_len {
                let what = "sparse vector";
                return Err(EmbeddingError::DimensionMismatch { what, want_len, got_len });
            }
        }
        let mut sums = vec![0.0_f64; self.rows.out_len];
        for (row_index, value) in sparse.indices().iter().zip(sparse.values()) {
            let row = self.row(*row_index)?;
            for (sum, it) in sums.iter_mut().zip(row.iter()) {
                *sum += f64::from(*value) * f64::from(*it);
            }
        }
        Ok(sums.iter().map(|it| *it as f32).collect())
    }

    /// What the cache did so far.
    pub fn cache_counts(&self) -> RowCacheCounts {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let entry_count = cache.entries.len() as u64;
        cache.counts.bytes = entry_count * 4 * self.rows.out_len as u64;
        cache.counts
    }

    fn row(&self, row_index: u32) -> EmbeddingResult<Arc<[f32]>> {
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(it) = lock().get(row_index) {
            return Ok(it);
        }
        // Outside the lock: two callers may both make the row; they make the same one.
        let mut row = vec![0.0; self.rows.out_len];
        match &self.file {
            None => self.rows.row_into(row_index, &mut row),
            Some(file) => file.read(ROWS_NAME, row_index as usize * row.len(), &mut row)?,
        }
        let row: Arc<[f32]> = row.into();
        lock().insert(row_index, Arc::clone(&row));
        Ok(row)
    }
}

/// What a row cache did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCacheCounts {
    /// Rows that were there.
    pub hit_count: u64,
    /// Rows that had to be made or read.
    pub miss_count: u64,
    /// Rows that were put in.
    pub insert_count: u64,
    /// Rows that made way.
    pub eviction_count: u64,
    /// Bytes held now.
    pub bytes: u64,
}

/// Rows by index. Bounded; the row that was not used for longest among a few makes way. Rows
/// never change, so nothing is invalidated.
#[derive(Debug)]
struct RowCache {
    entries: HashMap<u32, (Arc<[f32]>, u64)>,
    rows_max: usize,
    clock: u64,
    counts: RowCacheCounts,
}

impl RowCache {
    fn new(rows_max: usize) -> Self {
        let counts = RowCacheCounts::default();
        Self { entries: HashMap::new(), rows_max, clock: 0, counts }
    }

    fn get(&mut self, row_index: u32) -> Option<Arc<[f32]>> {
        self.clock += 1;
        match self.entries.get_mut(&row_index) {
            Some((row, used)) => {
                *used = self.clock;
                self.counts.hit_count += 1;
                Some(Arc::clone(row))
            }
            None => {
                self.counts.miss_count += 1;
                None
            }
        }
    }

    fn insert(&mut self, row_index: u32, row: Arc<[f32]>) {
        const SAMPLE: usize = 16;
        if self.rows_max == 0 || self.entries.contains_key(&row_index) {
            return;
        }
        if self.entries.len() == self.rows_max {
            let oldest = self.entries.iter().take(SAMPLE).min_by_key(|(_, (_, used))| *used);
            if let Some(index) = oldest.map(|(index, _)| *index) {
                self.entries.remove(&index);
                self.counts.eviction_count += 1;
            }
        }
        self.entries.insert(row_index, (row, self.clock));
        self.counts.insert_count += 1;
    }
}

/// The vector, then zeros up to `out_len`: every cosine stays as it was. E7's way from 256 to
/// 768.
///
/// # Errors
/// [`EmbeddingError::DimensionMismatch`] for a longer vector.
pub fn pad_with_zeros(vector: &[f32], out_len: usize) -> EmbeddingResult<Vec<f32>> {
    if out_len < vector.len() {
        let (what, got_len) = ("vector to be padded", vector.len());
        return Err(EmbeddingError::DimensionMismatch { what, want_len: out_len, got_len });
    }
    let mut out = vector.to_vec();
    out.resize(out_len, 0.0);
    Ok(out)
}

/// A seeded matrix `[out, in]` with orthonormal columns when `in <= out` (every angle and length
/// stays) and orthonormal rows when `in > out`.
#[derive(Clone, Debug, PartialEq)]
pub struct OrthonormalMap {
    in_len: usize,
    out_len: usize,
    matrix: Vec<f32>,
}

impl OrthonormalMap {
    /// Gaussian vectors from ChaCha20 (stream = number of the vector), made orthonormal in f64
    /// by Gram–Schmidt, twice. The sign is that of the Gaussian vector, so nothing is left to
    /// choice. Cost: 4 · min² · max multiplications.
    ///
    /// # Errors
    /// [`EmbeddingError::InvalidDimension`] for a length of zero.
    pub fn new(seed: u64, in_len: usize, out_len: usize) -> EmbeddingResult<Self> {
        require_some("projection input", in_len)?;
        require_some("projection output", out_len)?;
        let (count, len) = (in_len.min(out_len), in_len.max(out_len));
        let basis = orthonormal_vectors(seed, count, len);
        let mut matrix = vec![0.0; in_len * out_len];
        for (vector_index, vector) in basis.chunks_exact(len).enumerate() {
            for (index, it) in vector.iter().enumerate() {
                let place = if in_len <= out_len {
                    index * in_len + vector_index
                } else {
                    vector_index * in_len + index
                };
                matrix[place] = *it as f32;
            }
        }
        Ok(Self { in_len, out_len, matrix })
    }

    /// The same map out of a file in `folder`, made and kept there when it is not. A damaged file
    /// is made anew.
    ///
    /// # Errors
    /// As [`OrthonormalMap::new`]; [`EmbeddingError::IoError`] when it cannot be kept.
    pub fn kept(folder: &Path, seed: u64, in_len: usize, out_len: usize) -> EmbeddingResult<Self> {
        let name = format!("map-v{PROJECTION_VERSION}-{seed}-{in_len}x{out_len}.safetensors");
        let path = folder.join(name);
        let tensor = TensorShape { name: "projection.weight".into(), shape: vec![out_len, in_len] };
        let read = || {
            let file = TensorFile::open(&path, DigestRule::Required)?;
            file.require(&tensor)?;
            let mut matrix = vec![0.0; in_len * out_len];
            file.read(&tensor.name, 0, &mut matrix)?;
            Ok::<_, EmbeddingError>(Self { in_len, out_len, matrix })
        };
        if let Ok(map) = read() {
            return Ok(map);
        }
        let map = Self::new(seed, in_len, out_len)?;
        std::fs::create_dir_all(folder)
            .map_err(|source| EmbeddingError::IoError { path: folder.into(), source })?;
        let mut out = TensorFileWriter::create(&path, std::slice::from_ref(&tensor), &[])?;
        out.write(&map.matrix)?;
        out.finish()?;
        Ok(map)
    }

    /// Length of what is projected.
    pub fn in_len(&self) -> usize {
        self.in_len
    }

    /// Length of the result.
    pub fn out_len(&self) -> usize {
        self.out_len
    }

    /// The matrix, `[out, in]`, as a linear layer's weight.
    pub fn matrix(&self) -> &[f32] {
        &self.matrix
    }

    /// The product with `vector`, summed in f64. Shapes: `vector: [in]`, result `[out]`.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`]; [`EmbeddingError::InvalidValue`].
    pub fn apply(&self, vector: &[f32]) -> EmbeddingResult<Vec<f32>> {
        require_len("vector to be projected", self.in_len, vector.len())?;
        require_finite(vector)?;
        let product = |row: &[f32]| {
            row.iter().zip(vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
        };
        Ok(self.matrix.chunks_exact(self.in_len).map(product).collect())
    }
}

/// `count` orthonormal vectors of `len` elements, one after another.
fn orthonormal_vectors(seed: u64, count: usize, len: usize) -> Vec<f64> {
    let mut basis: Vec<f64> = Vec::with_capacity(count * len);
    for vector_index in 0..count {
        let mut normals = Normals::new(seed, vector_index as u64);
        let mut vector: Vec<f64> = (0..len).map(|_| normals.next()).collect();
        for _ in 0..2 {
            for before in basis.chunks_exact(len) {
                let share = dot_f64(&vector, before);
                for (it, b) in vector.iter_mut().zip(before) {
                    *it -= share * b;
                }
            }
            let norm = dot_f64(&vector, &vector).sqrt();
            for it in &mut vector {
                *it /= norm;
            }
        }
        basis.extend(vector);
    }
    basis
}

/// In eight running sums, so that the order is fixed and wide registers can be used.
fn dot_f64(a: &[f64], b: &[f64]) -> f64 {
    let (a_chunks, a_tail) = a.as_chunks::<8>();
    let (b_chunks, b_tail) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f64>() + a_tail.iter().zip(b_tail).map(|(x, y)| x * y).sum::<f64>()
}

/// Standard normal numbers of one ChaCha20 stream.
struct Normals {
    words: ChaCha20Rng,
    second: Option<f64>,
}

impl Normals {
    fn new(seed: u64, stream: u64) -> Self {
        let mut words = ChaCha20Rng::seed_from_u64(seed);
        words.set_stream(stream);
        Self { words, second: None }
    }

    fn next(&mut self) -> f64 {
        const SPAN: f64 = 4_294_967_296.0;
        if let Some(it) = self.second.take() {
            return it;
        }
        let u1 = (f64::from(self.words.next_u32()) + 1.0) / SPAN;
        let u2 = f64::from(self.words.next_u32()) / SPAN;
        let radius = (-2.0 * u1.ln()).sqrt();
        let (sin, cos) = (2.0 * std::f64::consts::PI * u2).sin_cos();
        self.second = Some(radius * sin);
        radius * cos
    }
}

fn require_some(what: &'static str, got_len: usize) -> EmbeddingResult<()> {
    if got_len == 0 || u32::MAX as usize <= got_len {
        return Err(EmbeddingError::InvalidDimension { what, got_len });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_maps_are_read_back_and_damaged_ones_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let made = OrthonormalMap::kept(folder.path(), 3, 8, 12).unwrap();
        assert_eq!(made, OrthonormalMap::new(3, 8, 12).unwrap());
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        assert_eq!(OrthonormalMap::kept(folder.path(), 3, 8, 12).unwrap(), made);
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(OrthonormalMap::kept(folder.path(), 3, 8, 12).unwrap(), made);
    }
    use crate::embedding::{cosine, l2_norm};

    /// xxh64 of the values in steps of 1/10,000: the same on machines whose cosine differs in
    /// the last bit.
    fn rounded_digest(values: &[f32]) -> u64 {
        let bytes: Vec<u8> =
            values.iter().flat_map(|it| ((it * 1e4).round() as i32).to_le_bytes()).collect();
        xxhash_rust::xxh64::xxh64(&bytes, 0)
    }

    fn row(row_index: u32) -> Vec<f32> {
        let mut out = vec![0.0; 1_536];
        GaussianRows::SPARSE.row_into(row_index, &mut out);
        out
    }

    #[track_caller]
    fn check_row(row_index: u32, first: [f32; 2], digest: u64) {
        let got = row(row_index);
        for (got, want) in got.iter().zip(first) {
            assert!((got - want).abs() < 1e-7, "row {row_index} begins {:?}", &got_pair(row_index));
        }
        let got = rounded_digest(&got);
        assert_eq!(got, digest, "row {row_index}: {got:#018x}");
    }

    fn got_pair(row_index: u32) -> [f32; 2] {
        [row(row_index)[0], row(row_index)[1]]
    }

    #[test]
    fn rows_are_pinned() {
        check_row(0, PIN_ROW_0.0, PIN_ROW_0.1);
        check_row(30_521, PIN_ROW_LAST.0, PIN_ROW_LAST.1);
    }

    fn sparse(salt: u32, count: u32) -> SparseVector {
        let indices: Vec<u32> = (0..count).map(|it| it * 211 + salt % 211).collect();
        let values = (0..count).map(|it| 0.1 + ((it * 7 + salt) % 13) as f32 / 5.0).collect();
        SparseVector::new(indices, values).unwrap()
    }

    #[test]
    fn norms_and_angles_are_kept_about() {
        let e6 = SparseProjection::generated(GaussianRows::SPARSE, 30_522);
        let mut before = sparse(0, 120);
        let mut before_out = e6.apply(&before).unwrap();
        for salt in 1..200 {
            let now = sparse(salt, 100 + salt % 40);
            let out = e6.apply(&now).unwrap();
            let distortion = (l2_norm(&out) / l2_norm(now.values()) - 1.0).abs();
            assert!(distortion < 0.2, "norm of {salt}: {distortion}");
            let want = now.dot(&before) / l2_norm(now.values()) / l2_norm(before.values());
            let got = cosine(&out, &before_out);
            assert!((got - want).abs() < 0.2, "cosine of {salt}: {got} for {want}");
            (before, before_out) = (now, out);
        }
    }

    #[test]
    fn the_cache_is_bounded_and_of_no_effect_on_results() {
        let rows = GaussianRows::new(7, 40_000, 64).unwrap();
        let none = SparseProjection::generated(rows, 0);
        let some = SparseProjection::generated(rows, 50);
        for salt in 0..20 {
            let it = sparse(salt % 3, 100);
            assert_eq!(none.apply(&it).unwrap(), some.apply(&it).unwrap());
        }
        assert_eq!(none.cache_counts().hit_count, 0);
        let counts = some.cache_counts();
        assert_eq!(counts.bytes, 50 * 64 * 4);
        assert_eq!(counts.insert_count, counts.eviction_count + 50);
        assert_eq!(counts.hit_count + counts.miss_count, 2_000);
        let beyond = SparseVector::new(vec![40_000], vec![1.0]).unwrap();
        assert!(matches!(
            some.apply(&beyond),
            Err(EmbeddingError::DimensionMismatch { want_len: 40_000, got_len: 40_001, .. })
        ));
        assert_eq!(some.apply(&SparseVector::default()).unwrap(), vec![0.0; 64]);
    }

    #[test]
    fn a_saved_matrix_gives_the_same_results() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.safetensors");
        let rows = GaussianRows::new(7, 300, 48).unwrap();
        let digest = rows.save(&path).unwrap();
        assert_eq!(rows.save(&path).unwrap(), digest);
        let made = SparseProjection::generated(rows, 10);
        let read = SparseProjection::open(rows, &path, 10).unwrap();
        let it = SparseVector::new(vec![0, 5, 299], vec![1.0, -2.0, 0.5]).unwrap();
        assert_eq!(made.apply(&it).unwrap(), read.apply(&it).unwrap());
        let other = GaussianRows::new(7, 300, 49).unwrap();
        assert!(SparseProjection::open(other, &path, 10).is_err());
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(SparseProjection::open(rows, &path, 10).is_err());
    }

    #[test]
    fn padding_keeps_cosines() {
        let (a, b) = (pad_with_zeros(&[1.0, 2.0], 4), pad_with_zeros(&[2.0, -1.0], 4));
        assert_eq!(a.as_ref().unwrap(), &[1.0, 2.0, 0.0, 0.0]);
        assert_eq!(cosine(&a.unwrap(), &b.unwrap()), 0.0);
        assert!(pad_with_zeros(&[1.0; 5], 4).is_err());
    }

    #[track_caller]
    fn check_orthonormal(in_len: usize, out_len: usize) {
        let map = OrthonormalMap::new(42, in_len, out_len).unwrap();
        let count = in_len.min(out_len);
        let vector = |index: usize| -> Vec<f32> {
            if in_len <= out_len {
                map.matrix().iter().skip(index).step_by(in_len).copied().collect()
            } else {
                map.matrix()[index * in_len..(index + 1) * in_len].to_vec()
            }
        };
        for a in 0..count {
            for b in 0..=a {
                let want = if a == b { 1.0 } else { 0.0 };
                let product: f64 = vector(a)
                    .iter()
                    .zip(vector(b))
                    .map(|(x, y)| f64::from(*x) * f64::from(y))
                    .sum();
                assert!((product - want).abs() < 1e-6, "{in_len} to {out_len}: {a}, {b}");
            }
        }
        let input: Vec<f32> = (0..in_len).map(|it| (it % 7) as f32 - 2.5).collect();
        let out = map.apply(&input).unwrap();
        let ratio = l2_norm(&out) / l2_norm(&input);
        if in_len <= out_len {
            assert!((ratio - 1.0).abs() < 1e-6, "{in_len} to {out_len}: {ratio}");
        } else {
            assert!(ratio <= 1.0 + 1e-6, "{in_len} to {out_len}: {ratio}");
        }
        assert!(map.apply(&input[1..]).is_err());
    }

    #[test]
    fn maps_are_orthonormal() {
        check_orthonormal(1, 1);
        check_orthonormal(32, 32);
        check_orthonormal(48, 100);
        check_orthonormal(100, 48);
    }

    #[test]
    fn maps_are_pinned() {
        let digest = |in_len, out_len| {
            rounded_digest(OrthonormalMap::new(42, in_len, out_len).unwrap().matrix())
        };
        assert_eq!(digest(16, 40), PIN_WIDE, "{:#018x}", digest(16, 40));
        assert_eq!(digest(40, 16), PIN_NARROW, "{:#018x}", digest(40, 16));
        let one = OrthonormalMap::new(1, 16, 40).unwrap();
        assert_ne!(one, OrthonormalMap::new(2, 16, 40).unwrap());
    }

    const PIN_ROW_0: ([f32; 2], u64) =
        ([-0.014_874_482_5, -0.001_316_456_1], 0x2e65_d6ef_1e75_0119);
    const PIN_ROW_LAST: ([f32; 2], u64) = ([0.029_471_641, 0.013_009_839], 0xaf9d_a497_061b_5d8b);
    const PIN_WIDE: u64 = 0xcaae_2a4d_bec2_e541;
    const PIN_NARROW: u64 = 0xf75d_f6db_c15e_8c25;
}
