//! Development tasks: `cargo xtask test`, `gpu-tests`, `tidy`, `docs` and `meter`.
//!
//! One binary instead of scripts, so that each rule is a function with a test.
//! Nothing here is part of what users run.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command's answer goes to its user")]

mod docs;
mod gpu_tests;
mod meter;
mod repository;
mod source;
mod specifications;
mod suite;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::repository::Repository;

const HELP: &str = "\
Development tasks of Calor.

Usage: cargo xtask <command> [options]

Commands:
  test     Everything that must hold before a merge, step by step, with a summary
             --no-skips-except <word>  fail when a test was skipped for a reason
                                       without this word (`gpu` on machines without one)
             --only <step>             run one step; may be repeated
             --list                    name the steps and stop
  gpu-tests  Build the checks for a machine with an NVIDIA GPU as one program, and say where it is
  tidy     Rules that the compiler does not know: layers, names, lengths, licences
             --bless                   write xtask/ratchet.txt anew; lengths only go down
             --list                    name the rules and stop
  docs     Write the generated documents
             --check                   change nothing; fail when one is stale
  meter    Count what should go down: primitives, public items, packages, unsafe blocks

  --help   Show this text
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            println!("error: {err:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one command; `false` when what it checks does not hold.
fn run(arguments: &[&str]) -> Result<bool> {
    match arguments {
        [] | ["help" | "--help" | "-h", ..] | [_, "help" | "--help" | "-h", ..] => {
            print!("{HELP}");
            Ok(true)
        }
        ["test", options @ ..] => suite::command(options),
        ["gpu-tests"] => gpu_tests::command(),
        ["tidy"] => tidy::command(&Repository::open()?),
        ["tidy", "--bless"] => tidy::bless(&Repository::open()?),
        ["tidy", "--list"] => {
            for rule in tidy::RULES {
                println!("{:<16} {}", rule.name, rule.about);
            }
            Ok(true)
        }
        ["docs"] => docs::command(&Repository::open()?, docs::Mode::Write),
        ["docs", "--check"] => docs::command(&Repository::open()?, docs::Mode::Check),
        ["meter"] => meter::command(&Repository::open()?),
        [first, rest @ ..] => {
            bail!(
                "`{}` is not a command; see `cargo xtask --help`",
                [&[*first], rest].concat().join(" ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_the_help() {
        for command in ["test", "tidy", "docs", "meter"] {
            assert!(HELP.contains(&format!("\n  {command} ")), "{command}");
        }
        assert!(run(&["--help"]).unwrap() && run(&["tidy", "--help"]).unwrap());
    }

    #[test]
    fn an_unknown_command_is_named() {
        let err = run(&["tidy", "--loud"]).unwrap_err().to_string();
        assert!(err.contains("`tidy --loud`"), "{err}");
    }
}
