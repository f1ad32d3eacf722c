//! Stores, keys and payloads that the tests share.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use calor_device::{ArtifactKey, ArtifactKind, Artifacts, DeviceError, Found};
use calor_kernel::Digest;
use calor_runtime::cache::{ArtifactStore, Layer, StoreOptions};
use calor_telemetry::{Cache, CacheCount, Counter, Counters, Log};

/// A store with what it counts and records.
pub(crate) struct Kept {
    pub(crate) store: ArtifactStore,
    pub(crate) counters: Arc<Counters>,
    pub(crate) log: Arc<Log>,
}

impl Kept {
    pub(crate) fn open(options: StoreOptions) -> Self {
        let (counters, log) = (Arc::new(Counters::new()), Arc::new(Log::new()));
        let store = ArtifactStore::open(options, counters.clone(), log.clone());
        Self { store, counters, log }
    }

    /// In a folder, with room for everything.
    pub(crate) fn at(folder: &Path) -> Self {
        Self::open(options(folder))
    }

    /// What is given for a key, whose bytes are its payload when they are made.
    #[track_caller]
    pub(crate) fn get(&self, key: &ArtifactKey) -> Found {
        let make = &mut || Ok(payload(key));
        let (bytes, found) = self.store.get_or_make(key, make).unwrap();
        assert_eq!(bytes, payload(key), "{key:?}");
        found
    }

    pub(crate) fn count(&self, count: CacheCount) -> u64 {
        self.counters.snapshot().get(Counter::Cache(Cache::KernelArtifact, count))
    }
}

pub(crate) fn options(folder: &Path) -> StoreOptions {
    StoreOptions {
        folder: Some(folder.to_owned()),
        layers: Vec::<Layer>::new(),
        disk_bytes_max: 1 << 30,
        memory_bytes_max: 1 << 20,
        lock_wait_max: Duration::from_secs(60),
    }
}

pub(crate) fn key(number: u32) -> ArtifactKey {
    ArtifactKey {
        kind: ArtifactKind::Kernel,
        target: "sm_90".into(),
        producer: "maker 1.0".into(),
        body: Digest::of(&number.to_le_bytes()),
        label: format!("kernel {number}"),
    }
}

/// Bytes that only this key has: a few hundred, or as many as the label says.
pub(crate) fn payload(key: &ArtifactKey) -> Vec<u8> {
    let digest = key.digest().0;
    let len = key.label.rsplit_once('#').map_or(300, |(_, len)| len.parse().unwrap());
    (0..len).map(|at: usize| digest[at % 32] ^ (at / 32) as u8).collect()
}

pub(crate) fn sized(number: u32, len: usize) -> ArtifactKey {
    ArtifactKey { label: format!("kernel {number} #{len}"), ..key(number) }
}

pub(crate) fn cannot() -> DeviceError {
    DeviceError::Compile { label: "kernel".into(), log: "no".into() }
}

/// The variable that tells this program to do the other part of a test, on a folder.
const OTHER_PART: &str = "CALOR_TEST_OTHER_PART";

/// The folder that the other part of a test is to work on; none in the test itself.
#[expect(clippy::disallowed_methods, reason = "how a test speaks to its other part")]
pub(crate) fn other_part() -> Option<std::path::PathBuf> {
    std::env::var_os(OTHER_PART).map(Into::into)
}

/// This program, as the other part of `test`.
pub(crate) fn again(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(OTHER_PART, folder);
    command
}
