//! `cargo xtask test`: everything that must hold before a merge, step by step.
//!
//! A step is a cargo command or one of our own; its output goes to `target/xtask/<step>.log`,
//! and what matters of it to the terminal. Tests that could not run say so by printing
//! `SKIPPED <name>: <reason>`; those lines come from the output itself, which works for every
//! test runner and for examples, and end up in the summary.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};

use crate::docs;
use crate::repository::{Repository, cargo};
use crate::tidy;

/// One step.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Run<'_>) -> Result<Outcome>,
}

static STEPS: &[Step] = &[
    Step {
        name: "format",
        about: "cargo fmt --all --check",
        run: |it| it.cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "lint",
        about: "cargo clippy over all targets, warnings denied",
        run: |it| it.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    },
    Step {
        name: "tests",
        about: "every test, replays of the fuzz corpora among them",
        run: |it| it.tests(),
    },
    Step {
        name: "doctests",
        about: "examples in the documentation",
        run: |it| it.cargo(&["test", "--workspace", "--doc"]),
    },
    Step { name: "examples", about: "every example builds and runs", run: |it| it.examples() },
    Step {
        name: "tidy",
        about: "rules that the compiler does not know",
        run: |it| own(tidy::command(it.repository)?),
    },
    Step {
        name: "docs",
        about: "generated documents are current",
        run: |it| own(docs::command(it.repository, docs::Mode::Check)?),
    },
];

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    skips_except: Option<String>,
    only: Vec<String>,
    list: bool,
}

/// What a step did.
#[derive(Debug, Default)]
struct Outcome {
    success: bool,
    skips: Vec<Skip>,
    /// The test runner's own last word.
    summary: Option<String>,
}

/// A test that could not run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Skip {
    name: String,
    reason: String,
}

/// Runs the steps, then says what happened.
pub(crate) fn command(options: &[&str]) -> Result<bool> {
    let options = parse(options)?;
    if options.list {
        for step in STEPS {
            println!("{:<10} {}", step.name, step.about);
        }
        return Ok(true);
    }
    let repository = Repository::open()?;
    let logs = repository.root.join("target/xtask");
    fs::create_dir_all(&logs)?;

    let mut report = Report::default();
    for step in STEPS {
        if !options.only.is_empty() && !options.only.iter().any(|it| it == step.name) {
            continue;
        }
        println!("==> {}: {}", step.name, step.about);
        let log = logs.join(format!("{}.log", step.name));
        fs::write(&log, "")?;
        let start = now();
        let outcome = (step.run)(&Run { repository: &repository, log: &log })?;
        let took = now().duration_since(start);
        let word = if outcome.success { "ok" } else { "FAILED" };
        println!("<== {}: {word} in {:.1} s\n", step.name, took.as_secs_f64());
        report.add(step.name, took, outcome);
    }
    let unwelcome = options.skips_except.as_deref();
    print!("{}", report.summary(unwelcome));
    Ok(report.success(unwelcome))
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--no-skips-except" => {
                let word = rest.next().context("--no-skips-except needs a word, such as `gpu`")?;
                options.skips_except = Some((*word).to_owned());
            }
            "--only" => {
                let name = rest.next().context("--only needs the name of a step; see --list")?;
                if !STEPS.iter().any(|it| it.name == *name) {
                    bail!("no step is called `{name}`; see `cargo xtask test --list`");
                }
                options.only.push((*name).to_owned());
            }
            "--list" => options.list = true,
            other => bail!("`{other}` is not an option of `test`; see `cargo xtask --help`"),
        }
    }
    Ok(options)
}

#[expect(clippy::disallowed_methods, reason = "a task may look at the clock")]
fn now() -> Instant {
    Instant::now()
}

fn own(success: bool) -> Result<Outcome> {
    Ok(Outcome { success, ..Outcome::default() })
}

/// What steps run with.
struct Run<'a> {
    repository: &'a Repository,
    log: &'a Path,
}

impl Run<'_> {
    /// One cargo command.
    fn cargo(&self, arguments: &[&str]) -> Result<Outcome> {
        let mut command = Command::new(cargo());
        command.args(arguments).current_dir(&self.repository.root);
        self.watch(&mut command)
    }

    /// The tests by nextest where it is installed, else by cargo. Both are told to pass on
    /// what passing tests print, because skips are printed.
    fn tests(&self) -> Result<Outcome> {
        let mut probe = Command::new(cargo());
        probe.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        if probe.status().is_ok_and(|it| it.success()) {
            let run = ["nextest", "run", "--workspace", "--no-fail-fast"];
            return self.cargo(&[&run[..], &["--success-output", "final"]].concat());
        }
        let targets = ["--lib", "--bins", "--tests", "--examples", "--no-fail-fast"];
        let run = [&["test", "--workspace"], &targets[..], &["--", "--show-output"]];
        self.cargo(&run.concat())
    }

    /// Builds every example, then runs each without arguments.
    fn examples(&self) -> Result<Outcome> {
        let mut all = self.cargo(&["build", "--workspace", "--examples"])?;
        let examples = examples(&self.repository.metadata);
        for (package, example) in &examples {
            if all.success {
                println!("    {package} {example}");
                let run = ["run", "--quiet", "--package", package, "--example", example];
                let one = self.cargo(&run)?;
                all.success = one.success;
                all.skips.extend(one.skips);
            }
        }
        println!("    {} examples", examples.len());
        Ok(all)
    }

    /// Runs `command`, shows what matters of its output, and keeps all of it.
    fn watch(&self, command: &mut Command) -> Result<Outcome> {
        let shown = format!("{command:?}");
        let mut log = fs::OpenOptions::new().create(true).append(true).open(self.log)?;
        writeln!(log, "$ {shown}")?;
        // Colours would stand between us and the words that we look for.
        let mut child = command
            .env("CARGO_TERM_COLOR", "never")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {shown}"))?;
        let (sender, lines) = mpsc::channel();
        let readers = [
            child.stdout.take().map(|it| pass_on(it, sender.clone())),
            child.stderr.take().map(|it| pass_on(it, sender)),
        ];
        let mut reader = Reader::default();
        for line in lines {
            writeln!(log, "{line}")?;
            if reader.shows(&line) {
                println!("{line}");
            }
        }
        for thread in readers.into_iter().flatten() {
            // A reader only ends early when its pipe fails, and then the status says why.
            let _ = thread.join();
        }
        let success = child.wait()?.success();
        let summary = reader.last_word();
        Ok(Outcome { success, skips: reader.skips, summary })
    }
}

fn pass_on(
    pipe: impl std::io::Read + Send + 'static,
    lines: mpsc::Sender<String>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(std::result::Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    })
}

/// Reads a command's output line by line.
#[derive(Default)]
struct Reader {
    skips: Vec<Skip>,
    summary: Option<String>,
    /// Passed, failed and ignored, as cargo's own runner counts them for each binary.
    counted: Option<[u64; 3]>,
}

impl Reader {
    /// Takes one line in; whether a person wants to see it now. After nextest's summary come
    /// the outputs of passing tests, which only the log keeps.
    fn shows(&mut self, line: &str) -> bool {
        let after_summary = self.summary.is_some();
        let text = line.trim();
        if let Some(skip) = skip(text) {
            self.skips.push(skip);
            return true;
        }
        if text.starts_with("Summary [") && text.contains(" run:") {
            self.summary = Some(text.to_owned());
        }
        if let Some(counts) = counts(text) {
            let sums = self.counted.get_or_insert_default();
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        !after_summary || text.starts_with("error")
    }

    /// The test runner's last word, or the sum of its words for each binary.
    fn last_word(&self) -> Option<String> {
        let summed = self.counted.map(|[passed, failed, ignored]| {
            format!("Summary: {passed} passed, {failed} failed, {ignored} ignored")
        });
        self.summary.clone().or(summed)
    }
}

/// Passed, failed and ignored of `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
fn counts(text: &str) -> Option<[u64; 3]> {
    let (_, rest) = text.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        let part = rest.split("; ").find_map(|it| it.strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some([count("passed")?, count("failed")?, count("ignored")?])
}

/// `SKIPPED <name>: <reason>`.
fn skip(text: &str) -> Option<Skip> {
    let (name, reason) = text.strip_prefix("SKIPPED ")?.split_once(": ")?;
    Some(Skip { name: name.trim().to_owned(), reason: reason.trim().to_owned() })
}

/// Examples of the workspace: package and name.
fn examples(metadata: &serde_json::Value) -> Vec<(String, String)> {
    let mut examples = Vec::new();
    for package in metadata["packages"].as_array().map_or(&[][..], Vec::as_slice) {
        for target in package["targets"].as_array().map_or(&[][..], Vec::as_slice) {
            let is_example = target["kind"][0] == "example";
            if let (true, Some(package), Some(name)) =
                (is_example, package["name"].as_str(), target["name"].as_str())
            {
                examples.push((package.to_owned(), name.to_owned()));
            }
        }
    }
    examples.sort();
    examples
}

/// What happened in all steps.
#[derive(Debug, Default)]
struct Report {
    steps: Vec<(&'static str, Duration, bool)>,
    skips: Vec<Skip>,
    /// Last words of test runners, with the step they belong to.
    last_words: Vec<(&'static str, String)>,
}

impl Report {
    fn add(&mut self, name: &'static str, took: Duration, outcome: Outcome) {
        self.steps.push((name, took, outcome.success));
        self.skips.extend(outcome.skips);
        self.skips.sort();
        self.skips.dedup();
        self.last_words.extend(outcome.summary.map(|it| (name, it)));
    }

    /// Skips whose reason does not contain `word`.
    fn unwelcome<'a>(&'a self, word: Option<&str>) -> Vec<&'a Skip> {
        let Some(word) = word.map(str::to_lowercase) else { return Vec::new() };
        self.skips.iter().filter(|it| !it.reason.to_lowercase().contains(&word)).collect()
    }

    fn success(&self, word: Option<&str>) -> bool {
        self.steps.iter().all(|it| it.2) && self.unwelcome(word).is_empty()
    }

    fn summary(&self, word: Option<&str>) -> String {
        let mut lines = Vec::new();
        for (name, took, success) in &self.steps {
            let sign = if *success { "ok" } else { "FAILED" };
            lines.push(format!("  {sign:<7}{name:<10}{:>8.1} s", took.as_secs_f64()));
        }
        let unwelcome = self.unwelcome(word);
        for skip in &self.skips {
            let sign = if unwelcome.contains(&skip) { "FAILED" } else { "skipped" };
            lines.push(format!("  {sign} {}: {}", skip.name, skip.reason));
        }
        let took: Duration = self.steps.iter().map(|it| it.1).sum();
        let verdict = if self.success(word) { "everything holds" } else { "something failed" };
        let skipped = self.skips.len();
        lines.push(format!("{verdict}, {skipped} skipped, {:.1} s", took.as_secs_f64()));
        lines.extend(self.last_words.iter().map(|(step, words)| format!("{step}: {words}")));
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_read() {
        let options = parse(&["--no-skips-except", "gpu", "--only", "lint"]).unwrap();
        assert_eq!(options.skips_except.as_deref(), Some("gpu"));
        assert_eq!(options.only, ["lint"]);
        assert!(parse(&["--only", "tea"]).unwrap_err().to_string().contains("`tea`"));
        assert!(parse(&["--no-skips-except"]).is_err());
        assert!(parse(&["--fast"]).is_err());
    }

    #[test]
    fn skips_are_found_in_what_runners_print() {
        let mut reader = Reader::default();
        let shown: Vec<&str> = [
            "        PASS [   0.008s] (1/2) calor-ir a",
            "     Summary [   0.146s] 2 tests run: 2 passed, 0 skipped",
            "    SKIPPED conformance: needs a GPU",
            "    test a ... ok",
            "error: test run failed",
        ]
        .into_iter()
        .filter(|it| reader.shows(it))
        .map(str::trim)
        .collect();
        assert_eq!(
            reader.skips,
            [Skip { name: "conformance".into(), reason: "needs a GPU".into() }]
        );
        assert!(reader.summary.unwrap().contains("2 tests run"));
        assert_eq!(shown.len(), 4);
        assert!(!shown.contains(&"test a ... ok"));
    }

    #[test]
    fn cargos_own_runner_is_summed() {
        let mut reader = Reader::default();
        assert_eq!(reader.last_word(), None);
        reader.shows("test result: ok. 33 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        reader.shows("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured");
        let words = reader.last_word().unwrap();
        assert_eq!(words, "Summary: 34 passed, 2 failed, 1 ignored");
    }

    fn report(success: bool, reason: &str) -> Report {
        let mut report = Report::default();
        let skips = vec![Skip { name: "a".into(), reason: reason.into() }];
        let outcome = Outcome { success, skips, summary: Some("Summary [1 s] 1 test run:".into()) };
        report.add("tests", Duration::from_secs(1), outcome);
        report
    }

    #[test]
    fn a_skip_without_a_good_reason_fails() {
        assert!(report(true, "needs a GPU").success(Some("gpu")));
        assert!(report(true, "no Python").success(None));
        assert!(!report(true, "no Python").success(Some("gpu")));
        assert!(!report(false, "needs a GPU").success(Some("gpu")));
    }

    #[test]
    fn the_summary_names_everything() {
        let text = report(true, "no Python").summary(Some("gpu"));
        for part in
            ["ok", "tests", "FAILED a: no Python", "1 test run", "something failed, 1 skipped"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn examples_come_from_cargo() {
        let target = |kind: &str, name: &str| json!({ "kind": [kind], "name": name });
        let targets = [target("lib", "x"), target("example", "02-b"), target("example", "01-a")];
        let metadata = json!({ "packages": [{ "name": "p", "targets": targets }] });
        let names: Vec<String> = examples(&metadata).into_iter().map(|it| it.1).collect();
        assert_eq!(names, ["01-a", "02-b"]);
    }

    #[test]
    fn steps_run_from_cheap_to_dear_and_have_names() {
        let names: Vec<&str> = STEPS.iter().map(|it| it.name).collect();
        let wanted = ["format", "lint", "tests", "doctests", "examples", "tidy", "docs"];
        assert_eq!(names, wanted);
    }
}
