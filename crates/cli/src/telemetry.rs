//! `calor telemetry`: documents and lines of earlier versions brought up, and their schemas.

use std::path::Path;

use calor_telemetry::{jsonl, run, schema};

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
                Some(path) => std::fs::write(path, text).map_err(|err| {
                    Failure::new(Exit::Environment, format!("cannot write {}", path.display()))
                        .why(err)
                })?,
                None => answer::line(text.trim_end())?,
            }
        }
        TelemetryCommand::Schema { of } => answer::line(match of {
            SchemaWord::Run => format!("{:#}", schema::run()),
            SchemaWord::Lines => format!("{:#}", schema::lines()),
        })?,
    }
    Ok(Exit::Done)
}

/// One document, or lines of events and documents, each in its newest version.
fn migrated(path: &Path) -> Result<String, Failure> {
    let unread = || Failure::new(Exit::Input, format!("cannot read {}", path.display()));
    let size = std::fs::metadata(path).map_err(|err| unread().why(err))?.len();
    if FILE_BYTES_MAX < size {
        return Err(unread().why(format!("it has {size} bytes, at most {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|err| unread().why(err))?;
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
