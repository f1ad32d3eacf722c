//! The command line: every command, flag and word of help.

mod cache;
mod embed;
mod load;
mod models;
mod serve;
mod telemetry;
mod warmup;

use std::{collections::BTreeSet, ffi::OsString, num::NonZeroUsize, path::PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use cache::{CacheArguments, CacheCommand, KeepArguments};
pub(crate) use embed::{
    CheckpointArguments, EmbedArguments, FormatWord, InputArguments, PoolWord, PrecisionWord,
    RunArguments, SearchArguments, SearchBy, TooLong, VectorWord,
};
pub(crate) use models::{
    DtypeWord, ModelsArguments, ModelsCommand, PullArguments, SourceWord, SynthArguments, SynthWord,
};
pub(crate) use telemetry::{
    AccelInfoArguments, AnswerFormat, NamesWord, SchemaWord, TelemetryArguments, TelemetryCommand,
    TelemetryCommands,
};

pub(crate) use load::LoadArguments;
pub(crate) use serve::{PlacementWord, ServeArguments};
pub(crate) use warmup::WarmupArguments;

use crate::exit::{Exit, Failure};
use crate::settings;

/// Twelve embeddings of a text and their fusion, fast from the first request.
#[derive(Debug, Parser)]
#[command(
    name = "calor",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  calor embed \"a text\"                         twelve vectors and their fusion, as a table
  calor embed --input texts.jsonl --output out.parquet
  calor search \"heat\" --corpus texts.txt       the nearest texts
  calor doctor                                 what is there, what is missing, how to fix it

Exit codes: 0 done, 1 some items or a gate failed, 2 usage, or a gate that cannot be told,
3 input unreadable, 4 environment, 70 a bug."
)]
pub(crate) struct Arguments {
    /// Say nothing on standard error but errors.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArguments,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Embed texts, code and images.
    Embed(Box<EmbedArguments>),
    /// Find the texts of a corpus that are nearest to a query.
    Search(Box<SearchArguments>),
    /// Get, list, check and remove models.
    Models(ModelsArguments),
    /// Look after compiled code that is kept between runs.
    Cache(CacheArguments),
    /// Show what would run.
    Plan(PlanArguments),
    /// Answer over HTTP and gRPC, once everything is warm.
    Serve(Box<ServeArguments>),
    /// Make load on a running server, and show latency over throughput.
    Load(LoadArguments),
    /// Do what is slow the first time, keep it, and report.
    Warmup(Box<WarmupArguments>),
    /// Measure: scenarios, suites in pairs with others, reports and gates.
    Bench(crate::bench::BenchArguments),
    /// Say what the last run, a running process or a server counted.
    AccelInfo(AccelInfoArguments),
    /// Read what earlier versions wrote, and print schemas.
    Telemetry(TelemetryCommands),
    /// Say what is there, what is missing and how to fix it.
    Doctor(AnswerArguments),
    /// Say which build this is.
    Version(AnswerArguments),
    /// Print completions for a shell.
    Completions(CompletionsArguments),
}

impl Command {
    /// Its name on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Embed(_) => "embed",
            Self::Search(_) => "search",
            Self::Models(_) => "models",
            Self::Cache(_) => "cache",
            Self::Plan(_) => "plan",
            Self::Serve(_) => "serve",
            Self::Load(_) => "load",
            Self::Warmup(_) => "warmup",
            Self::Bench(_) => "bench",
            Self::AccelInfo(_) => "accel-info",
            Self::Telemetry(_) => "telemetry",
            Self::Doctor(_) => "doctor",
            Self::Version(_) => "version",
            Self::Completions(_) => "completions",
        }
    }

    /// Whether `calor accel-info` tells of its last run.
    pub(crate) fn leaves_a_summary(&self) -> bool {
        matches!(self, Self::Embed(_) | Self::Search(_) | Self::Warmup(_))
    }

    /// Whether it runs programs whose steps can be timed.
    pub(crate) fn runs_programs(&self) -> bool {
        matches!(self, Self::Embed(_) | Self::Search(_) | Self::Warmup(_) | Self::Serve(_))
    }
}

/// How the answer looks.
#[derive(Debug, Args)]
pub(crate) struct AnswerArguments {
    /// Answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `calor completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

/// `calor plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: PlanCommand,
}

/// Commands on plans.
#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// Print the plan of a checkpoint, of a model of a profile or of a graph.
    #[command(after_help = "\
Examples:
  calor plan show --checkpoint DIR --tokens 64
  calor plan show --model all-MiniLM-L6-v2 --kernels
  calor plan show --graph graph.txt")]
    Show(PlanShowArguments),
}

/// `calor plan show`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("subject").required(true))]
pub(crate) struct PlanShowArguments {
    /// A checkpoint's folder.
    #[arg(long, value_name = "DIR", group = "subject")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// A model of the store, by its name in `calor models list`.
    #[arg(long, value_name = "NAME", group = "subject")]
    pub(crate) model: Option<String>,
    /// A graph in the text form.
    #[arg(long, value_name = "FILE", group = "subject")]
    pub(crate) graph: Option<PathBuf>,
    /// Tokens of the bucket, rounded up to one that there is.
    #[arg(long, value_name = "T", default_value_t = 128)]
    pub(crate) tokens: usize,
    /// Sequences of the bucket; what belongs to the tokens if not given.
    #[arg(long, value_name = "N")]
    pub(crate) sequences: Option<usize>,
    /// Print the loop programs too.
    #[arg(long)]
    pub(crate) kernels: bool,
    /// Device to plan for.
    #[arg(long, value_name = "KIND", default_value = "cpu")]
    pub(crate) device: String,
    /// Threads to plan for; all processors if not given.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) keep: KeepArguments,
}

/// A command line that was understood.
pub(crate) struct Parsed {
    /// What was asked for.
    pub(crate) arguments: Arguments,
    /// The settings of a server as text, where they were asked for.
    pub(crate) settings: Option<String>,
    /// What every flag comes to, without secrets and without what is embedded.
    pub(crate) options: serde_json::Value,
}

/// Understands a command line, the environment's twins of its flags, and a file of settings.
///
/// # Errors
/// What clap says of the line, and what is wrong with the file.
pub(crate) fn parse(line: &[OsString]) -> Result<Result<Parsed, clap::Error>, Failure> {
    let command = settings::with_environment(Arguments::command());
    let matches = match command.clone().try_get_matches_from(line) {
        Ok(it) => it,
        Err(err) => return Ok(Err(err)),
    };
    let (matches, from_file) = match settings::with_file(&command, &matches, line)? {
        None => (matches, BTreeSet::new()),
        Some(settings::Filled { line, from_file }) => {
            match command.clone().try_get_matches_from(line) {
                Ok(it) => (it, from_file),
                Err(err) => return Ok(Err(err)),
            }
        }
    };
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(it) => it,
        Err(err) => return Ok(Err(err)),
    };
    let shown = match (&arguments.command, matches.subcommand()) {
        (Command::Serve(it), Some((_, of_serve))) if it.print_config => {
            Some(settings::print(&command, of_serve, &from_file))
        }
        _ => None,
    };
    let options = settings::told(&command, &matches);
    Ok(Ok(Parsed { arguments, settings: shown, options }))
}

/// Prints the completions of a shell.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn print_completions(arguments: &CompletionsArguments) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "calor", &mut script);
    crate::answer::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[track_caller]
    fn check(line: &str, want: Result<(), &str>) {
        let found = Arguments::try_parse_from(line.split(' '));
        match (found, want) {
            (Ok(_), Ok(())) => {}
            (Err(err), Err(want)) => {
                let text = err.to_string();
                assert!(text.contains(want), "for `{line}`: {text}");
            }
            (found, want) => panic!("for `{line}`: wanted {want:?}, got {found:?}"),
        }
    }

    #[test]
    fn what_fits_is_taken_and_what_does_not_is_named() {
        check("calor embed text", Ok(()));
        check("calor embed --input a.txt --input b.csv --column body", Ok(()));
        check("calor embed --checkpoint d --pool splade --normalize false x", Ok(()));
        check("calor embed --models e1,e12 --allow-partial x", Ok(()));
        check("calor search q --corpus c.jsonl --by e12 --top 3", Ok(()));
        check("calor models synth --profile tiny --seed 1 d", Ok(()));
        check("calor plan show --graph g.txt --kernels", Ok(()));
        check("calor cache list --json --cache-dir d", Ok(()));
        check("calor cache export f --key 0a --key 1b", Ok(()));
        check("calor cache export f --key 0a --target sm_90", Err("cannot be used with"));
        check("calor embed --cache-dir d --cache-layer b --cache-size 0 x", Ok(()));
        check("calor warmup --batch-sizes 1,8 --samples 2 --json --profile random", Ok(()));
        check("calor serve --port 1 --tls-cert a", Err("--tls-key"));
        check("calor serve --default-model e13", Err("e13"));
        check("calor plan show", Err("required arguments were not provided"));
        check("calor plan show --graph g --checkpoint d", Err("cannot be used with"));
        check("calor embed --pool mean x", Err("--checkpoint"));
        check("calor embed --checkpoint d --models e1 x", Err("cannot be used with"));
        check("calor embed --profil mini x", Err("--profile"));
        check("calor embed --pool middle --checkpoint d x", Err("possible values"));
        check("calor embed --device cuda:1,cpu --precision bf16 x", Ok(()));
        check("calor embed --device cuda:x x", Err("cuda:0"));
        check("calor embed --precision int8 --check-precision x", Ok(()));
        check("calor embed --precision int4 x", Err("possible values"));
        check("calor accel-info --format json --reset", Ok(()));
        check("calor accel-info --socket s --url u", Err("cannot be used with"));
        check("calor embed x --telemetry t.json --telemetry-names legacy", Ok(()));
        check("calor embed x --no-telemetry --trace t.json", Err("cannot be used with"));
        check("calor bench run --suite s.toml --output d", Ok(()));
        check("calor bench run", Err("required arguments were not provided"));
        check("calor telemetry migrate f", Ok(()));
        check("calor embd", Err("embed"));
        check("calor search q --corpus c --by e13", Err("e13"));
    }
}
