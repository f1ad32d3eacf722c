//! `calor telemetry`: documents and lines of earlier versions brought up, timelines of lines, and
//! schemas.

use std::path::Path;

use calor_telemetry::{jsonl, run, schema, trace};

use crate::{
    answer,
    arguments::{SchemaWord, TelemetryCommand},
    exit::{Exit, Failure},
};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Runs one of the commands.
///
/// # Errors
/// When a file cannot be read or written, or is of a later version.
pub(crate) fn run(command: &TelemetryCommand) -> Result<Exit, Failure> {
    match command {
        TelemetryCommand::Migrate { file, output } => {
            let text = migrated(file)?;
            match output {
                Some(path) => std::fs::write(path, text).map_err(|err| unwritten(path, err))?,
                None => answer::line(text.trim_end())?,
            }
        }
        TelemetryCommand::Trace { file, output } => {
            let text = trace::of_lines(&lines(file)?);
            trace::write_text(output, &text).map_err(|err| unwritten(output, err))?;
        }
        TelemetryCommand::Schema { of } => answer::line(match of {
            SchemaWord::Run => format!("{:#}", schema::run()),
            SchemaWord::Lines => format!("{:#}", schema::lines()),
        })?,
    }
    Ok(Exit::Done)
}

fn unwritten(path: &Path, err: std::io::Error) -> Failure {
    Failure::new(Exit::Environment, format!("cannot write {}", path.display())).why(err)
}

fn unread(path: &Path) -> Failure {
    Failure::new(Exit::Input, format!("cannot read {}", path.display()))
}

fn text_of(path: &Path) -> Result<String, Failure> {
    let size = std::fs::metadata(path).map_err(|err| unread(path).why(err))?.len();
    if FILE_BYTES_MAX < size {
        return Err(unread(path).why(format!("it has {size} bytes, at most {FILE_BYTES_MAX}")));
    }
    std::fs::read_to_string(path).map_err(|err| unread(path).why(err))
}

/// Events of a file of lines; documents of runs between them are left out.
fn lines(path: &Path) -> Result<Vec<jsonl::Line>, Failure> {
    let text = text_of(path)?;
    let mut out = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|it| !it.1.trim().is_empty()) {
        let is_run = || run::read(line).is_ok();
        match jsonl::from_line(line) {
            Ok(line) => out.push(line),
            Err(jsonl::LineFault::NotTelemetry) if is_run() => {}
            Err(fault) => return Err(unread(path).why(format!("line {}: {fault}", index + 1))),
        }
    }
    Ok(out)
}

/// One document, or lines of events and documents, each in its newest version.
fn migrated(path: &Path) -> Result<String, Failure> {
    let text = text_of(path)?;
    let unread = || unread(path);
    // A document may stand on several lines; a line is never a whole one then.
    if let Ok(document) = serde_json::from_str(&text) {
        let brought = bring_up(document);
        return brought.map(|it| format!("{it:#}\n")).map_err(|why| unread().why(why));
    }
    let mut out = String::new();
    for (index, line) in text.lines().enumerate().filter(|it| !it.1.trim().is_empty()) {
        let fault = |why: String| unread().why(format!("line {}: {why}", index + 1));
        let document = serde_json::from_str(line).map_err(|err| fault(err.to_string()))?;
        out.push_str(&bring_up(document).map_err(fault)?.to_string());
        out.push('\n');
    }
    Ok(out)
}

/// A run or an event in its newest version, or why not.
fn bring_up(document: serde_json::Value) -> std::result::Result<serde_json::Value, Why> {
    let name = document["schema"].as_str().unwrap_or_default();
    if name.starts_with(jsonl::SCHEMA_NAME) {
        jsonl::from_line(&document.to_string()).map_err(|err| err.to_string())?;
        return Ok(document);
    }
    run::migrate(document).map_err(|err| err.to_string())
}

/// For people; the caller adds the place.
type Why = String;
