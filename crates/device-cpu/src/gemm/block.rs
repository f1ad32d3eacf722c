//! The sums of one panel for a block of rows, blocked over k so that the panel stays in the
//! first-level cache while the rows pass by.

use super::BLOCK_ROWS_MAX;
use crate::{
    simd::{Kernel, Level, Simd},
    tile::{PANEL_VECTORS, Spread, multiply, strips, with_rows},
};

/// Most floats of a panel that the rows pass by in one go: three quarters of a 32 KiB cache.
const PANEL_FLOATS: usize = 6 * 1024;

/// `rows` rows times one panel.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    pub(crate) a: Spread,
    pub(crate) rows: usize,
    pub(crate) b: *const f32,
    pub(crate) k: usize,
    pub(crate) sums: *mut f32,
}

/// Floats of the sums that one worker holds.
pub(crate) fn sums_len(level: Level) -> usize {
    BLOCK_ROWS_MAX * PANEL_VECTORS * level.lanes()
}

/// `sums: [rows, width] = a b`.
///
/// # Safety
/// `a` is readable for `rows` rows and `k` steps, `b` for `k` steps of a panel's width; `sums`
/// is writable for `rows` rows of that width.
#[inline(always)]
pub(crate) unsafe fn panel_sums<S: Simd>(simd: S, panel: Panel) {
    let Panel { a, rows, b, k, sums } = panel;
    let width = PANEL_VECTORS * S::LANES;
    let block_count = (k * width).div_ceil(PANEL_FLOATS).max(1);
    for block in 0..block_count {
        let first_k = k * block / block_count;
        let k_count = k * (block + 1) / block_count - first_k;
        let b = b.wrapping_add(first_k * width);
        for (first_row, strip_rows) in strips(rows, S::TILE_ROWS) {
            let start = a.start.wrapping_add(first_row * a.row + first_k * a.step);
            let a = Spread { start, ..a };
            let sums = sums.wrapping_add(first_row * width);
            let is_first = block == 0;
            let strip = Strip { k_count, a, b, sums, is_first };
            with_rows!(S, strip_rows, M => simd.call(StripOf::<M>(strip)));
        }
    }
}

/// Some rows of a block for a block of k, which lie within what [`panel_sums`] was promised.
#[derive(Clone, Copy)]
struct Strip {
    k_count: usize,
    a: Spread,
    b: *const f32,
    sums: *mut f32,
    is_first: bool,
}

/// `M` rows.
struct StripOf<const M: usize>(Strip);

impl<const M: usize> Kernel for StripOf<M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Strip { k_count, a, b, sums, is_first } = self.0;
        let at = |i: usize, v: usize| sums.wrapping_add((i * PANEL_VECTORS + v) * S::LANES);
        let mut tile = [[[simd.splat(0.0); PANEL_VECTORS]; 1]; M];
        if !is_first {
            for (i, row) in tile.iter_mut().enumerate() {
                for (v, x) in row[0].iter_mut().enumerate() {
                    // SAFETY: row `i` of the sums, written by the block of k before.
                    *x = unsafe { simd.load(at(i, v)) };
                }
            }
        }
        let width = PANEL_VECTORS * S::LANES;
        // SAFETY: a strip lies within the rows, a block of k within k, a panel has its width.
        let tile = unsafe {
            multiply::<S, M, 1, PANEL_VECTORS, false>(simd, k_count, a, [b], width, 0, tile)
        };
        for (i, row) in tile.iter().enumerate() {
            for (v, x) in row[0].iter().enumerate() {
                // SAFETY: row `i` of the sums.
                unsafe { simd.store(at(i, v), *x) };
            }
        }
    }
}
