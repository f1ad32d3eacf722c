//! The `calor` command as a library, so that its readers and writers can be tested and fuzzed.
//!
//! This crate alone reads the environment and the command line and names devices. Everything
//! that it learns there is passed down as values.
#![forbid(unsafe_code)]

mod accel_info;
mod answer;
mod arguments;
mod bench;
mod cache;
mod devices;
mod doctor;
mod embed;
mod environment;
mod exit;
pub mod input;
mod interrupt;
#[cfg(unix)]
mod live;
mod load;
mod models;
pub mod output;
mod plan;
mod progress;
mod recording;
mod search;
mod serve;
mod settings;
mod telemetry;
mod version;
mod warmup;

use std::{
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use arguments::{Command, TelemetryArguments};
use environment::Environment;
pub use exit::Exit;
use exit::Failure;
use recording::Recording;

/// Runs the command with the process's arguments.
pub fn main() -> ExitCode {
    interrupt::install();
    let code = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(exit)) => exit,
        Ok(Err(failure)) => {
            failure.print();
            failure.exit
        }
        Err(_) => {
            Failure::internal("a promise inside the program was broken").print();
            Exit::Internal
        }
    };
    // Whoever read the answer may have gone; there is nobody left to tell.
    let _ = std::io::stdout().flush();
    ExitCode::from(code.code())
}

fn run() -> Result<Exit, Failure> {
    let line: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let arguments::Parsed { arguments, settings, options } = match arguments::parse(&line)? {
        Ok(it) => it,
        Err(err) => {
            // Help and version are answers; clap knows which stream each belongs to.
            let _ = err.print();
            return Ok(if err.use_stderr() { Exit::Usage } else { Exit::Done });
        }
    };
    let environment = Environment::read();
    let quiet = arguments.quiet;
    let command = &arguments.command;
    if arguments.telemetry.telemetry_kernels && !command.runs_programs() {
        return Err(Failure::usage(format!("`{}` has no steps to time", command.name()))
            .hint("`--telemetry-kernels` is for embed, search, warmup and serve"));
    }
    let is_endless = matches!(command, Command::Serve(_));
    let recording = Recording::start(&arguments.telemetry, command.name(), options, is_endless);
    let _listening = listen(&arguments.telemetry, &recording)?;
    let done = match settings {
        Some(settings) => answer::line(settings.trim_end()).map(|()| Exit::Done),
        None => dispatch(command, &environment, &recording, quiet),
    };
    // What happened before a failure is worth as much.
    let keeps = command.leaves_a_summary() || arguments.telemetry.names_a_file();
    let written = if keeps { recording.finish(&environment) } else { Ok(()) };
    let exit = done?;
    written?;
    Ok(exit)
}

#[cfg(unix)]
fn listen(
    wanted: &TelemetryArguments,
    recording: &Recording,
) -> Result<Option<live::Listening>, Failure> {
    wanted.telemetry_socket.as_deref().map(|it| live::listen(it, recording.view())).transpose()
}

#[cfg(not(unix))]
fn listen(wanted: &TelemetryArguments, _recording: &Recording) -> Result<Option<()>, Failure> {
    match wanted.telemetry_socket {
        None => Ok(None),
        Some(_) => Err(Failure::usage("this system has no such sockets")),
    }
}

fn dispatch(
    command: &Command,
    environment: &Environment,
    recording: &Recording,
    quiet: bool,
) -> Result<Exit, Failure> {
    match command {
        Command::Embed(it) => embed::run(it, environment, recording, quiet),
        Command::Search(it) => search::run(it, environment, recording, quiet),
        Command::Models(it) => models::run(it, environment, recording, quiet),
        Command::Cache(it) => cache::run(it, environment, quiet),
        Command::Plan(it) => plan::run(it, environment),
        Command::Load(it) => load::run(it),
        Command::Serve(it) => serve::run(it, environment.clone(), recording.clone(), quiet),
        Command::Warmup(it) => warmup::run(it, environment, recording, quiet),
        Command::Bench(it) => bench::run(it, environment, recording, quiet),
        Command::AccelInfo(it) => accel_info::run(it, environment),
        Command::Telemetry(it) => telemetry::run(&it.command),
        Command::Doctor(it) => doctor::run(it, environment),
        Command::Version(it) => version::run(it),
        Command::Completions(it) => arguments::print_completions(it),
    }
}
