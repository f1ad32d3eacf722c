//! Bias and activation, sums, and gates where no product could take them along.

use super::{for_rows, map};
use crate::{
    activation::{Activation, ActivationUser},
    simd::{Kernel, Level, Simd},
    threads::{Pool, TaskPanicked},
    view::{Input, Rows, RowsMut},
};

/// `out = activation(input + bias)`.
///
/// Shapes: `input` and `out: [rows, d]`, `bias: [d]`.
///
/// # Errors
/// [`TaskPanicked`], which would be a bug here.
///
/// # Panics
/// When shapes differ.
pub fn activate(
    level: Level,
    pool: &Pool,
    activation: Activation,
    input: Input<'_>,
    bias: Option<&[f32]>,
    out: RowsMut<'_>,
) -> Result<(), TaskPanicked> {
    input.check(&out);
    let d = out.col_count();
    assert!(bias.is_none_or(|it| it.len() == d));
    for_rows(pool, out.row_count(), d, |first, end| {
        level.run(Part { activation, form: Form::Bias { input, bias }, out: &out, first, end });
    })
}

/// `out = input + other`.
///
/// Shapes: all `[rows, d]`.
///
/// # Errors
/// [`TaskPanicked`], which would be a bug here.
///
/// # Panics
/// When shapes differ.
pub fn add(
    level: Level,
    pool: &Pool,
    input: Input<'_>,
    other: Rows<'_>,
    out: RowsMut<'_>,
) -> Result<(), TaskPanicked> {
    input.check(&out);
    Input::Rows(other).check(&out);
    for_rows(pool, out.row_count(), out.col_count(), |first, end| {
        level.run(Add { input, other, out: &out, first, end });
    })
}

/// Which half of a row goes through the activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// `activation(first) ⊙ second`.
    First,
    /// `first ⊙ activation(second)`.
    Second,
}

/// One half of each row, activated, times the other.
///
/// Shapes: `input: [rows, 2 d]`, `out: [rows, d]`.
///
/// # Errors
/// [`TaskPanicked`], which would be a bug here.
///
/// # Panics
/// When shapes do not fit.
pub fn gate(
    level: Level,
    pool: &Pool,
    activation: Activation,
    activated: Half,
    input: Rows<'_>,
    out: RowsMut<'_>,
) -> Result<(), TaskPanicked> {
    assert_eq!(input.row_count(), out.row_count());
    assert_eq!(input.col_count(), 2 * out.col_count());
    for_rows(pool, out.row_count(), input.col_count(), |first, end| {
        level.run(Part {
            activation,
            form: Form::Gate { input, activated },
            out: &out,
            first,
            end,
        });
    })
}

struct Part<'a> {
    activation: Activation,
    form: Form<'a>,
    out: &'a RowsMut<'a>,
    first: usize,
    end: usize,
}

#[derive(Clone, Copy)]
enum Form<'a> {
    Bias { input: Input<'a>, bias: Option<&'a [f32]> },
    Gate { input: Rows<'a>, activated: Half },
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.activation.with(simd, PartWith { simd, part: &self });
    }
}

struct PartWith<'a, S> {
    simd: S,
    part: &'a Part<'a>,
}

impl<S: Simd> ActivationUser<S> for PartWith<'_, S> {
    #[inline(always)]
    fn call(self, f: impl Fn(S::F) -> S::F) {
        let Self { simd, part: Part { form, out, first, end, activation: _ } } = self;
        let d = out.col_count();
        for row in *first..*end {
            let to = out.row(row);
            // SAFETY: rows of `d` floats (a gate's input of `2 d`); only this task touches row
            // `row` of the result.
            unsafe {
                match *form {
                    Form::Bias { input, bias: None } => {
                        map(
                            simd,
                            d,
                            [input.row(out, row)],
                            to,
                            #[inline(always)]
                            |[x]| f(x),
                        );
                    }
                    Form::Bias { input, bias: Some(bias) } => {
                        let inputs = [input.row(out, row), bias.as_ptr()];
                        map(
                            simd,
                            d,
                            inputs,
                            to,
                            #[inline(always)]
                            |[x, b]| f(simd.add(x, b)),
                        );
                    }
                    Form::Gate { input, activated } => {
                        let halves = [input.row(row), input.row(row).wrapping_add(d)];
                        let [x, other] = match activated {
                            Half::First => halves,
                            Half::Second => [halves[1], halves[0]],
                        };
                        map(
                            simd,
                            d,
                            [x, other],
                            to,
                            #[inline(always)]
                            |[x, other]| simd.mul(f(x), other),
                        );
                    }
                }
            }
        }
    }
}

struct Add<'a> {
    input: Input<'a>,
    other: Rows<'a>,
    out: &'a RowsMut<'a>,
    first: usize,
    end: usize,
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { input, other, out, first, end } = self;
        for row in first..end {
            let inputs = [input.row(out, row), other.row(row)];
            // SAFETY: rows of one shape; only this task touches row `row` of the result.
            unsafe {
                map(
                    simd,
                    out.col_count(),
                    inputs,
                    out.row(row),
                    #[inline(always)]
                    |[a, b]| simd.add(a, b),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close};

    #[test]
    fn each_activation() {
        let pool = Pool::new(2).unwrap();
        for level in Level::available() {
            for activation in Activation::ALL {
                for d in [1, 8, 29] {
                    let mut sample = Sample::new(4);
                    let mut x = sample.floats(6 * d);
                    x.iter_mut().for_each(|it| *it *= 9.0);
                    let bias = sample.floats(d);
                    let what = format!("{level:?} {activation:?} {d}");

                    let exact = |(i, x): (usize, &f32)| {
                        activation.exact(f64::from(*x) + f64::from(bias[i % d]))
                    };
                    let want: Vec<f64> = x.iter().enumerate().map(exact).collect();
                    let mut out = x.clone();
                    let out_rows = RowsMut::dense(&mut out, 6, d);
                    activate(level, &pool, activation, Input::InPlace, Some(&bias), out_rows)
                        .unwrap();
                    assert_close(&out, &want, 1.5e-6, &what);

                    for activated in [Half::First, Half::Second] {
                        let mut want = Vec::new();
                        for row in x.chunks(2 * d) {
                            for c in 0..d {
                                let (a, b) = (f64::from(row[c]), f64::from(row[d + c]));
                                want.push(match activated {
                                    Half::First => activation.exact(a) * b,
                                    Half::Second => a * activation.exact(b),
                                });
                            }
                        }
                        let mut out = vec![0.0; 3 * d];
                        let input = Rows::dense(&x, 3, 2 * d);
                        let out_rows = RowsMut::dense(&mut out, 3, d);
                        gate(level, &pool, activation, activated, input, out_rows).unwrap();
                        assert_close(&out, &want, 1.5e-5, &what);
                    }
                }
            }
        }
    }

    #[test]
    fn sums() {
        let pool = Pool::new(2).unwrap();
        for level in Level::available() {
            let mut sample = Sample::new(6);
            let (a, b) = (sample.floats(5 * 31), sample.floats(5 * 31));
            let mut out = a.clone();
            let other = Rows::dense(&b, 5, 31);
            add(level, &pool, Input::InPlace, other, RowsMut::dense(&mut out, 5, 31)).unwrap();
            assert!(out.iter().zip(a.iter().zip(&b)).all(|(out, (a, b))| *out == a + b));
        }
    }
}
