//! Exit codes by whose fault it is, and failures as they are printed.

use std::{fmt, io::Write};

use calor_embed::{EmbeddingError, Fault};
use calor_runtime::RuntimeError;
use calor_weights::WeightsError;

use crate::{
    input::{self, InputError},
    output::{self, OutputError},
};

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Done,
    /// Some items failed; they are listed, and the others are there.
    SomeItems,
    /// A gate does not hold.
    Regression,
    /// A gate cannot be decided.
    Undecided,
    /// The command line or a configuration cannot be.
    Usage,
    /// What was to be read cannot be.
    Input,
    /// The machine: no source for a model, no memory, a full disk, no such device.
    Environment,
    /// This program.
    Internal,
    /// The user stopped it.
    Interrupted,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::SomeItems | Self::Regression => 1,
            Self::Usage | Self::Undecided => 2,
            Self::Input => 3,
            Self::Environment => 4,
            Self::Internal => 70,
            Self::Interrupted => 130,
        }
    }
}

/// Why the command ends early: what did not happen, why, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    what: String,
    why: Option<String>,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: None, hint: None }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    pub(crate) fn internal(why: impl fmt::Display) -> Self {
        let hint = "this is a bug; please report it with the command line";
        Self::new(Exit::Internal, "internal error").why(why).hint(hint)
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted").why("nothing was written")
    }

    pub(crate) fn why(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What did not happen and why, in a row.
    pub(crate) fn reason(&self) -> String {
        match &self.why {
            Some(why) => format!("{} ({why})", self.what),
            None => self.what.clone(),
        }
    }

    /// Says it on standard error.
    pub(crate) fn print(&self) {
        // The reader of the answer went away: that is how pipes end, and no news.
        if self.what.is_empty() {
            return;
        }
        // Where even standard error is closed there is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "{self}");
    }

    /// Standard output cannot be written. A reader that has seen enough is no failure.
    pub(crate) fn answer(err: std::io::Error) -> Self {
        match err.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::new(Exit::Environment, "cannot write to standard output").why(err),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "calor: {}", self.reason())?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<InputError> for Failure {
    fn from(err: InputError) -> Self {
        let extensions = || input::FORMATS.iter().map(|it| it.0).collect::<Vec<_>>().join(", ");
        match &err {
            InputError::UnknownFormat { .. } => Self::usage(err.to_string())
                .hint(format!("name it with `--format`, or use one of: {}", extensions())),
            InputError::NotAStream => Self::usage(err.to_string()),
            InputError::NoColumn { .. } => {
                Self::usage(err.to_string()).hint("name the column with `--column`")
            }
            _ => Self::new(Exit::Input, "cannot read the input").why(err),
        }
    }
}

impl From<OutputError> for Failure {
    fn from(err: OutputError) -> Self {
        let extensions = || output::FORMATS.iter().map(|it| it.0).collect::<Vec<_>>().join(", ");
        match &err {
            OutputError::UnknownFormat { .. } => {
                Self::usage(err.to_string()).hint(format!("use one of: {}", extensions()))
            }
            OutputError::OneVector { .. } => {
                Self::usage(err.to_string()).hint("choose one with `--vectors fused` or `slots`")
            }
            OutputError::NoRoomFor { .. } => Self::usage(err.to_string())
                .hint("leave it out of `--vectors`, or write .jsonl or .parquet"),
            OutputError::NoFolder { .. } => {
                Self::usage(err.to_string()).hint("create the folder first")
            }
            OutputError::DiskFull { .. } => Self::new(Exit::Environment, err.to_string())
                .why("nothing is left under its name")
                .hint("free some room, or name another place with `--output`"),
            OutputError::Io { .. } => Self::new(Exit::Environment, err.to_string()),
            OutputError::Tensors { .. }
            | OutputError::Parquet { .. }
            | OutputError::Misfit { .. } => Self::internal(err),
        }
    }
}

impl From<WeightsError> for Failure {
    fn from(err: WeightsError) -> Self {
        use WeightsError as E;
        let exit = exit_of_weights(&err);
        match &err {
            E::Cancelled { .. } => Self::interrupted(),
            E::NotInStore { name, .. } => Self::new(exit, err.to_string())
                .hint(format!("`calor models list` shows all; `calor models pull {name}` gets it")),
            // Each answer was said.
            E::NoSource { name, .. } => {
                Self::new(exit, format!("no source has `{name}`")).hint(format!(
                    "`calor doctor` shows which sources are reachable; \
                 `calor models import {name} DIR` takes a directory that you have"
                ))
            }
            E::Tampered { .. } | E::Unlisted { .. } => {
                Self::new(exit, err.to_string()).hint("`calor models remove` it and pull it again")
            }
            E::MissingFile { .. } => Self::new(exit, err.to_string())
                .hint("a checkpoint is a folder with config.json and model.safetensors"),
            _ => Self::new(exit, err.to_string()),
        }
    }
}

fn exit_of_weights(err: &WeightsError) -> Exit {
    use WeightsError as E;
    match err {
        E::MissingFile { .. }
        | E::OnlyPickle { .. }
        | E::UnsupportedFamily { .. }
        | E::BadName { .. }
        | E::NotInStore { .. }
        | E::NoModel { .. }
        | E::OverQuota { .. } => Exit::Usage,
        E::Io { .. }
        | E::DiskFull { .. }
        | E::Offline { .. }
        | E::Hub { .. }
        | E::NoPip { .. }
        | E::Pip { .. }
        | E::NoSource { .. } => Exit::Environment,
        E::Cancelled { .. } => Exit::Interrupted,
        // What is left is wrong inside a checkpoint, a manifest or an archive.
        _ => Exit::Input,
    }
}

impl From<EmbeddingError> for Failure {
    fn from(err: EmbeddingError) -> Self {
        let exit = match err.fault() {
            Fault::UserInput => Exit::Input,
            Fault::Configuration => Exit::Usage,
            Fault::Environment => Exit::Environment,
            Fault::Internal => Exit::Internal,
        };
        let what = chain(&err);
        match err {
            EmbeddingError::ModelLoadError { source, part, .. } => {
                match source.downcast::<WeightsError>() {
                    Ok(source) => Self::from(*source),
                    Err(source) => {
                        Self::new(Exit::Input, format!("cannot load {part}")).why(source)
                    }
                }
            }
            EmbeddingError::IoError { path, source } => {
                Self::from(WeightsError::io("read or write", path, source))
            }
            EmbeddingError::GpuError { source } => match source.downcast::<RuntimeError>() {
                Ok(source) => Self::from(*source),
                Err(source) => Self::new(Exit::Environment, "the device failed").why(source),
            },
            _ if exit == Exit::Internal => Self::internal(what),
            _ => Self::new(exit, what),
        }
    }
}

impl From<RuntimeError> for Failure {
    fn from(err: RuntimeError) -> Self {
        let what = chain(&err);
        match &err {
            RuntimeError::Quota { .. } => Self::new(Exit::Environment, what)
                .hint("allow more with `--memory`, or make batches smaller with `--batch-tokens`"),
            RuntimeError::Weight { .. } => Self::new(Exit::Input, what),
            RuntimeError::Device(_) => Self::new(Exit::Environment, "the device failed").why(what),
            RuntimeError::Plan(_) => Self::new(Exit::Usage, "cannot plan").why(what),
            _ => Self::internal(what),
        }
    }
}

/// An error and what caused it, each said once.
pub(crate) fn chain(err: &dyn std::error::Error) -> String {
    let mut out = err.to_string();
    let mut next = err.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = cause.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(failure: Failure, exit: Exit, want: &str) {
        assert_eq!(failure.exit, exit, "{failure}");
        assert!(failure.to_string().contains(want), "{failure}");
    }

    #[test]
    fn faults_have_their_codes() {
        check(InputError::Absent { path: "a".into() }.into(), Exit::Input, "a does not exist");
        check(OutputError::DiskFull { path: "a".into() }.into(), Exit::Environment, "no space");
        check(WeightsError::BadName { name: "/".into() }.into(), Exit::Usage, "not a name");
        let source = Box::new(WeightsError::MissingFile { path: "c/config.json".into() });
        let nested = EmbeddingError::ModelLoadError { model_id: None, part: "c".into(), source };
        check(nested.into(), Exit::Usage, "c/config.json does not exist");
        let lost = EmbeddingError::InternalError { place: "here", source: None };
        check(lost.into(), Exit::Internal, "please report");
    }

    #[test]
    fn a_failure_reads_what_why_and_what_to_do() {
        let failure = Failure::usage("no such thing").why("because").hint("do this");
        assert_eq!(failure.to_string(), "calor: no such thing (because)\n  hint: do this");
    }
}
