//! The SPLADE head: for each sequence and word the largest logit of any token, on a logarithm.
//!
//! Logits exist for one panel of words and one block of tokens at a time, in the worker's
//! scratch.

use crate::{
    gemm::{BLOCK_ROWS_MAX, Panel, Panels, panel_sums, sums_len},
    simd::{Kernel, Level, Simd},
    threads::{Pool, TaskPanicked},
    tile::{PANEL_VECTORS, Spread},
    view::{Rows, RowsMut, Shared},
};

/// `out[n, v] = ln(1 + max(0, max over the rows of sequence n of hidden wᵀ + bias))`, 0 for a
/// sequence without rows.
///
/// Shapes: `hidden: [t, k]`, `decoder: [v, k]` packed, `bias: [v]`, `lo` and `hi: [n]`,
/// `out: [n, v]`.
pub struct Splade<'a> {
    /// Token states.
    pub hidden: Rows<'a>,
    /// The decoder's weights, packed and not gated.
    pub decoder: Panels<'a>,
    /// The decoder's bias.
    pub bias: Option<&'a [f32]>,
    /// First row of each sequence.
    pub lo: &'a [i32],
    /// End of each sequence's rows.
    pub hi: &'a [i32],
    /// Where the result goes.
    pub out: RowsMut<'a>,
}

/// Panels that a task takes, so that they stay in the second-level cache for all sequences.
const TASK_PANELS: usize = 4;

/// Floats of scratch on a pool of `thread_count` threads.
pub fn scratch_len(level: Level, thread_count: usize) -> usize {
    thread_count * sums_len(level)
}

impl Splade<'_> {
    /// Computes it. Allocates nothing.
    ///
    /// # Errors
    /// [`TaskPanicked`], which would be a bug here.
    ///
    /// # Panics
    /// When shapes do not fit, a sequence lies outside the rows, the decoder was packed for
    /// another level or gated, or the scratch is too short.
    pub fn run(self, level: Level, pool: &Pool, scratch: &mut [f32]) -> Result<(), TaskPanicked> {
        let layout = self.decoder.layout();
        let rows = self.hidden.row_count();
        assert!(!layout.gated());
        assert_eq!(layout.panel_width(), level.lanes() * PANEL_VECTORS, "packed for another level");
        assert_eq!((self.hidden.col_count(), self.out.col_count()), (layout.k(), layout.n()));
        assert!(self.bias.is_none_or(|it| it.len() == layout.n()));
        assert_eq!((self.lo.len(), self.hi.len()), (self.out.row_count(), self.out.row_count()));
        let is_inside = |(lo, hi): (&i32, &i32)| 0 <= *lo && lo <= hi && *hi as usize <= rows;
        assert!(self.lo.iter().zip(self.hi).all(is_inside), "a sequence lies outside the rows");
        assert!(scratch_len(level, pool.thread_count()) <= scratch.len(), "scratch is too short");
        let scratch = Shared::new(scratch);
        pool.run(layout.panel_count().div_ceil(TASK_PANELS), &|task_index, worker_index| {
            let first = task_index * TASK_PANELS;
            let end = (first + TASK_PANELS).min(layout.panel_count());
            let sums = scratch.at(worker_index * sums_len(level));
            level.run(Part { splade: &self, panels: [first, end], sums });
        })
    }
}

struct Part<'a> {
    splade: &'a Splade<'a>,
    panels: [usize; 2],
    sums: *mut f32,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { splade, panels: [first, end], sums } = self;
        for sequence in 0..splade.lo.len() {
            let [lo, hi] = [splade.lo, splade.hi].map(|it| it[sequence] as usize);
            for panel_index in first..end {
                simd.call(Largest { splade, sequence, lo, hi, panel_index, sums });
            }
        }
    }
}

struct Largest<'a> {
    splade: &'a Splade<'a>,
    sequence: usize,
    lo: usize,
    hi: usize,
    panel_index: usize,
    sums: *mut f32,
}

impl Kernel for Largest<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { splade, sequence, lo, hi, panel_index, sums } = self;
        let Splade { hidden, decoder, bias, out, .. } = splade;
        let width = PANEL_VECTORS * S::LANES;
        let mut largest = [simd.splat(f32::NEG_INFINITY); PANEL_VECTORS];
        for first in (lo..hi).step_by(BLOCK_ROWS_MAX) {
            let rows = BLOCK_ROWS_MAX.min(hi - first);
            let panel = Panel {
                a: Spread { start: hidden.row(first), row: hidden.stride(), step: 1 },
                rows,
                b: decoder.panel(panel_index),
                k: decoder.layout().k(),
                sums,
            };
            // SAFETY: the views were checked; the worker's sums have room for a block.
            unsafe { panel_sums(simd, panel) };
            for i in 0..rows {
                for (v, largest) in largest.iter_mut().enumerate() {
                    // SAFETY: row `i` of the sums just written.
                    let x = unsafe { simd.load(sums.wrapping_add(i * width + v * S::LANES)) };
                    *largest = simd.max(*largest, x);
                }
            }
        }
        let mut words = [0.0; WIDTH_MAX];
        for (v, largest) in largest.iter().enumerate() {
            // SAFETY: there is room for two vectors of any level.
            unsafe { simd.store(words.as_mut_ptr().wrapping_add(v * S::LANES), *largest) };
        }
        let col = panel_index * width;
        let to = out.row(sequence).wrapping_add(col);
        for (c, logit) in words[..width.min(out.col_count() - col)].iter().enumerate() {
            // Rounding keeps order, so the bias may come after the maximum.
            let logit = logit + bias.map_or(0.0, |it| it[col + c]);
            // `max` would make zero of what is not a number.
            let kept = if logit <= 0.0 { 0.0 } else { logit };
            // SAFETY: word `col + c` of the row, which only this task writes.
            unsafe { *to.wrapping_add(c) = kept.ln_1p() };
        }
    }
}

/// Words in a panel of the widest level.
const WIDTH_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gemm::{Gemm, Packed, Tiled},
        sample::{Sample, assert_close},
    };

    fn check(k: usize, v: usize, lo: &[i32], hi: &[i32]) {
        let t = 410;
        let mut sample = Sample::new(9);
        let (hidden, w, bias) = (sample.floats(t * k), sample.floats(v * k), sample.floats(v));
        let mut want = Vec::new();
        for (lo, hi) in lo.iter().zip(hi) {
            for word in 0..v {
                let logit = |row: i32| -> f64 {
                    let row = &hidden[row as usize * k..][..k];
                    let terms = row.iter().zip(&w[word * k..][..k]);
                    terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                        + f64::from(bias[word])
                };
                want.push((*lo..*hi).map(logit).fold(0.0, f64::max).ln_1p());
            }
        }
        let pool = Pool::new(2).unwrap();
        for level in Level::available() {
            let packed = Packed::new(Tiled { level }.layout(v, k), &w);
            let mut out = vec![9.0; lo.len() * v];
            let mut scratch = vec![f32::NAN; scratch_len(level, 2)];
            let splade = Splade {
                hidden: Rows::dense(&hidden, t, k),
                decoder: packed.panels(),
                bias: Some(&bias),
                lo,
                hi,
                out: RowsMut::dense(&mut out, lo.len(), v),
            };
            splade.run(level, &pool, &mut scratch).unwrap();
            assert_close(&out, &want, 1e-5, &format!("{level:?} {k} {v}"));
        }
    }

    #[test]
    fn sequences() {
        for (k, v) in [(64, 333), (300, 64), (5, 1)] {
            check(k, v, &[0, 1, 1, 200, 0], &[1, 1, 200, 410, 410]);
            check(k, v, &[], &[]);
        }
    }
}
