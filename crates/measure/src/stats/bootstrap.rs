//! Intervals by resampling: the percentile bootstrap with a fixed seed.

use serde::{Deserialize, Serialize};

use super::{Draw, median_in_place};

/// How often an interval resamples.
pub const RESAMPLE_COUNT: usize = 2_000;

/// A figure with the interval that holds it in 95 of 100 repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// From the samples as they are.
    pub middle: f64,
    /// 2.5 % of resamples lie below.
    pub low: f64,
    /// 2.5 % of resamples lie above.
    pub high: f64,
}

impl Interval {
    /// Whether it lies within `-limit` and `limit`.
    pub fn is_within(&self, limit: f64) -> bool {
        -limit <= self.low && self.high <= limit
    }

    /// Each end and the middle through `f`, which must not turn their order around.
    #[must_use]
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { middle: f(self.middle), low: f(self.low), high: f(self.high) }
    }

    /// Of the statistic on each resample, and the one on all.
    pub(crate) fn of_resamples(middle: f64, mut resamples: Vec<f64>) -> Self {
        resamples.sort_by(f64::total_cmp);
        let last = resamples.len() - 1;
        let at = |part: f64| resamples[(part * last as f64).round() as usize];
        Self { middle, low: at(0.025), high: at(0.975) }
    }
}

/// The interval of the median of `values`. Nothing for nothing; one value is its own interval.
pub fn interval_of(values: &[f64], resample_count: usize, draw: &mut Draw) -> Option<Interval> {
    let middle = super::median(values)?;
    if values.len() == 1 || resample_count == 0 {
        return Some(Interval { middle, low: middle, high: middle });
    }
    let mut resample = vec![0.0; values.len()];
    let mut medians = Vec::with_capacity(resample_count);
    for _ in 0..resample_count {
        resample.iter_mut().for_each(|it| *it = values[draw.below(values.len())]);
        medians.extend(median_in_place(&mut resample));
    }
    Some(Interval::of_resamples(middle, medians))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exact interval of a median at 20 samples covers 95.9 % (order statistics 6 and 15);
    /// that of the bootstrap is known to be a little liberal.
    #[test]
    fn intervals_cover_what_they_say() {
        let mut draw = Draw::new(3);
        let (mut covered, runs) = (0, 400);
        for _ in 0..runs {
            let values: Vec<f64> = (0..20).map(|_| draw.normal()).collect();
            let found = interval_of(&values, 500, &mut draw).unwrap();
            covered += usize::from(found.low <= 0.0 && 0.0 <= found.high);
        }
        let rate = covered as f64 / f64::from(runs);
        assert!((0.90..=0.985).contains(&rate), "{rate}");
    }

    #[test]
    fn one_value_has_no_width() {
        let found = interval_of(&[2.0], 100, &mut Draw::new(0)).unwrap();
        assert_eq!((found.low, found.middle, found.high), (2.0, 2.0, 2.0));
        assert_eq!(interval_of(&[], 100, &mut Draw::new(0)), None);
        assert!(found.is_within(2.0) && !found.is_within(1.9));
    }
}
