//! From starting a process to its first vector: opening, planning, loading, one run. The part of
//! it that loads weights stands beside it, where the process reports it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use calor_kernel::Digest;
use calor_telemetry::Stopwatch;
use serde_json::Value;

use crate::error::BenchError;
use crate::measure::{Measure, Unit};
use crate::scenario::{Child, Context, Measured};

const NAME: &str = "start.first_vector";
const WEIGHTS: &str = "start.first_vector.weights";

pub(super) fn measure(context: &Context<'_>) -> Result<Measured, BenchError> {
    let what = "the command of a process that prints a vector";
    let child = context.child.ok_or(BenchError::Needs { scenario: NAME, what })?;
    let (mut samples, mut weights_ns, mut weights_bytes) = (Vec::new(), Vec::new(), None);
    let mut digest = None;
    for sample_index in 0..context.size.pick(2, 15) {
        let (ns, line) = start(child)?;
        context.sampled(NAME, sample_index, [1, 0], ns);
        samples.push(ns);
        let got = Digest::of(vectors(&line).to_string().as_bytes());
        if *digest.get_or_insert(got) != got {
            let what = "two processes gave different vectors";
            return Err(BenchError::Wrong { scenario: NAME.into(), what });
        }
        if let Some((bytes, ns)) = child.report.as_deref().and_then(weights) {
            weights_bytes = Some(bytes);
            weights_ns.push(ns);
        }
    }
    let measure = Measure {
        name: NAME.into(),
        unit: Unit::Ns,
        // The first process finds a cold page cache, if any does.
        first: samples.first().copied(),
        samples,
        runs_per_sample_count: 1,
        item_count: 1,
        token_count: 0,
        moved_bytes: None,
        flops: None,
        digest: digest.unwrap_or(Digest([0; 32])),
    };
    let weights = Measure {
        name: WEIGHTS.into(),
        first: weights_ns.first().copied(),
        samples: weights_ns,
        moved_bytes: weights_bytes,
        ..measure.clone()
    };
    let measures = [measure, weights].into_iter().filter(|it| !it.samples.is_empty());
    Ok(measures.collect::<Vec<_>>().into())
}

/// Bytes of weights that the process read, and how long all of them took.
fn weights(report: &Path) -> Option<(u64, u64)> {
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).ok()?).ok()?;
    let of = |name: &str| report["weights"][name].as_u64();
    Some((of("read_bytes")?, of("wall_ns")?))
}

/// Nanoseconds to the first line that is a JSON object or array, and that line.
fn start(child: &Child) -> Result<(u64, String), BenchError> {
    let fault = |what| BenchError::Child { program: child.program.clone(), what };
    let watch = Stopwatch::start();
    let mut process = Command::new(&child.program)
        .args(&child.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(BenchError::io("start the process"))?;
    let mut found = None;
    if let Some(out) = process.stdout.take() {
        // Read to the end, so that the process never waits for its reader.
        for line in BufReader::new(out).lines() {
            let line = line.map_err(BenchError::io("read the process"))?;
            if found.is_none() && is_answer(&line) {
                found = Some((watch.elapsed_ns(), line));
            }
        }
    }
    let status = process.wait().map_err(BenchError::io("wait for the process"))?;
    if !status.success() {
        return Err(fault("ended with a failure"));
    }
    found.ok_or_else(|| fault("printed no vector"))
}

/// The lists of numbers in an answer; what else it says, such as a time, may differ.
fn vectors(line: &str) -> Value {
    let is_vector = |it: &Value| it.as_array().is_some_and(|it| it.iter().all(Value::is_number));
    match serde_json::from_str(line) {
        Ok(Value::Object(map)) => map.into_iter().filter(|(_, it)| is_vector(it)).collect(),
        Ok(value) => value,
        Err(_) => Value::Null,
    }
}

fn is_answer(line: &str) -> bool {
    match serde_json::from_str(line) {
        Ok(Value::Object(map)) => !map.is_empty(),
        Ok(Value::Array(list)) => !list.is_empty(),
        Ok(_) | Err(_) => false,
    }
}

#[test]
fn only_json_is_an_answer() {
    for (line, want) in [
        ("[0.5]", true),
        ("{\"v\":1}", true),
        ("running 1 test", false),
        ("[]", false),
        ("1", false),
    ] {
        assert_eq!(is_answer(line), want, "{line}");
    }
}

#[test]
fn the_digest_is_of_vectors_alone() {
    assert_eq!(vectors("[0.5]"), serde_json::json!([0.5]));
    let line = r#"{"fused":[1,2],"latency_us":7,"missing_models":["E1"],"model":"E1"}"#;
    assert_eq!(vectors(line), serde_json::json!({ "fused": [1, 2] }));
    assert_ne!(vectors(line), vectors(&line.replace("[1,2]", "[1,3]")));
}

#[test]
fn a_report_says_what_was_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.json");
    assert_eq!(weights(&path), None);
    for (text, want) in [
        (r#"{"weights":{"read_bytes":8,"wall_ns":2}}"#, Some((8, 2))),
        (r#"{"weights":{"read_bytes":8}}"#, None),
        ("{}", None),
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(weights(&path), want, "{text}");
    }
}
