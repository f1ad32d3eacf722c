//! Elementary functions that the vectors of `simd` do not have, without branches on lanes so
//! that a loop over them becomes vector code.

/// Natural logarithm. Relative error at most 3e-7 of the larger of the result and 0.1; minus
/// infinity for zero, not a number below.
///
/// The reduction to `[sqrt(1/2), sqrt(2))` and the polynomial are those of Cephes' `logf`.
#[inline(always)]
pub(super) fn log(x: f32) -> f32 {
    const TERMS: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = if subnormal { x * 8_388_608.0 } else { x };
    let shift = if subnormal { -23.0 } else { 0.0 };
    let bits = scaled.to_bits();
    let over = (bits & 0x007F_FFFF) > 0x0035_04F3; // Past sqrt(2): halve it.
    let exponent = (bits >> 23) as i32 - 127 + i32::from(over);
    let base = if over { 0x3F00_0000 } else { 0x3F80_0000 };
    let m = f32::from_bits((bits & 0x007F_FFFF) | base) - 1.0;
    let e = exponent as f32 + shift;
    let square = m * m;
    let mut p = TERMS[0];
    for term in &TERMS[1..] {
        p = p * m + term;
    }
    let tail = p * m * square + e * -2.121_944_4e-4 - 0.5 * square;
    let y = m + tail + e * 0.693_359_4;
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x >= 0.0 { y } else { f32::NAN }
}

/// Past this the reduction of [`sin_cos`] loses bits.
const REDUCED_MAX: f32 = 8192.0;

/// Sines, or cosines. Absolute error at most 2e-7.
///
/// The reduction to `[-π/4, π/4]` in three parts and the polynomials are those of Cephes.
#[inline(always)]
pub(super) fn sin_cos<const COS: bool, const N: usize>(x: [f32; N]) -> [f32; N] {
    let mut y = x.map(near::<COS>);
    // Each lane by its own size: what a block holds past the last lane must not matter.
    if x.iter().any(|it| REDUCED_MAX < it.abs()) {
        far::<COS, N>(&x, &mut y);
    }
    y
}

#[inline(always)]
fn near<const COS: bool>(x: f32) -> f32 {
    /// Adding this rounds to an integer, which is then in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::FRAC_2_PI + ROUNDER;
    let n = shifted - ROUNDER;
    let r = ((x - n * 1.570_312_5) - n * 4.837_513e-4) - n * 7.549_79e-8;
    let square = r * r;
    let sin =
        ((-1.951_529_6e-4 * square + 8.332_161e-3) * square - 1.666_665_5e-1) * square * r + r;
    let cos =
        ((2.443_315_7e-5 * square - 1.388_731_6e-3) * square + 4.166_664_6e-2) * square * square
            - 0.5 * square
            + 1.0;
    let quadrant = shifted.to_bits().wrapping_add(u32::from(COS));
    let y = if quadrant & 1 == 0 { sin } else { cos };
    f32::from_bits(y.to_bits() ^ ((quadrant & 2) << 30))
}

#[cold]
fn far<const COS: bool, const N: usize>(x: &[f32; N], y: &mut [f32; N]) {
    for (x, y) in x.iter().zip(y).filter(|(x, _)| REDUCED_MAX < x.abs()) {
        let wide = f64::from(*x);
        *y = (if COS { wide.cos() } else { wide.sin() }) as f32;
    }
}

/// The error function in double precision, from its series and its continued fraction.
pub(super) fn erf(x: f64) -> f64 {
    let size = x.abs();
    if size < 2.5 {
        let mut term = x;
        let mut sum = x;
        let mut n = 1.0;
        while 1e-18 * sum.abs() < term.abs() {
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
            n += 1.0;
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    if 6.0 < size || x.is_nan() {
        return if x.is_nan() { x } else { 1.0_f64.copysign(x) };
    }
    let mut fraction = 0.0;
    for n in (1..=60).rev() {
        fraction = 0.5 * f64::from(n) / (size + fraction);
    }
    let tail = (-size * size).exp() / (size + fraction) / std::f64::consts::PI.sqrt();
    (1.0 - tail).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_close() {
        for bits in (1..f32::INFINITY.to_bits()).step_by(3001) {
            let x = f32::from_bits(bits);
            let want = f64::from(x).ln();
            let error = (f64::from(log(x)) - want).abs() / want.abs().max(0.1);
            assert!(error < 3e-7, "{error:e} at {x:e}");
        }
        assert_eq!(log(0.0), f32::NEG_INFINITY);
        assert_eq!(log(f32::INFINITY), f32::INFINITY);
        assert!(log(-1.0).is_nan() && log(f32::NAN).is_nan());
        assert_eq!(log(1.0), 0.0);
    }

    #[test]
    fn sines_are_close() {
        for step in -400_000..400_000 {
            let x = step as f32 * 0.021;
            let [sin, cos] = [sin_cos::<false, 1>([x])[0], sin_cos::<true, 1>([x])[0]];
            assert!((f64::from(sin) - f64::from(x).sin()).abs() < 2e-7, "sin {x}");
            assert!((f64::from(cos) - f64::from(x).cos()).abs() < 2e-7, "cos {x}");
        }
        assert!(sin_cos::<false, 1>([f32::NAN])[0].is_nan());
    }

    #[test]
    fn erf_knows_its_values() {
        for (x, want) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
        ] {
            assert!((erf(x) - want).abs() < 1e-15, "{x}");
            assert_eq!(erf(-x), -erf(x));
        }
        assert!(erf(f64::NAN).is_nan());
    }
}
