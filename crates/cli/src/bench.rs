//! `calor bench`: scenarios by name, one JSON document for each run.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calor_bench::{BenchError, Child, Context, Revision, Run, SCENARIOS, Size};
use calor_telemetry::{Counters, Null};
use clap::{Args, Subcommand};

use crate::answer;
use crate::arguments::KeepArguments;
use crate::cache::open_store;
use crate::devices;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::version::REVISION;

/// `calor bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// What to do.
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Name every scenario.
    List {
        /// Answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run one scenario and say what was measured.
    Run(RunArguments),
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Name of the scenario, as `list` gives it.
    name: String,
    /// Answer with the whole run as JSON: device, revision, options, raw samples, digest.
    #[arg(long)]
    json: bool,
    /// Directory of the checkpoint that embeds.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// A small size that only shows that it runs.
    #[arg(long)]
    smoke: bool,
    /// Threads that compute; all cores if nothing is said.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Most tokens in one program run.
    #[arg(long, default_value_t = 2048)]
    batch_tokens: usize,
    #[command(flatten)]
    keep: KeepArguments,
}

/// Runs `calor bench`.
pub(crate) fn run(arguments: &BenchArguments, environment: &Environment) -> Result<Exit, Failure> {
    match &arguments.command {
        BenchCommand::List { json } => list(*json),
        BenchCommand::Run(arguments) => measure(arguments, environment),
    }
}

fn list(json: bool) -> Result<Exit, Failure> {
    if json {
        let rows: Vec<_> = SCENARIOS
            .iter()
            .map(|it| serde_json::json!({ "name": it.name, "about": it.about }))
            .collect();
        answer::line(serde_json::Value::from(rows))?;
        return Ok(Exit::Done);
    }
    for scenario in SCENARIOS {
        answer::line(format_args!("{:<24} {}", scenario.name, scenario.about))?;
    }
    Ok(Exit::Done)
}

fn measure(arguments: &RunArguments, environment: &Environment) -> Result<Exit, Failure> {
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
    };
    let run = calor_bench::run(&arguments.name, &context).map_err(failure)?;
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

fn failure(err: BenchError) -> Failure {
    let exit = match err {
        BenchError::Unknown { .. } | BenchError::Needs { .. } => Exit::Usage,
        _ => Exit::Environment,
    };
    Failure::new(exit, err.to_string()).hint("`calor bench list` names every scenario")
}
