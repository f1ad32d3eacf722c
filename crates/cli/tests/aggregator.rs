//! Ten thousand processes in one package, read, checked, summed up and drawn by the command itself:
//! how long that takes and how much memory it needs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::path::Path;
use std::process::{Command, Stdio};

use calor_measure::answer::{Line, read_line};
use calor_measure::package::{ENVIRONMENT_FILE, RUN_FILE, RUN_SCHEMA, SUITE_FILE, sample_file};
use calor_measure::record::{Outcome, Phase, Sample};
use calor_telemetry::Stopwatch;
use serde_json::{Map, Value as Json, json};

/// What is promised.
const PROCESS_COUNT: usize = 10_000;
const SECONDS_MAX: u64 = 10;
const PEAK_BYTES_MAX: u64 = 500 << 20;

const CASES: [&str; 4] = ["a", "b", "c", "d"];
const SIZES: [u64; 5] = [1, 4, 16, 64, 256];
const ARMS: [&str; 5] = ["ours", "numpy", "eager", "compiled", "again"];
const ROUNDS: u32 = 100;
const _: () = assert!(CASES.len() * SIZES.len() * ARMS.len() * ROUNDS as usize == PROCESS_COUNT);

fn calor(folder: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calor"));
    command.args(line).current_dir(folder).env("CALOR_HOME", folder.join("home"));
    command.stdin(Stdio::null());
    command
}

/// The suite that would have given these samples.
fn suite() -> String {
    let mut text = "schema = \"calor.suite/1.0\"\nname = \"many\"\nabout = \"many processes\"\n\
                    [rounds]\ncount_min = 100\ncount_max = 100\nspread_max = 1.0\n\
                    timeout_s = 60\nsample_count = 20\n"
        .to_owned();
    for arm in ARMS {
        let role = match arm {
            "ours" => "ours",
            "again" => "control",
            _ => "baseline",
        };
        text.push_str(&format!("[arms.{arm}]\nrole = \"{role}\"\ncommand = [\"true\"]\n"));
    }
    let points: Vec<String> = SIZES.iter().map(|it| format!("{{ size = {it} }}")).collect();
    for case in CASES {
        text.push_str(&format!(
            "[[cases]]\nname = \"{case}\"\nabout = \"a case\"\nsize_unit = \"items\"\n\
             reference = \"numpy\"\ntolerance = 1e-4\npoints = [{}]\n",
            points.join(", "),
        ));
    }
    text
}

/// What processes really say, with other times: one line of an arm, its counters and the document
/// of its run in it, as a run keeps it ten thousand times.
fn samples(folder: &Path) {
    let line =
        ["bench", "arm", "pooling.mean", "--size", "64", "--samples", "20", "--threads", "1"];
    let out = calor(folder, &line).stderr(Stdio::inherit()).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let mut answers = said.lines().filter_map(|it| match read_line(it).unwrap() {
        Some(Line::Done(it)) => Some(*it),
        Some(Line::First) | None => None,
    });
    let answer = answers.next_back().unwrap();
    assert!(20 < answer.counters.len() && answer.telemetry.is_some(), "{said}");
    let state = json!({ "load": 0.5, "runnable": "1/100", "steal_ticks": 7 });
    let mut place = 0_u64;
    for case in CASES {
        let mut text = String::new();
        for round in 0..ROUNDS {
            for (size, (at, arm)) in
                SIZES.into_iter().flat_map(|size| (1..).zip(ARMS).map(move |arm| (size, arm)))
            {
                place += 1;
                let noise = place.wrapping_mul(2_654_435_761) >> 7 & 0xffff;
                let ns = 1_000_000 * size * at + noise;
                let mut answer = answer.clone();
                answer.samples_ns = (0..20).map(|it| ns + it * noise % 977).collect();
                (answer.item_count, answer.runs_per_sample_count) = (size, 1);
                let sample = Sample {
                    schema: Sample::schema(),
                    case: case.into(),
                    size,
                    arm: arm.into(),
                    phase: Phase::Warm,
                    batch_index: 0,
                    round_index: round,
                    order_index: at as u32,
                    at_s: 1_700_000_000 + place,
                    outcome: Outcome::Ok,
                    why: None,
                    process_ns: 30 * ns,
                    to_first_ns: Some(5 * ns),
                    answer: Some(answer),
                    more: Map::from_iter([
                        ("before".to_owned(), state.clone()),
                        ("after".to_owned(), state.clone()),
                    ]),
                };
                text.push_str(&serde_json::to_string(&sample).unwrap());
                text.push('\n');
            }
        }
        let path = folder.join("p").join(sample_file(case));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// Runs the command, and says how much memory it had at most, by its own document.
fn timed(folder: &Path, line: &[&str]) -> u64 {
    let line = [line, &["--telemetry", "t.json"]].concat();
    let watch = Stopwatch::start();
    let status = calor(folder, &line).stdout(Stdio::null()).status().unwrap();
    let seconds = watch.elapsed_ns() as f64 / 1e9;
    assert!(status.success(), "{line:?}: {status}");
    let document: Json =
        serde_json::from_slice(&std::fs::read(folder.join("t.json")).unwrap()).unwrap();
    let peak_bytes = document["memory"]["peak_host_bytes"].as_u64().unwrap();
    assert!(seconds < SECONDS_MAX as f64, "{line:?} took {seconds:.2} s");
    peak_bytes
}

#[test]
fn ten_thousand_processes_take_ten_seconds_and_500_megabytes() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    samples(folder);
    let package = folder.join("p");
    std::fs::write(package.join(SUITE_FILE), suite()).unwrap();
    let run = json!({
        "schema": RUN_SCHEMA,
        "suite": "many",
        "suite_blake3": blake3::hash(suite().as_bytes()).to_hex().as_str(),
        "kind": "suite",
        "revision": { "commit": "0123456789ab", "dirty": false },
        "started_s": 1,
    });
    std::fs::write(package.join(RUN_FILE), run.to_string()).unwrap();
    let environment = json!({ "host": {}, "gpus": [], "fingerprint": {} });
    std::fs::write(package.join(ENVIRONMENT_FILE), environment.to_string()).unwrap();
    let sealed = calor_measure::package::seal(&package).unwrap();
    assert_eq!(sealed.samples.len(), PROCESS_COUNT);
    assert_eq!(sealed.summary.cases.len(), CASES.len());
    drop(sealed);
    // Everything is read, checked against its digest, summed up anew, compared and drawn.
    let peak_bytes = timed(folder, &["bench", "report", "p", "--output", "r.html"]);
    if cfg!(target_os = "linux") {
        assert!(0 < peak_bytes && peak_bytes < PEAK_BYTES_MAX, "{peak_bytes} bytes");
    }
}
