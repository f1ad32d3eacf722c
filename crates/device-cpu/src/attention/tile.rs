//! One tile of queries and one head, folded over the blocks of keys that any of its rows sees.

use super::{BLOCK_KEYS, DistanceBias, TILE_ROWS};
use crate::{
    simd::{Kernel, Level, Simd, exp_below},
    tile::{Spread, multiply, strips, with_rows},
    view::{Rows, RowsMut, Shared},
};

/// What one worker needs while it folds a tile.
///
/// Rows of queries across have the stride [`TILE_ROWS`]: `packed: [d, queries]`,
/// `scores: [BLOCK_KEYS, queries]`; `sums: [queries, padded d]`.
#[derive(Clone, Copy)]
pub(super) struct Working {
    /// Scaled queries, transposed.
    packed: *mut f32,
    scores: *mut f32,
    /// Weighted sums of values so far.
    sums: *mut f32,
    /// Largest score so far, and the sum of weights relative to it, for each query.
    largest: *mut f32,
    total: *mut f32,
    /// What the block before must be multiplied with.
    correction: *mut f32,
    /// First and end of each query's keys, relative to the tile's first key.
    from: *mut f32,
    until: *mut f32,
    /// The head's biases by `query - key`, for the distances in a block.
    line: *mut f32,
}

/// Distances between a query of a tile and a key of a block.
const LINE_LEN: usize = TILE_ROWS + BLOCK_KEYS;

impl Working {
    /// Floats for heads of `d`.
    pub(super) fn len(level: Level, d: usize) -> usize {
        let padded = d.next_multiple_of(level.lanes());
        (TILE_ROWS * (d + BLOCK_KEYS + padded + 5) + LINE_LEN).next_multiple_of(16)
    }

    /// Carves it from `start`.
    fn new(start: *mut f32, d: usize, padded: usize) -> Self {
        let mut next = start;
        let mut take = |len: usize| {
            let taken = next;
            next = next.wrapping_add(len);
            taken
        };
        Self {
            packed: take(TILE_ROWS * d),
            scores: take(TILE_ROWS * BLOCK_KEYS),
            sums: take(TILE_ROWS * padded),
            largest: take(TILE_ROWS),
            total: take(TILE_ROWS),
            correction: take(TILE_ROWS),
            from: take(TILE_ROWS),
            until: take(TILE_ROWS),
            line: take(LINE_LEN),
        }
    }
}

/// A task: everything of [`super::Attention`], for some rows and one head.
pub(super) struct Fold<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) d: usize,
    pub(super) head: usize,
    pub(super) heads: usize,
    pub(super) kv_head: usize,
    pub(super) scale: f32,
    pub(super) lo: &'a [i32],
    pub(super) hi: &'a [i32],
    pub(super) extra: Option<&'a [i32]>,
    pub(super) bias: Option<DistanceBias<'a>>,
    pub(super) out: &'a RowsMut<'a>,
    pub(super) log_sum_exp: Option<Shared<f32>>,
    /// First row and end.
    pub(super) rows: [usize; 2],
    /// This worker's floats, [`Working::len`] of them.
    pub(super) working: *mut f32,
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let [first, end] = self.rows;
        let count = end - first;
        let padded = self.d.next_multiple_of(S::LANES);
        let work = Working::new(self.working, self.d, padded);
        let seen = || (first..end).filter(|row| self.lo[*row] < self.hi[*row]);
        let union_lo = seen().map(|row| self.lo[row] as usize).min().unwrap_or(0);
        let union_hi = seen().map(|row| self.hi[row] as usize).max().unwrap_or(0);
        // SAFETY: the intervals lie within the keys, the rows within the queries, and this
        // worker alone uses its floats.
        unsafe {
            self.begin(simd, work, count, union_lo);
            for key in (union_lo..union_hi).step_by(BLOCK_KEYS) {
                let keys = BLOCK_KEYS.min(union_hi - key);
                let block = Block { fold: &self, work, count, key, keys, union_lo };
                simd.call(Scores(block));
                simd.call(Weights(block));
                simd.call(Values(block));
            }
            self.end(simd, work, count);
        }
    }
}

impl Fold<'_> {
    /// Packs the queries and starts each row's state, with its extra key where it has one.
    ///
    /// # Safety
    /// `work` holds a tile; `count` rows from the first exist.
    #[inline(always)]
    unsafe fn begin<S: Simd>(&self, simd: S, work: Working, count: usize, union_lo: usize) {
        let (d, padded) = (self.d, self.d.next_multiple_of(S::LANES));
        let width = count.next_multiple_of(S::LANES);
        for i in 0..width {
            let row = self.rows[0] + i;
            let is_live = i < count;
            let (lo, hi) = if is_live { (self.lo[row], self.hi[row]) } else { (0, 0) };
            let (lo, hi) = if lo < hi { (lo, hi) } else { (i32::MAX, i32::MAX) };
            // SAFETY: query `i` of a tile.
            unsafe {
                *work.from.wrapping_add(i) = (i64::from(lo) - union_lo as i64) as f32;
                *work.until.wrapping_add(i) = (i64::from(hi) - union_lo as i64) as f32;
                *work.largest.wrapping_add(i) = f32::NEG_INFINITY;
                *work.total.wrapping_add(i) = 0.0;
            }
            let q = if is_live { self.query(row) } else { std::ptr::null() };
            for c in 0..d {
                // SAFETY: a live row has `d` floats.
                let x = if is_live { unsafe { *q.wrapping_add(c) * self.scale } } else { 0.0 };
                // SAFETY: float `c` of query `i`.
                unsafe { *work.packed.wrapping_add(c * TILE_ROWS + i) = x };
            }
            for c in (0..padded).step_by(S::LANES) {
                // SAFETY: query `i` has `padded` sums.
                unsafe { simd.store(work.sums.wrapping_add(i * padded + c), simd.splat(0.0)) };
            }
            if is_live && let Some(key) = self.extra_key(row) {
                // SAFETY: the key exists; query `i` is packed.
                unsafe { self.begin_with(work, i, key, padded) };
            }
        }
    }

    /// Starts query `i` with one key of weight 1.
    ///
    /// # Safety
    /// As [`Fold::begin`]; `key` is one of the keys.
    #[inline(always)]
    unsafe fn begin_with(&self, work: Working, i: usize, key: usize, padded: usize) {
        let row = self.rows[0] + i;
        let offset = self.kv_head * self.d;
        let (k, v) = (self.k.row(key).wrapping_add(offset), self.v.row(key).wrapping_add(offset));
        let mut score = 0.0;
        for c in 0..self.d {
            // SAFETY: float `c` of the packed query and of the key's row.
            unsafe {
                score += *work.packed.wrapping_add(c * TILE_ROWS + i) * *k.wrapping_add(c);
                *work.sums.wrapping_add(i * padded + c) = *v.wrapping_add(c);
            }
        }
        if let Some(bias) = self.bias {
            score += bias.at(key as i64 - row as i64, self.head, self.heads);
        }
        // SAFETY: query `i` of a tile.
        unsafe {
            *work.largest.wrapping_add(i) = score;
            *work.total.wrapping_add(i) = 1.0;
        }
    }

    /// Divides by the weights' sums and writes the rows.
    ///
    /// # Safety
    /// As [`Fold::begin`].
    #[inline(always)]
    unsafe fn end<S: Simd>(&self, simd: S, work: Working, count: usize) {
        let (d, padded) = (self.d, self.d.next_multiple_of(S::LANES));
        for i in 0..count {
            let row = self.rows[0] + i;
            // SAFETY: query `i` of a tile.
            let (largest, total) =
                unsafe { (*work.largest.wrapping_add(i), *work.total.wrapping_add(i)) };
            let factor = simd.splat(if total == 0.0 { 0.0 } else { 1.0 / total });
            let out = self.out.row(row).wrapping_add(self.head * d);
            for c in (0..d).step_by(S::LANES) {
                // SAFETY: query `i` has `padded` sums.
                let sum = unsafe { simd.load(work.sums.wrapping_add(i * padded + c)) };
                let left = (d - c).min(S::LANES);
                // SAFETY: the head's part of the row has `left` more floats.
                unsafe { simd.store_part(out.wrapping_add(c), simd.mul(sum, factor), left) };
            }
            if let Some(log_sum_exp) = self.log_sum_exp {
                let value = if total == 0.0 { f32::NEG_INFINITY } else { largest + total.ln() };
                // SAFETY: `[tq, heads]`; only this task writes this row and head.
                unsafe { *log_sum_exp.at(row * self.heads + self.head) = value };
            }
        }
    }

    #[inline(always)]
    fn query(&self, row: usize) -> *const f32 {
        self.q.row(row).wrapping_add(self.head * self.d)
    }

    /// The row's extra key, unless its interval has it.
    #[inline(always)]
    fn extra_key(&self, row: usize) -> Option<usize> {
        let key = self.extra?[row];
        let is_inside = (self.lo[row]..self.hi[row]).contains(&key);
        (0 <= key && !is_inside).then_some(key as usize)
    }
}

impl DistanceBias<'_> {
    #[inline(always)]
    fn at(&self, distance: i64, head: usize, heads: usize) -> f32 {
        let reach = self.reach as i64;
        self.table[(distance.clamp(-reach, reach) + reach) as usize * heads + head]
    }
}

/// `keys` keys from `key` on, for the tile's `count` queries.
#[derive(Clone, Copy)]
struct Block<'a> {
    fold: &'a Fold<'a>,
    work: Working,
    count: usize,
    key: usize,
    keys: usize,
    union_lo: usize,
}

impl Block<'_> {
    /// Whether some query does not see all keys of the block.
    fn is_ragged(&self) -> bool {
        let end = self.key + self.keys;
        let rows = self.fold.rows[0]..self.fold.rows[1];
        rows.into_iter()
            .any(|row| self.key < self.fold.lo[row] as usize || (self.fold.hi[row] as usize) < end)
    }
}

/// `scores = k packed`, transposed.
struct Scores<'a>(Block<'a>);

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Block { fold, work, count, key, keys, .. } = self.0;
        let mut first = 0;
        while first < count {
            let start = fold.k.row(key).wrapping_add(fold.kv_head * fold.d);
            let a = Spread { start, row: fold.k.stride(), step: 1 };
            let is_wide = S::LANES < count - first;
            for (row, rows) in strips(keys, S::TILE_ROWS) {
                let a = Spread { start: a.start.wrapping_add(row * a.row), ..a };
                let b = work.packed.wrapping_add(first).cast_const();
                let out = work.scores.wrapping_add(row * TILE_ROWS + first);
                let tile = ScoreTile { d: fold.d, a, b, out };
                if is_wide {
                    with_rows!(S, rows, M => simd.call(ScoresOf::<M, 2>(tile)));
                } else {
                    with_rows!(S, rows, M => simd.call(ScoresOf::<M, 1>(tile)));
                }
            }
            first += if is_wide { 2 * S::LANES } else { S::LANES };
        }
    }
}

/// Some keys of the block times packed queries of the tile; `out` is the worker's scores.
#[derive(Clone, Copy)]
struct ScoreTile {
    d: usize,
    a: Spread,
    b: *const f32,
    out: *mut f32,
}

/// `M` keys, `V` vectors of queries.
struct ScoresOf<const M: usize, const V: usize>(ScoreTile);

impl<const M: usize, const V: usize> Kernel for ScoresOf<M, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ScoreTile { d, a, b, out } = self.0;
        let zero = [[[simd.splat(0.0); V]; 1]; M];
        // SAFETY: the keys exist, and the queries are packed for whole vectors.
        let tile = unsafe { multiply::<S, M, 1, V, false>(simd, d, a, [b], TILE_ROWS, 0, zero) };
        for (i, row) in tile.iter().enumerate() {
            for (v, x) in row[0].iter().enumerate() {
                // SAFETY: vector `v` of key `i`; this worker alone uses the scores.
                unsafe { simd.store(out.wrapping_add(i * TILE_ROWS + v * S::LANES), *x) };
            }
        }
    }
}

/// Bias and mask, then scores become weights; each query's largest score, total and correction
/// move on.
struct Weights<'a>(Block<'a>);

impl Kernel for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let block = self.0;
        if let Some(bias) = block.fold.bias {
            // SAFETY: the worker's own line and scores.
            unsafe { add_bias(simd, block, bias) };
        }
        let is_ragged = block.is_ragged();
        for first in (0..block.count).step_by(S::LANES) {
            // SAFETY: the worker's own scores, a vector of queries at a time.
            unsafe {
                if is_ragged {
                    mask(simd, block, first);
                }
                weigh(simd, block, first);
            }
        }
    }
}

/// # Safety
/// The block's scratch is this worker's.
#[inline(always)]
unsafe fn add_bias<S: Simd>(simd: S, block: Block<'_>, bias: DistanceBias<'_>) {
    let Block { fold, work, count, key, keys, .. } = block;
    // Queries ascend across, so the line runs over `query - key`, from the last key up.
    let least = fold.rows[0] as i64 - (key + keys - 1) as i64;
    for index in 0..count.next_multiple_of(S::LANES) + keys - 1 {
        let value = bias.at(-(least + index as i64), fold.head, fold.heads);
        // SAFETY: queries plus keys are at most the line's length.
        unsafe { *work.line.wrapping_add(index) = value };
    }
    for j in 0..keys {
        for first in (0..count).step_by(S::LANES) {
            let score = work.scores.wrapping_add(j * TILE_ROWS + first);
            // SAFETY: score `j` of a vector of queries, and the line's part for them.
            unsafe {
                let line = simd.load(work.line.wrapping_add(keys - 1 - j + first));
                simd.store(score, simd.add(simd.load(score), line));
            }
        }
    }
}

/// Keys that a query does not see get minus infinity.
///
/// # Safety
/// The block's scratch is this worker's.
#[inline(always)]
unsafe fn mask<S: Simd>(simd: S, block: Block<'_>, first: usize) {
    let Block { work, key, keys, union_lo, .. } = block;
    let none = simd.splat(f32::NEG_INFINITY);
    // SAFETY: a vector of queries.
    let (from, until) = unsafe {
        (simd.load(work.from.wrapping_add(first)), simd.load(work.until.wrapping_add(first)))
    };
    for j in 0..keys {
        let position = simd.splat((key - union_lo + j) as f32);
        let score = work.scores.wrapping_add(j * TILE_ROWS + first);
        // SAFETY: score `j` of a vector of queries.
        unsafe {
            let seen = simd.select_less(position, until, simd.load(score), none);
            simd.store(score, simd.select_less(position, from, none, seen));
        }
    }
}

/// # Safety
/// The block's scratch is this worker's.
#[inline(always)]
unsafe fn weigh<S: Simd>(simd: S, block: Block<'_>, first: usize) {
    let Block { work, keys, .. } = block;
    let score = |j: usize| work.scores.wrapping_add(j * TILE_ROWS + first);
    let zero = simd.splat(0.0);
    // SAFETY: a vector of queries.
    let (before, total) = unsafe {
        (simd.load(work.largest.wrapping_add(first)), simd.load(work.total.wrapping_add(first)))
    };
    let mut largest = before;
    for j in 0..keys {
        // SAFETY: score `j` of a vector of queries.
        largest = simd.max(largest, unsafe { simd.load(score(j)) });
    }
    // A query that has seen nothing yet is compared with zero: minus infinity minus itself is
    // not a number.
    let seen_none = simd.splat(f32::MIN);
    let base = simd.select_less(largest, seen_none, zero, largest);
    let correction = exp_below(simd, simd.sub(before, base));
    let mut sum = simd.mul(total, correction);
    for j in 0..keys {
        // SAFETY: score `j` of a vector of queries.
        unsafe {
            let weight = exp_below(simd, simd.sub(simd.load(score(j)), base));
            sum = simd.add(sum, weight);
            simd.store(score(j), weight);
        }
    }
    // SAFETY: a vector of queries.
    unsafe {
        simd.store(work.largest.wrapping_add(first), largest);
        simd.store(work.total.wrapping_add(first), sum);
        simd.store(work.correction.wrapping_add(first), correction);
    }
}

/// `sums = correction sums + weightsᵀ v`.
struct Values<'a>(Block<'a>);

impl Kernel for Values<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Block { fold, work, count, key, keys, .. } = self.0;
        let (d, padded) = (fold.d, fold.d.next_multiple_of(S::LANES));
        let mut col = 0;
        while col < d {
            let left = d - col;
            let b = fold.v.row(key).wrapping_add(fold.kv_head * d + col);
            for (row, rows) in strips(count, S::TILE_ROWS) {
                let values = ValueTile {
                    keys,
                    a: Spread { start: work.scores.wrapping_add(row), row: 1, step: TILE_ROWS },
                    b,
                    b_step: fold.v.stride(),
                    tail: left.min(2 * S::LANES) - if S::LANES < left { S::LANES } else { 0 },
                    correction: work.correction.wrapping_add(row),
                    sums: work.sums.wrapping_add(row * padded + col),
                    padded,
                };
                if 2 * S::LANES <= left {
                    with_rows!(S, rows, M => simd.call(ValuesOf::<M, 2, false>(values)));
                } else if S::LANES < left {
                    with_rows!(S, rows, M => simd.call(ValuesOf::<M, 2, true>(values)));
                } else {
                    with_rows!(S, rows, M => simd.call(ValuesOf::<M, 1, true>(values)));
                }
            }
            col += 2 * S::LANES;
        }
    }
}

/// Some queries times one or two vectors of the head. The values exist; the other addresses are
/// the worker's scratch.
#[derive(Clone, Copy)]
struct ValueTile {
    keys: usize,
    a: Spread,
    b: *const f32,
    b_step: usize,
    tail: usize,
    correction: *const f32,
    sums: *mut f32,
    padded: usize,
}

/// `M` queries, `V` vectors, the last of `tail` lanes when it is only a part.
struct ValuesOf<const M: usize, const V: usize, const PART: bool>(ValueTile);

impl<const M: usize, const V: usize, const PART: bool> Kernel for ValuesOf<M, V, PART> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ValueTile { keys, a, b, b_step, tail, correction, sums, padded } = self.0;
        let at = |i: usize, v: usize| sums.wrapping_add(i * padded + v * S::LANES);
        let mut tile = [[[simd.splat(0.0); V]; 1]; M];
        for (i, row) in tile.iter_mut().enumerate() {
            // SAFETY: query `i` of the strip.
            let factor = simd.splat(unsafe { *correction.wrapping_add(i) });
            for (v, x) in row[0].iter_mut().enumerate() {
                // SAFETY: vector `v` of query `i`'s sums.
                *x = simd.mul(unsafe { simd.load(at(i, v)) }, factor);
            }
        }
        // SAFETY: `keys` values are readable, of the head's floats from `b` on.
        let tile = unsafe { multiply::<S, M, 1, V, PART>(simd, keys, a, [b], b_step, tail, tile) };
        for (i, row) in tile.iter().enumerate() {
            for (v, x) in row[0].iter().enumerate() {
                // SAFETY: vector `v` of query `i`'s sums.
                unsafe { simd.store(at(i, v), *x) };
            }
        }
    }
}
