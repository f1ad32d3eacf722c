//! Change points of a history: E-divisive over windows, with a t-test that accepts or merges.
//!
//! The method is that of Hunter and Apache Otava (arXiv 2301.03034, 2505.06758) in a corrected
//! form: the sample's own deviation goes into the test, and a point that is dropped has both its
//! neighbours judged again. The published form is kept for its golden series only.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// What counts as a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChangeRule {
    /// Samples that are looked at together.
    pub window_len: usize,
    /// Largest probability that a change is none.
    pub p_max: f64,
    /// Smallest change of the mean, as a part: 0.05 is 5 %.
    pub magnitude_min: f64,
}

/// A place where a history changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChangePoint {
    /// The first sample of the new kind, from 0.
    pub index: usize,
    /// Mean before, up to the change point before this one.
    pub before: f64,
    /// Mean from here up to the next change point.
    pub after: f64,
    /// Probability that both sides are alike, by the t-test.
    pub p: f64,
}

impl ChangePoint {
    /// The larger of growth and fall of the mean, as a part.
    pub fn magnitude(&self) -> f64 {
        let ratio = self.after / self.before;
        (ratio - 1.0).abs().max((1.0 / ratio - 1.0).abs())
    }
}

/// How points are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// As it should be.
    Corrected,
    /// With the neighbours that the published form judges again.
    #[cfg(test)]
    Published,
}

/// Places where `series` changed, in order. The last one or two samples cannot be judged.
pub fn change_points(series: &[f64], rule: &ChangeRule) -> Vec<ChangePoint> {
    with_quirks(series, rule, Merge::Corrected, 1)
}

/// `dof` is what the deviation's divisor is short of the number of samples: 1 is right.
pub(crate) fn with_quirks(
    series: &[f64],
    rule: &ChangeRule,
    merge: Merge,
    dof: usize,
) -> Vec<ChangePoint> {
    let first_pass = match rule.p_max {
        it if it < 0.05 => 10.0 * it,
        it if it < 0.5 => 2.0 * it,
        it => it,
    };
    let mut indexes: Vec<usize> = Vec::new();
    let mut start = 0;
    while start < series.len() {
        let end = series.len().min(start + rule.window_len);
        let mut found = of_window(&series[start..end], first_pass, dof);
        found.sort_unstable();
        let last = found.last().map_or(0, |it| it + start);
        indexes.extend(found.iter().map(|it| it + start));
        start = last.max(start + (rule.window_len / 2).max(1));
    }
    indexes.sort_unstable();
    indexes.dedup();
    let mut points: Vec<ChangePoint> =
        (0..indexes.len()).map(|at| judged(series, &indexes, at, dof)).collect();
    while let Some(at) = weakest(&points, rule) {
        points.remove(at);
        indexes.remove(at);
        let neighbours = match merge {
            Merge::Corrected => [at.checked_sub(1), Some(at)],
            #[cfg(test)]
            Merge::Published => [Some(at), Some(at + 1)],
        };
        for at in neighbours.into_iter().flatten().filter(|it| *it < indexes.len()) {
            points[at] = judged(series, &indexes, at, dof);
        }
    }
    points
}

/// The point that has to go, if one has.
fn weakest(points: &[ChangePoint], rule: &ChangeRule) -> Option<usize> {
    let by = |value: &dyn Fn(&ChangePoint) -> f64| {
        let rows = points.iter().enumerate().map(|(at, it)| (at, value(it)));
        // The first of equals, as a minimum is.
        rows.min_by(|a, b| a.1.total_cmp(&b.1)).map(|it| it.0)
    };
    let unlikely = by(&|it| -it.p)?;
    if rule.p_max <= points[unlikely].p {
        return Some(unlikely);
    }
    let smallest = by(&ChangePoint::magnitude)?;
    (points[smallest].magnitude() < rule.magnitude_min).then_some(smallest)
}

fn judged(series: &[f64], indexes: &[usize], at: usize, dof: usize) -> ChangePoint {
    let start = if at == 0 { 0 } else { indexes[at - 1] };
    let end = indexes.get(at + 1).copied().unwrap_or(series.len());
    let (left, right) = (&series[start..indexes[at]], &series[indexes[at]..end]);
    let (before, after) = (mean(left), mean(right));
    ChangePoint { index: indexes[at], before, after, p: p_of(left, right, dof) }
}

/// Change points of one window, in the order in which they were found.
fn of_window(window: &[f64], p_max: f64, dof: usize) -> Vec<usize> {
    let mut ends = vec![0, window.len()];
    let mut found = Vec::new();
    loop {
        let candidates = ends.windows(2).filter_map(|it| candidate(window, it[0], it[1]));
        let Some(best) = candidates.reduce(|a, b| if a.q < b.q { b } else { a }) else { break };
        let Candidate { start, index, end, .. } = best;
        // No number compares as larger than any limit: two single samples prove nothing.
        if !matches!(
            p_of(&window[start..index], &window[index..end], dof).partial_cmp(&p_max),
            Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)
        ) {
            break;
        }
        found.push(index);
        ends.push(index);
        ends.sort_unstable();
    }
    found
}

struct Candidate {
    start: usize,
    index: usize,
    end: usize,
    q: f64,
}

/// The place in `start..end` with the largest divergence, over every end of the right side.
fn candidate(series: &[f64], start: usize, end: usize) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    // Sum of distances inside the left side, which grows with the place.
    let mut inside_left = 0.0;
    for index in start + 1..end {
        let new = series[index - 1];
        inside_left += series[start..index - 1].iter().map(|it| (it - new).abs()).sum::<f64>();
        let (mut across, mut inside_right) = (0.0, 0.0);
        for right_end in index + 1..=end {
            let new = series[right_end - 1];
            across += series[start..index].iter().map(|it| (it - new).abs()).sum::<f64>();
            inside_right +=
                series[index..right_end - 1].iter().map(|it| (it - new).abs()).sum::<f64>();
            let (n, m) = ((index - start) as f64, (right_end - index) as f64);
            let of_side = |sum: f64, own: f64, other: f64| {
                if own < 2.0 { 0.0 } else { 2.0 * other / ((m + n) * (own - 1.0)) * sum }
            };
            let q =
                2.0 / (m + n) * across - of_side(inside_left, n, m) - of_side(inside_right, m, n);
            if best.as_ref().is_none_or(|it| it.q < q) {
                best = Some(Candidate { start, index, end, q });
            }
        }
    }
    best
}

/// Student's two-sided test with pooled deviations; 1 where there is too little to test.
fn p_of(left: &[f64], right: &[f64], dof: usize) -> f64 {
    let (n, m) = (left.len() as f64, right.len() as f64);
    let freedom = n + m - 2.0;
    if freedom < 1.0 {
        return 1.0;
    }
    let spread = |side: &[f64]| {
        let middle = mean(side);
        let squares: f64 = side.iter().map(|it| (it - middle).powi(2)).sum();
        // The pooled form multiplies by what the right divisor is; with another one it differs.
        squares / (side.len() - dof).max(1) as f64 * (side.len() - 1) as f64
    };
    let pooled = (spread(left) + spread(right)) / freedom;
    let t = (mean(left) - mean(right)) / (pooled * (1.0 / n + 1.0 / m)).sqrt();
    if t.is_nan() {
        return 1.0;
    }
    match StudentsT::new(0.0, 1.0, freedom) {
        Ok(distribution) if t.is_finite() => 2.0 * distribution.sf(t.abs()),
        Ok(_) | Err(_) => 0.0,
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests;
