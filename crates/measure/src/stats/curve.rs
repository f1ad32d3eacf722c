//! Speed-up over size, and the area under it that has no unit.

use super::{Draw, Interval, median};

/// A size and how often faster ours was there, once for each round.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvePoint {
    /// The size; above 0.
    pub size: f64,
    /// Logarithms to base 2 of the speed-up of each round; nothing where a check failed.
    pub logs: Option<Vec<f64>>,
}

/// What a curve says.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Size and speed-up with its interval, in order of sizes; nothing where a check failed.
    pub points: Vec<(f64, Option<Interval>)>,
    /// The area under the curve as a speed-up; nothing where a point has none.
    pub area: Option<Interval>,
}

/// The mean of `logs` over the logarithm of the sizes by trapezoids, as a factor: 2 to its power.
///
/// It has no unit, is 2 where everything is 2, is the reciprocal when both sides change places,
/// and does not change when a point is put between two others on the line between them.
/// `points` are sizes and logarithms to base 2, sizes growing. Nothing for nothing.
pub fn area(points: &[(f64, f64)]) -> Option<f64> {
    let (first, last) = (points.first()?, points.last()?);
    let span = (last.0 / first.0).ln();
    if points.len() == 1 || span == 0.0 {
        return Some(first.1.exp2());
    }
    let part = |it: &[(f64, f64)]| (it[1].0 / it[0].0).ln() * f64::midpoint(it[0].1, it[1].1);
    Some((points.windows(2).map(part).sum::<f64>() / span).exp2())
}

impl Curve {
    /// The curve of `points`, in any order, with intervals from `resample_count` resamples of
    /// rounds.
    pub fn of(points: &[CurvePoint], resample_count: usize, draw: &mut Draw) -> Self {
        let mut ordered: Vec<&CurvePoint> = points.iter().collect();
        ordered.sort_by(|a, b| a.size.total_cmp(&b.size));
        let factor = |logs: &Vec<f64>, draw: &mut Draw| {
            super::interval_of(logs, resample_count, draw).map(|it| it.map(f64::exp2))
        };
        let shown = ordered
            .iter()
            .map(|it| (it.size, it.logs.as_ref().and_then(|logs| factor(logs, draw))))
            .collect();
        let area = areas(points, resample_count, draw).map(|it| it.interval());
        Self { points: shown, area }
    }
}

/// The area of a curve and that of each resample.
#[derive(Clone, Debug)]
pub(crate) struct Areas {
    pub(crate) middle: f64,
    pub(crate) resamples: Vec<f64>,
}

impl Areas {
    pub(crate) fn interval(self) -> Interval {
        Interval::of_resamples(self.middle, self.resamples)
    }
}

/// Nothing where a point failed its check, or there is none.
pub(crate) fn areas(
    points: &[CurvePoint],
    resample_count: usize,
    draw: &mut Draw,
) -> Option<Areas> {
    let mut ordered: Vec<&CurvePoint> = points.iter().collect();
    ordered.sort_by(|a, b| a.size.total_cmp(&b.size));
    let rounds: Option<Vec<(f64, &Vec<f64>)>> = ordered
        .iter()
        .map(|it| Some((it.size, it.logs.as_ref().filter(|logs| !logs.is_empty())?)))
        .collect();
    let rounds = rounds?;
    let middles: Option<Vec<(f64, f64)>> =
        rounds.iter().map(|(size, logs)| Some((*size, median(logs)?))).collect();
    let middle = area(&middles?)?;
    let mut areas = Vec::with_capacity(resample_count);
    let mut resample = Vec::new();
    for _ in 0..resample_count.max(1) {
        let mut drawn = Vec::with_capacity(rounds.len());
        for (size, logs) in &rounds {
            resample.clear();
            resample.extend((0..logs.len()).map(|_| logs[draw.below(logs.len())]));
            drawn.push((*size, super::median_in_place(&mut resample)?));
        }
        areas.push(area(&drawn)?);
    }
    Some(Areas { middle, resamples: areas })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(points: &[(f64, f64)]) -> f64 {
        let logs: Vec<(f64, f64)> = points.iter().map(|it| (it.0, it.1.log2())).collect();
        area(&logs).unwrap()
    }

    #[track_caller]
    fn check(points: &[(f64, f64)], want: f64) {
        let got = of(points);
        assert!((got / want - 1.0).abs() < 1e-6, "{points:?}: {got}, not {want}");
    }

    /// Vectors that were computed by others.
    #[test]
    fn areas_are_those_that_are_known() {
        check(&[(1.0, 2.0), (10.0, 2.0), (100.0, 2.0)], 2.0);
        check(&[(1.0, 1.0), (10.0, 2.0), (1000.0, 4.0)], 2.244_924);
        check(&[(1.0, 1.0), (10.0, 0.5), (1000.0, 0.25)], 0.445_449);
        let paths = [250e3, 500e3, 1e6, 2e6, 5e6];
        let with = |s: [f64; 5]| paths.into_iter().zip(s).collect::<Vec<_>>();
        check(&with([37.4, 60.3, 85.6, 108.5, 131.5]), 81.627_57);
        check(&with([7.59, 6.61, 4.76, 3.73, 2.80]), 4.681_156);
        check(&[(7.0, 3.0)], 3.0);
        assert_eq!(area(&[]), None);
    }

    #[test]
    fn changing_places_gives_the_reciprocal_and_units_do_not_count() {
        let points = [(3.0, 1.7), (8.0, 0.4), (90.0, 6.0)];
        let swapped = points.map(|it| (it.0, 1.0 / it.1));
        assert!((of(&points) * of(&swapped) - 1.0).abs() < 1e-12);
        let scaled = points.map(|it| (it.0 * 1e6, it.1));
        assert!((of(&points) - of(&scaled)).abs() < 1e-12);
    }

    #[test]
    fn a_point_on_the_line_changes_nothing() {
        // Half way between 4 and 64 on a logarithmic axis lies 16; between 2 and 8 lies 4.
        let (coarse, fine) = ([(4.0, 2.0), (64.0, 8.0)], [(4.0, 2.0), (16.0, 4.0), (64.0, 8.0)]);
        assert!((of(&coarse) - of(&fine)).abs() < 1e-12);
    }

    #[test]
    fn a_failed_point_leaves_no_area() {
        let good = |size, logs: &[f64]| CurvePoint { size, logs: Some(logs.to_vec()) };
        let points = [good(1.0, &[1.0, 1.1]), CurvePoint { size: 2.0, logs: None }];
        let curve = Curve::of(&points, 100, &mut Draw::new(0));
        assert_eq!(curve.area, None);
        assert!(curve.points[0].1.is_some() && curve.points[1].1.is_none());
        let curve = Curve::of(&points[..1], 100, &mut Draw::new(0));
        let area = curve.area.unwrap();
        assert!(area.low <= area.middle && area.middle <= area.high);
    }
}
