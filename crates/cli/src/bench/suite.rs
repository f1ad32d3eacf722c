//! `calor bench run --suite` and `compare`: suites in fresh processes, sealed as a package.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;

use calor_measure::MeasureError;
use calor_measure::gate::{self, GateFile};
use calor_measure::harness::Progress;
use calor_measure::order::{Order, Revision};
use calor_measure::package::{Package, REPORT_FILE};
use calor_measure::program::{Likeness, Program};

use super::{CompareArguments, RunArguments, SuiteArguments, evidence};
use crate::answer;
use crate::devices::{self, Wish};
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::interrupt;
use crate::progress::StepBar;

pub(super) fn run(
    suite: &Path,
    arguments: &RunArguments,
    environment: &Environment,
    quiet: bool,
) -> Result<Exit, Failure> {
    let options = &arguments.suite_options;
    let mut order = order(suite, options, arguments.threads, environment)?;
    if let Some(checkpoint) = &arguments.checkpoint {
        order.words.insert("checkpoint".into(), absolute(checkpoint)?);
    }
    let package = execute(&order, quiet)?;
    let failed = failures(&package);
    if arguments.json {
        let text = serde_json::to_value(&package.summary).map_err(Failure::internal)?;
        answer::line(text)?;
    } else {
        table(&package)?;
    }
    if !quiet {
        let report = order.output.join(REPORT_FILE);
        answer::remark(format!("report: {}", report.display()));
    }
    for line in &failed {
        answer::remark(format!("calor: {line}"));
    }
    Ok(if failed.is_empty() { Exit::Done } else { Exit::SomeItems })
}

pub(super) fn compare(
    arguments: &CompareArguments,
    environment: &Environment,
    quiet: bool,
) -> Result<Exit, Failure> {
    let options = &arguments.suite_options;
    let mut order = order(&arguments.suite, options, arguments.threads, environment)?;
    order.words.insert("base".into(), absolute(&arguments.base)?);
    order.words.insert("head".into(), absolute(&arguments.head)?);
    if let Some(checkpoint) = &arguments.checkpoint {
        order.words.insert("checkpoint".into(), absolute(checkpoint)?);
    }
    order.pairs = Some(arguments.pairs);
    order.revision = order.revision.with_program(&arguments.head);
    let sides = [&arguments.base, &arguments.head].map(|it| Program::read(it));
    if let ([Some(base), Some(head)], false) = (sides, arguments.by_times) {
        if base.likeness(&head) == Likeness::Whole {
            return same(&base, arguments);
        }
        order.revision.sides = Some([base, head]);
    }
    let gates = match &arguments.gates {
        Some(path) => GateFile::read(path)?,
        None => GateFile::parse(Path::new("no gates"), "schema = \"calor.gate/1.0\"")?,
    };
    let package = execute(&order, quiet)?;
    let findings = gate::decide(&gates, &package);
    answer::line(&findings)?;
    if let Some(path) = &arguments.markdown {
        evidence::write(path, findings.markdown().as_bytes())?;
    }
    Ok(evidence::exit(findings.exit_code()))
}

/// Two files that hold the same program: there is nothing to measure.
fn same(program: &Program, arguments: &CompareArguments) -> Result<Exit, Failure> {
    let text = format!(
        "same: base and head hold the same code and data ({}), so nothing was timed",
        &program.code_blake3[..12],
    );
    answer::line(&text)?;
    if let Some(path) = &arguments.markdown {
        evidence::write(path, format!("### {text}\n").as_bytes())?;
    }
    Ok(Exit::Done)
}

fn order(
    suite: &Path,
    options: &SuiteArguments,
    threads: Option<NonZeroUsize>,
    environment: &Environment,
) -> Result<Order, Failure> {
    let output = options.output.clone().ok_or_else(|| {
        Failure::usage("no folder for the package").hint("name one with `--output DIR`")
    })?;
    let program = std::env::current_exe()
        .map_err(|err| Failure::new(Exit::Environment, "this program is not found").why(err))?;
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut words = BTreeMap::new();
    words.insert("program".into(), program.display().to_string());
    words.insert("python".into(), options.python.clone());
    words.insert("device".into(), device(&options.device, environment)?);
    words.insert("threads".into(), threads.unwrap_or(cores).to_string());
    words.extend(options.word.iter().cloned());
    let revision = match &options.revision {
        Some(text) => {
            let commit = text.strip_suffix("-dirty");
            let dirty = Some(commit.is_some());
            Revision {
                commit: Some(commit.unwrap_or(text).to_owned()),
                dirty,
                program_blake3: None,
                sides: None,
            }
        }
        None => Revision::of_repository(&options.root),
    };
    Ok(Order {
        suite: suite.to_owned(),
        output,
        root: options.root.clone(),
        words,
        cases: options.case.clone(),
        arms: options.arm.clone(),
        pairs: None,
        revision: revision.with_program(&program),
        variables: environment.measured.clone(),
    })
}

/// The device that arms are told: `auto` is decided once, so that all arms compute on one.
fn device(word: &str, environment: &Environment) -> Result<String, Failure> {
    let wish = if word == "auto" { "cuda,cpu" } else { word };
    let wish: Wish =
        wish.parse().map_err(|err: devices::NotADevice| Failure::usage(err.to_string()))?;
    match wish {
        Wish::Exactly(one) => Ok(one.to_string()),
        Wish::FirstOf(_) => {
            let device = devices::open(&wish, 1, None, environment, None)?;
            Ok(device.signature.kind.to_owned())
        }
    }
}

fn absolute(path: &Path) -> Result<String, Failure> {
    let found = std::path::absolute(path).map(|it| it.display().to_string());
    found.map_err(|err| Failure::usage(format!("no path {}", path.display())).why(err))
}

fn execute(order: &Order, quiet: bool) -> Result<Package, Failure> {
    let mut progress = Bar(StepBar::new(quiet));
    Ok(order.execute(&mut progress)?)
}

struct Bar(StepBar);

impl Progress for Bar {
    fn step(&mut self, done: usize, most: usize, text: &str) -> ControlFlow<()> {
        self.0.show(done, most, text);
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn failures(package: &Package) -> Vec<String> {
    let mut out = Vec::new();
    for case in &package.summary.cases {
        for point in &case.points {
            for (arm, it) in &point.arms {
                let why = it.failures.iter();
                out.extend(why.map(|why| format!("{} {} {arm}: {why}", case.name, point.size)));
            }
        }
    }
    out
}

/// A line for each case and arm: time at each size, and the speed-up over all.
fn table(package: &Package) -> Result<(), Failure> {
    for case in &package.summary.cases {
        answer::line(format!("{}: {}", case.name, case.about))?;
        for point in &case.points {
            for (arm, it) in &point.arms {
                let ms = it.observed_ns.map(|it| it.map(|it| it / 1e6));
                let text = ms.map_or("failed".to_owned(), |it| {
                    format!("{:>10.3} ms ({:.3} to {:.3})", it.middle, it.low, it.high)
                });
                let unit = &case.size_unit;
                answer::line(format!("  {:>9} {unit:<8} {arm:<18} {text}", point.size))?;
            }
        }
        for (arm, it) in &case.speedups {
            let text = it.area.map_or("undefined: a check failed".to_owned(), |it| {
                format!("{:.2} times as fast ({:.2} to {:.2})", it.middle, it.low, it.high)
            });
            answer::line(format!("  over {arm}: {text}"))?;
        }
    }
    Ok(())
}

impl From<MeasureError> for Failure {
    fn from(err: MeasureError) -> Self {
        let exit = match err {
            MeasureError::Description { .. }
            | MeasureError::NoWord { .. }
            | MeasureError::OtherRun { .. } => Exit::Usage,
            MeasureError::Refused { .. } => Exit::Input,
            MeasureError::Stopped => Exit::Interrupted,
            _ => Exit::Environment,
        };
        let failure = Self::new(exit, err.to_string());
        match err {
            MeasureError::NoWord { .. } => failure.hint("give it with `--word NAME=VALUE`"),
            MeasureError::OtherRun { .. } => failure.hint("name another folder with `--output`"),
            _ => failure,
        }
    }
}
