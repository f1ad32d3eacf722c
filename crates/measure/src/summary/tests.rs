//! Summaries of made samples.

use std::path::Path;

use super::*;
use crate::record::tests::sample;
use crate::suite::tests::SMALL;

fn suite() -> Suite {
    Suite::parse(Path::new("s.toml"), SMALL).unwrap()
}

/// Ours takes 100 a size, its peer twice that at size 1 and eight times at size 10.
fn samples() -> Vec<Sample> {
    let mut out = Vec::new();
    for round in 0..6 {
        for (size, factor) in [(1, 2), (10, 8)] {
            out.push(sample("ours", size, round, 1000 * size));
            out.push(sample("peer", size, round, 1000 * size * factor));
        }
    }
    out
}

#[test]
fn speedups_areas_and_ranks_are_those_of_the_samples() {
    let found = summarize(&suite(), &samples());
    let case = &found.cases[0];
    let factors: Vec<f64> =
        case.speedups["peer"].points.iter().map(|it| it.1.unwrap().middle).collect();
    assert_eq!(factors, [2.0, 8.0]);
    // On two points the area is their geometric mean.
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
    assert!(close(case.speedups["peer"].area.unwrap().middle, 4.0));
    assert!(close(found.baselines["peer"].area.unwrap().middle, 4.0));
    assert_eq!(found.baselines["peer"].median_speedup, Some(5.0));
    let ranks: Vec<(usize, &str)> = found.ranking.iter().map(|it| (it.place, &*it.arm)).collect();
    assert_eq!(ranks, [(1, "(ours)"), (2, "peer")]);
    let arm = &case.points[1].arms["ours"];
    assert_eq!(arm.observed_ns.unwrap().middle, 10_000.0);
    assert_eq!((arm.process_count, arm.sample_count, arm.first_ns), (6, 18, Some(20_000.0)));
    assert_eq!((arm.items_per_s, arm.quantiles_ns.len()), (Some(1e6), 21));
}

#[test]
fn one_failed_process_leaves_the_case_without_an_area() {
    let mut samples = samples();
    samples[2].outcome = Outcome::Failed;
    samples[2].why = Some("out of memory".into());
    let found = summarize(&suite(), &samples);
    assert_eq!(found.cases[0].speedups["peer"].area, None);
    assert!(found.cases[0].speedups["peer"].points[0].1.is_some());
    assert_eq!(
        found.baselines["peer"],
        Overall { median_speedup: None, area: None, case_count: 1 }
    );
    assert_eq!(found.cases[0].points[1].arms["ours"].failures, ["warm 1: out of memory"]);
    assert_eq!(found.ranking.len(), 1);
}

#[test]
fn the_machines_bound_comes_from_the_case_that_shows_it() {
    let text = SMALL.replace("tolerance = 1e-6", "tolerance = 1e-6\nceiling = \"flops\"");
    let suite = Suite::parse(Path::new("s.toml"), &text).unwrap();
    let mut samples = samples();
    for sample in samples.iter_mut().filter(|it| it.arm == "ours") {
        sample.answer.as_mut().unwrap().flop_count = Some(1_000 * sample.size * sample.size);
    }
    let found = summarize(&suite, &samples);
    assert_eq!(found.flops_per_s, Some(1e10));
    let share = |at: usize| found.cases[0].points[at].arms["ours"].roofline_share.unwrap();
    assert!((share(1) - 1.0).abs() < 1e-9 && (share(0) - 0.1).abs() < 1e-9);
    assert_eq!(found.cases[0].points[0].arms["peer"].roofline_share, None);
    // A case that is there for the machine is no competition.
    assert!(found.baselines.is_empty());
}
