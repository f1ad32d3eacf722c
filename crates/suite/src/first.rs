//! First calls of fresh processes against the calls that follow.

use std::error::Error;
use std::io::Write;
use std::process::Command;

use calor_device::Driver;
use serde_json::{Value as Json, json};

use crate::pipeline::{PipelineFiles, Texts, sample, words_for};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Items, tokens, and calls in one process: every program of all models, and groups in turn. Texts
/// of one size have a few tokens more or fewer, so none is as long as a program has room for.
const SIZES: [[usize; 3]; 8] = [
    [1, 26, 100],
    [1, 64, 60],
    [1, 116, 60],
    [1, 236, 50],
    [1, 480, 40],
    [4, 236, 40],
    [8, 128, 30],
    [32, 128, 30],
];

/// Calls in front of the median: it is that of the later ones.
const EARLY: usize = 20;

/// Resamples behind a bound, and the share of them below it.
const RESAMPLES: usize = 2000;
const BOUND: f64 = 0.975;

/// One process: a warm pipeline, then calls of every size. Each line of `out` has the times of one
/// size, in order.
///
/// # Errors
/// What the pipeline says.
pub fn once(driver: &dyn Driver, files: &PipelineFiles, out: &mut dyn Write) -> Outcome<()> {
    let (mut core, ready) = files.warm(driver)?;
    writeln!(out, "{ready}")?;
    core.set_own_forms(false);
    let mut texts = Texts { seed: u64::from(std::process::id()) };
    for [items, tokens, runs] in SIZES {
        let words = words_for(&core, tokens)?;
        let samples = sample(&mut core, &mut texts, [items, words, runs])?;
        let line = json!({
            "what": "first", "items": items, "tokens": tokens, "run_ns": samples.run_ns,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Starts this program `count` times with `arguments` and `--once`, and says for each size what the
/// first call took against the median of those behind the first twenty: the median over processes,
/// with the upper bound of its interval of 95 %. Every line of every process goes to `record`.
///
/// # Errors
/// When a process fails.
pub fn first_calls(
    count: usize,
    arguments: &[String],
    out: &mut dyn Write,
    record: &mut dyn Write,
) -> Outcome<()> {
    let program = std::env::current_exe()?;
    let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); SIZES.len()];
    let mut ready_ms = Vec::new();
    for process in 0..count {
        let done = Command::new(&program).args(arguments).arg("--once").output()?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            return Err(format!("process {process} failed: {}", why.trim_end()).into());
        }
        let mut size = 0;
        for line in String::from_utf8_lossy(&done.stdout).lines().filter(|it| it.starts_with('{')) {
            let mut line: Json = serde_json::from_str(line)?;
            line["process"] = json!(process);
            writeln!(record, "{line}")?;
            if line["what"] == "ready" {
                ready_ms.push(line["wall_ns"].as_u64().unwrap_or(0) as f64 / 1e6);
                continue;
            }
            let runs: Vec<u64> = serde_json::from_value(line["run_ns"].clone())?;
            let mut later: Vec<f64> = runs.iter().skip(EARLY).map(|it| *it as f64).collect();
            ratios[size].push(runs[0] as f64 / median(&mut later));
            size += 1;
        }
    }
    let ready = median(&mut ready_ms);
    writeln!(out, "{count} processes, ready in {ready:.0} ms in the middle")?;
    writeln!(out, "items x tokens   first / median   bound   greatest")?;
    for ([items, tokens, _], ratios) in SIZES.iter().zip(&mut ratios) {
        let bound = upper_bound(ratios);
        let middle = median(ratios);
        let most = ratios.last().copied().unwrap_or(f64::NAN);
        writeln!(out, "{items:>5} x {tokens:<6} {middle:>16.3} {bound:>7.3} {most:>10.3}")?;
    }
    Ok(())
}

/// The middle; the values are in order then.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The upper end of the bootstrap interval of a median.
fn upper_bound(values: &[f64]) -> f64 {
    let mut texts = Texts { seed: 9 };
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let draw = |_| values[(texts.number() % values.len().max(1) as u64) as usize];
            median(&mut (0..values.len()).map(draw).collect::<Vec<f64>>())
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    medians[(BOUND * RESAMPLES as f64) as usize]
}

#[test]
fn a_bound_is_above_the_middle() {
    let mut values: Vec<f64> = (0..20).map(|it| 1.0 + f64::from(it) / 100.0).collect();
    let bound = upper_bound(&values);
    assert!(median(&mut values) <= bound && bound <= 1.2, "{bound}");
    assert_eq!(upper_bound(&[1.5; 20]), 1.5);
}
