//! Two builds of one thing in pairs: what their times show, and how far that can be trusted.
//!
//! One observation is a process. Base, head and control (the base once more) run in the same
//! rounds; the logarithm of head over base in each round is one difference. A change has to show
//! in the median of the differences, in the fastest processes and in a second batch of rounds,
//! and be larger than the floor; the control must show none. [`power`] says how often all this
//! cries wolf on the very same samples, and what it can see.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::harness::observed;
use crate::record::{Outcome, Phase, Sample};
use crate::stats::{Draw, Interval, bounds, interval_of};
use crate::suite::{Arm, Observation, Role, Suite};

/// Arms of a pair.
pub const ARMS: [&str; 3] = ["base", "head", "control"];
/// Smallest change that counts, where nothing else is said.
pub const EFFECT_MIN: f64 = 0.01;
/// Fewest pairs of a batch that decide anything.
pub const PAIRS_MIN: usize = 8;

/// What times of two builds show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Head takes longer, confirmed.
    Slower,
    /// Head takes less time, confirmed.
    Faster,
    /// They differ by less than the floor.
    Same,
    /// The samples do not say.
    Unproven,
    /// The control differs from the base: the machine was disturbed.
    Contaminated,
    /// A process failed, or its result was wrong.
    Invalid,
    /// The sides ran on machines that differ.
    Incomparable,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::Same => "same",
            Self::Unproven => "unproven",
            Self::Contaminated => "contaminated",
            Self::Invalid => "invalid",
            Self::Incomparable => "incomparable",
        })
    }
}

/// The suite in which each case's own arm runs as base, head and control, `pairs` times.
/// `{program}` of its command becomes `{base}` and `{head}`.
#[must_use]
pub fn as_pair(suite: &Suite, pairs: u32) -> Suite {
    let mut out = suite.clone();
    out.arms.clear();
    for case in &mut out.cases {
        let ours = suite.case(&case.name).map(|it| suite.arms_of(it)).unwrap_or_default();
        let ours = ours.into_iter().find(|it| it.1.role == Role::Ours);
        let Some((name, arm)) = ours else { continue };
        let mut rounds = suite.rounds_of(case);
        (rounds.cold_count, rounds.count_min, rounds.count_max) = (0, pairs, pairs);
        case.rounds = Some(rounds);
        case.arms = ARMS.iter().map(|side| format!("{name} {side}")).collect();
        case.reference.clone_from(&case.arms[0]);
        let roles = [Role::Baseline, Role::Ours, Role::Control];
        for ((side, key), role) in ARMS.iter().zip(&case.arms).zip(roles) {
            let program = if *side == "head" { "{head}" } else { "{base}" };
            let fill = |it: &String| it.replace("{program}", program);
            let command = arm.command.iter().map(fill).collect();
            let environment = arm.environment.clone();
            out.arms.insert(key.clone(), Arm { role, command, environment });
        }
    }
    out.cases.retain(|it| it.arms.len() == ARMS.len() && it.ceiling.is_none());
    out
}

/// How a pair is decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Smallest change that counts, as a part.
    pub effect_min: f64,
    /// Fewest pairs that decide.
    pub pairs_min: usize,
    /// Resamples of an interval.
    pub resample_count: usize,
}

impl Rule {
    /// Where nothing else is said.
    pub const STANDARD: Self = Self {
        effect_min: EFFECT_MIN,
        pairs_min: PAIRS_MIN,
        resample_count: crate::stats::RESAMPLE_COUNT,
    };
}

/// Nanoseconds of base, head and control in each round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// One row for each round.
    pub rounds: Vec<[f64; 3]>,
}

/// What one batch shows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// Its verdict alone.
    pub verdict: Verdict,
    /// Logarithm of head over base.
    pub effect: Interval,
    /// The same of the fastest process of each.
    pub fastest: f64,
    /// Logarithm of control over base.
    pub control: Interval,
    /// Below this a difference is none.
    pub floor: f64,
}

impl Batch {
    /// Rounds of batch `batch_index` of `samples` at `size` in which every arm ended well.
    pub fn of(samples: &[Sample], size: u64, batch_index: u32, observation: Observation) -> Self {
        let side = |arm: &str| ARMS.iter().position(|side| arm.ends_with(&format!(" {side}")));
        Self::by(samples, size, batch_index, observation, side)
    }

    /// The same with arms that are called otherwise: `side` says which is base, head and control.
    pub fn by(
        samples: &[Sample],
        size: u64,
        batch_index: u32,
        observation: Observation,
        side: impl Fn(&str) -> Option<usize>,
    ) -> Self {
        let mut rounds: std::collections::BTreeMap<u32, [Option<f64>; 3]> = Default::default();
        let is_in = |it: &&Sample| {
            it.size == size && it.batch_index == batch_index && it.phase == Phase::Warm
        };
        for sample in samples.iter().filter(is_in) {
            if let Some(side) = side(&sample.arm) {
                rounds.entry(sample.round_index).or_default()[side] = observed(sample, observation);
            }
        }
        let whole = |it: [Option<f64>; 3]| Some([it[0]?, it[1]?, it[2]?]);
        Self { rounds: rounds.into_values().filter_map(whole).collect() }
    }

    /// What it shows; nothing for fewer rounds than the rule asks for.
    pub fn shows(&self, rule: &Rule, draw: &mut Draw) -> Option<Shown> {
        if self.rounds.len() < rule.pairs_min.max(1) {
            return None;
        }
        let logs = |side: usize| -> Vec<f64> {
            self.rounds.iter().map(|it| (it[side] / it[0]).ln()).collect()
        };
        let least =
            |side: usize| self.rounds.iter().map(|it| it[side]).fold(f64::INFINITY, f64::min);
        let effect = interval_of(&logs(1), rule.resample_count, draw)?;
        let control = interval_of(&logs(2), rule.resample_count, draw)?;
        let smallest = rule.effect_min.ln_1p();
        let fastest = (least(1) / least(0)).ln();
        let control_fastest = (least(2) / least(0)).ln();
        let floor = smallest.max(control.middle.abs());
        let verdict = if differs(&control, control_fastest, smallest) {
            Verdict::Contaminated
        } else if differs(&effect, fastest, floor) {
            if effect.middle < 0.0 { Verdict::Faster } else { Verdict::Slower }
        } else if effect.is_within(floor) {
            Verdict::Same
        } else {
            Verdict::Unproven
        };
        Some(Shown { verdict, effect, fastest, control, floor })
    }
}

/// Whether an interval leaves 0 out by more than the floor, and the fastest agree.
fn differs(effect: &Interval, fastest: f64, floor: f64) -> bool {
    let sign = effect.middle.signum();
    let excludes_zero = 0.0 < sign * effect.low && 0.0 < sign * effect.high;
    excludes_zero && floor < sign * effect.middle && floor < sign * fastest
}

/// The verdict of both batches: a change that is not confirmed is unproven.
pub fn verdict(first: Option<&Shown>, second: Option<&Shown>) -> Verdict {
    match (first.map(|it| it.verdict), second.map(|it| it.verdict)) {
        (None, _) => Verdict::Unproven,
        (Some(first @ (Verdict::Slower | Verdict::Faster)), second) => match second {
            Some(second) if second == first => first,
            Some(Verdict::Contaminated) => Verdict::Contaminated,
            Some(_) | None => Verdict::Unproven,
        },
        (Some(other), _) => other,
    }
}

/// Whether the first batch shows a change that a second one has to confirm.
pub(crate) fn needs_confirmation(
    samples: &[Sample],
    size: u64,
    observation: Observation,
    seed: u64,
) -> bool {
    let batch = Batch::of(samples, size, 0, observation);
    let shown = batch.shows(&Rule::STANDARD, &mut Draw::new(seed));
    shown.is_some_and(|it| matches!(it.verdict, Verdict::Slower | Verdict::Faster))
}

/// Both batches of a case at one size, and what they show together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Case.
    pub case: String,
    /// Size.
    pub size: u64,
    /// Rounds of both batches.
    pub pair_counts: [usize; 2],
    /// What it comes to.
    pub verdict: Verdict,
    /// What each batch shows.
    pub batches: Vec<Shown>,
    /// What the same samples say about the rule.
    pub power: Option<Power>,
    /// Processes that failed.
    pub failures: Vec<String>,
}

/// Decides every case and size of a pair's samples, in their order.
pub fn decide(
    samples: &[Sample],
    rule: &Rule,
    observation: Observation,
    seed: u64,
) -> Vec<Decision> {
    let mut keys: Vec<(&str, u64)> = Vec::new();
    for sample in samples {
        let key = (sample.case.as_str(), sample.size);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let one = |(case, size): (&str, u64)| {
        let of: Vec<Sample> =
            samples.iter().filter(|it| it.case == case && it.size == size).cloned().collect();
        let batches = [0, 1].map(|it| Batch::of(&of, size, it, observation));
        let mut draw = Draw::named(seed, &format!("{case}/{size}"));
        let shown: Vec<Option<Shown>> =
            batches.iter().map(|it| it.shows(rule, &mut draw)).collect();
        let failures: Vec<String> = of
            .iter()
            .filter(|it| it.outcome != Outcome::Ok)
            .map(|it| format!("{}: {}", it.arm, it.why.as_deref().unwrap_or("failed")))
            .collect();
        let found = match failures.is_empty() {
            true => verdict(shown[0].as_ref(), shown[1].as_ref()),
            false => Verdict::Invalid,
        };
        let power = power(&batches, rule, &mut draw);
        Decision {
            case: case.to_owned(),
            size,
            pair_counts: [batches[0].rounds.len(), batches[1].rounds.len()],
            verdict: found,
            batches: shown.into_iter().flatten().collect(),
            power,
            failures,
        }
    };
    keys.into_iter().map(one).collect()
}

/// What a rule does on samples like these.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Power {
    /// Part of comparisons of equal things that it calls slower.
    pub false_alarm_rate: f64,
    /// Not above this, with 95 %.
    pub false_alarm_max: f64,
    /// Smallest slowdown, as a part, that it finds in 8 of 10 comparisons; nothing if it finds
    /// none of those that were tried.
    pub detectable: Option<f64>,
}

const NULL_RUNS: u64 = 400;
const EFFECT_RUNS: u64 = 100;
/// Slowdowns that are tried.
const EFFECTS: [f64; 10] = [0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.5];

/// Simulates the rule on base and control, which are equal: as they are, and with head slowed
/// down. Nothing for too few rounds.
pub fn power(batches: &[Batch; 2], rule: &Rule, draw: &mut Draw) -> Option<Power> {
    let pool: Vec<[f64; 2]> =
        batches.iter().flat_map(|it| &it.rounds).map(|it| [it[0], it[2]]).collect();
    let len = batches[0].rounds.len();
    if len < rule.pairs_min.max(1) {
        return None;
    }
    // Fewer resamples widen no interval; they only make its ends less exact.
    let rule = &Rule { resample_count: rule.resample_count.min(200), ..*rule };
    let mut rate = |slowdown: f64, runs: u64| {
        let slower = |draw: &mut Draw| simulated(&pool, len, slowdown, rule, draw);
        (0..runs).filter(|_| slower(draw) == Verdict::Slower).count() as u64
    };
    let alarms = rate(0.0, NULL_RUNS);
    // What is found grows with the slowdown, so the first that is found is looked for by halving.
    let first = EFFECTS.partition_point(|it| rate(*it, EFFECT_RUNS) * 10 < EFFECT_RUNS * 8);
    Some(Power {
        false_alarm_rate: alarms as f64 / NULL_RUNS as f64,
        false_alarm_max: bounds(alarms, NULL_RUNS).map_or(1.0, |it| it.high),
        detectable: EFFECTS.get(first).copied(),
    })
}

fn simulated(
    pool: &[[f64; 2]],
    len: usize,
    slowdown: f64,
    rule: &Rule,
    draw: &mut Draw,
) -> Verdict {
    let batch = |draw: &mut Draw| {
        let round = |draw: &mut Draw| {
            let (a, b) = (pool[draw.below(pool.len())], pool[draw.below(pool.len())]);
            // Base and control are equal, so either may be either.
            let (one, other) = if draw.below(2) == 0 { (0, 1) } else { (1, 0) };
            // The control has its own noise against the base, drawn from another round.
            [a[one], a[other] * (1.0 + slowdown), a[one] * (b[1] / b[0])]
        };
        Batch { rounds: (0..len).map(|_| round(draw)).collect() }
    };
    let first = batch(draw).shows(rule, draw);
    let is_change = |it: &Shown| matches!(it.verdict, Verdict::Slower | Verdict::Faster);
    let second = first.as_ref().is_some_and(is_change).then(|| batch(draw));
    let second = second.and_then(|it| it.shows(rule, draw));
    verdict(first.as_ref(), second.as_ref())
}

#[cfg(test)]
mod tests;
