//! Why a folder or a bundle of artifacts cannot be used.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::envelope::Flaw;

/// A failure of what is done to a folder or a bundle on purpose. A store has none: it goes on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The system said no.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may write to the folder, and code from it would be run.
    #[error(
        "others may write to {} (mode {mode:o}): take that away with `chmod go-w`",
        path.display()
    )]
    Shared {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder belongs to another user, and code from it would be run.
    #[error("{} belongs to user {owner}, not to user {user}", path.display())]
    ForeignOwner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// The path leads to something else than a folder.
    #[error("{} is no folder", path.display())]
    NoFolder {
        /// The path.
        path: PathBuf,
    },
    /// The file is no bundle, or one of another format, or damaged.
    #[error("{} cannot be imported: {flaw}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// An entry that was asked for is not there.
    #[error("there is no entry {digest}")]
    NoEntry {
        /// Digest of its key.
        digest: calor_kernel::Digest,
    },
}

impl CacheError {
    pub(super) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }
}
