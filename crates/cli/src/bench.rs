//! `calor bench`: scenarios and arms in this process, suites in many, and what is made of them.

mod arm;
mod evidence;
mod overhead;
mod scenario;
mod suite;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::arguments::KeepArguments;
use crate::devices::Wish;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::recording::Recording;

/// `calor bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// What to do.
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Name every scenario and arm.
    List {
        /// Answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a suite in fresh processes and keep everything, or one scenario in this process.
    #[command(after_help = "\
Examples:
  calor bench run --suite bench/suites/cpu.toml --device auto --output DIR --python PYTHON
  calor bench run embed.minilm.1x32 --checkpoint DIR --json

A run that was stopped goes on where it ended when the same command is given again.")]
    Run(Box<RunArguments>),
    /// Run two builds of the command in pairs and say whether one is slower.
    #[command(after_help = "\
Example:
  calor bench compare --base old/calor --head new/calor --suite bench/suites/pair.toml --output DIR

Exit codes: 0 not slower, 1 slower or wrong, 2 the samples do not say.")]
    Compare(CompareArguments),
    /// Draw packages: one as its report, several as a dashboard with history.
    Report(ReportArguments),
    /// Decide whether packages hold what a file of gates asks for.
    #[command(after_help = "Exit codes: 0 all hold, 1 one does not, 2 something cannot be told.")]
    Gate(GateArguments),
    /// Compute one arm in this process and answer in lines of JSON, as suites ask for it.
    Arm(ArmArguments),
    /// Say what recording costs a request: with and without it, in turn in this process.
    #[command(after_help = "\
Exit codes: 0 at most a hundredth of a request, 1 more, 2 the samples do not say.")]
    Overhead(OverheadArguments),
}

/// `calor bench run`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["name", "suite"]))]
pub(crate) struct RunArguments {
    /// Name of a scenario, as `list` gives it.
    name: Option<String>,
    /// File of a suite.
    #[arg(long, value_name = "FILE")]
    suite: Option<PathBuf>,
    #[command(flatten)]
    suite_options: SuiteArguments,
    /// Answer with the whole run as JSON.
    #[arg(long)]
    json: bool,
    /// Directory of the checkpoint that embeds.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// A small size that only shows that a scenario runs.
    #[arg(long, conflicts_with = "suite")]
    smoke: bool,
    /// Threads that compute; all cores if nothing is said.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Most tokens in one program run of a scenario.
    #[arg(long, default_value_t = 2048)]
    batch_tokens: usize,
    #[command(flatten)]
    keep: KeepArguments,
}

/// Options of suites.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Suites")]
pub(crate) struct SuiteArguments {
    /// Folder of the package; needed with a suite.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Device of our own arms: auto, cpu, cuda, cuda:N; auto is cuda where it is, else cpu.
    #[arg(long, value_name = "KIND", default_value = "auto")]
    device: String,
    /// Python with what baselines need.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// Run this case alone. May be repeated.
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Run this arm alone; the package says that others were left out. May be repeated.
    #[arg(long, value_name = "NAME")]
    arm: Vec<String>,
    /// Value of a word in the suite's commands. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = word)]
    word: Vec<(String, String)>,
    /// Commit of what is measured, where there is no repository to ask; `-dirty` behind it says
    /// that files differed.
    #[arg(long, value_name = "COMMIT")]
    revision: Option<String>,
    /// Folder that processes start in; the repository's root, so that its paths are found.
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
}

/// `calor bench compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// The command as it was.
    #[arg(long, value_name = "PROGRAM")]
    base: PathBuf,
    /// The command as it is to be.
    #[arg(long, value_name = "PROGRAM")]
    head: PathBuf,
    /// File of a suite; each case's own arm runs.
    #[arg(long, value_name = "FILE")]
    suite: PathBuf,
    /// Pairs of a batch; a change is confirmed by a second one.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pairs: u32,
    /// Decide by times alone, even where both hold the same code: for null comparisons.
    #[arg(long)]
    by_times: bool,
    /// File of gates with floors for pairs.
    #[arg(long, value_name = "FILE")]
    gates: Option<PathBuf>,
    /// Threads that compute; all cores if nothing is said.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Directory of the checkpoint that embeds.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Write the table here, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    suite_options: SuiteArguments,
}

/// `calor bench report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// Packages: folders or archives.
    #[arg(required = true)]
    packages: Vec<PathBuf>,
    /// Write the page here.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Write the package as an archive here.
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
}

/// `calor bench gate`.
#[derive(Debug, Args)]
pub(crate) struct GateArguments {
    /// Packages: folders or archives.
    #[arg(required = true)]
    packages: Vec<PathBuf>,
    /// File of gates.
    #[arg(long, value_name = "FILE", default_value = "bench/gate.toml")]
    gates: PathBuf,
    /// Write the table here, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write findings here, as JUnit's XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// `calor bench arm`.
#[derive(Debug, Args)]
pub(crate) struct ArmArguments {
    /// Name of the arm, as `list` gives it.
    name: String,
    /// How large; what it counts is the arm's.
    #[arg(long)]
    size: u64,
    /// Samples behind warming up.
    #[arg(long, default_value_t = 20)]
    samples: u32,
    /// Device: cpu, cuda or cuda:N.
    #[arg(long, value_name = "KIND", default_value = "cpu")]
    device: Wish,
    /// Threads that compute; all cores if nothing is said.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Directory of the checkpoint that embeds.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Tokens of each text.
    #[arg(long, default_value_t = 32)]
    text_tokens: usize,
    /// Most tokens in one program run.
    #[arg(long, default_value_t = 2048)]
    batch_tokens: usize,
    /// Take events into a ring while samples are taken, as a server does.
    #[arg(long)]
    record: bool,
    #[command(flatten)]
    keep: KeepArguments,
}

/// `calor bench overhead`.
#[derive(Debug, Args)]
pub(crate) struct OverheadArguments {
    /// Directory of the checkpoint that embeds; a tiny one that is made here if none is named.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Device: cpu, cuda or cuda:N.
    #[arg(long, value_name = "KIND", default_value = "cpu")]
    device: Wish,
    /// Threads that compute; one disturbs least.
    #[arg(long, default_value = "1")]
    threads: NonZeroUsize,
    /// Tokens of the text.
    #[arg(long, default_value_t = 32)]
    text_tokens: usize,
    /// Blocks of a batch: pairs that decide.
    #[arg(long, value_name = "N", default_value_t = 40)]
    blocks: usize,
    /// Seconds of a batch, about; a change is confirmed by a second one.
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u32,
    /// Seed of orders and resamples.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keep: KeepArguments,
}

fn word(text: &str) -> Result<(String, String), NotAWord> {
    let (name, value) = text.split_once('=').ok_or_else(|| NotAWord { text: text.into() })?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Something that gives no word a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not NAME=VALUE")]
pub(crate) struct NotAWord {
    text: String,
}

/// Runs `calor bench`.
pub(crate) fn run(
    arguments: &BenchArguments,
    environment: &Environment,
    recording: &Recording,
    quiet: bool,
) -> Result<Exit, Failure> {
    match &arguments.command {
        BenchCommand::List { json } => scenario::list(*json),
        BenchCommand::Run(it) => match (&it.name, &it.suite) {
            (Some(name), _) => scenario::measure(name, it, environment, recording),
            (None, Some(suite)) => suite::run(suite, it, environment, quiet),
            (None, None) => Err(Failure::usage("name a scenario, or a suite with `--suite`")),
        },
        BenchCommand::Compare(it) => suite::compare(it, environment, quiet),
        BenchCommand::Report(it) => evidence::report(it),
        BenchCommand::Gate(it) => evidence::gate(it),
        BenchCommand::Arm(it) => arm::run(it, environment, recording),
        BenchCommand::Overhead(it) => overhead::run(it, environment, recording),
    }
}
