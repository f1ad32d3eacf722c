//! The Gauss error function in `f64`, which the standard library does not have.

/// The error function, to about fifteen digits.
pub fn erf(x: f64) -> f64 {
    let size = x.abs();
    let value = if x.is_nan() {
        return x;
    } else if size < 2.5 {
        series(size)
    } else if size < 6.0 {
        1.0 - complement(size)
    } else {
        1.0
    };
    value.copysign(x)
}

/// `2/√π · e^-x² · Σ 2^n x^(2n+1) / (2n+1)!!`: every term is positive, nothing cancels.
fn series(x: f64) -> f64 {
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while sum * 1e-17 < term {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `1 - erf(x)` by its continued fraction, from the inside out.
fn complement(x: f64) -> f64 {
    let inner = (1..=80).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    (-x * x).exp() / std::f64::consts::PI.sqrt() / inner
}

#[test]
fn tabulated_values() {
    for (x, want) in [
        (0.0, 0.0),
        (1e-10, 1.128_379_167_095_512_6e-10),
        (0.5, 0.520_499_877_813_046_5),
        (1.0, 0.842_700_792_949_714_9),
        (2.0, 0.995_322_265_018_952_7),
        (2.5, 0.999_593_047_982_555),
        (3.0, 0.999_977_909_503_001_4),
        (4.0, 0.999_999_984_582_742_1),
        (7.0, 1.0),
    ] {
        assert!((erf(x) - want).abs() <= 4e-16 * want.max(1e-10 * x), "erf({x}) = {}", erf(x));
        assert_eq!(erf(-x), -erf(x));
    }
    assert!((series(2.5) + complement(2.5) - 1.0).abs() < 1e-15);
    assert!(erf(f64::NAN).is_nan());
}
