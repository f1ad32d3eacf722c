//! Elementary functions of vectors, with the error that their tests hold them to.

use super::Simd;

/// `e^x`. Relative error at most 2e-7; 0 below -86.9, infinite above 88.72, not a number for
/// itself.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    let infinite = simd.splat(f32::INFINITY);
    let finite = exp_below(simd, simd.min(simd.splat(88.8), x));
    simd.select_less(simd.splat(88.722_83), x, infinite, finite)
}

/// [`exp`] for arguments of at most 88; cheaper, and what a softmax needs.
///
/// The reduction to `[-ln 2 / 2, ln 2 / 2]` and the polynomial are those of Cephes' `expf`.
#[inline(always)]
pub fn exp_below<S: Simd>(simd: S, x: S::F) -> S::F {
    /// Adding this rounds to an integer, which is then in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    let c = |value: f32| simd.splat(value);
    let least = c(-86.9);
    let inside = simd.max(least, x);
    let shifted = simd.fma(inside, c(std::f32::consts::LOG2_E), c(ROUNDER));
    let n = simd.sub(shifted, c(ROUNDER));
    let r = simd.fma(n, c(-0.693_359_4), inside);
    let r = simd.fma(n, c(2.121_944_4e-4), r);
    let mut y = c(1.987_569_1e-4);
    for term in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        y = simd.fma(y, r, c(term));
    }
    let y = simd.add(simd.fma(simd.mul(r, r), y, r), c(1.0));
    simd.select_less(x, least, c(0.0), simd.add_exponent(y, shifted))
}

/// `1 / (1 + e^-x)`. Absolute error at most 2e-7.
#[inline(always)]
pub fn sigmoid<S: Simd>(simd: S, x: S::F) -> S::F {
    let one = simd.splat(1.0);
    simd.div(one, simd.add(one, exp(simd, simd.sub(simd.splat(0.0), x))))
}

/// `tanh x`. Absolute error at most 2e-7, and relatively exact near 0.
///
/// Near 0 an odd rational function, the coefficients of Eigen's `generic_fast_tanh`; further
/// out `1 - 2 / (1 + e^2x)`, which there has less rounding.
#[inline(always)]
pub fn tanh<S: Simd>(simd: S, x: S::F) -> S::F {
    const NEAR: f32 = 0.55;
    const ABOVE: [f32; 7] = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_1e-8,
        1.485_722_4e-5,
        6.372_619_3e-4,
        4.893_524_6e-3,
    ];
    const BELOW: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    let c = |value: f32| simd.splat(value);
    let square = simd.mul(x, x);
    let above = polynomial(simd, square, ABOVE);
    let near = simd.div(simd.mul(x, above), polynomial(simd, square, BELOW));
    let half = sigmoid(simd, simd.add(x, x));
    let far = simd.sub(simd.add(half, half), c(1.0));
    simd.select_less(square, c(NEAR * NEAR), near, far)
}

/// The error function. Absolute error at most 2e-7.
///
/// `x P(x²)` on `[-3.9, 3.9]`, beyond which it is 1 to 4e-8. `P` is our own fit, by Lawson's
/// iteration to the smallest largest error (1.8e-8 before rounding), in
/// `2 (x / 3.9)² - 1` so that its terms do not cancel.
#[inline(always)]
pub fn erf<S: Simd>(simd: S, x: S::F) -> S::F {
    const LIMIT: f32 = 3.9;
    const TERMS: [f32; 16] = [
        -7.047_333e-4,
        1.874_354e-3,
        -1.539_461_8e-3,
        2.056_776e-3,
        -7.025_07e-3,
        1.339_557_4e-2,
        -1.960_327_7e-2,
        2.924_633_6e-2,
        -4.276_269e-2,
        5.787_194_5e-2,
        -7.380_585e-2,
        9.067_485e-2,
        -1.095_322_3e-1,
        1.346_908_2e-1,
        -1.810_110_8e-1,
        3.625_839_6e-1,
    ];
    let x = simd.min(simd.splat(LIMIT), simd.max(simd.splat(-LIMIT), x));
    let square = simd.mul(x, x);
    let place = simd.fma(square, simd.splat(2.0 / (LIMIT * LIMIT)), simd.splat(-1.0));
    simd.mul(x, polynomial(simd, place, TERMS))
}

/// Highest power first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::F, terms: [f32; N]) -> S::F {
    let mut sum = simd.splat(terms[0]);
    for term in &terms[1..] {
        sum = simd.fma(sum, x, simd.splat(*term));
    }
    sum
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Kernel, Level};
    use super::*;

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
        Erf,
    }

    struct Apply(Function, f32);

    impl Kernel for Apply {
        type Output = f32;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> f32 {
            let x = simd.splat(self.1);
            simd.largest(match self.0 {
                Function::Exp => exp(simd, x),
                Function::Sigmoid => sigmoid(simd, x),
                Function::Tanh => tanh(simd, x),
                Function::Erf => erf(simd, x),
            })
        }
    }

    /// The series, then the continued fraction: far below f32's error.
    pub(crate) fn erf_exact(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let mut term = x;
            let mut sum = x;
            for n in 1..80 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let mut fraction = 0.0;
        for n in (1..60).rev() {
            fraction = f64::from(n) / 2.0 / (x.abs() + fraction);
        }
        let tail = (-x * x).exp() / (x.abs() + fraction) / std::f64::consts::PI.sqrt();
        (1.0 - tail).copysign(x)
    }

    fn check(function: Function, exact: impl Fn(f64) -> f64, relative: bool, error_max: f64) {
        for level in Level::available() {
            let mut worst = (0.0, 0.0);
            for step in -400_000..=400_000 {
                let x = step as f32 * 2.1e-4;
                let want = exact(f64::from(x));
                if relative && want < 1.7e-38 {
                    continue;
                }
                let scale = if relative { want } else { 1.0 };
                let error = (f64::from(level.run(Apply(function, x))) - want).abs() / scale;
                if worst.0 < error {
                    worst = (error, x);
                }
            }
            assert!(worst.0 <= error_max, "{level:?}: {:.3e} at {}", worst.0, worst.1);
        }
    }

    #[test]
    fn exp_is_close() {
        check(Function::Exp, f64::exp, true, 2e-7);
    }

    #[test]
    fn sigmoid_is_close() {
        check(Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), false, 2e-7);
    }

    #[test]
    fn tanh_is_close() {
        check(Function::Tanh, f64::tanh, false, 2e-7);
    }

    #[test]
    fn erf_is_close() {
        check(Function::Erf, erf_exact, false, 2e-7);
    }

    #[test]
    fn ends_and_not_a_number() {
        for level in Level::available() {
            let at = |function, x| level.run(Apply(function, x));
            let inf = f32::INFINITY;
            assert_eq!(at(Function::Exp, -inf), 0.0);
            assert_eq!(at(Function::Exp, inf), inf);
            assert_eq!(at(Function::Exp, 0.0), 1.0);
            assert_eq!(at(Function::Exp, 1e30), inf);
            assert_eq!((at(Function::Sigmoid, -inf), at(Function::Sigmoid, inf)), (0.0, 1.0));
            assert!((at(Function::Tanh, inf) - 1.0).abs() <= 2e-7);
            assert!((at(Function::Erf, -inf) + 1.0).abs() <= 2e-7);
        }
    }
}
