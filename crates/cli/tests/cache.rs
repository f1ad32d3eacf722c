//! `calor cache` as users run it.
//!
//! Needs a file system. The entries are written by the store itself.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use calor_device::{ArtifactKey, ArtifactKind, Artifacts};
use calor_kernel::Digest;
use calor_runtime::cache::{ArtifactStore, StoreOptions};
use calor_telemetry::{Counters, Null};
use serde_json::Value as Json;
use tempfile::TempDir;

struct Calor(TempDir);

impl Calor {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("kept")
    }

    /// The exit code, and what was said on either stream.
    fn run(&self, line: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_calor"))
            .args(line)
            .current_dir(self.0.path())
            .env_clear()
            .env("HOME", self.0.path())
            .env("CALOR_CACHE_DIR", self.folder())
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8(said).unwrap())
    }

    #[track_caller]
    fn check(&self, line: &[&str], code: i32, wants: &[&str]) {
        let (found, said) = self.run(line);
        assert_eq!(found, code, "{line:?}: {said}");
        for want in wants {
            assert!(said.contains(want), "{line:?}: wanted `{want}` in: {said}");
        }
    }

    #[track_caller]
    fn json(&self, line: &[&str]) -> Json {
        let (_, said) = self.run(line);
        serde_json::from_str(&said).unwrap_or_else(|err| panic!("{line:?}: {err}: {said}"))
    }
}

fn key(number: u8, kind: ArtifactKind, target: &str) -> ArtifactKey {
    ArtifactKey {
        kind,
        target: target.into(),
        producer: "nvrtc 12.9".into(),
        body: Digest([number; 32]),
        label: format!("rows_{number}"),
    }
}

/// Three kernels and an algorithm.
fn fill(folder: &Path) -> Vec<ArtifactKey> {
    let options = StoreOptions {
        folder: Some(folder.to_owned()),
        layers: Vec::new(),
        disk_bytes_max: 1 << 30,
        memory_bytes_max: 0,
        lock_wait_max: Duration::ZERO,
    };
    let store = ArtifactStore::open(options, Arc::new(Counters::new()), Arc::new(Null));
    let mut keys = [1, 2].map(|it| key(it, ArtifactKind::Kernel, "sm_90a")).to_vec();
    keys.push(key(3, ArtifactKind::Kernel, "sm_100"));
    keys.push(key(4, ArtifactKind::Algorithm, "NVIDIA H200"));
    for key in &keys {
        store.get_or_make(key, &mut || Ok(vec![key.body.0[0]; 2000])).unwrap();
    }
    keys
}

fn place(folder: &Path, key: &ArtifactKey) -> PathBuf {
    let name = key.digest().to_string();
    folder.join("artifacts-v1").join(&name[..2]).join(name)
}

#[test]
fn an_empty_cache_is_no_error_and_is_not_made() {
    let calor = Calor::new();
    calor.check(&["cache", "list"], 0, &["nothing is kept in"]);
    calor.check(&["cache", "verify"], 0, &["0 of 0 entries are whole"]);
    calor.check(&["cache", "clear"], 0, &["removed 0 entries"]);
    calor.check(&["cache", "export", "file"], 2, &["there is nothing to export"]);
    calor.check(&["doctor"], 0, &["kept (nothing is kept yet)"]);
    assert!(!calor.folder().exists());
}

#[test]
fn entries_are_listed_for_people_and_programs() {
    let calor = Calor::new();
    let keys = fill(&calor.folder());
    let digits = keys[0].digest().short();
    let wants = ["key ", "sm_90a", "NVIDIA H200", "algorithm", "rows_3", "nvrtc 12.9", "s ago"];
    calor.check(&["cache", "list"], 0, &wants);
    calor.check(&["cache", "list"], 0, &[&digits, "4 entries, 8.", "KiB"]);
    let json = calor.json(&["cache", "list", "--json", "--target", "sm_90a"]);
    let entries = json["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        assert_eq!((&entry["kind"], &entry["target"]), (&"kernel".into(), &"sm_90a".into()));
        assert_eq!((&entry["flaw"], entry["key"].as_str().unwrap().len()), (&Json::Null, 64));
    }
    calor.check(&["doctor"], 0, &["kept (4 entries, 8."]);
    let folder = calor.folder();
    let flag = ["cache", "list", "--cache-dir", "elsewhere"];
    calor.check(&flag, 0, &["nothing is kept in elsewhere"]);
    assert!(folder.exists());
}

#[test]
fn damage_is_named_and_nothing_is_changed() {
    let calor = Calor::new();
    let keys = fill(&calor.folder());
    calor.check(&["cache", "verify"], 0, &["4 of 4 entries are whole"]);
    let file = place(&calor.folder(), &keys[1]);
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, &bytes).unwrap();
    let digest = keys[1].digest().to_string();
    let wants = [digest.as_str(), "is damaged: its digest is wrong", "3 of 4 entries are whole"];
    calor.check(&["cache", "verify"], 1, &wants);
    let json = calor.json(&["cache", "verify", "--json"]);
    assert_eq!(json["damaged"][0]["key"], digest.as_str());
    calor.check(&["cache", "list"], 0, &["damaged"]);
    let wants = ["exported 3 entries", "1 damaged entries were left out"];
    calor.check(&["cache", "export", "file"], 1, &wants);
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[test]
fn entries_travel_in_a_file() {
    let calor = Calor::new();
    let keys = fill(&calor.folder());
    calor.check(&["cache", "export", "all.calor"], 0, &["exported 4 entries", "sm_100, sm_90a"]);
    let there = ["--cache-dir", "there"];
    let import = ["cache", "import", "all.calor", there[0], there[1]];
    calor.check(&import, 0, &["imported 4 entries"]);
    let one = calor.json(&["cache", "list", "--json"]);
    let other = calor.json(&["cache", "list", "--json", there[0], there[1]]);
    let names = |it: &Json| {
        let entries = it["entries"].as_array().unwrap();
        entries.iter().map(|it| it["key"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&one), names(&other));
    let target = ["cache", "export", "some.calor", "--target", "sm_90a"];
    calor.check(&target, 0, &["exported 2 entries", "for sm_90a"]);
    let digits = keys[3].digest().short();
    let by_key = ["cache", "export", "one.calor", "--key", &digits];
    calor.check(&by_key, 0, &["exported 1 entries", "for NVIDIA H200"]);
    calor.check(&["cache", "export", "f", "--key", "xyz"], 2, &["no entry starts with `xyz`"]);
    calor.check(&["cache", "export", "f", "--key", ""], 2, &["4 entries start with"]);

    let mut bytes = fs::read(calor.0.path().join("all.calor")).unwrap();
    bytes[100] ^= 1;
    fs::write(calor.0.path().join("all.calor"), bytes).unwrap();
    let empty = ["cache", "import", "all.calor", "--cache-dir", "empty"];
    calor.check(&empty, 3, &["all.calor cannot be imported: its digest is wrong"]);
    assert!(!calor.0.path().join("empty").exists());
    calor.check(&["cache", "import", "absent"], 4, &["cannot read absent"]);
}

#[test]
fn clearing_says_what_it_removed_and_leaves_the_rest() {
    let calor = Calor::new();
    fill(&calor.folder());
    let mine = [calor.folder().join("mine"), calor.folder().join("artifacts-v1/mine")];
    mine.iter().for_each(|it| fs::write(it, "mine").unwrap());
    let wants = ["removed 4 entries (8.", "artifacts-v1/mine is not the cache's and was left"];
    calor.check(&["cache", "clear"], 0, &wants);
    assert!(mine.iter().all(|it| fs::read(it).unwrap() == b"mine"));
    calor.check(&["cache", "list"], 0, &["nothing is kept"]);
    fill(&calor.folder());
    let json = calor.json(&["cache", "clear", "--json"]);
    assert_eq!((&json["entry_count"], &json["left"].as_array().unwrap().len()), (&4.into(), &1));
}

#[test]
fn a_shared_folder_is_refused_with_the_way_out() {
    let calor = Calor::new();
    fill(&calor.folder());
    fs::set_permissions(calor.folder(), fs::Permissions::from_mode(0o777)).unwrap();
    let wants = ["others may write to", "chmod go-w", "`--cache-dir`"];
    for command in ["list", "verify", "clear"] {
        calor.check(&["cache", command], 4, &wants);
    }
    calor.check(&["doctor"], 0, &["--  cache", "others may write to", "is not kept"]);
    assert!(place(&calor.folder(), &key(1, ArtifactKind::Kernel, "sm_90a")).exists());
}

#[test]
fn a_layer_that_cannot_be_used_stops_a_run_before_it_starts() {
    let calor = Calor::new();
    fs::write(calor.0.path().join("bad"), "no bundle").unwrap();
    let run = ["bench", "run", "op.add", "--smoke", "--cache-layer", "bad"];
    calor.check(&run, 3, &["bad cannot be imported: it is cut off"]);
}
