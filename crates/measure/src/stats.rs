//! Statistics on samples: middles, intervals by resampling, curves over sizes, changes in
//! histories. Pure functions of their inputs; what is random has a seed.

mod bootstrap;
mod changes;
mod curve;
mod draw;
mod rate;

pub use bootstrap::{Interval, RESAMPLE_COUNT, interval_of};
pub use changes::{ChangePoint, ChangeRule, change_points};
pub(crate) use curve::{Areas, areas};
pub use curve::{Curve, CurvePoint, area};
pub use draw::Draw;
pub use rate::{Bounds, bounds};

/// The middle of `values`; the mean of two where their number is even. Nothing for nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    median_in_place(&mut sorted)
}

/// [`median`] without a copy; `values` end in another order.
pub(crate) fn median_in_place(values: &mut [f64]) -> Option<f64> {
    let len = values.len();
    if len == 0 {
        return None;
    }
    let (below, upper, _) = values.select_nth_unstable_by(len / 2, f64::total_cmp);
    let upper = *upper;
    if len % 2 == 1 {
        return Some(upper);
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some(f64::midpoint(lower, upper))
}

/// The value below which the part `part` of `values` lies, between two neighbours by their
/// distance (the common definition, number 7). Nothing for nothing.
///
/// # Panics
/// When `part` is not within 0 and 1.
pub fn quantile(values: &[f64], part: f64) -> Option<f64> {
    assert!((0.0..=1.0).contains(&part), "a part is within 0 and 1");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = part * (sorted.len().checked_sub(1)?) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    Some(sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64))
}

/// How many of the first samples still belong to warming up: the shortest start after which the
/// next samples are within a tenth of the middle of the later half. At most a half.
pub fn warm_count(samples: &[f64]) -> usize {
    let half = samples.len() / 2;
    let Some(settled) = median(&samples[half..]) else { return 0 };
    let is_settled = |it: &f64| (it / settled - 1.0).abs() <= 0.1;
    // Two in a row, so that one lucky sample ends nothing.
    let settles = |at: usize| samples[at..].iter().take(2).all(is_settled);
    (0..half).find(|at| settles(*at)).unwrap_or(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_and_parts() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.5));
        assert_eq!(quantile(&[10.0, 0.0], 0.95), Some(9.5));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn warming_up_ends_where_samples_settle() {
        assert_eq!(warm_count(&[9.0, 3.0, 1.0, 1.02, 0.99, 1.0, 1.0, 1.01]), 2);
        assert_eq!(warm_count(&[1.0; 6]), 0);
        assert_eq!(warm_count(&[1.0, 5.0, 1.0, 1.0, 1.0, 1.0]), 2);
        assert_eq!(warm_count(&[]), 0);
    }
}
