//! What is measured with builds of the command: gates, pairs, nights.
//!
//! Everything is done by `calor bench`; what is here names the sides and the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::builds::{Place, as_is, revision};
use crate::repository::{cargo, root};

/// The suite of exact gates.
const SMOKE: &str = "bench/suites/smoke.toml";
/// The suite of pairs.
const PAIR: &str = "bench/suites/pair.toml";
/// What packages must show.
const GATES: &str = "bench/gate.toml";

/// What a measurement said: the exit code of `calor bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// All holds.
    Holds,
    /// A regression, a wrong result or a failure.
    Fails,
    /// It cannot be told.
    Unknown,
}

impl Said {
    fn of(code: Option<i32>) -> Result<Self> {
        match code {
            Some(0) => Ok(Self::Holds),
            Some(1) => Ok(Self::Fails),
            Some(2) => Ok(Self::Unknown),
            // A program that breaks is no answer, and never a good one.
            other => bail!("calor bench ended with {other:?}"),
        }
    }
}

/// The Python that baselines run in: the one that is named, the one that `.ci/run` made, or the
/// system's.
#[expect(clippy::disallowed_methods, reason = "a task is told its surroundings this way")]
fn python() -> Result<String> {
    if let Ok(named) = std::env::var("CALOR_TEST_PYTHON") {
        return Ok(named);
    }
    let made = root()?.join("target/ci-python/bin/python");
    Ok(if made.is_file() { text(&made)?.to_owned() } else { "python3".to_owned() })
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

/// The suite `smoke` with `program`, into `output`, and its gates.
pub(crate) fn gates(program: &Path, output: &Path) -> Result<Said> {
    if output.exists() {
        fs::remove_dir_all(output)?;
    }
    let (place, python) = (text(output)?, python()?);
    let run = ["bench", "run", "--suite", SMOKE, "--device", "cpu", "--quiet"];
    let run = [&run[..], &["--output", place, "--python", &python]].concat();
    let root = root()?;
    let measured = Command::new(program).args(&run).current_dir(&root).status()?;
    // A failed process is in the package, and the gates name it.
    ensure!(matches!(measured.code(), Some(0 | 1)), "the suite ended with {:?}", measured.code());
    let xml = output.with_extension("xml");
    let markdown = output.with_extension("md");
    let gate = ["bench", "gate", place, "--gates", GATES, "--junit", text(&xml)?];
    let gate = [&gate[..], &["--markdown", text(&markdown)?]].concat();
    Said::of(Command::new(program).args(&gate).current_dir(&root).status()?.code())
}

/// Two programs in pairs, into `output`.
pub(crate) fn pairs(
    base: &Path,
    head: &Path,
    pairs: u32,
    cases: &[&str],
    output: &Path,
) -> Result<Said> {
    if output.exists() {
        fs::remove_dir_all(output)?;
    }
    let (pairs, markdown) = (pairs.to_string(), output.with_extension("md"));
    let mut line = vec!["bench", "compare", "--base", text(base)?, "--head", text(head)?];
    line.extend(["--suite", PAIR, "--gates", GATES, "--device", "cpu", "--quiet"]);
    line.extend(["--pairs", &pairs, "--output", text(output)?, "--markdown", text(&markdown)?]);
    line.extend(cases.iter().flat_map(|it| ["--case", *it]));
    if base == head {
        // One program with itself: its times are what is asked for.
        line.push("--by-times");
    }
    Said::of(Command::new(head).args(&line).current_dir(root()?).status()?.code())
}

/// Where programs and what is measured of them lie.
pub(crate) fn measured() -> Result<PathBuf> {
    Ok(root()?.join("target/measured"))
}

/// The command as it is.
pub(crate) fn head() -> Result<PathBuf> {
    let program = measured()?.join("head/calor");
    Place::open()?.build(&as_is()?, &program)?;
    Ok(program)
}

/// `cargo xtask gates`: builds the command so that it counts, and decides the exact gates.
pub(crate) fn gates_command() -> Result<bool> {
    let program = measured()?.join("gate/calor");
    Place::open()?.counting().build(&as_is()?, &program)?;
    Ok(gates(&program, &measured()?.join("smoke"))? == Said::Holds)
}

/// `cargo xtask pairs`: the command as it is beside the one of a base revision. What cannot be
/// told is shown and does not fail.
pub(crate) fn pairs_command(base: &str, count: u32) -> Result<bool> {
    let base = git(&["rev-parse", &format!("{base}^{{commit}}")])?;
    // Paths of one length: a program's own path lies on its stack.
    let program = measured()?.join("base/calor");
    Place::open()?.build(&revision(&base)?, &program)?;
    let head = head()?;
    if !knows_arms(&program)? {
        println!("pairs: the base cannot be measured, it has no `bench arm` yet");
        return Ok(true);
    }
    let said = pairs(&program, &head, count, &[], &measured()?.join("pairs"))?;
    if said == Said::Unknown {
        println!("pairs: something cannot be told; shown, not failing");
    }
    Ok(said != Said::Fails)
}

fn knows_arms(program: &Path) -> Result<bool> {
    let out = Command::new(program).args(["bench", "arm", "--help"]).output()?;
    Ok(out.status.success())
}

/// The revision that a change is compared with: where it left `main`, else the one before.
pub(crate) fn base_revision() -> Result<String> {
    let left = ["origin/main", "main"].iter().find_map(|it| git(&["merge-base", "HEAD", it]).ok());
    let head = git(&["rev-parse", "HEAD"])?;
    match left.filter(|it| *it != head) {
        Some(base) => Ok(base),
        None => git(&["rev-parse", "HEAD~1"]),
    }
}

pub(crate) fn git(arguments: &[&str]) -> Result<String> {
    let out = Command::new("git").args(arguments).current_dir(root()?).output()?;
    ensure!(out.status.success(), "git {arguments:?} fails");
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// What a night is given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Night {
    pub(crate) suite: PathBuf,
    pub(crate) device: String,
    pub(crate) output: PathBuf,
    /// Packages of earlier nights.
    pub(crate) history: Option<PathBuf>,
}

/// The test of a server under ten times as much as it can do, and how long it takes at night.
const OVERLOAD: &str = "limits::overload_tenfold_loses_and_doubles_nothing_and_ends_with_the_load";
const OVERLOAD_S: (&str, &str) = ("CALOR_TEST_OVERLOAD_S", "60");

/// Whether that test holds.
fn overload(root: &Path) -> Result<bool> {
    let test = ["test", "--locked", "--release", "--package", "calor-server", "--test", "server"];
    let test = [&test[..], &["--", "--exact", "--nocapture", OVERLOAD]].concat();
    let (name, seconds) = OVERLOAD_S;
    let status = Command::new(cargo()).args(&test).env(name, seconds).current_dir(root).status()?;
    Ok(status.success())
}

/// `cargo xtask nightly`: overload, what recording costs, suite, package, gates, status, dashboard.
pub(crate) fn nightly(night: &Night) -> Result<bool> {
    let root = root()?;
    let withstands = overload(&root)?;
    let build = ["build", "--locked", "--release", "--package", "calor-cli", "--bin", "calor"];
    let built = Command::new(cargo()).args(build).current_dir(&root).status()?;
    ensure!(built.success(), "calor does not build");
    let program = root.join("target/release/calor");
    let overhead =
        Command::new(&program).args(["bench", "overhead"]).current_dir(&root).status()?;
    let recording = Said::of(overhead.code())?;
    let package = night.output.join("package");
    let python = python()?;
    let run = ["bench", "run", "--suite", text(&night.suite)?, "--device", &night.device];
    let run = [&run[..], &["--output", text(&package)?, "--python", &python]].concat();
    let measured = Command::new(&program).args(&run).current_dir(&root).status()?;
    ensure!(matches!(measured.code(), Some(0 | 1)), "the suite ended with {:?}", measured.code());
    let [markdown, xml] = ["gate.md", "gate.xml"].map(|it| night.output.join(it));
    let gate = ["bench", "gate", text(&package)?, "--gates", GATES, "--junit", text(&xml)?];
    let gate = [&gate[..], &["--markdown", text(&markdown)?]].concat();
    let said = Said::of(Command::new(&program).args(&gate).current_dir(&root).status()?.code())?;
    let status = serde_json::json!({
        "schema": "calor.night/1.0",
        "commit": git(&["rev-parse", "HEAD"])?,
        "state": match said {
            _ if !withstands || recording == Said::Fails => "failure",
            Said::Holds => "success",
            Said::Fails => "failure",
            Said::Unknown => "error",
        },
        "overload": if withstands { "holds" } else { "fails" },
        "recording": format!("{recording:?}").to_lowercase(),
        "description": first_line(&markdown)?,
    });
    fs::write(night.output.join("status.json"), format!("{status:#}\n"))?;
    let mut packages = vec![text(&package)?.to_owned()];
    if let Some(folder) = &night.history {
        packages.extend(earlier(folder)?);
    }
    let archive = night.output.join("package.zip");
    let report = ["bench", "report", &packages[0], "--output"];
    let page = night.output.join("report.html");
    let report = [&report[..], &[text(&page)?, "--archive", text(&archive)?]].concat();
    ensure!(Command::new(&program).args(&report).status()?.success(), "the report is not drawn");
    if 1 < packages.len() {
        let page = night.output.join("dashboard.html");
        let mut line = vec!["bench".to_owned(), "report".to_owned()];
        line.extend(packages);
        line.extend(["--output".to_owned(), text(&page)?.to_owned()]);
        ensure!(Command::new(&program).args(&line).status()?.success(), "no dashboard is drawn");
    }
    let under_load = if withstands { "withstands" } else { "does not withstand" };
    println!(
        "nightly: {said:?}, {under_load} overload, recording {recording:?}, in {}",
        night.output.display()
    );
    Ok(said == Said::Holds && withstands && recording != Said::Fails)
}

fn first_line(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path)?;
    Ok(text
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
        .trim_matches('#')
        .trim()
        .into())
}

/// Packages in a folder, by name.
fn earlier(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_archive = path.extension().is_some_and(|it| it == "zip");
        if is_archive || path.join("manifest.json").is_file() {
            found.push(text(&path)?.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn exits_are_told_apart() {
    assert_eq!(Said::of(Some(0)).unwrap(), Said::Holds);
    assert_eq!(Said::of(Some(1)).unwrap(), Said::Fails);
    assert_eq!(Said::of(Some(2)).unwrap(), Said::Unknown);
    for broken in [Some(70), Some(3), None] {
        assert!(Said::of(broken).is_err());
    }
}

#[test]
fn the_test_of_a_night_is_there_and_takes_its_time() {
    let tests = root().unwrap().join("crates/server/tests/server/limits.rs");
    let text = fs::read_to_string(tests).unwrap();
    let name = OVERLOAD.trim_start_matches("limits::");
    assert!(text.contains(&format!("async fn {name}()")) && text.contains(OVERLOAD_S.0));
}
