//! What a suite's samples show: times of each arm, speed-ups over sizes, ranks, and how near a
//! case comes to what the machine can do. A pure function of suite and samples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::answer::WarmupStep;
use crate::harness::observed;
use crate::record::{Outcome, Phase, Sample};
use crate::stats::{
    Areas, Curve, CurvePoint, Draw, Interval, RESAMPLE_COUNT, areas, interval_of, median, quantile,
    warm_count,
};
use crate::suite::{Case, Ceiling, Role, Suite};

/// Name and version of the form.
pub const SUMMARY_SCHEMA: &str = "calor.summary/1.0";

/// What a suite's samples show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SUMMARY_SCHEMA`].
    pub schema: String,
    /// The suite.
    pub suite: String,
    /// Every case that has samples, in the suite's order.
    pub cases: Vec<CaseSummary>,
    /// Arms by how fast they are on all cases that they share with ours, fastest first.
    pub ranking: Vec<Rank>,
    /// For each baseline: the middle speed-up over all points, and the whole suite's area.
    pub baselines: BTreeMap<String, Overall>,
    /// Most bytes in a second that any arm moved in a case that is there to show that.
    pub bandwidth_bytes_per_s: Option<f64>,
    /// Most operations in a second, likewise.
    pub flops_per_s: Option<f64>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseSummary {
    /// Its name.
    pub name: String,
    /// What it computes.
    pub about: String,
    /// What sizes count.
    pub size_unit: String,
    /// Its sizes, growing.
    pub points: Vec<PointSummary>,
    /// For each other arm, how often faster ours is.
    pub speedups: BTreeMap<String, SpeedUp>,
}

/// How often faster ours is than another arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedUp {
    /// The other arm's role.
    pub role: String,
    /// Size and factor; no factor where a check failed.
    pub points: Vec<(u64, Option<Interval>)>,
    /// Area under the curve; nothing where a point has no factor.
    pub area: Option<Interval>,
}

/// One size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointSummary {
    /// The size.
    pub size: u64,
    /// Its arms.
    pub arms: BTreeMap<String, ArmSummary>,
}

/// One arm at one size. Times are nanoseconds of one call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmSummary {
    /// Its role.
    pub role: String,
    /// Warm processes that ended well.
    pub process_count: usize,
    /// Samples behind warming up.
    pub sample_count: usize,
    /// Leading samples of a process that still warmed up, at most.
    pub warm_count: usize,
    /// Why processes failed.
    pub failures: Vec<String>,
    /// What processes count as, with its interval.
    pub observed_ns: Option<Interval>,
    /// Fastest sample.
    pub min_ns: Option<f64>,
    /// Middle of all samples.
    pub median_ns: Option<f64>,
    /// All but a twentieth are faster.
    pub p95_ns: Option<f64>,
    /// Quantiles 0, 5 … 100 % of all samples.
    pub quantiles_ns: Vec<f64>,
    /// First call of a warm process, middle.
    pub first_ns: Option<f64>,
    /// From a process's start to its first result with what was kept, middle.
    pub start_ns: Option<f64>,
    /// The same from nothing.
    pub cold_start_ns: Option<f64>,
    /// Items in a second.
    pub items_per_s: Option<f64>,
    /// Most memory on the host.
    pub peak_host_bytes: Option<u64>,
    /// Most memory on the device.
    pub peak_device_bytes: Option<u64>,
    /// Energy of one call.
    pub energy_mj: Option<f64>,
    /// Bytes that a call moves.
    pub moved_bytes: Option<u64>,
    /// Operations of a call.
    pub flop_count: Option<u64>,
    /// How much of the machine's bound this is: 1 is all of it.
    pub roofline_share: Option<f64>,
    /// Counters of the last process; all must agree in what gates compare.
    pub counters: BTreeMap<String, i64>,
    /// Programs and libraries.
    pub versions: BTreeMap<String, String>,
    /// Steps of warming up of the last process.
    pub warmup: Vec<WarmupStep>,
}

/// An arm among all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    /// From 1; arms whose intervals overlap the one before share its place.
    pub place: usize,
    /// The arm.
    pub arm: String,
    /// Geometric mean over cases of how fast it is; ours is 1.
    pub speed: Interval,
    /// Cases that it shares with ours.
    pub case_count: usize,
}

/// A baseline on the whole suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overall {
    /// Middle speed-up over all points of all cases; nothing where one failed.
    pub median_speedup: Option<f64>,
    /// Geometric mean of the cases' areas; nothing where a case has none.
    pub area: Option<Interval>,
    /// Cases that have it.
    pub case_count: usize,
}

/// What the samples of `suite` show. The same input gives the same result.
pub fn summarize(suite: &Suite, samples: &[Sample]) -> Summary {
    let mut by_case: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        by_case.entry(&sample.case).or_default().push(sample);
    }
    let groups: Vec<(&Case, Group<'_>)> = suite
        .cases
        .iter()
        .filter_map(|case| Some((case, Group::of(suite, case, by_case.get(&*case.name)?))))
        .collect();
    let ceiling = |kind: Ceiling| {
        let rates = groups.iter().filter(|it| it.0.ceiling == Some(kind));
        rates.flat_map(|it| it.1.rates(kind)).max_by(f64::total_cmp)
    };
    let (bandwidth, flops) = (ceiling(Ceiling::Bandwidth), ceiling(Ceiling::Flops));
    let mut cases: Vec<CaseSummary> =
        groups.iter().map(|(case, group)| group.summary(suite, case)).collect();
    for arm in cases.iter_mut().flat_map(|it| &mut it.points).flat_map(|it| it.arms.values_mut()) {
        arm.roofline_share = share(arm, bandwidth, flops);
    }
    let all: Vec<Areaed<'_>> = groups
        .iter()
        .filter(|it| it.0.ceiling.is_none())
        .flat_map(|(case, group)| group.areas(suite, case))
        .collect();
    Summary {
        schema: SUMMARY_SCHEMA.into(),
        suite: suite.name.clone(),
        ranking: ranking(&all),
        baselines: overall(&all, &cases),
        cases,
        bandwidth_bytes_per_s: bandwidth,
        flops_per_s: flops,
    }
}

fn share(arm: &ArmSummary, bandwidth: Option<f64>, flops: Option<f64>) -> Option<f64> {
    let bound_s = |work: Option<u64>, rate: Option<f64>| Some(work? as f64 / rate?);
    let bounds = [bound_s(arm.moved_bytes, bandwidth), bound_s(arm.flop_count, flops)];
    let bound_s = bounds.into_iter().flatten().max_by(f64::total_cmp)?;
    Some(bound_s / (arm.observed_ns?.middle / 1e9))
}

/// An arm's area on one case.
struct Areaed<'a> {
    arm: &'a str,
    role: Role,
    areas: Option<Areas>,
}

/// Samples of one case: by size and arm.
struct Group<'a> {
    points: BTreeMap<u64, BTreeMap<&'a str, Vec<&'a Sample>>>,
    suite: &'a Suite,
}

impl<'a> Group<'a> {
    fn of(suite: &'a Suite, case: &Case, samples: &[&'a Sample]) -> Self {
        let mut points: BTreeMap<u64, BTreeMap<&str, Vec<&Sample>>> = BTreeMap::new();
        for sample in samples {
            let is_point = case.points.iter().any(|it| it.size == sample.size);
            if is_point && suite.arms.contains_key(&sample.arm) {
                let arms = points.entry(sample.size).or_default();
                arms.entry(&sample.arm).or_default().push(sample);
            }
        }
        Self { points, suite }
    }

    fn rates(&self, kind: Ceiling) -> Vec<f64> {
        let mut out = Vec::new();
        for sample in self.points.values().flat_map(|it| it.values().flatten()) {
            let work = sample.good().and_then(|it| match kind {
                Ceiling::Bandwidth => it.moved_bytes,
                Ceiling::Flops => it.flop_count,
            });
            let ns = observed(sample, self.suite.observation);
            out.extend(work.zip(ns).map(|(work, ns)| work as f64 / ns * 1e9));
        }
        out
    }

    fn summary(&self, suite: &Suite, case: &Case) -> CaseSummary {
        let point = |(size, arms): (&u64, &BTreeMap<&str, Vec<&Sample>>)| PointSummary {
            size: *size,
            arms: arms
                .iter()
                .map(|(arm, samples)| ((*arm).to_owned(), self.arm(case, *size, arm, samples)))
                .collect(),
        };
        let mut speedups = BTreeMap::new();
        for (arm, role) in self.others(case) {
            let points = self.curve(case, arm);
            let mut draw = Draw::named(suite.seed, &format!("{}/{arm}", case.name));
            let curve = Curve::of(&points, RESAMPLE_COUNT, &mut draw);
            let points = curve.points.iter().map(|it| (it.0 as u64, it.1)).collect();
            let role = role_name(role).to_owned();
            speedups.insert(arm.to_owned(), SpeedUp { role, points, area: curve.area });
        }
        CaseSummary {
            name: case.name.clone(),
            about: case.about.clone(),
            size_unit: case.size_unit.clone(),
            points: self.points.iter().map(point).collect(),
            speedups,
        }
    }

    fn role(&self, arm: &str) -> Role {
        self.suite.arms.get(arm).map_or(Role::Baseline, |it| it.role)
    }

    fn ours(&self, case: &Case) -> Option<&str> {
        let arms = self.suite.arms_of(case);
        let ours = arms.iter().find(|it| it.1.role == Role::Ours)?.0;
        self.suite.arms.get_key_value(ours).map(|it| it.0.as_str())
    }

    /// Arms that ran and are not ours.
    fn others(&self, case: &Case) -> Vec<(&'a str, Role)> {
        let ours = self.ours(case);
        let mut out: Vec<(&str, Role)> = Vec::new();
        for arm in self.points.values().flat_map(|it| it.keys().copied()) {
            if Some(arm) != ours && !out.iter().any(|it| it.0 == arm) {
                out.push((arm, self.role(arm)));
            }
        }
        out
    }

    /// How often faster ours is than `arm`, for each size: a size without it is a failed one.
    fn curve(&self, case: &Case, arm: &str) -> Vec<CurvePoint> {
        let ours = self.ours(case);
        case.points
            .iter()
            .filter(|it| self.points.contains_key(&it.size))
            .map(|it| {
                let arms = &self.points[&it.size];
                let logs = ours.and_then(|ours| {
                    let ours = by_round(arms.get(ours)?, self.suite)?;
                    let other = by_round(arms.get(arm)?, self.suite)?;
                    let both = |(round, ns): (&u32, &f64)| Some((other.get(round)? / ns).log2());
                    let logs: Vec<f64> = ours.iter().filter_map(both).collect();
                    (!logs.is_empty()).then_some(logs)
                });
                CurvePoint { size: it.size as f64, logs }
            })
            .collect()
    }

    fn areas(&self, suite: &Suite, case: &Case) -> Vec<Areaed<'a>> {
        let one = |(arm, role): (&'a str, Role)| {
            let mut draw = Draw::named(suite.seed, &format!("{}/{arm}", case.name));
            let areas = areas(&self.curve(case, arm), RESAMPLE_COUNT, &mut draw);
            Areaed { arm, role, areas }
        };
        self.others(case).into_iter().map(one).collect()
    }

    fn arm(&self, case: &Case, size: u64, arm: &str, samples: &[&Sample]) -> ArmSummary {
        let of = |phase: Phase| samples.iter().copied().filter(move |it| it.phase == phase);
        let warm: Vec<&Sample> = of(Phase::Warm).filter(|it| it.good().is_some()).collect();
        let each: Vec<Vec<f64>> = warm.iter().map(|it| it.calls_ns()).collect();
        let warm_counts = each.iter().map(|it| warm_count(it));
        let warm_count = warm_counts.max().unwrap_or(0);
        let calls: Vec<f64> =
            each.iter().flat_map(|it| it[warm_count.min(it.len() / 2)..].to_vec()).collect();
        let counted: Vec<f64> =
            warm.iter().filter_map(|it| observed(it, self.suite.observation)).collect();
        let name = format!("{}/{size}/{arm}", case.name);
        let mut draw = Draw::named(self.suite.seed, &name);
        let middle = |values: Vec<f64>| median(&values);
        let answers: Vec<_> = warm.iter().filter_map(|it| it.good()).collect();
        let last = answers.last();
        let to_first =
            |phase| of(phase).filter(|it| it.good().is_some()).filter_map(|it| it.to_first_ns);
        let observed_ns = interval_of(&counted, RESAMPLE_COUNT, &mut draw);
        let call_count = |it: &&crate::answer::Answer| {
            it.samples_ns.len() as f64 * it.runs_per_sample_count as f64
        };
        let energy = answers.iter().filter_map(|it| Some(it.energy_mj? as f64 / call_count(it)));
        ArmSummary {
            role: role_name(self.role(arm)).into(),
            process_count: warm.len(),
            sample_count: calls.len(),
            warm_count,
            failures: failures(samples),
            observed_ns,
            min_ns: calls.iter().copied().min_by(f64::total_cmp),
            median_ns: median(&calls),
            p95_ns: quantile(&calls, 0.95),
            quantiles_ns: (0..=20)
                .filter_map(|it| quantile(&calls, f64::from(it) / 20.0))
                .collect(),
            first_ns: middle(answers.iter().map(|it| it.first_ns as f64).collect()),
            start_ns: middle(to_first(Phase::Warm).map(|it| it as f64).collect()),
            cold_start_ns: middle(to_first(Phase::Cold).map(|it| it as f64).collect()),
            items_per_s: observed_ns
                .zip(last)
                .map(|(ns, answer)| answer.item_count as f64 / ns.middle * 1e9),
            peak_host_bytes: answers.iter().filter_map(|it| it.peak_host_bytes).max(),
            peak_device_bytes: answers.iter().filter_map(|it| it.peak_device_bytes).max(),
            energy_mj: middle(energy.collect()),
            moved_bytes: last.and_then(|it| it.moved_bytes),
            flop_count: last.and_then(|it| it.flop_count),
            roofline_share: None,
            counters: last.map(|it| it.counters.clone()).unwrap_or_default(),
            versions: last.map(|it| it.versions.clone()).unwrap_or_default(),
            warmup: last.map(|it| it.warmup.clone()).unwrap_or_default(),
        }
    }
}

/// What each round's process counts as; nothing when any process failed.
fn by_round(samples: &[&Sample], suite: &Suite) -> Option<BTreeMap<u32, f64>> {
    if samples.iter().any(|it| it.outcome != Outcome::Ok) {
        return None;
    }
    let warm = samples.iter().filter(|it| it.phase == Phase::Warm);
    let rounds = warm.filter_map(|it| {
        Some((it.batch_index << 20 | it.round_index, observed(it, suite.observation)?))
    });
    Some(rounds.collect())
}

fn failures(samples: &[&Sample]) -> Vec<String> {
    let failed = samples.iter().filter(|it| it.outcome != Outcome::Ok);
    failed
        .map(|it| {
            let phase = format!("{:?}", it.phase).to_lowercase();
            format!("{phase} {}: {}", it.round_index + 1, it.why.as_deref().unwrap_or("failed"))
        })
        .collect()
}

pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Ours => "ours",
        Role::Baseline => "baseline",
        Role::Control => "control",
    }
}

/// The geometric mean of areas, resample by resample.
fn geometric(all: &[&Areas]) -> Option<Areas> {
    let least = all.iter().map(|it| it.resamples.len()).min()?;
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        (values.map(f64::log2).sum::<f64>() / all.len() as f64).exp2()
    };
    let middle = mean(&mut all.iter().map(|it| it.middle));
    let resamples = (0..least).map(|at| mean(&mut all.iter().map(|it| it.resamples[at]))).collect();
    Some(Areas { middle, resamples })
}

fn arms_of<'a>(all: &'a [Areaed<'a>]) -> BTreeMap<&'a str, Vec<&'a Areaed<'a>>> {
    let mut arms: BTreeMap<&str, Vec<&Areaed<'_>>> = BTreeMap::new();
    all.iter().for_each(|it| arms.entry(it.arm).or_default().push(it));
    arms
}

fn ranking(all: &[Areaed<'_>]) -> Vec<Rank> {
    let mut rows = vec![Rank {
        place: 0,
        arm: "(ours)".into(),
        speed: Interval { middle: 1.0, low: 1.0, high: 1.0 },
        case_count: all
            .iter()
            .map(|it| it.arm)
            .fold(BTreeMap::new(), |mut counts, it| {
                *counts.entry(it).or_insert(0) += 1;
                counts
            })
            .into_values()
            .max()
            .unwrap_or(0),
    }];
    for (arm, areaed) in arms_of(all) {
        let there: Vec<&Areas> = areaed.iter().filter_map(|it| it.areas.as_ref()).collect();
        if let Some(areas) = geometric(&there) {
            // An area says how often faster ours is; the arm's own speed is its reciprocal.
            let Interval { middle, low, high } = areas.interval();
            let speed = Interval { middle: 1.0 / middle, low: 1.0 / high, high: 1.0 / low };
            rows.push(Rank { place: 0, arm: arm.to_owned(), speed, case_count: there.len() });
        }
    }
    rows.sort_by(|a, b| b.speed.middle.total_cmp(&a.speed.middle).then(a.arm.cmp(&b.arm)));
    for at in 0..rows.len() {
        let ties = 0 < at && rows[at - 1].speed.low <= rows[at].speed.high;
        rows[at].place = if ties { rows[at - 1].place } else { at + 1 };
    }
    rows
}

fn overall(all: &[Areaed<'_>], cases: &[CaseSummary]) -> BTreeMap<String, Overall> {
    let mut out = BTreeMap::new();
    for (arm, areaed) in arms_of(all) {
        if areaed.iter().any(|it| it.role == Role::Control) {
            continue;
        }
        let whole: Option<Vec<&Areas>> = areaed.iter().map(|it| it.areas.as_ref()).collect();
        let area = whole.and_then(|it| geometric(&it)).map(Areas::interval);
        let points = cases.iter().filter_map(|it| it.speedups.get(arm)).flat_map(|it| &it.points);
        let factors: Option<Vec<f64>> = points.map(|it| it.1.map(|it| it.middle)).collect();
        let median_speedup = factors.and_then(|it| median(&it));
        out.insert(arm.to_owned(), Overall { median_speedup, area, case_count: areaed.len() });
    }
    out
}

#[cfg(test)]
mod tests;
