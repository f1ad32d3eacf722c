//! A Hugging Face directory: configuration, tokenizer and tensors in one or more files.
//!
//! Tensors are read by positioned reads into the caller's memory. Nothing is mapped, because a
//! map of a file that someone cuts is a fault of the whole process. Names are those of the
//! checkpoint; `names.rs` knows what they mean.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    ops::Range,
    path::{Component, Path, PathBuf},
};

use crate::{
    Dtype, ModelConfig, SentenceConfig, WeightsError,
    container::{read_at, read_header},
    digest::{self, PartHasher},
    dtype::widen,
    store::recorded_beside,
};

/// Largest config.json, index or similar text that is read, in bytes.
pub(crate) const TEXT_BYTES_MAX: u64 = 32 << 20;

/// Bytes that a converting read holds at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// An opened checkpoint. Cheap to share: all reads take `&self`.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<OpenFile>,
    tensors: HashMap<String, TensorInfo>,
    recorded: BTreeMap<String, [u8; 32]>,
}

/// Where a stored tensor is and what it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Which of [`Checkpoint::files`] holds it.
    pub file_index: usize,
    /// Its bytes in that file.
    pub range: Range<u64>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Size and BLAKE3 digest of one file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Path below the checkpoint's directory, with `/`.
    pub name: String,
    /// Size.
    pub file_bytes: u64,
    /// BLAKE3 of the whole file.
    pub digest: [u8; 32],
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    name: String,
    file: File,
}

impl Checkpoint {
    /// Opens the directory `dir` and checks every header in it.
    ///
    /// Takes `model.safetensors`, or the shards that `model.safetensors.index.json` lists, and
    /// the digests that a model store recorded beside them.
    /// Cost: reads headers only.
    ///
    /// # Errors
    /// [`WeightsError::MissingFile`] without config.json or tensors,
    /// [`WeightsError::OnlyPickle`] where there is only a pickle, [`WeightsError::ShardPath`],
    /// [`WeightsError::ShardTensor`], and everything of [`read_header`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let dir = dir.as_ref();
        let config = dir.join("config.json");
        if !config.is_file() {
            return Err(WeightsError::MissingFile { path: config });
        }
        let index_path = dir.join("model.safetensors.index.json");
        let (names, weight_map) = if dir.join("model.safetensors").is_file() {
            (vec!["model.safetensors".to_owned()], BTreeMap::new())
        } else if index_path.is_file() {
            read_index(&index_path)?
        } else if dir.join("pytorch_model.bin").is_file()
            || dir.join("pytorch_model.bin.index.json").is_file()
        {
            let origin = dir.display().to_string();
            return Err(WeightsError::OnlyPickle { origin, file: "pytorch_model.bin".into() });
        } else {
            return Err(WeightsError::MissingFile { path: dir.join("model.safetensors") });
        };

        let mut files = Vec::with_capacity(names.len());
        let mut tensors = HashMap::new();
        for (file_index, name) in names.into_iter().enumerate() {
            let path = dir.join(&name);
            let file = File::open(&path).map_err(|it| WeightsError::io("open", &path, it))?;
            for entry in read_header(&path, &file)? {
                let info = TensorInfo {
                    dtype: entry.dtype,
                    shape: entry.shape,
                    file_index,
                    range: entry.begin_bytes..entry.end_bytes,
                };
                if tensors.insert(entry.name.clone(), info).is_some() {
                    return Err(WeightsError::DuplicateTensor { path, tensor: entry.name });
                }
            }
            files.push(OpenFile { path, name, file });
        }
        for (tensor, shard) in weight_map {
            if tensors.get(&tensor).is_none_or(|it| files[it.file_index].name != shard) {
                return Err(WeightsError::ShardTensor { path: index_path, tensor, shard });
            }
        }
        Ok(Self { dir: dir.into(), files, tensors, recorded: recorded_beside(dir) })
    }

    /// Takes over digests of stored tensors that were recorded when the model was pulled, so
    /// that [`Checkpoint::tensor_digest`] need not read them again.
    #[must_use]
    pub fn with_recorded_digests(mut self, recorded: BTreeMap<String, [u8; 32]>) -> Self {
        self.recorded = recorded;
        self
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Names of the tensor files, in the order of [`TensorInfo::file_index`].
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|it| it.name.as_str())
    }

    /// The tokenizer file, when there is one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        Some(self.dir.join("tokenizer.json")).filter(|it| it.is_file())
    }

    /// Reads and checks config.json.
    ///
    /// # Errors
    /// Those of [`ModelConfig::from_file`].
    pub fn config(&self) -> Result<ModelConfig, WeightsError> {
        ModelConfig::from_file(self.dir.join("config.json"))
    }

    /// Reads the files of sentence-transformers, when they are there.
    ///
    /// # Errors
    /// Those of [`SentenceConfig::from_dir`].
    pub fn sentence(&self) -> Result<Option<SentenceConfig>, WeightsError> {
        SentenceConfig::from_dir(&self.dir)
    }

    /// The tensor stored as `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// All stored tensors, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// Reads the stored bytes of `name`.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Truncated`], [`WeightsError::Io`].
    ///
    /// # Panics
    /// When `out` is not as long as the tensor.
    pub fn read_bytes(&self, name: &str, out: &mut [u8]) -> Result<(), WeightsError> {
        let count = self.info(name)?.element_count();
        self.read_bytes_part(name, 0..count, out)
    }

    /// Reads the stored bytes of elements `part` of `name`, counted row-major.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read_bytes`].
    ///
    /// # Panics
    /// When `out` is not as long as `part`, or `part` leaves the tensor.
    pub fn read_bytes_part(
        &self,
        name: &str,
        part: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), WeightsError> {
        let info = self.info(name)?;
        let bytes = part_bytes(info, &part);
        assert_eq!(out.len() as u64, bytes.end - bytes.start, "buffer of `{name}`");
        let file = &self.files[info.file_index];
        read_at(&file.path, &file.file, out, bytes.start)
    }

    /// Reads `name` as f32, row-major; f16 and bf16 are widened exactly.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::NotFloat`],
    /// [`WeightsError::Truncated`], [`WeightsError::Io`].
    ///
    /// # Panics
    /// When `out` has not as many elements as the tensor.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), WeightsError> {
        let count = self.info(name)?.element_count();
        self.read_f32_part(name, 0..count, out)
    }

    /// Reads elements `part` of `name`, counted row-major, as f32.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read_f32`].
    ///
    /// # Panics
    /// When `out` has not as many elements as `part`, or `part` leaves the tensor.
    pub fn read_f32_part(
        &self,
        name: &str,
        part: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), WeightsError> {
        self.read_f32_seen(name, part, out, &mut |_| {})
    }

    /// Reads as [`Checkpoint::read_f32_part`], and takes the digest of the stored bytes where one
    /// was recorded for the whole: for [`Checkpoint::check_parts`]. Parts are of one length, a
    /// power of two of at least 1024 elements, but for the last.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read_f32`].
    ///
    /// # Panics
    /// When `out` has not as many elements as `part`, or `part` leaves the tensor.
    pub fn read_f32_part_digested(
        &self,
        name: &str,
        part: Range<usize>,
        out: &mut [f32],
    ) -> Result<Option<[u8; 32]>, WeightsError> {
        let info = self.info(name)?;
        if !self.recorded.contains_key(name) {
            return self.read_f32_part(name, part, out).map(|()| None);
        }
        let is_whole = part.len() == info.element_count();
        let first_byte = part.start as u64 * info.dtype.element_bytes();
        let mut hasher = PartHasher::new(first_byte, is_whole);
        self.read_f32_seen(name, part, out, &mut |bytes| hasher.update(bytes))?;
        Ok(Some(hasher.finish()))
    }

    /// The file in which `name` lies as f32, and its first byte there; none where it is stored as
    /// another type or has no recorded digest.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`].
    pub fn stored_f32(&self, name: &str) -> Result<Option<(&File, u64)>, WeightsError> {
        let info = self.info(name)?;
        let is_so = info.dtype == Dtype::F32 && self.recorded.contains_key(name);
        Ok(is_so.then(|| (&self.files[info.file_index].file, info.range.start)))
    }

    /// Compares the digests of all parts of `name`, in order, with the one that was recorded.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Tampered`].
    pub fn check_parts(&self, name: &str, parts: &[[u8; 32]]) -> Result<(), WeightsError> {
        let info = self.info(name)?;
        let found =
            if parts.is_empty() { *blake3::hash(&[]).as_bytes() } else { digest::whole(parts) };
        match self.recorded.get(name) {
            Some(want) if *want != found => Err(WeightsError::Tampered {
                path: self.files[info.file_index].path.clone(),
                want: hex(want),
                found: hex(&found),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Digest of all names and recorded digests; none unless there is one for every tensor.
    pub fn content_digest(&self) -> Option<[u8; 32]> {
        let mut names: Vec<&String> = self.tensors.keys().collect();
        names.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        for name in names {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hasher.update(self.recorded.get(name)?);
        }
        Some(*hasher.finalize().as_bytes())
    }

    /// Reads as f32, and shows the stored bytes in order.
    fn read_f32_seen(
        &self,
        name: &str,
        part: Range<usize>,
        out: &mut [f32],
        see: &mut dyn FnMut(&[u8]),
    ) -> Result<(), WeightsError> {
        let info = self.info(name)?;
        if !info.dtype.widens() {
            return Err(WeightsError::NotFloat { tensor: name.into(), dtype: info.dtype });
        }
        assert_eq!(out.len(), part.len(), "buffer of `{name}`");
        let bytes = part_bytes(info, &part);
        let file = &self.files[info.file_index];
        if info.dtype == Dtype::F32 && cfg!(target_endian = "little") {
            let raw = bytemuck::cast_slice_mut(out);
            read_at(&file.path, &file.file, raw, bytes.start)?;
            see(raw);
            return Ok(());
        }
        let element_bytes = info.dtype.element_bytes() as usize;
        let mut chunk = vec![0; CHUNK_BYTES.min(out.len() * element_bytes)];
        let mut begin = bytes.start;
        for values in out.chunks_mut(CHUNK_BYTES / element_bytes) {
            let raw = &mut chunk[..values.len() * element_bytes];
            read_at(&file.path, &file.file, raw, begin)?;
            see(raw);
            widen(info.dtype, raw, values);
            begin += raw.len() as u64;
        }
        Ok(())
    }

    /// BLAKE3 of the stored bytes of `name`: the recorded one, else computed.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Truncated`], [`WeightsError::Io`].
    pub fn tensor_digest(&self, name: &str) -> Result<[u8; 32], WeightsError> {
        let info = self.info(name)?;
        match self.recorded.get(name) {
            Some(digest) => Ok(*digest),
            None => self.part_digest(name, 0..info.element_count()),
        }
    }

    /// BLAKE3 of the stored bytes of elements `part` of `name`, always computed.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`], [`WeightsError::Truncated`], [`WeightsError::Io`].
    ///
    /// # Panics
    /// When `part` leaves the tensor.
    pub fn part_digest(&self, name: &str, part: Range<usize>) -> Result<[u8; 32], WeightsError> {
        let info = self.info(name)?;
        let file = &self.files[info.file_index];
        digest_range(&file.path, &file.file, part_bytes(info, &part))
    }

    /// Size and digest of every tensor file. Cost: reads them all, two at a time.
    ///
    /// # Errors
    /// [`WeightsError::Truncated`], [`WeightsError::Io`].
    pub fn file_digests(&self) -> Result<Vec<FileDigest>, WeightsError> {
        let mut out = Vec::with_capacity(self.files.len());
        for pair in self.files.chunks(2) {
            let found = std::thread::scope(|scope| {
                let runs: Vec<_> =
                    pair.iter().map(|it| scope.spawn(|| digest_file(&it.path))).collect();
                runs.into_iter().map(|it| it.join().expect("no panic")).collect::<Vec<_>>()
            });
            for (file, found) in pair.iter().zip(found) {
                let (file_bytes, digest) = found?;
                out.push(FileDigest { name: file.name.clone(), file_bytes, digest });
            }
        }
        Ok(out)
    }

    /// Checks the tensor files against digests that were taken before.
    ///
    /// # Errors
    /// [`WeightsError::MissingFile`] for a file without a record or a record without a file,
    /// [`WeightsError::Truncated`] for another size, [`WeightsError::Tampered`] for other
    /// bytes.
    pub fn verify(&self, recorded: &[FileDigest]) -> Result<(), WeightsError> {
        let found = self.file_digests()?;
        let missing =
            recorded.iter().map(|it| &it.name).chain(found.iter().map(|it| &it.name)).find(
                |name| {
                    !found.iter().any(|it| it.name == **name)
                        || !recorded.iter().any(|it| it.name == **name)
                },
            );
        if let Some(name) = missing {
            return Err(WeightsError::MissingFile { path: self.dir.join(name) });
        }
        for want in recorded {
            check_digest(&self.dir, want)?;
        }
        Ok(())
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.tensor(name).ok_or_else(|| WeightsError::UnknownTensor { tensor: name.into() })
    }
}

/// Compares one file with its record.
pub(crate) fn check_digest(dir: &Path, want: &FileDigest) -> Result<(), WeightsError> {
    let path = dir.join(&want.name);
    let (file_bytes, digest) = digest_file(&path)?;
    if file_bytes < want.file_bytes {
        let (want_bytes, found_bytes) = (want.file_bytes, file_bytes);
        return Err(WeightsError::Truncated { path, want_bytes, found_bytes });
    }
    if digest != want.digest {
        let (want, found) = (hex(&want.digest), hex(&digest));
        return Err(WeightsError::Tampered { path, want, found });
    }
    Ok(())
}

/// Size and BLAKE3 of a file.
pub(crate) fn digest_file(path: &Path) -> Result<(u64, [u8; 32]), WeightsError> {
    let io = |source| WeightsError::io("read", path, source);
    let file = File::open(path).map_err(io)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    Ok((file_bytes, digest_range(path, &file, 0..file_bytes)?))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}

/// Reads a text file of at most [`TEXT_BYTES_MAX`] bytes.
pub(crate) fn read_text(path: &Path) -> Result<String, WeightsError> {
    let io = |source| WeightsError::io("read", path, source);
    let file = File::open(path).map_err(io)?;
    let found_bytes = file.metadata().map_err(io)?.len();
    if TEXT_BYTES_MAX < found_bytes {
        let limit_bytes = TEXT_BYTES_MAX;
        return Err(WeightsError::FileTooLarge { path: path.into(), found_bytes, limit_bytes });
    }
    let mut bytes = vec![0; found_bytes as usize];
    read_at(path, &file, &mut bytes, 0)?;
    String::from_utf8(bytes).map_err(|bad| WeightsError::NotUtf8 {
        path: path.into(),
        valid_bytes: bad.utf8_error().valid_up_to(),
    })
}

/// Whether `path` names something below the directory it is joined to, and nothing else.
pub(crate) fn stays_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path).components().all(|it| matches!(it, Component::Normal(_)))
}

fn part_bytes(info: &TensorInfo, part: &Range<usize>) -> Range<u64> {
    assert!(part.start <= part.end && part.end <= info.element_count(), "part of the tensor");
    let at = |index: usize| info.range.start + index as u64 * info.dtype.element_bytes();
    at(part.start)..at(part.end)
}

fn digest_range(path: &Path, file: &File, range: Range<u64>) -> Result<[u8; 32], WeightsError> {
    digest::digest_of(range.end - range.start, |first, out| {
        read_at(path, file, out, range.start + first)
    })
}

/// Shard names in order, and for each tensor its shard.
fn read_index(path: &Path) -> Result<(Vec<String>, BTreeMap<String, String>), WeightsError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_str(&read_text(path)?)
        .map_err(|source| WeightsError::Json { path: path.into(), source })?;
    let mut shards: Vec<String> = index.weight_map.values().cloned().collect();
    shards.sort();
    shards.dedup();
    match shards.iter().find(|it| !stays_inside(it)) {
        Some(shard) => Err(WeightsError::ShardPath { path: path.into(), shard: shard.clone() }),
        None => Ok((shards, index.weight_map)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::ContainerWriter;
    use half::{bf16, f16};

    fn write(dir: &Path, file: &str, tensors: &[(&str, Dtype, &[u8])]) {
        std::fs::write(dir.join("config.json"), "{}").unwrap();
        let planned: Vec<_> = tensors
            .iter()
            .map(|(name, dtype, bytes)| {
                let count = bytes.len() / dtype.element_bytes() as usize;
                ((*name).to_owned(), *dtype, vec![count])
            })
            .collect();
        let mut writer = ContainerWriter::create(&dir.join(file), &planned).unwrap();
        for (_, _, bytes) in tensors {
            writer.write(bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn reading_widens_bit_exactly_across_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let bits: Vec<u16> = (0..3).flat_map(|_| 0..=u16::MAX).chain([1, 2, 3]).collect();
        let halves: Vec<u8> = bits.iter().flat_map(|it| it.to_le_bytes()).collect();
        let wide: Vec<u8> =
            bits.iter().flat_map(|it| (u32::from(*it) << 15).to_le_bytes()).collect();
        write(
            dir.path(),
            "model.safetensors",
            &[("h", Dtype::F16, &halves), ("b", Dtype::Bf16, &halves), ("w", Dtype::F32, &wide)],
        );
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let check = |name: &str, want: &dyn Fn(u16) -> f32| {
            let mut out = vec![0.0; bits.len()];
            checkpoint.read_f32(name, &mut out).unwrap();
            for (bits, value) in bits.iter().zip(&out) {
                assert_eq!(value.to_bits(), want(*bits).to_bits(), "{name} {bits:#x}");
            }
            let mut part = [0.0; 7];
            checkpoint.read_f32_part(name, 65_530..65_537, &mut part).unwrap();
            assert!(part.iter().zip(&out[65_530..]).all(|(a, b)| a.to_bits() == b.to_bits()));
        };
        check("h", &|bits| f16::from_bits(bits).to_f32());
        check("b", &|bits| bf16::from_bits(bits).to_f32());
        check("w", &|bits| f32::from_bits(u32::from(bits) << 15));

        let mut raw = vec![0; halves.len()];
        checkpoint.read_bytes("h", &mut raw).unwrap();
        assert_eq!(raw, halves);
        let digest = checkpoint.tensor_digest("h").unwrap();
        assert_eq!(digest, *blake3::hash(&halves).as_bytes());
        assert_eq!(
            checkpoint.part_digest("h", 1..3).unwrap(),
            *blake3::hash(&halves[2..6]).as_bytes()
        );
    }

    #[test]
    fn only_floats_are_read_as_floats() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "model.safetensors", &[("ids", Dtype::I64, &[0; 8])]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let err = checkpoint.read_f32("ids", &mut [0.0]).unwrap_err();
        assert!(matches!(err, WeightsError::NotFloat { dtype: Dtype::I64, .. }));
        let err = checkpoint.read_f32("none", &mut [0.0]).unwrap_err();
        assert!(matches!(err, WeightsError::UnknownTensor { .. }));
    }

    #[test]
    fn a_file_cut_while_it_is_open_is_a_typed_error() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "model.safetensors", &[("w", Dtype::F32, &[1; 4096])]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let path = dir.path().join("model.safetensors");
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(1000).unwrap();
        let err = checkpoint.read_f32("w", &mut [0.0; 1024]).unwrap_err();
        assert!(matches!(err, WeightsError::Truncated { found_bytes: 1000, .. }), "{err}");
        let err = checkpoint.tensor_digest("w").unwrap_err();
        assert!(matches!(err, WeightsError::Truncated { .. }), "{err}");
    }

    #[track_caller]
    fn check_index(index: &str, message: &str) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "x1.safetensors", &[("a", Dtype::F32, &[0; 4])]);
        write(dir.path(), "x2.safetensors", &[("b", Dtype::F32, &[0; 8])]);
        write(dir.path(), "x3.safetensors", &[("a", Dtype::F32, &[0; 4])]);
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        let found = match Checkpoint::open(dir.path()) {
            Ok(it) => format!("{} tensors", it.tensors().count()),
            Err(err) => err.to_string(),
        };
        assert!(found.contains(message), "wanted `{message}`, got `{found}`");
    }

    #[test]
    fn shards() {
        check_index(r#"{"weight_map":{"a":"x1.safetensors","b":"x2.safetensors"}}"#, "2 tensors");
        check_index(r#"{"weight_map":{"a":"../x1.safetensors"}}"#, "leaves the directory");
        check_index(r#"{"weight_map":{"a":"/etc/passwd"}}"#, "leaves the directory");
        check_index(r#"{"weight_map":{"a":""}}"#, "leaves the directory");
        check_index(r#"{"weight_map":{"a":"x4.safetensors"}}"#, "x4.safetensors does not exist");
        check_index(r#"{"weight_map":{"b":"x1.safetensors"}}"#, "`b` is not in shard");
        check_index(
            r#"{"weight_map":{"a":"x1.safetensors","b":"x3.safetensors"}}"#,
            "`a` appears twice",
        );
        check_index(r#"{"weights":{}}"#, "missing field `weight_map`");
    }

    #[test]
    fn absent_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Checkpoint::open(dir.path()).unwrap_err().to_string();
        assert!(open().contains("config.json does not exist"));
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        assert!(open().contains("model.safetensors does not exist"));
        std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
        assert!(open().contains("convert it to safetensors first"));
    }

    #[test]
    fn verify_finds_every_kind_of_change() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "model.safetensors", &[("w", Dtype::F32, &[1; 64])]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let recorded = checkpoint.file_digests().unwrap();
        checkpoint.verify(&recorded).unwrap();
        let missing = checkpoint.verify(&[]).unwrap_err();
        assert!(matches!(missing, WeightsError::MissingFile { .. }));

        let path = dir.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let changed = checkpoint.verify(&recorded).unwrap_err();
        assert!(matches!(changed, WeightsError::Tampered { .. }), "{changed}");
        bytes.pop();
        std::fs::write(&path, &bytes).unwrap();
        let cut = checkpoint.verify(&recorded).unwrap_err();
        assert!(matches!(cut, WeightsError::Truncated { .. }), "{cut}");
    }
}
