//! The `calor` command as a library, so that its readers and writers can be tested and fuzzed.
//!
//! This crate alone reads the environment and the command line and names devices. Everything
//! that it learns there is passed down as values.
#![forbid(unsafe_code)]

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
mod models;
pub mod output;
mod plan;
mod progress;
mod recording;
mod search;
mod serve;
mod settings;
mod version;
mod warmup;

use std::{
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use arguments::Command;
use environment::Environment;
pub use exit::Exit;
use exit::Failure;

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
    let arguments::Parsed { arguments, settings } = match arguments::parse(&line)? {
        Ok(it) => it,
        Err(err) => {
            // Help and version are answers; clap knows which stream each belongs to.
            let _ = err.print();
            return Ok(if err.use_stderr() { Exit::Usage } else { Exit::Done });
        }
    };
    let environment = Environment::read();
    let quiet = arguments.quiet;
    match arguments.command {
        Command::Embed(it) => embed::run(&it, &environment, quiet),
        Command::Search(it) => search::run(&it, &environment, quiet),
        Command::Models(it) => models::run(&it, &environment, quiet),
        Command::Cache(it) => cache::run(&it, &environment, quiet),
        Command::Plan(it) => plan::run(&it, &environment),
        Command::Serve(it) => match settings {
            Some(settings) => answer::line(settings.trim_end()).map(|()| Exit::Done),
            None => serve::run(&it, environment, quiet),
        },
        Command::Warmup(it) => warmup::run(&it, &environment, quiet),
        Command::Bench(it) => bench::run(&it, &environment),
        Command::Doctor(it) => doctor::run(&it, &environment),
        Command::Version(it) => version::run(&it),
        Command::Completions(it) => arguments::print_completions(&it),
    }
}
