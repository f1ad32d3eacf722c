//! The sums of one panel for a block of rows, blocked over k so that the panel stays in the
//! first-level cache while the rows pass by.

use super::BLOCK_ROWS_MAX;
use crate::{
    simd::{Level, Simd},
    tile::{PANEL_VECTORS, Spread, multiply, strips, with_rows},
};

/// Most steps of k that are done in one go: 256 × 16 floats are half of a 32 KiB cache.
const K_BLOCK: usize = 256;

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
    let block_count = k.div_ceil(K_BLOCK).max(1);
    for block in 0..block_count {
        let first_k = k * block / block_count;
        let k_count = k * (block + 1) / block_count - first_k;
        let b = b.wrapping_add(first_k * width);
        for (first_row, strip_rows) in strips(rows, S::TILE_ROWS) {
            let start = a.start.wrapping_add(first_row * a.row + first_k * a.step);
            let a = Spread { start, ..a };
            let sums = sums.wrapping_add(first_row * width);
            // SAFETY: a strip lies within the block, and a block of k within k.
            with_rows!(S, strip_rows, M => unsafe {
                strip::<S, M>(simd, k_count, a, b, sums, block == 0)
            });
        }
    }
}

/// # Safety
/// As [`panel_sums`], for `M` rows and `k_count` steps.
#[inline(always)]
unsafe fn strip<S: Simd, const M: usize>(
    simd: S,
    k_count: usize,
    a: Spread,
    b: *const f32,
    sums: *mut f32,
    is_first: bool,
) {
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
    // SAFETY: the caller's promise.
    let tile = unsafe {
        multiply::<S, M, 1, PANEL_VECTORS, false>(
            simd,
            k_count,
            a,
            [b],
            PANEL_VECTORS * S::LANES,
            0,
            tile,
        )
    };
    for (i, row) in tile.iter().enumerate() {
        for (v, x) in row[0].iter().enumerate() {
            // SAFETY: row `i` of the sums.
            unsafe { simd.store(at(i, v), *x) };
        }
    }
}
