//! The model store: a private directory of pulled models, each with a manifest.
//!
//! ```text
//! <root>/models/<name>/<revision>/   the model and manifest.json
//! <root>/locks/<key>.lock            held while a model is pulled or removed
//! <root>/tmp/<key>/                  a pull at work; the next one clears it
//! ```
//!
//! A model appears under its name complete, fsynced and with digests, or not at all.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    Checkpoint, FileDigest, WeightsError,
    checkpoint::{check_digest, hex, read_text},
    source::{Attempt, Directory, Outcome, Progress, Source, Staging, remove_tree},
};

/// Bump when the manifest's fields change meaning; other formats are refused.
const MANIFEST_FORMAT: u64 = 1;

/// A directory of models.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    options: StoreOptions,
}

/// Limits of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Most bytes of one model.
    pub model_bytes_max: u64,
}

/// What was recorded when a model was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The model.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// [`Source::describe`] of where it came from.
    pub source: String,
    /// All files, sorted by name.
    pub files: Vec<FileDigest>,
    /// BLAKE3 of the bytes of every stored tensor.
    pub tensors: BTreeMap<String, [u8; 32]>,
}

impl Manifest {
    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|it| it.file_bytes).sum()
    }
}

/// The end of a pull.
#[derive(Debug)]
pub struct Pulled {
    /// The model's directory.
    pub dir: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    /// Sources in the order in which they were tried; empty when the model was there.
    pub attempts: Vec<Attempt>,
}

impl Store {
    /// Opens or creates the store at `root`, readable by its owner alone.
    ///
    /// # Errors
    /// [`WeightsError::Io`], [`WeightsError::DiskFull`].
    pub fn open(root: impl Into<PathBuf>, options: StoreOptions) -> Result<Self, WeightsError> {
        let store = Self { root: root.into(), options };
        for dir in ["models", "locks", "tmp"] {
            create_private(&store.root.join(dir))?;
        }
        Ok(store)
    }

    /// Where `name` at `revision` is or would be.
    ///
    /// # Errors
    /// [`WeightsError::BadName`].
    pub fn dir(&self, name: &str, revision: &str) -> Result<PathBuf, WeightsError> {
        let (name, revision) = (file_name(name)?, file_name(revision)?);
        Ok(self.root.join("models").join(name).join(revision))
    }

    /// All models, sorted by name and revision.
    ///
    /// # Errors
    /// Those of [`Store::manifest`] for the first unreadable one.
    pub fn list(&self) -> Result<Vec<Manifest>, WeightsError> {
        let mut out = Vec::new();
        for name in list_dirs(&self.root.join("models"))? {
            for dir in list_dirs(&name)? {
                out.push(read_manifest(&dir)?);
            }
        }
        out.sort_by(|a, b| (&a.name, &a.revision).cmp(&(&b.name, &b.revision)));
        Ok(out)
    }

    /// The manifest of one model; its files are not looked at.
    ///
    /// # Errors
    /// [`WeightsError::BadName`], [`WeightsError::NotInStore`], [`WeightsError::Json`],
    /// [`WeightsError::Field`].
    pub fn manifest(&self, name: &str, revision: &str) -> Result<Manifest, WeightsError> {
        let dir = self.dir(name, revision)?;
        match dir.is_dir() {
            true => read_manifest(&dir),
            false => Err(WeightsError::NotInStore { name: name.into(), revision: revision.into() }),
        }
    }

    /// Gets a model from the first of `sources` that has it. One that is already here is left
    /// as it is. Two processes may pull the same model: the second waits and finds it.
    ///
    /// # Errors
    /// [`WeightsError::NoSource`] with every answer when all fail; at once
    /// [`WeightsError::DiskFull`], [`WeightsError::OverQuota`] and
    /// [`WeightsError::Cancelled`], which another source would not heal. Nothing is left under
    /// the model's name.
    pub fn pull(
        &self,
        name: &str,
        revision: &str,
        sources: &[&dyn Source],
        progress: &mut dyn Progress,
    ) -> Result<Pulled, WeightsError> {
        let dir = self.dir(name, revision)?;
        let _lock = self.lock(name, revision)?;
        let work = self.work_dir(name, revision)?;
        remove_tree(&work)?;
        if dir.is_dir() {
            let manifest = read_manifest(&dir)?;
            return Ok(Pulled { dir, manifest, attempts: Vec::new() });
        }
        let result = self.pull_locked(name, revision, &dir, &work, sources, progress);
        remove_tree(&work)?;
        result
    }

    /// Copies a local directory into the store.
    ///
    /// # Errors
    /// The directory's own, unwrapped, and those of [`Store::pull`].
    pub fn import(
        &self,
        name: &str,
        revision: &str,
        path: impl Into<PathBuf>,
        progress: &mut dyn Progress,
    ) -> Result<Pulled, WeightsError> {
        let source = Directory { path: path.into() };
        match self.pull(name, revision, &[&source], progress) {
            Err(WeightsError::NoSource { mut attempts, name }) => match attempts.pop() {
                Some(Attempt { outcome: Outcome::Failed(err), .. }) => Err(*err),
                _ => Err(WeightsError::NoSource { name, attempts }),
            },
            other => other,
        }
    }

    /// Reads every file and compares it with the manifest, two files at a time.
    ///
    /// # Errors
    /// [`WeightsError::NotInStore`]; [`WeightsError::MissingFile`],
    /// [`WeightsError::Truncated`], [`WeightsError::Tampered`] or
    /// [`WeightsError::Unlisted`] for the first file that differs.
    pub fn verify(&self, name: &str, revision: &str) -> Result<Manifest, WeightsError> {
        let manifest = self.manifest(name, revision)?;
        let dir = self.dir(name, revision)?;
        check_unlisted(&dir, "", &manifest)?;
        for pair in manifest.files.chunks(2) {
            std::thread::scope(|scope| {
                let runs: Vec<_> =
                    pair.iter().map(|it| scope.spawn(|| check_digest(&dir, it))).collect();
                runs.into_iter().try_for_each(|it| it.join().expect("no panic"))
            })?;
        }
        Ok(manifest)
    }

    /// Verifies a model and opens it; its tensors' digests are taken from the manifest.
    ///
    /// # Errors
    /// Those of [`Store::verify`] and [`Checkpoint::open`].
    pub fn load(&self, name: &str, revision: &str) -> Result<Checkpoint, WeightsError> {
        let manifest = self.verify(name, revision)?;
        let checkpoint = Checkpoint::open(self.dir(name, revision)?)?;
        Ok(checkpoint.with_recorded_digests(manifest.tensors))
    }

    /// Removes a model: it is gone from its name at once, then from the disk.
    ///
    /// # Errors
    /// [`WeightsError::NotInStore`], [`WeightsError::Io`].
    pub fn remove(&self, name: &str, revision: &str) -> Result<(), WeightsError> {
        let dir = self.dir(name, revision)?;
        let _lock = self.lock(name, revision)?;
        if !dir.is_dir() {
            return Err(WeightsError::NotInStore { name: name.into(), revision: revision.into() });
        }
        let work = self.work_dir(name, revision)?;
        remove_tree(&work)?;
        fs::rename(&dir, &work).map_err(|it| WeightsError::io("move", &dir, it))?;
        remove_tree(&work)?;
        // The name's folder goes with its last revision; another may be there or just coming.
        if let Some(parent) = dir.parent() {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    fn pull_locked(
        &self,
        name: &str,
        revision: &str,
        dir: &Path,
        work: &Path,
        sources: &[&dyn Source],
        progress: &mut dyn Progress,
    ) -> Result<Pulled, WeightsError> {
        let mut attempts = Vec::new();
        for source in sources {
            let described = source.describe();
            match self.stage(work, *source, progress) {
                Ok((staging, tensors)) => {
                    let mut files = staging.files().to_vec();
                    files.sort_by(|a, b| a.name.cmp(&b.name));
                    let manifest = Manifest {
                        name: name.into(),
                        revision: revision.into(),
                        source: described.clone(),
                        files,
                        tensors,
                    };
                    publish(&staging.model_dir(), dir, &manifest)?;
                    let outcome = Outcome::Delivered {
                        file_count: manifest.files.len(),
                        total_bytes: manifest.total_bytes(),
                    };
                    attempts.push(Attempt { source: described, outcome });
                    return Ok(Pulled { dir: dir.into(), manifest, attempts });
                }
                Err(
                    err @ (WeightsError::DiskFull { .. }
                    | WeightsError::OverQuota { .. }
                    | WeightsError::Cancelled { .. }),
                ) => return Err(err),
                Err(err) => {
                    let outcome = Outcome::Failed(Box::new(err));
                    attempts.push(Attempt { source: described, outcome });
                }
            }
        }
        Err(WeightsError::NoSource { name: name.into(), attempts })
    }

    /// Receives a model, checks that it opens, and takes its tensors' digests.
    fn stage(
        &self,
        work: &Path,
        source: &dyn Source,
        progress: &mut dyn Progress,
    ) -> Result<(Staging, BTreeMap<String, [u8; 32]>), WeightsError> {
        let limit_bytes = self.options.model_bytes_max;
        let mut staging = Staging::create(work, source.describe(), limit_bytes)?;
        source.fetch(&mut staging, progress)?;
        let checkpoint = Checkpoint::open(staging.model_dir())?;
        let names: Vec<&str> = checkpoint.tensors().map(|it| it.0).collect();
        let digest = |name: &&str| Ok(((*name).to_owned(), checkpoint.tensor_digest(name)?));
        let tensors = names.iter().map(digest).collect::<Result<_, WeightsError>>()?;
        Ok((staging, tensors))
    }

    fn lock(&self, name: &str, revision: &str) -> Result<File, WeightsError> {
        let path = self.root.join("locks").join(format!("{}.lock", key(name, revision)?));
        let io = |source| WeightsError::io("lock", &path, source);
        let file = File::options().create(true).append(true).open(&path).map_err(io)?;
        file.lock().map_err(io)?;
        Ok(file)
    }

    fn work_dir(&self, name: &str, revision: &str) -> Result<PathBuf, WeightsError> {
        Ok(self.root.join("tmp").join(key(name, revision)?))
    }
}

/// Writes the manifest, fsyncs, and renames the folder to its final name.
fn publish(staged: &Path, dir: &Path, manifest: &Manifest) -> Result<(), WeightsError> {
    let path = staged.join("manifest.json");
    let io = |source| WeightsError::io("write", &path, source);
    fs::write(&path, manifest_text(manifest)).map_err(io)?;
    File::open(&path).and_then(|it| it.sync_all()).map_err(io)?;
    sync_dir(staged)?;
    let parent = dir.parent().expect("below the store");
    create_private(parent)?;
    fs::rename(staged, dir).map_err(|it| WeightsError::io("move", dir, it))?;
    sync_dir(parent)
}

fn manifest_text(manifest: &Manifest) -> String {
    let Manifest { name, revision, source, files, tensors } = manifest;
    let files: Vec<Value> = files
        .iter()
        .map(|FileDigest { name, file_bytes, digest }| {
            json!({ "name": name, "bytes": file_bytes, "blake3": hex(digest) })
        })
        .collect();
    let tensors: BTreeMap<&String, String> = tensors.iter().map(|(k, v)| (k, hex(v))).collect();
    let value = json!({
        "format": MANIFEST_FORMAT, "name": name, "revision": revision, "source": source,
        "files": files, "tensors": tensors,
    });
    format!("{value:#}\n")
}

/// Digests of tensors that a store recorded in `dir`; none where it was not made by a store.
pub(crate) fn recorded_beside(dir: &Path) -> BTreeMap<String, [u8; 32]> {
    read_manifest(dir).map(|it| it.tensors).unwrap_or_default()
}

fn read_manifest(dir: &Path) -> Result<Manifest, WeightsError> {
    #[derive(serde::Deserialize)]
    struct Raw {
        format: u64,
        name: String,
        revision: String,
        source: String,
        files: Vec<RawFile>,
        tensors: BTreeMap<String, String>,
    }
    #[derive(serde::Deserialize)]
    struct RawFile {
        name: String,
        bytes: u64,
        blake3: String,
    }
    let path = dir.join("manifest.json");
    let raw: Raw = serde_json::from_str(&read_text(&path)?)
        .map_err(|source| WeightsError::Json { path: path.clone(), source })?;
    let bad = |field: &str, found: String| WeightsError::Field {
        path: path.clone(),
        field: field.into(),
        problem: crate::FieldProblem::Unsupported { found },
    };
    if raw.format != MANIFEST_FORMAT {
        return Err(bad("format", raw.format.to_string()));
    }
    let digest = |text: String| match blake3::Hash::from_hex(&text) {
        Ok(hash) => Ok(*hash.as_bytes()),
        Err(_) => Err(bad("blake3", text)),
    };
    let file = |it: RawFile| match crate::checkpoint::stays_inside(&it.name) {
        true => Ok(FileDigest { name: it.name, file_bytes: it.bytes, digest: digest(it.blake3)? }),
        false => Err(bad("name", it.name)),
    };
    Ok(Manifest {
        name: raw.name,
        revision: raw.revision,
        source: raw.source,
        files: raw.files.into_iter().map(file).collect::<Result<_, _>>()?,
        tensors: raw
            .tensors
            .into_iter()
            .map(|(name, text)| Ok((name, digest(text)?)))
            .collect::<Result<_, WeightsError>>()?,
    })
}

/// Fails for a file below `dir` that the manifest does not list.
fn check_unlisted(dir: &Path, prefix: &str, manifest: &Manifest) -> Result<(), WeightsError> {
    let io = |source| WeightsError::io("list", dir, source);
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().display());
        if path.is_dir() && !path.is_symlink() {
            check_unlisted(&path, &format!("{name}/"), manifest)?;
        } else if name != "manifest.json" && manifest.files.iter().all(|it| it.name != name) {
            return Err(WeightsError::Unlisted { path });
        }
    }
    Ok(())
}

/// A name as one path component: its slash becomes `--`.
fn file_name(name: &str) -> Result<String, WeightsError> {
    let plain = |it: char| it.is_ascii_alphanumeric() || "._-/".contains(it);
    let parts: Vec<&str> = name.split('/').collect();
    let good = name.len() <= 96
        && parts.len() <= 2
        && name.chars().all(plain)
        && !name.contains("--")
        && parts.iter().all(|it| !it.is_empty() && !it.starts_with('.') && !it.starts_with('-'));
    match good {
        true => Ok(name.replace('/', "--")),
        false => Err(WeightsError::BadName { name: name.into() }),
    }
}

fn key(name: &str, revision: &str) -> Result<String, WeightsError> {
    Ok(format!("{}@{}", file_name(name)?, file_name(revision)?))
}

fn create_private(dir: &Path) -> Result<(), WeightsError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|it| WeightsError::io("create", dir, it))
}

fn sync_dir(dir: &Path) -> Result<(), WeightsError> {
    File::open(dir).and_then(|it| it.sync_all()).map_err(|it| WeightsError::io("write", dir, it))
}

fn list_dirs(dir: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let io = |source| WeightsError::io("list", dir, source);
    let entries = fs::read_dir(dir).map_err(io)?;
    let paths = entries.map(|it| it.map(|it| it.path())).collect::<Result<Vec<_>, _>>();
    Ok(paths.map_err(io)?.into_iter().filter(|it| it.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ProgressStep;
    use std::{io, ops::ControlFlow, os::unix::fs::PermissionsExt};

    /// Delivers these files, then this error.
    struct Fake {
        files: Vec<(&'static str, Vec<u8>)>,
        end: Option<fn() -> WeightsError>,
    }

    impl Source for Fake {
        fn describe(&self) -> String {
            "fake".into()
        }

        fn fetch(
            &self,
            staging: &mut Staging,
            progress: &mut dyn Progress,
        ) -> Result<(), WeightsError> {
            for (name, bytes) in &self.files {
                staging.write(name, None, &mut bytes.as_slice(), progress)?;
            }
            self.end.map_or(Ok(()), |it| Err(it()))
        }
    }

    fn tensors() -> Vec<u8> {
        let text = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  "#;
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend([7; 8]);
        bytes
    }

    fn good() -> Fake {
        let files = vec![
            ("config.json", b"{}".to_vec()),
            ("model.safetensors", tensors()),
            ("1_Pooling/config.json", b"{}".to_vec()),
        ];
        Fake { files, end: None }
    }

    fn failing(end: fn() -> WeightsError) -> Fake {
        Fake { end: Some(end), ..good() }
    }

    fn store(root: &Path) -> Store {
        Store::open(root.join("store"), StoreOptions { model_bytes_max: 1000 }).unwrap()
    }

    #[track_caller]
    fn check_empty(root: &Path) {
        let store = store(root);
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(list_dirs(&root.join("store/tmp")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_model_is_pulled_listed_loaded_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let lost = failing(|| WeightsError::Offline { origin: "x".into() });
        let pulled = store.pull("a/b", "v1", &[&lost, &good()], &mut ()).unwrap();
        assert_eq!(pulled.attempts.len(), 2);
        assert!(pulled.attempts[0].to_string().contains("offline was asked for"));
        assert!(pulled.attempts[1].to_string().contains("fake: 3 files"));
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&pulled.manifest));
        let mode = root.path().join("store").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);

        let checkpoint = store.load("a/b", "v1").unwrap();
        assert_eq!(checkpoint.tensor_digest("w").unwrap(), *blake3::hash(&[7; 8]).as_bytes());
        let again = store.pull("a/b", "v1", &[], &mut ()).unwrap();
        assert_eq!((again.attempts.len(), again.manifest), (0, pulled.manifest));
        store.remove("a/b", "v1").unwrap();
        check_empty(root.path());
        let err = store.remove("a/b", "v1").unwrap_err();
        assert!(matches!(err, WeightsError::NotInStore { .. }), "{err}");
    }

    #[track_caller]
    fn check_failure(source: &Fake, progress: &mut dyn Progress, want: &str) {
        let root = tempfile::tempdir().unwrap();
        let err = store(root.path()).pull("m", "v", &[source], progress).unwrap_err().to_string();
        assert!(err.contains(want), "wanted `{want}`, got `{err}`");
        check_empty(root.path());
    }

    #[test]
    fn a_failed_pull_leaves_nothing() {
        struct Stop;
        impl Progress for Stop {
            fn step(&mut self, step: &ProgressStep<'_>) -> ControlFlow<()> {
                match step.file {
                    "model.safetensors" => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            }
        }
        let full = || WeightsError::io("write", "w", io::ErrorKind::StorageFull.into());
        check_failure(&failing(full), &mut (), "no space left to write w");
        check_failure(&good(), &mut Stop, "fake: cancelled");
        let mut big = good();
        big.files.push(("README.md", vec![0; 1000]));
        check_failure(&big, &mut (), "fake: more than 1000 bytes");
        let mut cut = good();
        cut.files[1].1.pop();
        check_failure(&cut, &mut (), "no source has `m`: fake: ");
        let escaping = Fake { files: vec![("../x", vec![1])], end: None };
        check_failure(&escaping, &mut (), "`../x` leaves the directory");
    }

    #[test]
    fn an_interrupted_pull_is_cleared_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let left = store.work_dir("m", "v").unwrap().join("model/half.safetensors");
        fs::create_dir_all(left.parent().unwrap()).unwrap();
        fs::write(&left, "half").unwrap();
        store.pull("m", "v", &[&good()], &mut ()).unwrap();
        assert!(!left.exists());
        store.verify("m", "v").unwrap();
    }

    #[test]
    fn concurrent_pulls_deliver_once() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let delivered: usize = std::thread::scope(|scope| {
            let pull = || store.pull("m", "v", &[&good()], &mut ()).unwrap().attempts.len();
            let runs: Vec<_> = (0..8).map(|_| scope.spawn(pull)).collect();
            runs.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(delivered, 1);
    }

    #[track_caller]
    fn check_verify(change: impl Fn(&Path), want: &str) {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let dir = store.pull("m", "v", &[&good()], &mut ()).unwrap().dir;
        store.verify("m", "v").unwrap();
        change(&dir);
        let err = store.verify("m", "v").unwrap_err().to_string();
        assert!(err.contains(want), "wanted `{want}`, got `{err}`");
        assert!(store.load("m", "v").is_err());
    }

    #[test]
    fn verify_finds_what_was_changed() {
        let tensors_with = |last: u8| {
            let mut bytes = tensors();
            *bytes.last_mut().unwrap() = last;
            bytes
        };
        let file = "model.safetensors";
        check_verify(|dir| fs::write(dir.join(file), tensors_with(6)).unwrap(), "was changed");
        check_verify(|dir| fs::write(dir.join(file), "").unwrap(), "is cut short");
        check_verify(|dir| fs::remove_file(dir.join(file)).unwrap(), "does not exist");
        check_verify(|dir| fs::write(dir.join("x.json"), "").unwrap(), "is not listed");
        check_verify(|dir| fs::write(dir.join("1_Pooling/x"), "").unwrap(), "is not listed");
        check_verify(|dir| fs::write(dir.join("manifest.json"), "{").unwrap(), "EOF");
        let format = |dir: &Path| {
            let path = dir.join("manifest.json");
            let text = fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 9");
            fs::write(path, text).unwrap();
        };
        check_verify(format, "`format` is `9`");
    }

    #[test]
    fn names_are_directory_names() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        for name in ["", ".", "..", "a/b/c", "/a", "a/", "../a", "a b", "a--b", "-a", "ä"] {
            let err = store.dir(name, "v").unwrap_err();
            assert!(matches!(err, WeightsError::BadName { .. }), "{name}");
        }
        assert!(
            store
                .dir("intfloat/e5-large-v2", "main")
                .unwrap()
                .ends_with("intfloat--e5-large-v2/main")
        );
    }

    #[test]
    fn a_directory_is_imported_with_its_own_error() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let err = store.import("m", "v", root.path().join("none"), &mut ()).unwrap_err();
        assert!(matches!(err, WeightsError::MissingFile { .. }), "{err}");
        fs::write(root.path().join("config.json"), "{}").unwrap();
        fs::write(root.path().join("model.safetensors"), tensors()).unwrap();
        let pulled = store.import("m", "v", root.path(), &mut ()).unwrap();
        assert_eq!(pulled.manifest.files.len(), 2);
    }
}
