//! A mixture of experts: each row goes through the few experts that were chosen for it.
//!
//! Only chosen experts' weights are read. Experts come in ascending order and a row's results
//! are added in that order, so its bits do not depend on the rows around it.

use crate::{
    activation::Activation,
    gemm::{Gemm, Linear, Panels, Residual, Tiled},
    simd::Level,
    threads::{Pool, TaskPanicked},
    view::{Rows, RowsMut},
};

/// One expert: `w2 gelu_tanh(w1 x + b1) + b2`.
#[derive(Clone, Copy, Debug)]
pub struct Expert<'a> {
    /// `[hidden, in]`, packed.
    pub w1: Panels<'a>,
    /// `[hidden]`.
    pub b1: Option<&'a [f32]>,
    /// `[out, hidden]`, packed.
    pub w2: Panels<'a>,
    /// `[out]`.
    pub b2: Option<&'a [f32]>,
}

/// `out[r] = Σ weights[r, s] expert[indices[r, s]](input[r])`.
///
/// Shapes: `input: [n, in]`, `indices` and `weights: [n, top_k]`, `out: [n, out]`.
pub struct Experts<'a> {
    /// What goes in.
    pub input: Rows<'a>,
    /// All experts, of one shape.
    pub experts: &'a [Expert<'a>],
    /// Chosen experts of each row.
    pub indices: &'a [i32],
    /// Their weights.
    pub weights: &'a [f32],
    /// Experts chosen for a row.
    pub top_k: usize,
    /// Where the result goes.
    pub out: RowsMut<'a>,
}

/// Most rows that go through an expert at once.
const CHUNK_ROWS: usize = 128;

/// Floats of scratch for experts of these widths on a pool of `thread_count` threads.
pub fn scratch_len(
    level: Level,
    input: usize,
    hidden: usize,
    output: usize,
    thread_count: usize,
) -> usize {
    CHUNK_ROWS * (input + hidden + output) + Tiled { level }.scratch_len(thread_count)
}

impl Experts<'_> {
    /// Computes it. Allocates nothing.
    ///
    /// # Errors
    /// [`TaskPanicked`], which would be a bug here.
    ///
    /// # Panics
    /// When shapes do not fit, an index is no expert, or the scratch is too short.
    pub fn run(self, level: Level, pool: &Pool, scratch: &mut [f32]) -> Result<(), TaskPanicked> {
        let Self { input, experts, indices, weights, top_k, mut out } = self;
        let n = input.row_count();
        assert_eq!((indices.len(), weights.len(), out.row_count()), (n * top_k, n * top_k, n));
        let is_expert = |it: &i32| usize::try_from(*it).is_ok_and(|it| it < experts.len());
        assert!(indices.iter().all(is_expert), "an index is none of {} experts", experts.len());
        let (width, out_width) = (input.col_count(), out.col_count());
        for row in 0..n {
            row_mut(&mut out, row).fill(0.0);
        }
        let Some(first) = experts.first() else { return Ok(()) };
        let hidden_width = first.w1.layout().n();
        let len = scratch_len(level, width, hidden_width, out_width, pool.thread_count());
        assert!(len <= scratch.len(), "scratch is too short");
        let (gathered, scratch) = scratch.split_at_mut(CHUNK_ROWS * width);
        let (hidden, scratch) = scratch.split_at_mut(CHUNK_ROWS * hidden_width);
        let (results, scratch) = scratch.split_at_mut(CHUNK_ROWS * out_width);
        let gemm = Tiled { level };

        for (expert_index, expert) in experts.iter().enumerate() {
            let mut slots =
                (0..n * top_k).filter(|slot| indices[*slot] as usize == expert_index).peekable();
            while slots.peek().is_some() {
                let chunk = slots.clone().take(CHUNK_ROWS);
                let mut rows = 0;
                for slot in chunk.clone() {
                    gathered[rows * width..][..width].copy_from_slice(row(&input, slot / top_k));
                    rows += 1;
                }
                let up = Linear {
                    input: Rows::dense(&gathered[..rows * width], rows, width),
                    weights: expert.w1,
                    bias: expert.b1,
                    activation: Activation::GeluTanh,
                    residual: Residual::None,
                    out: RowsMut::dense(&mut hidden[..rows * hidden_width], rows, hidden_width),
                };
                gemm.run(pool, up, scratch)?;
                let down = Linear {
                    input: Rows::dense(&hidden[..rows * hidden_width], rows, hidden_width),
                    weights: expert.w2,
                    bias: expert.b2,
                    activation: Activation::None,
                    residual: Residual::None,
                    out: RowsMut::dense(&mut results[..rows * out_width], rows, out_width),
                };
                gemm.run(pool, down, scratch)?;
                for (slot, result) in chunk.zip(results.chunks_exact(out_width.max(1))) {
                    let weight = weights[slot];
                    for (y, x) in row_mut(&mut out, slot / top_k).iter_mut().zip(result) {
                        *y += weight * x;
                    }
                }
                slots.by_ref().take(rows).for_each(drop);
            }
        }
        Ok(())
    }
}

fn row<'a>(rows: &Rows<'a>, row_index: usize) -> &'a [f32] {
    assert!(row_index < rows.row_count());
    // SAFETY: a row of a checked view is readable for its length and lifetime.
    unsafe { std::slice::from_raw_parts(rows.row(row_index), rows.col_count()) }
}

fn row_mut<'a>(rows: &'a mut RowsMut<'_>, row_index: usize) -> &'a mut [f32] {
    assert!(row_index < rows.row_count());
    // SAFETY: a row of a checked view is writable for its length; the view is borrowed
    // exclusively.
    unsafe { std::slice::from_raw_parts_mut(rows.row(row_index), rows.col_count()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gemm::Packed,
        sample::{Sample, assert_close},
    };

    const EXPERTS: usize = 4;
    const TOP_K: usize = 2;

    fn compute(
        level: Level,
        n: usize,
        [width, hidden, out_width]: [usize; 3],
        route: impl Fn(usize) -> i32,
    ) -> (Vec<f32>, Vec<f64>) {
        let mut sample = Sample::new(11);
        let x = sample.floats(n * width);
        let indices: Vec<i32> = (0..n * TOP_K).map(route).collect();
        let weights = sample.floats(n * TOP_K);
        let gemm = Tiled { level };
        let scaled = |values: Vec<f32>, by: usize| -> Vec<f32> {
            values.iter().map(|it| it / (by as f32).sqrt()).collect()
        };
        let mut raw = Vec::new();
        for _ in 0..EXPERTS {
            raw.push((
                scaled(sample.floats(hidden * width), width),
                sample.floats(hidden),
                scaled(sample.floats(out_width * hidden), hidden),
                sample.floats(out_width),
            ));
        }
        let mut want = vec![0.0; n * out_width];
        for (slot, index) in indices.iter().enumerate() {
            let (w1, b1, w2, b2) = &raw[*index as usize];
            let linear = |x: &[f64], w: &[f32], b: &[f32]| -> Vec<f64> {
                let dot = |(w, b): (&[f32], &f32)| {
                    x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum::<f64>() + f64::from(*b)
                };
                w.chunks(x.len()).zip(b).map(dot).collect()
            };
            let row = slot / TOP_K;
            let x: Vec<f64> = x[row * width..][..width].iter().map(|it| f64::from(*it)).collect();
            let up: Vec<f64> =
                linear(&x, w1, b1).iter().map(|it| Activation::GeluTanh.exact(*it)).collect();
            for (c, y) in linear(&up, w2, b2).iter().enumerate() {
                want[row * out_width + c] += f64::from(weights[slot]) * y;
            }
        }
        let packed: Vec<_> = raw
            .iter()
            .map(|(w1, _, w2, _)| {
                let w1 = Packed::new(gemm.layout(hidden, width), w1);
                (w1, Packed::new(gemm.layout(out_width, hidden), w2))
            })
            .collect();
        let experts: Vec<_> = packed
            .iter()
            .zip(&raw)
            .map(|((w1, w2), (_, b1, _, b2))| Expert {
                w1: w1.panels(),
                b1: Some(b1),
                w2: w2.panels(),
                b2: Some(b2),
            })
            .collect();
        let mut out = vec![9.0; n * out_width];
        let mut scratch = vec![f32::NAN; scratch_len(level, width, hidden, out_width, 2)];
        let mixture = Experts {
            input: Rows::dense(&x, n, width),
            experts: &experts,
            indices: &indices,
            weights: &weights,
            top_k: TOP_K,
            out: RowsMut::dense(&mut out, n, out_width),
        };
        mixture.run(level, &Pool::new(2).unwrap(), &mut scratch).unwrap();
        (out, want)
    }

    #[test]
    fn rows_go_to_their_experts() {
        for level in Level::available() {
            for n in [0, 1, 2, 9, 300] {
                for route in [|slot| (slot % EXPERTS) as i32, |slot| (slot % 2 * 3) as i32] {
                    let (got, want) = compute(level, n, [40, 33, 10], route);
                    assert_close(&got, &want, 1e-5, &format!("{level:?} {n}"));
                }
            }
        }
    }

    #[test]
    fn the_full_width() {
        let (got, want) = compute(Level::detect(), 5, [8320, 64, 48], |slot| (slot % 3) as i32);
        assert_close(&got, &want, 2e-5, "8320");
    }

    #[test]
    fn the_same_bits_again() {
        let level = Level::detect();
        let run = || compute(level, 140, [64, 64, 16], |slot| (slot % 3) as i32).0;
        assert_eq!(run(), run());
    }
}
