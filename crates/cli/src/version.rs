//! `calor version`: which build this is.

use serde_json::json;

use crate::{
    answer,
    arguments::AnswerArguments,
    devices,
    exit::{Exit, Failure},
};

/// The version of the package.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from; empty where that was not known.
pub(crate) const REVISION: &str = env!("CALOR_REVISION");

/// Answers.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn run(arguments: &AnswerArguments) -> Result<Exit, Failure> {
    let target = env!("CALOR_TARGET");
    let devices: Vec<&str> = devices::PRESENT.iter().map(|it| it.name()).collect();
    let revision = (!REVISION.is_empty()).then_some(REVISION);
    if arguments.json {
        answer::line(json!({
            "version": VERSION,
            "revision": revision,
            "target": target,
            "devices": devices,
            "features": devices,
        }))?;
    } else {
        let revision = revision.unwrap_or("unknown revision");
        answer::line(format!("calor {VERSION} ({revision})\ntarget   {target}"))?;
        answer::line(format!("devices  {}", devices.join(", ")))?;
    }
    Ok(Exit::Done)
}
