//! The report of a package as one page that needs nothing else: no network, no fonts, no scripts
//! from elsewhere. Every picture has a table beside it, and every word of a package is escaped.

mod dashboard;
mod page;

use crate::error::MeasureError;
use crate::package::Package;
pub use crate::plot::Picture;
use crate::plot::{Band, Bar, Series, bars, latencies, rooflines, speedups, waterfall};
use crate::stats::Interval;
use crate::summary::{CaseSummary, PointSummary, Summary};

pub use dashboard::dashboard;
pub use page::page;

/// Names in files of pictures.
fn slug(name: &str) -> String {
    name.replace(' ', "_")
}

/// Every picture of a package, in the order of the page.
///
/// # Errors
/// When one cannot be drawn.
pub fn pictures(package: &Package) -> Result<Vec<Picture>, MeasureError> {
    let mut out = Vec::new();
    for case in &package.summary.cases {
        out.extend(of_case(case)?);
    }
    out.extend(of_suite(&package.summary)?);
    Ok(out)
}

/// Arms of a case in the order of their names.
fn arms_of(case: &CaseSummary) -> Vec<&str> {
    let mut arms: Vec<&str> =
        case.points.iter().flat_map(|it| it.arms.keys()).map(|it| &**it).collect();
    arms.sort_unstable();
    arms.dedup();
    arms
}

fn colour_of(arms: &[&str], arm: &str) -> usize {
    arms.iter().position(|it| *it == arm).unwrap_or(0)
}

/// Pictures of one case.
pub(crate) fn of_case(case: &CaseSummary) -> Result<Vec<Picture>, MeasureError> {
    let mut out = Vec::new();
    let slug = slug(&case.name);
    let arms = arms_of(case);
    let curves: Vec<Series> = case
        .speedups
        .iter()
        .map(|(arm, it)| Series {
            name: arm.clone(),
            colour: colour_of(&arms, arm),
            points: it.points.iter().filter_map(|it| Some(band(it.0 as f64, it.1?))).collect(),
        })
        .filter(|it| !it.points.is_empty())
        .collect();
    // One size is no curve; the table has its number.
    if !curves.is_empty() && 1 < case.points.len() {
        let title = format!("{}: how often faster ours is", case.name);
        out.push(speedups(&format!("{slug}_speedup"), &title, &case.size_unit, &curves)?);
    }
    let times = |arm: &&str| {
        let points = case.points.iter().filter_map(|point| {
            let ns = point.arms.get(*arm)?.observed_ns?;
            Some(band(point.size as f64, ns.map(|it| it / 1e6)))
        });
        let colour = colour_of(&arms, arm);
        Series { name: (*arm).to_owned(), colour, points: points.collect() }
    };
    let scaling: Vec<Series> = arms.iter().map(times).filter(|it| !it.points.is_empty()).collect();
    if !scaling.is_empty() && 1 < case.points.len() {
        let title = format!("{}: milliseconds of a call", case.name);
        let name = format!("{slug}_scaling");
        out.push(crate::plot::scaling(&name, &title, &case.size_unit, &scaling)?);
    }
    if let Some(point) = case.points.last() {
        out.extend(of_point(case, point)?);
    }
    Ok(out)
}

/// Pictures of a case's largest size.
fn of_point(case: &CaseSummary, point: &PointSummary) -> Result<Vec<Picture>, MeasureError> {
    let mut out = Vec::new();
    let (slug, arms) = (slug(&case.name), arms_of(case));
    let quantiles = point.arms.iter().filter(|it| 1 < it.1.quantiles_ns.len());
    let series: Vec<Series> = quantiles
        .map(|(arm, it)| Series {
            name: arm.clone(),
            colour: colour_of(&arms, arm),
            points: (0..)
                .zip(&it.quantiles_ns)
                .map(|(at, ns)| {
                    let y = ns / 1e6;
                    Band { x: f64::from(at) * 5.0, y, low: y, high: y }
                })
                .collect(),
        })
        .collect();
    if !series.is_empty() {
        let title = format!("{} at {}: times of calls", case.name, point.size);
        out.push(latencies(&format!("{slug}_latency"), &title, &series)?);
    }
    let starts: Vec<Bar> = point
        .arms
        .iter()
        .flat_map(|(arm, it)| {
            let colour = colour_of(&arms, arm);
            let bar = |what: &str, ns: Option<f64>| {
                let ms = ns? / 1e6;
                let text = format!("{ms:.1} ms");
                Some(Bar { name: format!("{arm}, {what}"), start: 0.0, len: ms, text, colour })
            };
            [bar("cold", it.cold_start_ns), bar("warm", it.start_ns)]
        })
        .flatten()
        .collect();
    if !starts.is_empty() {
        let title = format!("{} at {}: process start to first result", case.name, point.size);
        out.push(bars(&format!("{slug}_start"), &title, "ms", &starts)?);
    }
    let warmed = point.arms.iter().find(|it| !it.1.warmup.is_empty());
    if let Some((arm, it)) = warmed {
        let ms = |step: &crate::answer::WarmupStep| (step.name.clone(), step.wall_ns as f64 / 1e6);
        let steps: Vec<(String, f64)> = it.warmup.iter().map(ms).collect();
        let title = format!("{} at {}: warm-up of {arm}", case.name, point.size);
        out.push(waterfall(&format!("{slug}_warmup"), &title, &steps)?);
    }
    Ok(out)
}

/// Pictures of the whole suite.
pub(crate) fn of_suite(summary: &Summary) -> Result<Vec<Picture>, MeasureError> {
    let mut out = Vec::new();
    let (Some(bandwidth), Some(flops)) = (summary.bandwidth_bytes_per_s, summary.flops_per_s)
    else {
        return Ok(out);
    };
    let knee = flops / bandwidth;
    let roof = |x: f64| Band {
        x,
        y: (x * bandwidth).min(flops) / 1e9,
        low: (x * bandwidth).min(flops) / 1e9,
        high: (x * bandwidth).min(flops) / 1e9,
    };
    let mut series = Vec::new();
    let mut ends = (knee / 16.0, knee * 16.0);
    for case in &summary.cases {
        let points = case.points.iter().flat_map(|it| it.arms.values());
        let of = points.filter_map(|it| {
            let (flop, moved) = (it.flop_count? as f64, it.moved_bytes? as f64);
            let (ns, x) = (it.observed_ns?, flop / moved);
            let y = flop / ns.middle;
            (0.0 < flop && 0.0 < moved).then_some(Band { x, y, low: y, high: y })
        });
        let points: Vec<Band> = of.collect();
        for it in &points {
            ends = (ends.0.min(it.x), ends.1.max(it.x));
        }
        if !points.is_empty() {
            let colour = 1 + series.len();
            series.push(Series { name: case.name.clone(), colour, points });
        }
    }
    if series.is_empty() {
        return Ok(out);
    }
    let points = [ends.0, knee, ends.1].map(roof).to_vec();
    series.insert(0, Series { name: "the machine".into(), colour: 0, points });
    out.push(rooflines("roofline", "Under the machine's roof", &series)?);
    Ok(out)
}

fn band(x: f64, it: Interval) -> Band {
    Band { x, y: it.middle, low: it.low, high: it.high }
}
