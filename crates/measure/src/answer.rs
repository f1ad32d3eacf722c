//! What a measured process says about itself: lines of JSON on its standard output.
//!
//! A process computes a case's result once and prints a line with `"event": "first"`; when all its
//! samples are taken it prints one with `"event": "done"` that holds everything else. Lines that
//! are no JSON objects of this schema are ignored, so a library may be chatty. The same form is
//! written by `calor bench arm`, `calor-suite --arm` and the programs in `bench/baselines/`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

/// Name and version that every line carries.
pub const ARM_SCHEMA: &str = "calor.arm/1.0";
/// Most numbers of a result that travel with a sample.
pub const VALUE_COUNT_MAX: usize = 64;

/// What a process measured. Everything but times, amounts and values may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The first call, which may plan, compile and load.
    pub first_ns: u64,
    /// Every sample behind the calls that warmed up, in order.
    pub samples_ns: Vec<u64>,
    /// Calls in one sample.
    #[serde(default = "one")]
    pub runs_per_sample_count: u64,
    /// Items that one call really computed.
    pub item_count: u64,
    /// Tokens that one call really computed.
    #[serde(default)]
    pub token_count: u64,
    /// Numbers of the result: probes of it and its sum, the same for every arm of a case.
    pub values: Vec<f64>,
    /// Readings of counters at the end: name and, in braces, cache.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, i64>,
    /// Counters that it does not know, and why: its build or its machine does not count them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub uncounted: BTreeMap<String, String>,
    /// Programs and libraries by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// The device, as it names itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Most memory that was resident on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_host_bytes: Option<u64>,
    /// Most memory that was held on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_bytes: Option<u64>,
    /// Bytes that one call moves, as its plan says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_bytes: Option<u64>,
    /// Operations of one call, as its plan says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flop_count: Option<u64>,
    /// Energy of all samples, where the device counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_mj: Option<u64>,
    /// Steps of warming up with their lengths, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warmup: Vec<WarmupStep>,
    /// The process's own record of its run (`calor.run`), where it keeps one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Json>,
    /// What else it said.
    #[serde(flatten)]
    pub more: Map<String, Json>,
}

fn one() -> u64 {
    1
}

/// One step of warming up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmupStep {
    /// Which.
    pub name: String,
    /// How long.
    pub wall_ns: u64,
}

/// A line of a process.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// The first result is there.
    First,
    /// Everything is measured.
    Done(Box<Answer>),
}

/// Why a line that claims to be an answer is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Garbled(pub String);

/// Reads a line; nothing for one that is not of this schema.
///
/// # Errors
/// [`Garbled`] when it claims to be and is not.
pub fn read_line(line: &str) -> Result<Option<Line>, Garbled> {
    let Ok(Json::Object(mut map)) = serde_json::from_str::<Json>(line) else { return Ok(None) };
    let Some(Json::String(schema)) = map.remove("schema") else { return Ok(None) };
    if !schema.starts_with("calor.arm/") {
        return Ok(None);
    }
    if schema != ARM_SCHEMA {
        return Err(Garbled(format!("schema `{schema}` is not `{ARM_SCHEMA}`")));
    }
    match map.remove("event") {
        Some(Json::String(event)) if event == "first" => Ok(Some(Line::First)),
        Some(Json::String(event)) if event == "done" => {
            let answer: Answer = serde_json::from_value(Json::Object(map))
                .map_err(|err| Garbled(err.to_string()))?;
            Ok(Some(Line::Done(Box::new(answer))))
        }
        _ => Err(Garbled("`event` is neither `first` nor `done`".into())),
    }
}

/// The line that says that the first result is there.
pub fn first_line() -> String {
    json!({ "schema": ARM_SCHEMA, "event": "first" }).to_string()
}

/// The line with everything.
pub fn done_line(answer: &Answer) -> String {
    let mut map = Map::new();
    map.insert("schema".into(), ARM_SCHEMA.into());
    map.insert("event".into(), "done".into());
    if let Ok(Json::Object(rest)) = serde_json::to_value(answer) {
        map.extend(rest);
    }
    Json::Object(map).to_string()
}

/// What of a result travels: at most [`VALUE_COUNT_MAX`] numbers evenly spread over it, the first
/// being its mean and the second the root of its mean square.
pub fn probes(result: &[f64]) -> Vec<f64> {
    if result.is_empty() {
        return Vec::new();
    }
    let len = result.len() as f64;
    let mean = result.iter().sum::<f64>() / len;
    let square = (result.iter().map(|it| it * it).sum::<f64>() / len).sqrt();
    let count = result.len().min(VALUE_COUNT_MAX - 2);
    let spread = (0..count).map(|at| result[at * result.len() / count]);
    [mean, square].into_iter().chain(spread).collect()
}

/// The largest difference between two results, each by what it is of its own limit: above 1 is
/// too much. Infinite where their numbers differ in count or one is no number.
pub fn difference(got: &[f64], want: &[f64], tolerance: f64) -> f64 {
    if got.len() != want.len() || got.is_empty() {
        return f64::INFINITY;
    }
    let of = |(a, b): (&f64, &f64)| {
        let part = (a - b).abs() / (tolerance * b.abs().max(1.0));
        if part.is_finite() { part } else { f64::INFINITY }
    };
    got.iter().zip(want).map(of).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        let mut more = Map::new();
        more.insert("mood".into(), "good".into());
        let samples_ns = vec![5, 4];
        let values = vec![0.5];
        Answer { first_ns: 9, samples_ns, item_count: 2, values, more, ..Answer::default() }
    }

    #[test]
    fn an_answer_reads_back_with_what_nobody_knows() {
        let line = done_line(&Answer { runs_per_sample_count: 1, ..answer() });
        let Some(Line::Done(got)) = read_line(&line).unwrap() else { panic!("{line}") };
        assert_eq!(*got, Answer { runs_per_sample_count: 1, ..answer() });
        assert_eq!(read_line(&first_line()).unwrap(), Some(Line::First));
    }

    #[test]
    fn chatter_is_ignored_and_lies_are_not() {
        for chatter in ["", "loading…", "[1]", "{}", r#"{"schema":"other/1"}"#, "{"] {
            assert_eq!(read_line(chatter), Ok(None), "{chatter}");
        }
        for lie in [
            r#"{"schema":"calor.arm/9.0","event":"done"}"#,
            r#"{"schema":"calor.arm/1.0","event":"tea"}"#,
            r#"{"schema":"calor.arm/1.0","event":"done","first_ns":-1}"#,
        ] {
            assert!(read_line(lie).is_err(), "{lie}");
        }
    }

    #[test]
    fn results_are_compared_by_size_and_count() {
        assert!(difference(&[1.0, 2.0], &[1.0, 2.0], 1e-6) <= 1.0);
        assert!(difference(&[1000.1], &[1000.0], 1e-3) <= 1.0);
        assert!(1.0 < difference(&[1.1], &[1.0], 1e-3));
        for wrong in [&[][..], &[1.0, 1.0], &[f64::NAN]] {
            assert_eq!(difference(wrong, &[1.0], 1.0), f64::INFINITY);
        }
    }

    #[test]
    fn probes_are_few_and_see_everything() {
        let mut result: Vec<f64> = (0..1000).map(f64::from).collect();
        let before = probes(&result);
        assert_eq!(before.len(), VALUE_COUNT_MAX);
        result[501] += 1.0;
        assert_ne!(before, probes(&result));
        assert!(probes(&[]).is_empty());
    }
}
