//! The file of gates.

use std::path::Path;

use serde::Deserialize;

use crate::error::MeasureError;
use crate::pair;

/// Name and version that a file of gates carries.
pub(super) const GATE_SCHEMA: &str = "calor.gate/1.0";

/// Every gate. One without a suite is about any.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateFile {
    /// `calor.gate/1.0`.
    pub schema: String,
    /// Counters that do not vary.
    #[serde(default)]
    pub exact: Vec<ExactGate>,
    /// Rates of caches.
    #[serde(default)]
    pub rate: Vec<RateGate>,
    /// Floors under cases' areas.
    #[serde(default)]
    pub speed: Vec<SpeedGate>,
    /// Floors under suites' areas.
    #[serde(default)]
    pub suite: Vec<SuiteGate>,
    /// How pairs are decided.
    #[serde(default)]
    pub pair: Vec<PairGate>,
    /// Arms of one suite that must take the same time.
    #[serde(default)]
    pub same: Vec<SameGate>,
}

/// A counter that does not vary.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExactGate {
    /// Its suite; any if not given.
    #[serde(default)]
    pub suite: Option<String>,
    /// Its case.
    pub case: String,
    /// Whose counter.
    pub arm: String,
    /// At this size alone; at all if not given.
    #[serde(default)]
    pub size: Option<u64>,
    /// The counter, as answers name it.
    pub counter: String,
    /// It must be this.
    #[serde(default)]
    pub equals: Option<i64>,
    /// It must be at most this.
    #[serde(default)]
    pub max: Option<i64>,
    /// It must be at least this.
    #[serde(default)]
    pub min: Option<i64>,
    /// Whether it may be unknown where every process says why.
    #[serde(default)]
    pub where_counted: bool,
}

impl ExactGate {
    pub(super) fn allows(&self, value: i64) -> bool {
        self.equals.is_none_or(|it| it == value)
            && self.max.is_none_or(|it| value <= it)
            && self.min.is_none_or(|it| it <= value)
    }

    pub(super) fn want(&self) -> String {
        let word = |word: &str, it: Option<i64>| it.map(|it| format!("{word} {it}"));
        let words =
            [word("exactly", self.equals), word("at most", self.max), word("at least", self.min)];
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// A rate of hits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateGate {
    /// Its suite; any if not given.
    #[serde(default)]
    pub suite: Option<String>,
    /// Its case.
    pub case: String,
    /// Whose counters.
    pub arm: String,
    /// The counter of hits.
    pub hits: String,
    /// The counter of misses.
    pub misses: String,
    /// The lower bound must be at least this, as a part.
    pub min: f64,
    /// Fewer questions say nothing.
    pub asked_min: u64,
}

/// A floor under a case's area.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedGate {
    /// Its suite; any if not given.
    #[serde(default)]
    pub suite: Option<String>,
    /// Its case.
    pub case: String,
    /// Over whom.
    pub baseline: String,
    /// The lower end of the interval must be at least this.
    pub area_min: f64,
}

/// A floor under a suite's area.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteGate {
    /// The suite.
    pub suite: String,
    /// Over whom.
    pub baseline: String,
    /// The lower end of the interval must be at least this.
    pub area_min: f64,
}

/// How pairs of a case are decided.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairGate {
    /// The case; every other one if not given.
    #[serde(default)]
    pub case: Option<String>,
    /// Smallest change that counts, as a part.
    pub effect_min: f64,
    /// Fewest pairs that decide.
    #[serde(default = "pairs_min")]
    pub pairs_min: usize,
}

/// Two arms of one suite that must take the same time, decided as a pair of builds is, by the
/// rounds that they share.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SameGate {
    /// Its suite; any if not given.
    #[serde(default)]
    pub suite: Option<String>,
    /// Its case.
    pub case: String,
    /// What is compared with.
    pub base: String,
    /// What must not differ from it.
    pub head: String,
    /// The base once more.
    pub control: String,
    /// Smallest change that counts, as a part.
    pub effect_min: f64,
    /// Fewest rounds that decide.
    #[serde(default = "pairs_min")]
    pub pairs_min: usize,
}

fn pairs_min() -> usize {
    pair::PAIRS_MIN
}

impl GateFile {
    /// Reads a file of gates.
    ///
    /// # Errors
    /// [`MeasureError`] when it cannot be read, or a gate cannot fail or cannot hold.
    pub fn read(path: &Path) -> Result<Self, MeasureError> {
        let text = std::fs::read_to_string(path).map_err(MeasureError::io("read", path))?;
        Self::parse(path, &text)
    }

    /// The gates of `text`; `path` is for messages.
    ///
    /// # Errors
    /// [`MeasureError::Description`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, MeasureError> {
        let fault = |what: String| MeasureError::description(path, what);
        let file: Self = toml::from_str(text).map_err(|err| fault(err.to_string()))?;
        if file.schema != GATE_SCHEMA {
            return Err(fault(format!("schema `{}` is not `{GATE_SCHEMA}`", file.schema)));
        }
        for it in &file.exact {
            if it.want().is_empty() {
                return Err(fault(format!("`{}` of `{}` allows everything", it.counter, it.case)));
            }
        }
        for it in &file.rate {
            if !(0.0 < it.min && it.min < 1.0) || it.asked_min == 0 {
                return Err(fault(format!("the rate of `{}` cannot fail or cannot hold", it.case)));
            }
        }
        let floors = file.speed.iter().map(|it| it.area_min);
        let floors = floors.chain(file.suite.iter().map(|it| it.area_min));
        if floors.into_iter().any(|it| !(it.is_finite() && 0.0 < it)) {
            return Err(fault("a floor is a number above 0".into()));
        }
        let pairs = file.pair.iter().map(|it| (it.effect_min, it.pairs_min));
        let sames = file.same.iter().map(|it| (it.effect_min, it.pairs_min));
        for (effect_min, pairs_min) in pairs.chain(sames) {
            // Below the noise of any machine a gate only cries wolf.
            if !(0.005..=1.0).contains(&effect_min) || pairs_min < pair::PAIRS_MIN {
                let what = format!(
                    "a pair needs effect_min of 0.005 or more and {} pairs or more",
                    pair::PAIRS_MIN
                );
                return Err(fault(what));
            }
        }
        Ok(file)
    }
}
