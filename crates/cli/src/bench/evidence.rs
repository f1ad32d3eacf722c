//! `calor bench report` and `gate`: what is made of packages.

use std::path::Path;

use calor_measure::gate::{GateFile, Holds, decide};
use calor_measure::package::{self, Package};
use calor_measure::report::{dashboard, page};

use super::{GateArguments, ReportArguments};
use crate::answer;
use crate::exit::{Exit, Failure};

pub(super) fn report(arguments: &ReportArguments) -> Result<Exit, Failure> {
    let packages: Vec<Package> =
        arguments.packages.iter().map(|it| package::open(it)).collect::<Result<_, _>>()?;
    let text = match &packages[..] {
        [one] => page(one)?,
        several => dashboard(several)?,
    };
    write(&arguments.output, text.as_bytes())?;
    if let Some(archive) = &arguments.archive {
        let [folder] = &arguments.packages[..] else {
            return Err(Failure::usage("one package makes an archive, not several"));
        };
        package::archive(folder, archive)?;
    }
    Ok(Exit::Done)
}

pub(super) fn gate(arguments: &GateArguments) -> Result<Exit, Failure> {
    let gates = GateFile::read(&arguments.gates)?;
    let mut findings = Vec::new();
    for path in &arguments.packages {
        let package = package::open(path)?;
        findings.push(decide(&gates, &package));
    }
    let code = findings.iter().map(|it| it.exit_code());
    // One regression among packages that cannot be told is a regression.
    let worst = code.min_by_key(|it| [2, 0, 1][usize::from(*it % 3)]).unwrap_or(2);
    if arguments.json {
        let rows = serde_json::to_value(&findings).map_err(Failure::internal)?;
        answer::line(serde_json::json!({ "packages": rows, "exit_code": worst }))?;
    } else {
        for it in &findings {
            answer::line(it)?;
        }
    }
    if let Some(path) = &arguments.markdown {
        let texts: Vec<String> = findings.iter().map(|it| it.markdown()).collect();
        write(path, texts.join("\n").as_bytes())?;
    }
    if let Some(path) = &arguments.junit {
        let mut all = calor_measure::gate::Findings { suite: String::new(), rows: Vec::new() };
        let names: Vec<&str> = findings.iter().map(|it| it.suite.as_str()).collect();
        all.suite = names.join(", ");
        all.rows = findings.iter().flat_map(|it| it.rows.clone()).collect();
        write(path, all.junit().map_err(Failure::internal)?.as_bytes())?;
    }
    let unknown = findings.iter().flat_map(|it| &it.rows).filter(|it| it.holds == Holds::Unknown);
    for it in unknown {
        answer::remark(format!("calor: cannot tell: {}: {}", it.about, it.found));
    }
    Ok(exit(worst))
}

/// The exit of a gate: 1 is a regression, 2 that nothing can be said.
pub(super) fn exit(code: u8) -> Exit {
    match code {
        0 => Exit::Done,
        1 => Exit::Regression,
        _ => Exit::Undecided,
    }
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|err| {
        Failure::new(Exit::Environment, format!("cannot write {}", path.display())).why(err)
    })
}
