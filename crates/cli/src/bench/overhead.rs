//! `calor bench overhead`: what recording costs a request, with and without in turn in one process.

use std::num::NonZeroUsize;
use std::sync::Arc;

use calor_bench::{ArmContext, OVERHEAD_MAX, Overhead, OverheadSizes, arm_by_name, overhead};
use calor_telemetry::Null;
use calor_weights::{Dtype, SYNTH_MODELS, SynthOptions, SynthProfile, synth};
use serde_json::json;

use super::{OverheadArguments, scenario};
use crate::answer;
use crate::cache::open_store;
use crate::devices;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::recording::Recording;

/// What computes requests.
const ARM: &str = "embed.checkpoint";
/// Written where no checkpoint is named: the shortest request is the one that recording costs most.
const SEEDED: &str = "all-MiniLM-L6-v2";

pub(super) fn run(
    arguments: &OverheadArguments,
    environment: &Environment,
    recording: &Recording,
) -> Result<Exit, Failure> {
    let row = arm_by_name(ARM).ok_or_else(|| Failure::internal("the arm is gone"))?;
    let scratch = tempfile::tempdir()
        .map_err(|err| Failure::new(Exit::Environment, "no temporary folder").why(err))?;
    let checkpoint = match &arguments.checkpoint {
        Some(dir) => dir.clone(),
        None => {
            let models: Vec<_> = SYNTH_MODELS.iter().filter(|it| it.name == SEEDED).collect();
            let profile = SynthProfile::Tiny;
            let options = SynthOptions { profile, seed: 1, dtype: Dtype::F32, models: &models };
            synth(&options, scratch.path(), &mut ())?;
            scratch.path().join(SEEDED)
        }
    };
    let counters = recording.counters.clone();
    let artifacts = open_store(&arguments.keep, environment, counters.clone(), Arc::new(Null))?;
    let device =
        devices::open(&arguments.device, arguments.threads.get(), None, environment, None)?;
    let context = ArmContext {
        device,
        artifacts,
        counters,
        recorder: Arc::new(Null),
        size: 1,
        sample_count: 0,
        checkpoint: Some(checkpoint),
        text_tokens: arguments.text_tokens,
        batch_tokens_max: 2048,
        thread_count: NonZeroUsize::MIN,
    };
    let OverheadArguments { blocks, seconds, seed, .. } = *arguments;
    let batch_ns = u64::from(seconds) * 1_000_000_000;
    let sizes = OverheadSizes { block_count: blocks, batch_ns, seed };
    let found = overhead(row, context, sizes).map_err(scenario::failure)?;
    tell(&found, arguments.json)?;
    Ok(match found.holds() {
        Some(true) => Exit::Done,
        Some(false) => Exit::Regression,
        None => Exit::Undecided,
    })
}

fn tell(found: &Overhead, json: bool) -> Result<(), Failure> {
    let percent = |part: f64| 100.0 * part;
    let [low, middle, high] = found.parts().map(percent);
    let control = [found.shown.control.low, found.shown.control.high];
    let [control_low, control_high] = control.map(|it| percent(it.exp_m1()));
    if json {
        return answer::line(json!({
            "request_ns": found.request_ns,
            "event_count": found.event_count,
            "overhead_percent": { "low": low, "middle": middle, "high": high },
            "control_percent": { "low": control_low, "high": control_high },
            "allowed_percent": percent(OVERHEAD_MAX),
            "verdict": found.verdict,
            "off_call_ns": found.off_call_ns,
            "off_percent": percent(found.off_part()),
            "holds": found.holds(),
        }));
    }
    let word = found.verdict;
    let holds = match found.holds() {
        Some(true) => "holds",
        Some(false) => "does not hold",
        None => "cannot be told",
    };
    let us = found.request_ns / 1e3;
    let percent = percent(OVERHEAD_MAX);
    answer::line(format!(
        "request     {us:.1} us without recording, {} events with it",
        found.event_count
    ))?;
    answer::line(format!("recording   {middle:+.3} % ({low:+.3} % to {high:+.3} %): {word}"))?;
    answer::line(format!(
        "control     off beside off: {control_low:+.3} % to {control_high:+.3} %"
    ))?;
    answer::line(format!(
        "off         {:.2} ns an event: {:.6} % of the request",
        found.off_call_ns,
        100.0 * found.off_part(),
    ))?;
    answer::line(format!("at most {percent} % of a request: {holds}"))
}
