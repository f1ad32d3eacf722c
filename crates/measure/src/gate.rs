//! Gates: what a package must show, written down in a file, decided with numbers.
//!
//! Exact gates compare counters that do not vary; rates carry a confidence bound; floors hold the
//! lower end of an area's interval; pairs need a confirmed change. What is missing fails. Each
//! gate says what it would have seen: 1 is a regression, 2 that nothing can be said.

mod file;
mod show;

use serde::Serialize;

use crate::package::Package;
use crate::pair::{self, Batch, Decision, Rule, Shown, Verdict};
use crate::program::Likeness;
use crate::stats::{Draw, bounds};
use crate::summary::ArmSummary;

pub use file::{ExactGate, GateFile, PairGate, RateGate, SameGate, SpeedGate, SuiteGate};

/// What one gate comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// It holds.
    Yes,
    /// It does not.
    No,
    /// The package does not say.
    Unknown,
}

/// One gate with what was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// `exact`, `rate`, `speed`, `suite`, `same` or `pair`.
    pub kind: &'static str,
    /// What it is about.
    pub about: String,
    /// What it wants.
    pub want: String,
    /// What the package shows.
    pub found: String,
    /// Whether it holds.
    pub holds: Holds,
    /// A pair's verdict.
    pub verdict: Option<Verdict>,
    /// Part of equal pairs that the gate would fail, where it is no exact one: not above this
    /// with 95 %.
    pub false_alarm_max: Option<f64>,
    /// Smallest change that it sees in 8 of 10 cases.
    pub detectable: Option<f64>,
}

/// Every gate of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Findings {
    /// The package's suite.
    pub suite: String,
    /// One for each gate, in the file's order.
    pub rows: Vec<Finding>,
}

impl Findings {
    /// 1 for a regression, else 2 where something cannot be told, else 0.
    pub fn exit_code(&self) -> u8 {
        let any = |holds: Holds| self.rows.iter().any(|it| it.holds == holds);
        match (any(Holds::No), any(Holds::Unknown)) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => 0,
        }
    }
}

/// Decides every gate of `file` that is about the package's suite. A file without one is a finding.
pub fn decide(file: &GateFile, package: &Package) -> Findings {
    let suite = package.suite.name.clone();
    let is_for = |it: &Option<String>| it.as_ref().is_none_or(|it| *it == suite);
    let mut rows = Vec::new();
    if package.is_pair() {
        rows.extend(pairs(file, package));
    } else {
        rows.extend(file.exact.iter().filter(|it| is_for(&it.suite)).map(|it| exact(it, package)));
        rows.extend(file.rate.iter().filter(|it| is_for(&it.suite)).map(|it| rate(it, package)));
        rows.extend(file.speed.iter().filter(|it| is_for(&it.suite)).map(|it| speed(it, package)));
        let suites = file.suite.iter().filter(|it| it.suite == suite);
        rows.extend(suites.map(|it| of_suite(it, package)));
        let same = file.same.iter().filter(|it| is_for(&it.suite));
        rows.extend(same.flat_map(|it| of_same(it, package)));
        rows.extend(failures(package));
    }
    if rows.is_empty() {
        let about = format!("gates of suite `{suite}`");
        let found = "the file has none".to_owned();
        rows.push(Finding::exact("exact", about, "at least one".into(), found, Holds::Unknown));
    }
    Findings { suite, rows }
}

impl Finding {
    fn exact(kind: &'static str, about: String, want: String, found: String, holds: Holds) -> Self {
        let (verdict, false_alarm_max, detectable) = (None, None, None);
        Self { kind, about, want, found, holds, verdict, false_alarm_max, detectable }
    }
}

/// Every process must have ended well, whatever else is asked.
fn failures(package: &Package) -> Option<Finding> {
    let points = package.summary.cases.iter().flat_map(|case| {
        case.points.iter().flat_map(move |point| {
            let arms = point.arms.iter().filter(|it| !it.1.failures.is_empty());
            arms.map(move |(arm, it)| {
                format!("{} {} {arm}: {}", case.name, point.size, it.failures[0])
            })
        })
    });
    let all: Vec<String> = points.collect();
    let not_run = package.suite.cases.iter().filter(|case| {
        let found = package.summary.cases.iter().find(|it| it.name == case.name);
        found.is_none_or(|it| it.points.len() < case.points.len())
    });
    let missing: Vec<String> =
        not_run.map(|it| format!("{} was not run at every size", it.name)).collect();
    let found = [all, missing].concat();
    if found.is_empty() {
        return None;
    }
    let (about, want) = ("every process".to_owned(), "ends well".to_owned());
    Some(Finding::exact("exact", about, want, found.join("; "), Holds::No))
}

/// The arms of a case at every size, or the reason why there are none.
fn arms<'a>(
    package: &'a Package,
    case: &str,
    arm: &str,
) -> std::result::Result<Vec<(u64, &'a ArmSummary)>, Absent> {
    let found = package.summary.cases.iter().find(|it| it.name == case);
    let found = found.ok_or_else(|| Absent(format!("case `{case}` was not run")))?;
    let of = |point: &'a crate::summary::PointSummary| {
        let summary = point.arms.get(arm).ok_or_else(|| Absent(format!("no arm `{arm}`")))?;
        match summary.process_count {
            0 => Err(Absent(format!("no process of `{arm}` ended well at {}", point.size))),
            _ => Ok((point.size, summary)),
        }
    };
    let all: Vec<_> = found.points.iter().map(of).collect::<Result<_, _>>()?;
    if all.is_empty() { Err(Absent("no size was run".into())) } else { Ok(all) }
}

/// Why something that is asked for is not there.
struct Absent(String);

fn exact(gate: &ExactGate, package: &Package) -> Finding {
    let ExactGate { case, arm, counter, .. } = gate;
    let at = gate.size.map_or(String::new(), |it| format!(" at {it}"));
    let about = format!("{case}{at}, {arm}: {counter}");
    let want = gate.want();
    let all = match arms(package, case, arm) {
        Ok(all) => all,
        Err(Absent(why)) => return Finding::exact("exact", about, want, why, Holds::No),
    };
    let is_meant = |it: &u64| gate.size.is_none_or(|size| size == *it);
    let sizes: Vec<u64> = all.iter().map(|it| it.0).filter(is_meant).collect();
    // Every warm process counts, not only the one that a summary shows.
    let samples = package.samples.iter().filter(|it| {
        it.case == *case
            && it.arm == *arm
            && sizes.contains(&it.size)
            && it.phase == crate::record::Phase::Warm
    });
    let mut seen: Vec<i64> = Vec::new();
    if let Some(why) = uncounted(gate, samples.clone()) {
        let found = format!("not counted here: {why}");
        return Finding::exact("exact", about, want, found, Holds::Yes);
    }
    for sample in samples {
        match sample.good().and_then(|it| it.counters.get(counter)) {
            Some(value) => seen.push(*value),
            None => {
                let why = "a process does not count it".to_owned();
                return Finding::exact("exact", about, want, why, Holds::No);
            }
        }
    }
    let holds = !seen.is_empty() && seen.iter().all(|it| gate.allows(*it));
    seen.sort_unstable();
    let found = match (seen.first(), seen.last()) {
        (Some(low), Some(high)) if low == high => low.to_string(),
        (Some(low), Some(high)) => format!("{low} to {high}"),
        _ => "nothing".into(),
    };
    let holds = if holds { Holds::Yes } else { Holds::No };
    Finding::exact("exact", about, want, found, holds)
}

/// Why no process counts it, where the gate allows that and every process says so.
fn uncounted<'a>(
    gate: &ExactGate,
    samples: impl Iterator<Item = &'a crate::record::Sample>,
) -> Option<&'a str> {
    let why = |it: &'a crate::record::Sample| {
        let answer = it.good()?;
        let is_counted = answer.counters.contains_key(&gate.counter);
        answer.uncounted.get(&gate.counter).filter(|_| !is_counted).map(String::as_str)
    };
    let all: Option<Vec<&str>> = samples.map(why).collect();
    all.filter(|_| gate.where_counted)?.first().copied()
}

fn rate(gate: &RateGate, package: &Package) -> Finding {
    let RateGate { case, arm, hits, misses, min, asked_min, .. } = gate;
    let about = format!("{case}, {arm}: {hits}");
    let want = format!("at least {:.1} % with 95 %, of {asked_min} questions", 100.0 * min);
    if let Err(Absent(why)) = arms(package, case, arm) {
        return Finding::exact("rate", about, want, why, Holds::No);
    }
    let warm = package
        .samples
        .iter()
        .filter(|it| it.case == *case && it.arm == *arm && it.phase == crate::record::Phase::Warm);
    let (mut hit_count, mut miss_count) = (0, 0);
    for answer in warm.filter_map(|it| it.good()) {
        let of = |name: &String| answer.counters.get(name).copied().unwrap_or(0).max(0) as u64;
        hit_count += of(hits);
        miss_count += of(misses);
    }
    let asked = hit_count + miss_count;
    let Some(found) = bounds(hit_count, asked) else {
        let why = "nothing was asked: invalid".to_owned();
        return Finding::exact("rate", about, want, why, Holds::Unknown);
    };
    let rate = hit_count as f64 / asked as f64;
    let text = format!("{:.1} % of {asked}, at least {:.1} %", 100.0 * rate, 100.0 * found.low);
    let holds = match () {
        () if asked < *asked_min => Holds::Unknown,
        () if *min <= found.low => Holds::Yes,
        // Where even the upper bound is too low it is a fact, else it may be chance.
        () if found.high < *min => Holds::No,
        () => Holds::Unknown,
    };
    // A bound that holds with 95 % fails one in twenty whose rate is just the wanted one.
    Finding { false_alarm_max: Some(0.05), ..Finding::exact("rate", about, want, text, holds) }
}

/// A floor under an interval: its lower end decides; an interval around the floor does not say.
fn floor(
    kind: &'static str,
    about: String,
    min: f64,
    area: Option<crate::stats::Interval>,
    absent: String,
) -> Finding {
    let want = format!("at least {min:.2}× with 97.5 %");
    let Some(it) = area else { return Finding::exact(kind, about, want, absent, Holds::No) };
    let found = format!("{:.2}× ({:.2} to {:.2})", it.middle, it.low, it.high);
    let holds = match () {
        () if min <= it.low => Holds::Yes,
        () if it.high < min => Holds::No,
        () => Holds::Unknown,
    };
    let width = (it.middle / it.low - 1.0).max(0.0);
    Finding {
        false_alarm_max: Some(0.025),
        detectable: Some(width),
        ..Finding::exact(kind, about, want, found, holds)
    }
}

fn speed(gate: &SpeedGate, package: &Package) -> Finding {
    let SpeedGate { case, baseline, area_min, .. } = gate;
    let about = format!("{case} over {baseline}");
    let found = package.summary.cases.iter().find(|it| it.name == *case);
    let found = found.and_then(|it| it.speedups.get(baseline));
    let absent = match found {
        None => format!("`{case}` or `{baseline}` was not run"),
        Some(_) => "undefined: a check failed".into(),
    };
    floor("speed", about, *area_min, found.and_then(|it| it.area), absent)
}

fn of_suite(gate: &SuiteGate, package: &Package) -> Finding {
    let SuiteGate { suite, baseline, area_min } = gate;
    let found = package.summary.baselines.get(baseline);
    let absent = match found {
        None => format!("`{baseline}` was not run"),
        Some(_) => "undefined: a check failed".into(),
    };
    let about = format!("suite {suite} over {baseline}");
    floor("suite", about, *area_min, found.and_then(|it| it.area), absent)
}

/// One finding for each case and size of a pair; the file may name a larger floor for a case.
fn pairs(file: &GateFile, package: &Package) -> Vec<Finding> {
    let rule = |case: &str| {
        let own = file.pair.iter().find(|it| it.case.as_deref() == Some(case));
        let any = || file.pair.iter().find(|it| it.case.is_none());
        let gate = own.or_else(any);
        Rule {
            effect_min: gate.map_or(pair::EFFECT_MIN, |it| it.effect_min),
            pairs_min: gate.map_or(pair::PAIRS_MIN, |it| it.pairs_min),
            ..Rule::STANDARD
        }
    };
    let suite = &package.suite;
    let mut rows = Vec::new();
    // Cases that nobody asked for are no missing ones; none asked for means all.
    let asked = package.run["cases"].as_array().filter(|it| !it.is_empty());
    let is_asked = |name: &str| asked.is_none_or(|it| it.iter().any(|it| it == name));
    for case in suite.cases.iter().filter(|it| is_asked(&it.name)) {
        let of: Vec<_> =
            package.samples.iter().filter(|it| it.case == case.name).cloned().collect();
        let found = pair::decide(&of, &rule(&case.name), suite.observation, suite.seed);
        for point in &case.points {
            let decision = found.iter().find(|it| it.size == point.size);
            rows.push(match decision {
                Some(it) => of_pair(it, rule(&case.name).effect_min, package.likeness()),
                None => Finding::exact(
                    "pair",
                    format!("{} at {}", case.name, point.size),
                    "a verdict".into(),
                    "it was not run".into(),
                    Holds::No,
                ),
            });
        }
    }
    rows
}

/// One finding for each size: two arms of a suite, by the rounds that they share. A second batch
/// confirms changes; here one that is seen is already too much.
fn of_same(gate: &SameGate, package: &Package) -> Vec<Finding> {
    let SameGate { case, base, head, control, effect_min, pairs_min, .. } = gate;
    let (effect_min, pairs_min) = (*effect_min, *pairs_min);
    let rule = Rule { effect_min, pairs_min, ..Rule::STANDARD };
    let want = format!("the same within {:.1} %", 100.0 * effect_min);
    let about = |size: &str| format!("{case}{size}, {head} beside {base}");
    for arm in [base, head, control] {
        if let Err(Absent(why)) = arms(package, case, arm) {
            return vec![Finding::exact("same", about(""), want, why, Holds::No)];
        }
    }
    let suite = &package.suite;
    let points = suite.case(case).map_or(&[][..], |it| &it.points);
    let one = |size: u64| {
        let of = |it: &&crate::record::Sample| it.case == *case && it.size == size;
        let samples: Vec<_> = package.samples.iter().filter(of).cloned().collect();
        let side = |arm: &str| [base, head, control].iter().position(|it| *it == arm);
        let batch = Batch::by(&samples, size, 0, suite.observation, side);
        let mut draw = Draw::named(suite.seed, &format!("{case}/{size}/{head}"));
        let shown = batch.shows(&rule, &mut draw);
        let power = pair::power(&[batch.clone(), Batch::default()], &rule, &mut draw);
        let (holds, found) = match &shown {
            None => (Holds::No, format!("{} rounds, {pairs_min} asked for", batch.rounds.len())),
            Some(it) => {
                let holds = match it.verdict {
                    Verdict::Same => Holds::Yes,
                    Verdict::Slower | Verdict::Faster | Verdict::Invalid => Holds::No,
                    Verdict::Unproven | Verdict::Contaminated | Verdict::Incomparable => {
                        Holds::Unknown
                    }
                };
                (holds, format!("{}: {}", it.verdict, told(it)))
            }
        };
        Finding {
            verdict: shown.map(|it| it.verdict),
            false_alarm_max: power.map(|it| it.false_alarm_max),
            detectable: power.and_then(|it| it.detectable),
            ..Finding::exact("same", about(&format!(" at {size}")), want.clone(), found, holds)
        }
    };
    points.iter().map(|it| one(it.size)).collect()
}

/// What a batch shows, in words.
fn told(it: &Shown) -> String {
    let per_cent = |it: f64| 100.0 * it.exp_m1();
    format!(
        "{:+.1} % ({:+.1} to {:+.1}), control {:+.1} %",
        per_cent(it.effect.middle),
        per_cent(it.effect.low),
        per_cent(it.effect.high),
        per_cent(it.control.middle),
    )
}

fn of_pair(decision: &Decision, effect_min: f64, likeness: Option<Likeness>) -> Finding {
    let Decision { case, size, pair_counts, verdict, batches, power, failures } = decision;
    let same_code = matches!(likeness, Some(Likeness::Whole | Likeness::Code));
    let (verdict, why) = match verdict {
        // The same instructions at the same addresses are neither; data alone may differ.
        Verdict::Slower | Verdict::Faster if same_code => {
            (&Verdict::Unproven, format!(" ({verdict} by times, but both hold the same code)"))
        }
        _ if same_code => (verdict, " (both hold the same code)".to_owned()),
        _ => (verdict, String::new()),
    };
    let holds = match verdict {
        Verdict::Faster | Verdict::Same => Holds::Yes,
        Verdict::Slower | Verdict::Invalid => Holds::No,
        Verdict::Unproven | Verdict::Contaminated | Verdict::Incomparable => Holds::Unknown,
    };
    let [first, second] = pair_counts;
    let found = match (failures.first(), batches.first()) {
        (Some(why), _) => why.clone(),
        (None, Some(it)) => format!("{verdict}: {}, {first} + {second} pairs{why}", told(it)),
        (None, None) => format!("{verdict}: {} pairs are too few", pair_counts[0]),
    };
    Finding {
        verdict: Some(*verdict),
        false_alarm_max: power.map(|it| it.false_alarm_max),
        detectable: power.and_then(|it| it.detectable),
        ..Finding::exact(
            "pair",
            format!("{case} at {size}"),
            format!("not slower by {:.1} %", 100.0 * effect_min),
            found,
            holds,
        )
    }
}

#[cfg(test)]
mod tests;
