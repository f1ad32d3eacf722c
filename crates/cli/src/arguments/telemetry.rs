//! Flags of telemetry, which every command has, and of the commands about it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Flags that want something kept.
const TOLD: [&str; 4] = ["telemetry", "trace", "telemetry_socket", "telemetry_kernels"];

/// What is kept of a run. Nothing leaves the machine.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Telemetry")]
pub(crate) struct TelemetryArguments {
    /// Write what happened here: a document for .json, else every event as a line and the document
    /// behind them. A server writes the last events of each thread when it ends.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) telemetry: Option<PathBuf>,
    /// Write a timeline here that ui.perfetto.dev opens.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) trace: Option<PathBuf>,
    /// Time every step of every program of `embed`, `search`, `warmup` and `serve`, and keep each
    /// as an event. Programs then run step by step, and a GPU captures nothing: that is slower.
    #[arg(long, global = true)]
    pub(crate) telemetry_kernels: bool,
    /// Names in documents: ours, or those of earlier specifications beside them.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "current", global = true)]
    pub(crate) telemetry_names: NamesWord,
    /// Answer `calor accel-info --socket PATH` there while the command runs.
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) telemetry_socket: Option<PathBuf>,
    /// Keep nothing of the run, and leave no summary in the store.
    #[arg(long, global = true, conflicts_with_all = TOLD)]
    pub(crate) no_telemetry: bool,
}

impl TelemetryArguments {
    /// Whether a file was asked for.
    pub(crate) fn names_a_file(&self) -> bool {
        self.telemetry.is_some() || self.trace.is_some()
    }
}

/// Names in documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NamesWord {
    /// Ours.
    Current,
    /// Those of earlier specifications beside ours.
    Legacy,
}

/// `calor accel-info`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calor accel-info                                  the last run that left a summary
  calor accel-info --format json --reset            the same, and forget it
  calor accel-info --socket run.sock                a process that runs with --telemetry-socket
  calor accel-info --url http://127.0.0.1:8080      a server")]
pub(crate) struct AccelInfoArguments {
    /// How the answer looks.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: AnswerFormat,
    /// The same as `--format json`.
    #[arg(long)]
    pub(crate) json: bool,
    /// Start anew: the next answer is about what happens from here on.
    #[arg(long)]
    pub(crate) reset: bool,
    /// Ask the process that listens there.
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub(crate) socket: Option<PathBuf>,
    /// Ask the server there.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
}

/// How an answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnswerFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `calor telemetry`.
#[derive(Debug, Args)]
pub(crate) struct TelemetryCommands {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: TelemetryCommand,
}

/// Commands on telemetry.
#[derive(Debug, Subcommand)]
pub(crate) enum TelemetryCommand {
    /// Bring a document or a file of lines up to the newest version.
    Migrate {
        /// The file, of any earlier version.
        file: PathBuf,
        /// Write it here; standard output if not given.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make a timeline that ui.perfetto.dev opens of lines that `--telemetry` wrote.
    Trace {
        /// The file of lines.
        file: PathBuf,
        /// Write it here.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Print a schema, as JSON Schema.
    Schema {
        /// Of what.
        #[arg(value_enum, default_value = "run")]
        of: SchemaWord,
    },
}

/// What a schema is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaWord {
    /// The document of a run.
    Run,
    /// A line of events.
    Lines,
}
