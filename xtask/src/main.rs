//! Development tasks: `cargo xtask test`, `gates`, `mutate`, `tidy`, `docs` and more.
//!
//! One binary instead of scripts, so that each rule is a function with a test.
//! Nothing here is part of what users run.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command's answer goes to its user")]

mod builds;
mod docs;
mod gpu_tests;
mod measures;
mod meter;
mod mutate;
mod nulls;
mod repository;
mod source;
mod specifications;
mod suite;
mod tidy;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

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
  gates    Build the command, run the suite `smoke` and decide its exact gates
  pairs    Build the command of a base revision too, and run both in pairs
             --base <revision>         where the branch left main if not given
             --pairs <count>           10 if not given
  nulls    Run one build in pairs with itself: how often do gates cry wolf? Goes on where it
           was stopped
             --count <count>           comparisons, 100 if not given
             --pairs <count>           of a batch, 10 if not given
  mutate   Apply each change of xtask/mutations.toml to a copy: do gates catch it?
             <word>                    only changes with this in their name; may be repeated
  nightly  Run a minute of overload and a suite on a release build: package, gates, status,
           dashboard
             --suite <file> --output <folder> [--device <kind>] [--history <folder>]
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
        ["gates"] => measures::gates_command(),
        ["pairs", options @ ..] => {
            let base = match option(options, "--base")? {
                Some(base) => base.to_owned(),
                None => match measures::base_revision() {
                    Ok(base) => base,
                    Err(why) => {
                        // A copy without history, or a first commit.
                        println!("pairs: there is no base here to compare with: {why:#}");
                        return Ok(true);
                    }
                },
            };
            measures::pairs_command(&base, number(options, "--pairs", 10)?)
        }
        ["nulls", options @ ..] => {
            nulls::command(number(options, "--count", 100)?, number(options, "--pairs", 10)?)
        }
        ["mutate", names @ ..] => mutate::command(names),
        ["nightly", options @ ..] => measures::nightly(&night(options)?),
        ["meter"] => meter::command(&Repository::open()?),
        [first, rest @ ..] => {
            bail!(
                "`{}` is not a command; see `cargo xtask --help`",
                [&[*first], rest].concat().join(" ")
            )
        }
    }
}

/// The value behind `name`.
fn option<'a>(options: &[&'a str], name: &str) -> Result<Option<&'a str>> {
    match options.iter().position(|it| *it == name) {
        None => Ok(None),
        Some(at) => Ok(Some(options.get(at + 1).with_context(|| format!("{name} needs a value"))?)),
    }
}

fn number(options: &[&str], name: &str, usual: u32) -> Result<u32> {
    option(options, name)?.map_or(Ok(usual), |it| it.parse().with_context(|| it.to_owned()))
}

fn night(options: &[&str]) -> Result<measures::Night> {
    let path = |name: &str| Ok::<_, anyhow::Error>(option(options, name)?.map(Into::into));
    Ok(measures::Night {
        suite: path("--suite")?.context("--suite <file> is missing")?,
        device: option(options, "--device")?.unwrap_or("auto").to_owned(),
        output: path("--output")?.context("--output <folder> is missing")?,
        history: path("--history")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_the_help() {
        for command in
            ["test", "gates", "pairs", "nulls", "mutate", "nightly", "tidy", "docs", "meter"]
        {
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
