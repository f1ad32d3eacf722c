//! Attention over packed sequences: each query row sees an interval of keys, and at most one
//! more.
//!
//! Online softmax over blocks of keys; the scores of a tile live in the worker's scratch and
//! are never all there at once. Scores stand transposed (keys down, queries across): K and V
//! are then read where they lie, and the softmax needs no sum across lanes.
//!
//! Tiles and blocks are cut relative to where a sequence begins, so a row's bits do not depend
//! on what else is in the batch.

mod tile;
mod tiling;

use crate::{
    simd::Level,
    threads::{Pool, TaskPanicked},
    view::{Rows, RowsMut, Shared},
};

use tile::{Fold, Working};

/// Most query rows in a tile.
pub(crate) const TILE_ROWS: usize = 64;

/// Keys in a block.
pub(crate) const BLOCK_KEYS: usize = 128;

/// One attention: `out = softmax(scale q kᵀ + bias) v` over the keys that each row sees.
///
/// Shapes: `q: [tq, heads × d]`, `k` and `v: [tk, kv_heads × d]`, `out: [tq, heads × d]`, each
/// with a stride of its own. Query head `h` uses key head `h / (heads / kv_heads)`.
pub struct Attention<'a> {
    /// Queries.
    pub q: Rows<'a>,
    /// Keys.
    pub k: Rows<'a>,
    /// Values.
    pub v: Rows<'a>,
    /// Query heads.
    pub heads: usize,
    /// Key heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Multiplies `q kᵀ`.
    pub scale: f32,
    /// First key of each row, `[tq]`.
    pub lo: &'a [i32],
    /// End of each row's keys, `[tq]`; a row with `lo == hi` and no extra key gives zeros.
    pub hi: &'a [i32],
    /// One more key for each row, `[tq]`; -1 for none, left out when inside the interval.
    pub extra: Option<&'a [i32]>,
    /// Added to the scores; only where queries and keys are the same rows.
    pub bias: Option<DistanceBias<'a>>,
    /// The result.
    pub out: RowsMut<'a>,
    /// Logarithm of each row's softmax denominator, `[tq, heads]`; minus infinity for a row
    /// that sees nothing.
    pub log_sum_exp: Option<&'a mut [f32]>,
}

/// A score's bias by distance: `table[clamp(key - query, -reach, reach) + reach, head]`.
#[derive(Clone, Copy, Debug)]
pub struct DistanceBias<'a> {
    /// `[2 reach + 1, heads]`.
    pub table: &'a [f32],
    /// Distance from which on the bias stays the same.
    pub reach: usize,
}

/// Memory that [`Attention::run`] works in.
pub struct Scratch<'a> {
    /// [`scratch_len`] floats.
    pub floats: &'a mut [f32],
    /// `tq + 1` words.
    pub tiles: &'a mut [u32],
}

/// Floats of scratch for heads of `d` on a pool of `thread_count` threads. Independent of the
/// number of queries and keys: about 64 KiB a thread at `d = 64`.
pub fn scratch_len(level: Level, d: usize, thread_count: usize) -> usize {
    thread_count * Working::len(level, d)
}

impl Attention<'_> {
    /// Computes it. Cost: `4 d` operations for each pair of query and key in a tile's union of
    /// intervals; allocates nothing.
    ///
    /// # Errors
    /// [`TaskPanicked`], which would be a bug here.
    ///
    /// # Panics
    /// When shapes do not fit each other, an interval or extra key lies outside the keys, there
    /// are 2^24 keys or more, or the scratch is too short.
    pub fn run(self, level: Level, pool: &Pool, scratch: Scratch<'_>) -> Result<(), TaskPanicked> {
        let d = self.check();
        let Scratch { floats, tiles } = scratch;
        let working_len = Working::len(level, d);
        assert!(pool.thread_count() * working_len <= floats.len(), "scratch is too short");
        assert!(self.lo.len() < tiles.len(), "scratch is too short");
        let tile_count = tiling::cut(self.lo, self.hi, tiles);
        let tiles = &tiles[..=tile_count];
        let floats = Shared::new(floats);
        let heads = self.heads;
        let Self { q, k, v, kv_heads, scale, lo, hi, extra, bias, out, log_sum_exp, .. } = self;
        let log_sum_exp = log_sum_exp.map(Shared::new);
        pool.run(tile_count * heads, &|task_index, worker_index| {
            let (tile, head) = (task_index / heads, task_index % heads);
            level.run(Fold {
                q,
                k,
                v,
                d,
                head,
                heads,
                kv_head: head / (heads / kv_heads),
                scale,
                lo,
                hi,
                extra,
                bias,
                out: &out,
                log_sum_exp,
                rows: [tiles[tile] as usize, tiles[tile + 1] as usize],
                working: floats.at(worker_index * working_len),
            });
        })
    }

    /// Width of a head.
    fn check(&self) -> usize {
        let (tq, tk) = (self.q.row_count(), self.k.row_count());
        assert!(0 < self.kv_heads && self.heads.is_multiple_of(self.kv_heads));
        let d = self.q.col_count() / self.heads;
        assert_eq!(self.q.col_count(), self.heads * d);
        assert_eq!((self.k.col_count(), self.v.row_count()), (self.kv_heads * d, tk));
        assert_eq!(self.v.col_count(), self.kv_heads * d);
        assert_eq!((self.out.row_count(), self.out.col_count()), (tq, self.heads * d));
        assert_eq!((self.lo.len(), self.hi.len()), (tq, tq));
        assert!(tk < 1 << 24, "positions are compared as floats");
        let inside = |(lo, hi): (&i32, &i32)| 0 <= *lo && lo <= hi && *hi as usize <= tk;
        assert!(self.lo.iter().zip(self.hi).all(inside), "an interval lies outside the keys");
        if let Some(extra) = self.extra {
            assert_eq!(extra.len(), tq);
            assert!(extra.iter().all(|it| *it < tk as i32), "an extra key lies outside the keys");
        }
        if let Some(DistanceBias { table, reach }) = self.bias {
            assert_eq!(table.len(), (2 * reach + 1) * self.heads);
            assert_eq!(tq, tk, "distances need queries and keys to be the same rows");
        }
        if let Some(log_sum_exp) = &self.log_sum_exp {
            assert_eq!(log_sum_exp.len(), tq * self.heads);
        }
        d
    }
}

#[cfg(test)]
mod tests;
