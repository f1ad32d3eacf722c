//! The repository as data: its files and what cargo knows about its packages.
//!
//! Read once and passed to every rule, so that rules are functions and their tests need no
//! disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use crate::source::Source;

/// Everything that rules look at.
pub(crate) struct Repository {
    /// Where it lies; rules report paths relative to it.
    pub(crate) root: PathBuf,
    /// Files that git tracks or would track, in order of their paths.
    pub(crate) files: Vec<File>,
    /// `cargo metadata --no-deps`.
    pub(crate) metadata: Json,
}

/// One file.
pub(crate) struct File {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// Size on disk.
    pub(crate) size_bytes: u64,
    /// Its text, unless it is binary.
    pub(crate) text: Option<String>,
    /// Its lines as code, when it is Rust.
    pub(crate) source: Option<Source>,
}

impl Repository {
    /// Reads the repository that cargo runs this task for.
    pub(crate) fn open() -> Result<Self> {
        let root = root()?;
        let mut files = Vec::new();
        for path in Self::paths(&root)? {
            // A file that was deleted and not committed yet is still listed.
            if let Ok(bytes) = std::fs::read(root.join(&path)) {
                let size_bytes = bytes.len() as u64;
                files.push(File::new(path, size_bytes, String::from_utf8(bytes).ok()));
            }
        }
        let metadata = ["metadata", "--no-deps", "--format-version", "1"];
        let metadata = output(Command::new(cargo()).args(metadata).current_dir(&root))?;
        Ok(Self { root, files, metadata: serde_json::from_str(&metadata)? })
    }

    /// What git tracks or would track in `root`, in order.
    pub(crate) fn paths(root: &Path) -> Result<Vec<String>> {
        let listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let mut paths: Vec<String> = output(Command::new("git").args(listing).current_dir(root))?
            .split('\0')
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect();
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    /// A repository of these files alone.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| {
            File::new((*path).to_owned(), text.len() as u64, Some((*text).to_owned()))
        };
        let files = files.iter().map(file).collect();
        Self { root: PathBuf::new(), files, metadata: Json::Null }
    }

    /// One file by its path.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|it| it.path == path)
    }

    /// Rust files with their sources.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&File, &Source)> {
        self.files.iter().filter_map(|file| Some((file, file.source.as_ref()?)))
    }

    /// What cargo knows about the workspace and everything that it depends on.
    pub(crate) fn metadata_with_dependencies(&self) -> Result<Json> {
        let metadata = ["metadata", "--locked", "--format-version", "1"];
        let text = output(Command::new(cargo()).args(metadata).current_dir(&self.root))?;
        Ok(serde_json::from_str(&text)?)
    }
}

impl File {
    fn new(path: String, size_bytes: u64, text: Option<String>) -> Self {
        let source = text.as_deref().filter(|_| path.ends_with(".rs")).map(Source::new);
        Self { path, size_bytes, text, source }
    }
}

/// Where the repository lies.
pub(crate) fn root() -> Result<PathBuf> {
    Ok(manifest().parent().context("xtask lies in the repository")?.to_owned())
}

/// The folder of this package. Asked when running first: clones that share a target folder
/// share the binary too.
#[expect(clippy::disallowed_methods, reason = "cargo says what it runs in its environment")]
fn manifest() -> PathBuf {
    let running = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    running.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")))
}

/// The cargo that runs this task, so that both use one toolchain.
#[expect(clippy::disallowed_methods, reason = "cargo says where it is in its environment")]
pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Runs `command` and gives its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown} failed: {}", complaint.trim());
    String::from_utf8(output.stdout).with_context(|| format!("{shown} did not print text"))
}
