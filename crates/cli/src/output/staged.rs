//! A folder beside the target in which files are written, and their way to their names.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::OutputError;
use crate::interrupt;

/// Files on their way: `(written, target)` in the order in which they appear.
pub(super) struct Staged {
    dir: TempDir,
    guard: interrupt::Guard,
    target: PathBuf,
    beside: Vec<(PathBuf, PathBuf)>,
}

impl Staged {
    /// A temporary folder beside `target`; it goes when this is dropped or the command is
    /// interrupted.
    pub(super) fn create(target: &Path) -> Result<Self, OutputError> {
        let parent = parent_of(target);
        if !parent.is_dir() {
            return Err(OutputError::NoFolder { path: target.into() });
        }
        if target.is_dir() {
            let source = std::io::ErrorKind::IsADirectory.into();
            return Err(OutputError::Io { path: target.into(), source });
        }
        let dir = tempfile::Builder::new()
            .prefix(".calor-")
            .tempdir_in(parent)
            .map_err(|err| OutputError::io(target, err))?;
        let guard = interrupt::guard(dir.path());
        Ok(Self { dir, guard, target: target.into(), beside: Vec::new() })
    }

    /// The main file's name to be.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Where the main file is written.
    pub(super) fn main(&self) -> PathBuf {
        self.dir.path().join("main")
    }

    /// Where a file that goes with the main one is written; its name has `extension` too.
    pub(super) fn beside(&mut self, extension: &str) -> PathBuf {
        let path = self.dir.path().join(extension);
        let mut target = self.target.clone().into_os_string();
        target.push(".");
        target.push(extension);
        self.beside.push((path.clone(), target.into()));
        path
    }

    /// Makes the files durable and gives them their names, the main one last.
    pub(super) fn publish(self) -> Result<(), OutputError> {
        let Self { dir, guard, target, mut beside } = self;
        beside.push((dir.path().join("main"), target.clone()));
        for (path, target) in &beside {
            let io = |err| OutputError::io(target, err);
            File::open(path).and_then(|it| it.sync_all()).map_err(io)?;
            fs::rename(path, target).map_err(io)?;
        }
        let parent = parent_of(&target);
        let io = |err| OutputError::io(&target, err);
        File::open(parent).and_then(|it| it.sync_all()).map_err(io)?;
        drop(guard);
        dir.close().map_err(io)
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
