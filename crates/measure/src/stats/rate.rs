//! Bounds of a rate from a count: Wilson's interval.

/// Where a rate lies with 95 % confidence on each side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Not below this.
    pub low: f64,
    /// Not above this.
    pub high: f64,
}

/// The normal distribution's quantile of 95 %.
const Z: f64 = 1.644_853_626_951_472_2;

/// Bounds of the rate of which `hit_count` of `asked_count` are a sample; each holds with 95 %.
/// Nothing where nothing was asked: that is no rate.
pub fn bounds(hit_count: u64, asked_count: u64) -> Option<Bounds> {
    if asked_count == 0 || asked_count < hit_count {
        return None;
    }
    let n = asked_count as f64;
    let p = hit_count as f64 / n;
    let (z2, whole) = (Z * Z, 1.0 + Z * Z / n);
    let middle = (p + z2 / (2.0 * n)) / whole;
    let half = Z / whole * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    Some(Bounds { low: (middle - half).max(0.0), high: (middle + half).min(1.0) })
}

#[test]
fn bounds_are_those_of_the_textbook() {
    assert_eq!(bounds(0, 0), None);
    let all = bounds(100, 100).unwrap();
    // n / (n + z^2) at p = 1.
    assert!((all.low - 100.0 / (100.0 + Z * Z)).abs() < 1e-12 && all.high == 1.0);
    let none = bounds(0, 20).unwrap();
    assert!(none.low.abs() < 1e-12 && (none.high - Z * Z / (20.0 + Z * Z)).abs() < 1e-12);
    let half = bounds(50, 100).unwrap();
    assert!((half.low + half.high - 1.0).abs() < 1e-12 && (half.low - 0.4191).abs() < 1e-3);
}
