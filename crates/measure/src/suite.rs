//! Suites as files: which cases at which sizes, computed by whom, how often, and what is right.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::MeasureError;

/// Name and version that a suite's file carries.
pub const SUITE_SCHEMA: &str = "calor.suite/1.0";

/// What is run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// [`SUITE_SCHEMA`].
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it shows, in a line.
    pub about: String,
    /// Decides orders and resampling.
    #[serde(default)]
    pub seed: u64,
    /// What one process counts as.
    #[serde(default)]
    pub observation: Observation,
    /// How often.
    pub rounds: Rounds,
    /// Values of words in commands that neither a case nor the caller gives.
    #[serde(default)]
    pub words: BTreeMap<String, String>,
    /// Who computes.
    pub arms: BTreeMap<String, Arm>,
    /// What is computed.
    pub cases: Vec<Case>,
}

/// What one process counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observation {
    /// Its fastest sample: for processors, which others share.
    #[default]
    Minimum,
    /// Its middle sample: for devices that nobody shares.
    Median,
}

/// How often processes are started.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rounds {
    /// With nothing kept.
    #[serde(default)]
    pub cold_count: u32,
    /// At least so often with what is kept.
    pub count_min: u32,
    /// At most so often.
    pub count_max: u32,
    /// Rounds end when the interval of each arm's median is at most this part of it to each side.
    pub spread_max: f64,
    /// Longest life of a process.
    pub timeout_s: u64,
    /// Samples of one process, behind its own warming up.
    pub sample_count: u32,
}

/// Who computes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// What it is in comparisons.
    pub role: Role,
    /// Program and arguments; `{word}` stands for a value.
    pub command: Vec<String>,
    /// Variables of its environment, likewise.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// What an arm is in comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What is measured.
    Ours,
    /// What it is compared with.
    Baseline,
    /// The same as ours once more: whatever differs is noise.
    Control,
}

/// What is computed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What it computes, in a line.
    pub about: String,
    /// What sizes count.
    pub size_unit: String,
    /// Sizes, growing, with the work that each is.
    pub points: Vec<Point>,
    /// Its arms; all of the suite if none is named.
    #[serde(default)]
    pub arms: Vec<String>,
    /// The arm whose result is right.
    pub reference: String,
    /// Largest difference of any value, as a part of it above 1 and by itself below.
    pub tolerance: f64,
    /// Numbers that the reference itself must give, where they are known.
    #[serde(default)]
    pub expect: Vec<f64>,
    /// What this case says about the machine, if it is there for that.
    #[serde(default)]
    pub ceiling: Option<Ceiling>,
    /// Rounds of its own.
    #[serde(default)]
    pub rounds: Option<Rounds>,
    /// Words of its own.
    #[serde(default)]
    pub words: BTreeMap<String, String>,
}

/// One size of a case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The size.
    pub size: u64,
    /// Items that a call must compute; the size if nothing is said.
    #[serde(default)]
    pub items: Option<u64>,
    /// Tokens that a call must compute.
    #[serde(default)]
    pub tokens: u64,
    /// Words of its own.
    #[serde(default)]
    pub words: BTreeMap<String, String>,
}

impl Point {
    /// Items that a call must compute.
    pub fn item_count(&self) -> u64 {
        self.items.unwrap_or(self.size)
    }
}

/// What a case says about the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ceiling {
    /// How many bytes it moves.
    Bandwidth,
    /// How many operations it does.
    Flops,
}

impl Suite {
    /// Reads a suite.
    ///
    /// # Errors
    /// [`MeasureError`] when the file cannot be read or does not describe a suite.
    pub fn read(path: &Path) -> Result<(Self, String), MeasureError> {
        let text = std::fs::read_to_string(path).map_err(MeasureError::io("read", path))?;
        Ok((Self::parse(path, &text)?, text))
    }

    /// The suite that `text` describes; `path` is for messages.
    ///
    /// # Errors
    /// [`MeasureError::Description`] for the first thing that cannot be.
    pub fn parse(path: &Path, text: &str) -> Result<Self, MeasureError> {
        let fault = |what: String| MeasureError::description(path, what);
        let suite: Self = toml::from_str(text).map_err(|err| fault(err.to_string()))?;
        if suite.schema != SUITE_SCHEMA {
            return Err(fault(format!("schema `{}` is not `{SUITE_SCHEMA}`", suite.schema)));
        }
        match suite.flaw() {
            None => Ok(suite),
            Some(what) => Err(fault(what)),
        }
    }

    /// What cannot be, if anything.
    fn flaw(&self) -> Option<String> {
        let names = |name: &str| {
            let fits = |it: char| it.is_ascii_alphanumeric() || "-_. ".contains(it);
            !name.is_empty() && name.len() <= 80 && name.chars().all(fits) && !name.contains("..")
        };
        if self.cases.is_empty() {
            return Some("it has no case".into());
        }
        for name in self.arms.keys().chain([&self.name]) {
            if !names(name) {
                return Some(format!("`{name}` is not a name"));
            }
        }
        for (index, case) in self.cases.iter().enumerate() {
            let name = &case.name;
            if !names(name) || self.cases[..index].iter().any(|it| it.name == *name) {
                return Some(format!("`{name}` is not a name, or is there twice"));
            }
            if let Some(arm) = case.arms.iter().find(|it| !self.arms.contains_key(*it)) {
                return Some(format!("case `{name}` names arm `{arm}`, which is not there"));
            }
            if !self.arms_of(case).iter().any(|it| it.0 == case.reference) {
                let reference = &case.reference;
                return Some(format!("reference `{reference}` of `{name}` is none of its arms"));
            }
            if case.points.is_empty() || !case.points.is_sorted_by(|a, b| a.size < b.size) {
                return Some(format!("sizes of `{name}` do not grow"));
            }
            if case.points.iter().any(|it| it.size == 0 || it.item_count() == 0) {
                return Some(format!("`{name}` has a point without work"));
            }
            if !(case.tolerance.is_finite() && 0.0 < case.tolerance) {
                return Some(format!("`{name}` allows any difference"));
            }
            if let Some(what) = self.rounds_of(case).flaw() {
                return Some(format!("`{name}`: {what}"));
            }
        }
        None
    }

    /// The rounds of a case.
    pub fn rounds_of(&self, case: &Case) -> Rounds {
        case.rounds.unwrap_or(self.rounds)
    }

    /// The arms of a case with their names, in the order of names.
    pub fn arms_of(&self, case: &Case) -> Vec<(&str, &Arm)> {
        let is_in = |name: &String| case.arms.is_empty() || case.arms.contains(name);
        let arms = self.arms.iter().filter(|it| is_in(it.0));
        arms.map(|(name, arm)| (name.as_str(), arm)).collect()
    }

    /// The case called `name`.
    pub fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|it| it.name == name)
    }
}

impl Rounds {
    fn flaw(&self) -> Option<&'static str> {
        match self {
            it if it.count_min == 0 => Some("no round at all"),
            it if it.count_max < it.count_min => Some("fewer rounds at most than at least"),
            it if 100_000 < it.count_max => Some("over 100,000 rounds"),
            it if it.sample_count == 0 => Some("no sample at all"),
            it if it.timeout_s == 0 => Some("no time at all"),
            it if !(0.0..=1.0).contains(&it.spread_max) => Some("a spread is within 0 and 1"),
            _ => None,
        }
    }
}

/// `text` with every `{word}` replaced by what `get` knows; the first unknown word is the error.
/// Braces around anything but lower-case letters, digits and `_` stay.
pub(crate) fn filled(
    text: &str,
    get: &dyn Fn(&str) -> Option<String>,
) -> Result<String, UnknownWord> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let is_word = |it: &str| {
            !it.is_empty()
                && it.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        match after.split_once('}') {
            Some((word, behind)) if is_word(word) => {
                out.push_str(&get(word).ok_or_else(|| UnknownWord(word.to_owned()))?);
                rest = behind;
            }
            _ => {
                out.push('{');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// A word that has no value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownWord(pub(crate) String);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SMALL: &str = r#"
schema = "calor.suite/1.0"
name = "small"
about = "for tests"
[rounds]
cold_count = 1
count_min = 2
count_max = 4
spread_max = 0.5
timeout_s = 20
sample_count = 3
[arms.ours]
role = "ours"
command = ["{program}", "{size}", "{samples}"]
[arms.peer]
role = "baseline"
command = ["{program}", "{size}", "{samples}"]
[[cases]]
name = "c"
about = "a case"
size_unit = "items"
reference = "peer"
tolerance = 1e-6
points = [{ size = 1 }, { size = 10, words = { extra = "x" } }]
"#;

    #[track_caller]
    fn check(from: &str, to: &str, want: &str) {
        assert!(SMALL.contains(from), "{from}");
        let err = Suite::parse(Path::new("s.toml"), &SMALL.replace(from, to)).unwrap_err();
        assert!(err.to_string().contains(want), "{from} -> {to}: {err}");
    }

    #[test]
    fn a_suite_is_read_and_what_cannot_be_is_named() {
        let suite = Suite::parse(Path::new("s.toml"), SMALL).unwrap();
        assert_eq!(suite.arms_of(&suite.cases[0]).len(), 2);
        assert_eq!(suite.cases[0].points[1].item_count(), 10);
        check("calor.suite/1.0", "calor.suite/2.0", "calor.suite/2.0");
        check("name = \"small\"", "nam = \"small\"", "nam");
        check("reference = \"peer\"", "reference = \"nobody\"", "nobody");
        check("size = 10", "size = 1", "do not grow");
        check("size = 10", "size = 10, items = 0", "without work");
        check("tolerance = 1e-6", "tolerance = inf", "any difference");
        check("count_max = 4", "count_max = 1", "fewer rounds");
        check("sample_count = 3", "sample_count = 0", "no sample");
        check("name = \"c\"", "name = \"../c\"", "not a name");
        check("[arms.ours]", "[arms.\"o/x\"]", "not a name");
    }

    #[test]
    fn words_are_filled_and_unknown_ones_named() {
        let get = |word: &str| (word == "a").then(|| "1".to_owned());
        assert_eq!(filled("x{a}{a}y", &get).unwrap(), "x11y");
        assert_eq!(filled("{\"k\": 1} { {a}", &get).unwrap(), "{\"k\": 1} { 1");
        assert_eq!(filled("{b}", &get), Err(UnknownWord("b".into())));
    }
}
