//! `calor bench run NAME`: one scenario in this process, one JSON document.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use calor_bench::{ARMS, BenchError, Child, Context, Revision, Run, SCENARIOS, Size};
use calor_telemetry::{Counters, Null};

use super::RunArguments;
use crate::answer;
use crate::cache::open_store;
use crate::devices;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::recording::Recording;
use crate::version::REVISION;

fn row(kind: &str, name: &str, about: &str) -> serde_json::Value {
    serde_json::json!({ "kind": kind, "name": name, "about": about })
}

pub(super) fn list(json: bool) -> Result<Exit, Failure> {
    if json {
        let scenarios = SCENARIOS.iter().map(|it| row("scenario", it.name, it.about));
        let arms = ARMS.iter().map(|it| row("arm", it.name, it.about));
        answer::line(scenarios.chain(arms).collect::<serde_json::Value>())?;
        return Ok(Exit::Done);
    }
    answer::line("Scenarios, for `calor bench run NAME`:")?;
    for scenario in SCENARIOS {
        answer::line(format_args!("  {:<22} {}", scenario.name, scenario.about))?;
    }
    answer::line("Arms, for suites and `calor bench arm NAME`:")?;
    for arm in ARMS {
        answer::line(format_args!("  {:<22} {}", arm.name, arm.about))?;
    }
    Ok(Exit::Done)
}

pub(super) fn measure(
    name: &str,
    arguments: &RunArguments,
    environment: &Environment,
    recording: &Recording,
) -> Result<Exit, Failure> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let thread_count = arguments.threads.unwrap_or(cores);
    let driver = devices::cpu_driver(thread_count);
    let scratch = tempfile::tempdir()
        .map_err(|err| Failure::new(Exit::Environment, "no temporary folder").why(err))?;
    let child = first_vector(arguments, scratch.path())?;
    let (commit, dirty) = match REVISION.strip_suffix("-dirty") {
        Some(commit) => (Some(commit.to_owned()), Some(true)),
        None if REVISION.is_empty() || REVISION == "unknown" => (None, None),
        None => (Some(REVISION.to_owned()), Some(false)),
    };
    let counters = Arc::new(Counters::new());
    let artifacts = open_store(&arguments.keep, environment, counters, Arc::new(Null))?;
    let context = Context {
        driver: &driver,
        artifacts,
        size: if arguments.smoke { Size::Smoke } else { Size::Full },
        checkpoint: arguments.checkpoint.as_deref(),
        child: child.as_ref(),
        scratch: scratch.path(),
        batch_tokens_max: arguments.batch_tokens,
        thread_count,
        revision: Revision { commit, dirty },
        recorder: recording.recorder(),
    };
    let run = calor_bench::run(name, &context).map_err(failure)?;
    report(&run, arguments.json)
}

/// What a fresh process is asked to do: one text through the checkpoint, or through the twelve
/// models of the default profile where none is named.
fn first_vector(arguments: &RunArguments, scratch: &Path) -> Result<Option<Child>, Failure> {
    let program = std::env::current_exe()
        .map_err(|err| Failure::new(Exit::Environment, "this program is not found").why(err))?;
    let mut given = ["embed", "a text", "--quiet", "--json"].map(str::to_owned).to_vec();
    match &arguments.checkpoint {
        Some(dir) => given.extend(["--checkpoint".to_owned(), dir.display().to_string()]),
        // Two processes see another time, and the temporal model would too.
        None => given.extend(["--now", "0", "--reference-time", "0"].map(str::to_owned)),
    }
    let keep = &arguments.keep;
    let paths = keep.cache_dir.iter().map(|it| ("--cache-dir", it));
    for (flag, path) in paths.chain(keep.cache_layer.iter().map(|it| ("--cache-layer", it))) {
        given.extend([flag.to_owned(), path.display().to_string()]);
    }
    given.extend(["--cache-size".to_owned(), keep.cache_size.to_string()]);
    let report = scratch.join("first-vector.json");
    given.extend(["--report".to_owned(), report.display().to_string()]);
    Ok(Some(Child { program, arguments: given, report: Some(report) }))
}

fn report(run: &Run, json: bool) -> Result<Exit, Failure> {
    if json {
        answer::line(run.to_json())?;
        return Ok(Exit::Done);
    }
    let document = run.to_json();
    let pretty = serde_json::to_string_pretty(&document).map_err(Failure::internal)?;
    answer::line(pretty)?;
    Ok(Exit::Done)
}

pub(super) fn failure(err: BenchError) -> Failure {
    let exit = match err {
        BenchError::Unknown { .. } | BenchError::Needs { .. } => Exit::Usage,
        _ => Exit::Environment,
    };
    Failure::new(exit, err.to_string()).hint("`calor bench list` names every scenario")
}
