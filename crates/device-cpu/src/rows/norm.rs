//! Layer norm, root-mean-square norm, L2 normalisation and softmax.

use super::{fold, for_rows, map, sum};
use crate::{
    simd::{Kernel, Level, Simd, exp_below},
    threads::{Pool, TaskPanicked},
    view::{Input, Rows, RowsMut},
};

/// What a row is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    /// Less its mean, by `√(variance + epsilon)`. The variance is taken around the mean in a
    /// second pass.
    Layer,
    /// By `√(mean of squares + epsilon)`.
    RootMeanSquare,
    /// By `max(√(sum of squares), epsilon)`.
    L2,
}

/// A norm's parameters for rows of `d`.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// What is divided by.
    pub moments: Moments,
    /// Multiplies the result, `[d]`.
    pub weight: Option<&'a [f32]>,
    /// Added last, `[d]`.
    pub bias: Option<&'a [f32]>,
    /// Keeps the divisor from zero.
    pub epsilon: f32,
}

/// `out = norm(input + residual)`.
///
/// Shapes: all `[rows, d]`.
pub struct NormOver<'a> {
    /// Parameters.
    pub norm: Norm<'a>,
    /// What is normalised.
    pub input: Input<'a>,
    /// Added before.
    pub residual: Option<Rows<'a>>,
    /// Where `input + residual` goes too, when it is wanted.
    pub sum: Option<RowsMut<'a>>,
    /// Where the result goes.
    pub out: RowsMut<'a>,
}

impl NormOver<'_> {
    /// Computes it.
    ///
    /// # Errors
    /// [`TaskPanicked`], which would be a bug here.
    ///
    /// # Panics
    /// When shapes differ, or a sum is wanted and there is no residual.
    pub fn run(self, level: Level, pool: &Pool) -> Result<(), TaskPanicked> {
        let (rows, d) = (self.out.row_count(), self.out.col_count());
        self.norm.check(d);
        self.input.check(&self.out);
        assert!(self.sum.is_none() || self.residual.is_some());
        if let Some(residual) = self.residual {
            assert_eq!((residual.row_count(), residual.col_count()), (rows, d));
        }
        if let Some(sum) = &self.sum {
            assert_eq!((sum.row_count(), sum.col_count()), (rows, d));
        }
        for_rows(pool, rows, d, |first, end| level.run(Part { over: &self, first, end }))
    }
}

struct Part<'a> {
    over: &'a NormOver<'a>,
    first: usize,
    end: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { over, first, end } = self;
        let d = over.out.col_count();
        for row in first..end {
            let mut input = over.input.row(&over.out, row);
            let out = over.out.row(row);
            // SAFETY: rows of `d` floats; only this task touches row `row` of the results.
            unsafe {
                if let Some(residual) = over.residual {
                    let to = over.sum.as_ref().map_or(out, |it| it.row(row));
                    map(
                        simd,
                        d,
                        [input, residual.row(row)],
                        to,
                        #[inline(always)]
                        |[a, b]| simd.add(a, b),
                    );
                    input = to;
                }
                over.norm.row(simd, d, input, out);
            }
        }
    }
}

impl Norm<'_> {
    /// # Panics
    /// When a parameter has not `d` floats.
    pub(super) fn check(&self, d: usize) {
        assert!(self.weight.is_none_or(|it| it.len() == d));
        assert!(self.bias.is_none_or(|it| it.len() == d));
    }

    /// # Safety
    /// `input` is readable and `out` writable for `d` floats, as are the parameters.
    #[inline(always)]
    pub(super) unsafe fn row<S: Simd>(&self, simd: S, d: usize, input: *const f32, out: *mut f32) {
        // SAFETY: the caller's promise.
        let (mean, factor) = unsafe { self.moments(simd, d, input) };
        let (mean, factor) = (simd.splat(mean), simd.splat(factor));
        // SAFETY: the caller's promise.
        unsafe {
            match (self.weight.map(<[f32]>::as_ptr), self.bias.map(<[f32]>::as_ptr)) {
                (None, None) => map(
                    simd,
                    d,
                    [input],
                    out,
                    #[inline(always)]
                    |[x]| scaled(simd, x, mean, factor),
                ),
                (Some(weight), None) => {
                    map(
                        simd,
                        d,
                        [input, weight],
                        out,
                        #[inline(always)]
                        |[x, w]| simd.mul(scaled(simd, x, mean, factor), w),
                    );
                }
                (None, Some(bias)) => {
                    map(
                        simd,
                        d,
                        [input, bias],
                        out,
                        #[inline(always)]
                        |[x, b]| simd.add(scaled(simd, x, mean, factor), b),
                    );
                }
                (Some(weight), Some(bias)) => {
                    map(
                        simd,
                        d,
                        [input, weight, bias],
                        out,
                        #[inline(always)]
                        |[x, w, b]| simd.fma(scaled(simd, x, mean, factor), w, b),
                    );
                }
            }
        }
    }

    /// What is subtracted, and what is then multiplied with.
    ///
    /// # Safety
    /// `input` is readable for `d` floats.
    #[inline(always)]
    unsafe fn moments<S: Simd>(&self, simd: S, d: usize, input: *const f32) -> (f32, f32) {
        match self.moments {
            Moments::Layer => {
                // SAFETY: the caller's promise.
                let state = unsafe {
                    fold(
                        simd,
                        d,
                        input,
                        0.0,
                        #[inline(always)]
                        |state, x| simd.add(state, x),
                    )
                };
                let mean = sum(simd, state) / d as f32;
                // SAFETY: the caller's promise.
                let squares = unsafe { squares_around(simd, d, input, mean) };
                (mean, 1.0 / (squares / d as f32 + self.epsilon).sqrt())
            }
            Moments::RootMeanSquare => {
                // SAFETY: the caller's promise.
                let squares = unsafe { squares_around(simd, d, input, 0.0) };
                (0.0, 1.0 / (squares / d as f32 + self.epsilon).sqrt())
            }
            Moments::L2 => {
                // SAFETY: the caller's promise.
                let squares = unsafe { squares_around(simd, d, input, 0.0) };
                (0.0, 1.0 / squares.sqrt().max(self.epsilon))
            }
        }
    }
}

/// `(x - mean) factor`.
#[inline(always)]
fn scaled<S: Simd>(simd: S, x: S::F, mean: S::F, factor: S::F) -> S::F {
    simd.mul(simd.sub(x, mean), factor)
}

/// `Σ (x - mean)²`.
///
/// # Safety
/// `input` is readable for `d` floats.
#[inline(always)]
unsafe fn squares_around<S: Simd>(simd: S, d: usize, input: *const f32, mean: f32) -> f32 {
    let mean = simd.splat(mean);
    // SAFETY: the caller's promise.
    let state = unsafe {
        fold(
            simd,
            d,
            input,
            0.0,
            #[inline(always)]
            |state, x| {
                let x = simd.sub(x, mean);
                simd.fma(x, x, state)
            },
        )
    };
    sum(simd, state)
}

/// Softmax of each row. A row of nothing but minus infinity gives zeros.
///
/// Shapes: `input` and `out: [rows, d]`.
///
/// # Errors
/// [`TaskPanicked`], which would be a bug here.
///
/// # Panics
/// When shapes differ.
pub fn softmax(
    level: Level,
    pool: &Pool,
    input: Input<'_>,
    out: RowsMut<'_>,
) -> Result<(), TaskPanicked> {
    input.check(&out);
    for_rows(pool, out.row_count(), out.col_count(), |first, end| {
        level.run(Softmax { input, out: &out, first, end });
    })
}

struct Softmax<'a> {
    input: Input<'a>,
    out: &'a RowsMut<'a>,
    first: usize,
    end: usize,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { input, out, first, end } = self;
        let d = out.col_count();
        for row in first..end {
            let (input, out) = (input.row(out, row), out.row(row));
            // SAFETY: rows of `d` floats; only this task touches row `row` of the result.
            unsafe {
                let state = fold(
                    simd,
                    d,
                    input,
                    f32::NEG_INFINITY,
                    #[inline(always)]
                    |state, x| simd.max(state, x),
                );
                let [a, b, c, d4] = state;
                let largest = simd.largest(simd.max(simd.max(a, b), simd.max(c, d4)));
                let base = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
                let base = simd.splat(base);
                map(
                    simd,
                    d,
                    [input],
                    out,
                    #[inline(always)]
                    |[x]| exp_below(simd, simd.sub(x, base)),
                );
                let total = sum(
                    simd,
                    fold(
                        simd,
                        d,
                        out,
                        0.0,
                        #[inline(always)]
                        |state, x| simd.add(state, x),
                    ),
                );
                let factor = simd.splat(if total == 0.0 { 0.0 } else { 1.0 / total });
                map(
                    simd,
                    d,
                    [out.cast_const()],
                    out,
                    #[inline(always)]
                    |[x]| simd.mul(x, factor),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close};

    fn exact(norm: &Norm<'_>, rows: &[f64], d: usize) -> Vec<f64> {
        let mut out = Vec::new();
        for row in rows.chunks(d) {
            let mean = row.iter().sum::<f64>() / d as f64;
            let squares = |m: f64| row.iter().map(|x| (x - m).powi(2)).sum::<f64>();
            let epsilon = f64::from(norm.epsilon);
            let (mean, divisor) = match norm.moments {
                Moments::Layer => (mean, (squares(mean) / d as f64 + epsilon).sqrt()),
                Moments::RootMeanSquare => (0.0, (squares(0.0) / d as f64 + epsilon).sqrt()),
                Moments::L2 => (0.0, squares(0.0).sqrt().max(epsilon)),
            };
            for (c, x) in row.iter().enumerate() {
                let weight = norm.weight.map_or(1.0, |it| f64::from(it[c]));
                let bias = norm.bias.map_or(0.0, |it| f64::from(it[c]));
                out.push((x - mean) / divisor * weight + bias);
            }
        }
        out
    }

    fn check(moments: Moments, d: usize, offset: f32) {
        let mut sample = Sample::new(d as u64);
        let rows = 7;
        let mut x = sample.floats(rows * d);
        x.iter_mut().for_each(|it| *it += offset);
        let other = sample.floats(rows * d);
        let (weight, bias) = (sample.floats(d), sample.floats(d));
        let pool = Pool::new(2).unwrap();
        for level in Level::available() {
            for bits in 0..8 {
                let norm = Norm {
                    moments,
                    weight: (bits & 1 != 0).then_some(&weight),
                    bias: (bits & 2 != 0).then_some(&bias),
                    epsilon: 1e-5,
                };
                let has_residual = bits & 4 != 0;
                let sums: Vec<f32> = x.iter().zip(&other).map(|(a, b)| a + b).collect();
                let rows_in = if has_residual { &sums } else { &x };
                let wide: Vec<f64> = rows_in.iter().map(|it| f64::from(*it)).collect();
                let want = exact(&norm, &wide, d);
                let what = format!("{level:?} {moments:?} {d} {bits}");
                let (mut out, mut sum) = (x.clone(), vec![0.0; rows * d]);
                let over = NormOver {
                    norm,
                    input: if bits % 2 == 0 {
                        Input::InPlace
                    } else {
                        Input::Rows(Rows::dense(&x, rows, d))
                    },
                    residual: has_residual.then(|| Rows::dense(&other, rows, d)),
                    sum: has_residual.then(|| RowsMut::dense(&mut sum, rows, d)),
                    out: RowsMut::dense(&mut out, rows, d),
                };
                over.run(level, &pool).unwrap();
                assert_close(&out, &want, 2e-5 * (1.0 + f64::from(offset)), &what);
                if has_residual {
                    assert_eq!(sum, sums, "{what}");
                }
            }
        }
    }

    #[test]
    fn norms() {
        for moments in [Moments::Layer, Moments::RootMeanSquare, Moments::L2] {
            for d in [1, 3, 8, 17, 64, 100, 384, 1023] {
                check(moments, d, 0.0);
            }
            check(moments, 384, 50.0);
        }
    }

    #[test]
    fn softmax_of_rows() {
        let pool = Pool::new(2).unwrap();
        for level in Level::available() {
            for d in [1, 5, 8, 33, 200] {
                for scale in [1.0, 1e4] {
                    let mut x: Vec<f32> = Sample::new(1).floats(3 * d);
                    x.iter_mut().for_each(|it| *it *= scale);
                    x[..d].fill(f32::NEG_INFINITY);
                    x[d] = f32::NEG_INFINITY;
                    let mut want = vec![0.0; d];
                    for row in x[d..].chunks(d) {
                        let largest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
                        let e: Vec<f64> =
                            row.iter().map(|it| (f64::from(*it) - largest).exp()).collect();
                        let total: f64 = e.iter().sum();
                        want.extend(e.iter().map(|it| if total == 0.0 { 0.0 } else { it / total }));
                    }
                    let out = RowsMut::dense(&mut x, 3, d);
                    softmax(level, &pool, Input::InPlace, out).unwrap();
                    assert_close(&x, &want, 1e-6, &format!("{level:?} {d} {scale}"));
                }
            }
        }
    }
}
