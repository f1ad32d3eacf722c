//! Why something was not measured, not believed or not decided.

use std::path::{Path, PathBuf};

/// Why something was not measured, not believed or not decided.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// A file or folder cannot be used.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A suite or a file of gates cannot be what it says.
    #[error("{}: {what}", path.display())]
    Description {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A word in a command has no value.
    #[error("arm `{arm}` of case `{case}` uses `{{{word}}}`, which nothing gives")]
    NoWord {
        /// Which case.
        case: String,
        /// Which arm.
        arm: String,
        /// The word.
        word: String,
    },
    /// The folder holds a run of something else.
    #[error("{} holds another run: {what}", path.display())]
    OtherRun {
        /// The folder.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The user stopped it; what was measured is kept.
    #[error("stopped; the same command goes on where this ended")]
    Stopped,
    /// A package is refused.
    #[error("{} is refused: {what}", path.display())]
    Refused {
        /// The package.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A picture could not be drawn.
    #[error("cannot draw `{name}`: {what}")]
    Plot {
        /// Which picture.
        name: String,
        /// Why not.
        what: String,
    },
}

impl MeasureError {
    pub(crate) fn io<'a>(
        what: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    pub(crate) fn description(path: &Path, what: impl ToString) -> Self {
        Self::Description { path: path.to_owned(), what: what.to_string() }
    }

    pub(crate) fn refused(path: &Path, what: impl ToString) -> Self {
        Self::Refused { path: path.to_owned(), what: what.to_string() }
    }
}
