//! `calor bench arm`: one arm, computed here, answered in lines of JSON.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;

use calor_bench::{ArmContext, arm_by_name, run_arm};
use calor_measure::answer::{done_line, first_line};
use calor_telemetry::{Null, Recorder};

use super::{ArmArguments, scenario};
use crate::answer;
use crate::cache::open_store;
use crate::devices;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::recording::Recording;
use crate::version::VERSION;

pub(super) fn run(
    arguments: &ArmArguments,
    environment: &Environment,
    recording: &Recording,
) -> Result<Exit, Failure> {
    let row = arm_by_name(&arguments.name).ok_or_else(|| {
        Failure::usage(format!("no arm is called `{}`", arguments.name))
            .hint("`calor bench list` names every arm")
    })?;
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let thread_count = arguments.threads.unwrap_or(cores);
    let counters = recording.counters.clone();
    // Samples are taken without a recorder, unless it is what is measured.
    let recorder: Arc<dyn Recorder> = match arguments.record {
        true => recording.recorder(),
        false => Arc::new(Null),
    };
    let start = counters.snapshot();
    let artifacts = open_store(&arguments.keep, environment, counters.clone(), recorder.clone())?;
    let device = devices::open(&arguments.device, thread_count.get(), None, environment, None)?;
    let context = ArmContext {
        device,
        artifacts,
        counters,
        recorder,
        size: arguments.size,
        sample_count: arguments.samples,
        checkpoint: arguments.checkpoint.clone(),
        text_tokens: arguments.text_tokens,
        batch_tokens_max: arguments.batch_tokens,
        thread_count,
    };
    let mut told = Ok(());
    let mut tell = || {
        told = answer::line(first_line());
        // The harness's clock stops at this line, so it may not wait for the next one.
        let _ = std::io::stdout().flush();
    };
    let mut answer = run_arm(row, context, &mut tell).map_err(scenario::failure)?;
    told?;
    answer.versions.insert("calor".into(), VERSION.into());
    answer.versions.insert("threads".into(), thread_count.to_string());
    let view = recording.view();
    answer.telemetry = Some(view.document(&start, 0));
    answer::line(done_line(&answer))?;
    Ok(Exit::Done)
}
