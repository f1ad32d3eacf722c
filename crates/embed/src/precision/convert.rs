//! Numbers as a precision holds them: what a row keeps on its way through a product.

use half::{bf16, f16};

use super::InferencePrecision;

/// Largest number of FP8's format (e4m3).
const E4M3_MAX: f32 = 448.0;
/// Smallest exponent of its normal numbers.
const E4M3_EXPONENT_MIN: i32 = -6;
/// Largest code of INT8; symmetric, so that zero is exact.
const INT8_MAX: f32 = 127.0;

/// Convert tensor to target precision.
pub trait PrecisionConvert {
    /// The values that are left of these, as 32-bit floats.
    fn to_precision(&self, precision: InferencePrecision) -> Self;
}

impl PrecisionConvert for Vec<f32> {
    /// One row. FP16 keeps eleven digits and overflows to infinity beyond 65,504; BF16 keeps
    /// eight, TF32 eleven with the range of 32-bit floats. FP8 and INT8 have codes of one byte and
    /// a scale for the row, as the products of a device have; a row with a number that is not
    /// finite has no scale and stays as it is.
    ///
    /// Shapes: `[n]`, result `[n]`.
    fn to_precision(&self, precision: InferencePrecision) -> Self {
        match precision {
            InferencePrecision::FP32 => self.clone(),
            InferencePrecision::TF32 => self.iter().map(|it| tf32(*it)).collect(),
            InferencePrecision::FP16 => self.iter().map(|it| f16::from_f32(*it).to_f32()).collect(),
            InferencePrecision::BF16 => {
                self.iter().map(|it| bf16::from_f32(*it).to_f32()).collect()
            }
            InferencePrecision::FP8 => scaled(self, E4M3_MAX, e4m3),
            InferencePrecision::INT8 => scaled(self, INT8_MAX, f32::round_ties_even),
        }
    }
}

/// Ten bits behind the leading one, ties to even.
fn tf32(value: f32) -> f32 {
    const DROPPED: u32 = 13;
    let bits = value.to_bits();
    if !value.is_finite() {
        return value;
    }
    let half = (1 << (DROPPED - 1)) - 1;
    let odd = bits >> DROPPED & 1;
    f32::from_bits((bits + half + odd) & !((1 << DROPPED) - 1))
}

/// Codes with one scale: the largest number of the row is the largest code.
fn scaled(row: &[f32], code_max: f32, round: impl Fn(f32) -> f32) -> Vec<f32> {
    let largest = row.iter().fold(0.0_f32, |most, it| most.max(it.abs()));
    let scale = largest / code_max;
    if !row.iter().all(|it| it.is_finite()) || scale == 0.0 {
        return row.to_vec();
    }
    row.iter().map(|it| round(it / scale).clamp(-code_max, code_max) * scale).collect()
}

/// Three bits behind the leading one, ties to even; steps of 2⁻⁹ below the normal numbers.
fn e4m3(value: f32) -> f32 {
    if value == 0.0 {
        return value;
    }
    let exponent = (value.abs().to_bits() >> 23) as i32 - 127;
    let step = 2.0_f32.powi(exponent.max(E4M3_EXPONENT_MIN) - 3);
    (value / step).round_ties_even() * step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Vec<f32> {
        (0..500).map(|it| ((it * 37 % 1001) as f32 - 500.0) / 123.0).collect()
    }

    /// The largest error, as a share of the number itself or of the row's largest.
    #[track_caller]
    fn check(precision: InferencePrecision, of_itself: f32, of_largest: f32) {
        let row = row();
        let largest = row.iter().fold(0.0_f32, |most, it| most.max(it.abs()));
        let got = row.to_precision(precision);
        let mut changed = 0;
        for (got, want) in got.iter().zip(&row) {
            let bound = (of_itself * want.abs()).max(of_largest * largest);
            assert!((got - want).abs() <= bound, "{precision}: {want} became {got}");
            changed += usize::from(got != want);
        }
        assert_eq!(changed == 0, precision == InferencePrecision::FP32, "{precision}");
        assert_eq!(got.to_precision(precision), got, "{precision}: what fits stays");
    }

    #[test]
    fn what_is_left_is_as_near_as_the_digits_allow() {
        use InferencePrecision as P;
        check(P::FP32, 0.0, 0.0);
        check(P::TF32, 1.0 / 2048.0, 0.0);
        check(P::FP16, 1.0 / 2048.0, 0.0);
        check(P::BF16, 1.0 / 256.0, 0.0);
        check(P::FP8, 1.0 / 16.0, 1.0 / 448.0 / 512.0);
        check(P::INT8, 0.0, 0.5 / 127.0 * 1.001);
    }

    #[test]
    fn limits_of_the_formats_are_kept() {
        use InferencePrecision as P;
        let one = |value: f32, precision| vec![value].to_precision(precision)[0];
        assert_eq!(one(1e5, P::FP16), f32::INFINITY);
        assert_eq!(one(1e5, P::BF16), 99_840.0);
        assert_eq!(e4m3(448.0), 448.0);
        assert_eq!([e4m3(17.0), e4m3(19.0), e4m3(-17.0)], [16.0, 20.0, -16.0]);
        assert_eq!(e4m3(0.001), 0.001_953_125);
        assert_eq!(tf32(1.0 + 1.0 / 4096.0), 1.0);
        for precision in P::ALL {
            assert_eq!(vec![0.0, -0.0].to_precision(precision), [0.0, 0.0]);
            assert!(Vec::<f32>::new().to_precision(precision).is_empty());
            assert!(one(f32::NAN, precision).is_nan(), "{precision}");
            assert_eq!(one(f32::INFINITY, precision), f32::INFINITY, "{precision}");
        }
    }
}
