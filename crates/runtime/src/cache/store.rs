//! The store that devices ask: memory, then layers that are only read, then a folder.
//!
//! One caller makes for a key at a time, in this process for certain and among processes as far
//! as locks work. A fault of the folder is counted, recorded once for its kind, and stops nothing.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use calor_device::{ArtifactKey, ArtifactKind, Artifacts, DeviceError, Found};
use calor_kernel::Digest;
use calor_telemetry::{CacheCount, Counters, EntryFlaw, Recorder, StorageFault};

use super::directory::{Directory, ENTRY_BYTES_MAX};
use super::envelope::{self, Flaw};
use super::error::CacheError;
use super::flight::{Flight, Landed};
use super::layer::Layer;
use super::lock;
use super::memory::Memory;
use super::tally::{Tally, fault_of, fault_of_refusal};

/// What is usually allowed on a disk.
pub const DISK_BYTES_MAX: u64 = 2 << 30;
/// What is usually allowed in memory.
pub const MEMORY_BYTES_MAX: u64 = 64 << 20;
/// A folder is looked through again when this part of its bound was written.
const SWEEP_PART: u64 = 16;
/// Cleaning up leaves this part of the bound free, so that the next entries need none.
const FREE_PART: u64 = 8;

/// Where artifacts are kept, and how many.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The folder that holds the folder of entries; none for memory alone.
    pub folder: Option<PathBuf>,
    /// What is asked before the folder and never written to, in order.
    pub layers: Vec<Layer>,
    /// Most bytes in the folder; nothing is read or written there when it is zero.
    pub disk_bytes_max: u64,
    /// Most bytes in memory.
    pub memory_bytes_max: u64,
    /// How long another process that makes the same is waited for.
    pub lock_wait_max: Duration,
}

/// Keeps artifacts in memory and in a folder.
pub struct ArtifactStore {
    layers: Vec<Layer>,
    folder: Option<Folder>,
    /// Opened when something is asked for the first time: a device that keeps nothing leaves
    /// nothing behind.
    disk: OnceLock<Result<Disk, CacheError>>,
    state: Mutex<State>,
    tally: Tally,
}

/// The folder that was asked for.
struct Folder {
    path: PathBuf,
    bytes_max: u64,
    lock_wait_max: Duration,
}

impl Folder {
    fn open(&self) -> Result<Disk, CacheError> {
        let directory = Directory::open(&self.path)?;
        // Without it there are no locks; they are never required.
        let _ = directory.make_lock_folder();
        Ok(Disk {
            directory,
            bytes_max: self.bytes_max,
            lock_wait_max: self.lock_wait_max,
            writes: AtomicBool::new(true),
            books: Mutex::default(),
        })
    }
}

/// The folder, and what is known of it.
struct Disk {
    directory: Directory,
    bytes_max: u64,
    lock_wait_max: Duration,
    /// Whether writing has not been denied yet.
    writes: AtomicBool,
    books: Mutex<Books>,
}

/// How full the folder is, as far as this process knows.
#[derive(Default)]
struct Books {
    swept_bytes: Option<u64>,
    written_bytes: u64,
}

struct State {
    memory: Memory,
    flights: HashMap<ArtifactKey, Arc<Flight>>,
    /// Entries that a device refused; layers cannot be asked to forget them.
    refused: HashSet<Digest>,
    /// Entries of the folder that are bad and could not be moved aside.
    stuck: HashSet<Digest>,
}

/// What was found of an entry outside memory.
enum Look {
    Found(Vec<u8>),
    Absent,
    /// Something is there that is not ours to give or to replace.
    Taken,
}

impl ArtifactStore {
    /// A store. It always works: what keeps it from its folder is in
    /// [`ArtifactStore::refusal`], counted, and recorded when the folder is first wanted.
    pub fn open(
        options: StoreOptions,
        counters: Arc<Counters>,
        recorder: Arc<dyn Recorder>,
    ) -> Self {
        let StoreOptions { folder, layers, disk_bytes_max, memory_bytes_max, lock_wait_max } =
            options;
        let folder = folder.filter(|_| 0 < disk_bytes_max);
        let folder = folder.map(|path| Folder { path, bytes_max: disk_bytes_max, lock_wait_max });
        let state = State {
            memory: Memory::new(memory_bytes_max),
            flights: HashMap::new(),
            refused: HashSet::new(),
            stuck: HashSet::new(),
        };
        let (state, tally) = (Mutex::new(state), Tally::new(counters, recorder));
        Self { layers, folder, disk: OnceLock::new(), state, tally }
    }

    /// The folder of entries, where there is one.
    pub fn directory(&self) -> Option<&Directory> {
        self.disk().map(|it| &it.directory)
    }

    /// Why the folder that was asked for is not used.
    pub fn refusal(&self) -> Option<&CacheError> {
        self.opened()?.as_ref().err()
    }

    fn disk(&self) -> Option<&Disk> {
        self.opened()?.as_ref().ok()
    }

    fn opened(&self) -> Option<&Result<Disk, CacheError>> {
        let folder = self.folder.as_ref()?;
        let open = || {
            let opened = folder.open();
            if let Err(refusal) = &opened {
                self.tally.fault(ArtifactKind::Kernel, fault_of_refusal(refusal));
            }
            opened
        };
        Some(self.disk.get_or_init(open))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the maker of a key does: looks outside memory, and makes what is not there.
    fn fetch(
        &self,
        key: &ArtifactKey,
        make: &mut dyn FnMut() -> Result<Vec<u8>, DeviceError>,
    ) -> Result<(Vec<u8>, Found), DeviceError> {
        let digest = key.digest();
        let mut look = self.look(key, digest);
        // Given up only after the entry is in its place.
        let mut lock = None;
        if let (Look::Absent, Some(disk)) = (&look, self.disk())
            && disk.writes.load(Ordering::Relaxed)
        {
            let place = disk.directory.place_of(digest);
            let is_done = || place.exists();
            lock = Some(lock::take(&disk.directory.lock_of(digest), disk.lock_wait_max, &is_done));
            // Another process may have made it before the lock was ours.
            if place.exists() && !self.state().stuck.contains(&digest) {
                look = self.look_in_folder(disk, key, digest);
            }
        }
        match look {
            Look::Found(bytes) => return Ok((bytes, Found::Kept)),
            Look::Absent | Look::Taken => {}
        }
        let bytes = make()?;
        if let (Look::Absent, Some(disk)) = (&look, self.disk()) {
            self.put(disk, key, digest, &bytes);
        }
        drop(lock);
        Ok((bytes, Found::Made))
    }

    fn look(&self, key: &ArtifactKey, digest: Digest) -> Look {
        let (is_refused, is_stuck) = {
            let state = self.state();
            (state.refused.contains(&digest), state.stuck.contains(&digest))
        };
        for layer in self.layers.iter().filter(|_| !is_refused) {
            match layer.read(digest).map(|it| it.map(|bytes| open(key, bytes))) {
                Ok(None) => {}
                Ok(Some(Ok(bytes))) => return Look::Found(bytes),
                Ok(Some(Err((flaw, _)))) => self.tally.flawed(key, flaw),
                Err(err) => self.tally.fault(key.kind, fault_of(&err)),
            }
        }
        match self.disk() {
            Some(disk) if !is_stuck => self.look_in_folder(disk, key, digest),
            Some(_) | None => Look::Absent,
        }
    }

    fn look_in_folder(&self, disk: &Disk, key: &ArtifactKey, digest: Digest) -> Look {
        let bytes = match disk.directory.read(digest) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Look::Absent,
            Err(err) => {
                self.tally.fault(key.kind, fault_of(&err));
                return Look::Absent;
            }
        };
        match open(key, bytes) {
            Ok(bytes) => {
                disk.directory.touch(digest);
                Look::Found(bytes)
            }
            Err((flaw @ (EntryFlaw::Stale | EntryFlaw::Foreign), _)) => {
                self.tally.flawed(key, flaw);
                Look::Taken
            }
            Err((flaw, why)) => {
                self.tally.flawed(key, flaw);
                self.set_aside(disk, key, digest, flaw, &why.to_string());
                Look::Absent
            }
        }
    }

    fn set_aside(
        &self,
        disk: &Disk,
        key: &ArtifactKey,
        digest: Digest,
        flaw: EntryFlaw,
        why: &str,
    ) -> bool {
        match disk.directory.set_aside(digest, flaw.name(), why) {
            Ok(()) => {
                self.tally.count(key.kind, CacheCount::Rejections);
                true
            }
            Err(err) => {
                self.write_fault(disk, key.kind, &err);
                self.state().stuck.insert(digest);
                false
            }
        }
    }

    /// Keeps an entry in the folder, if the folder lets it.
    fn put(&self, disk: &Disk, key: &ArtifactKey, digest: Digest, payload: &[u8]) {
        if !disk.writes.load(Ordering::Relaxed) {
            return;
        }
        let bytes = envelope::encode(key, payload);
        let bytes_max = disk.bytes_max.min(ENTRY_BYTES_MAX);
        let Some(bytes) = bytes.filter(|it| it.len() as u64 <= bytes_max) else {
            return self.tally.fault(key.kind, StorageFault::TooLarge);
        };
        match disk.directory.write(digest, &bytes) {
            Ok(()) => {
                self.state().stuck.remove(&digest);
                self.account(disk, key.kind, bytes.len() as u64);
            }
            Err(err) => self.write_fault(disk, key.kind, &err),
        }
    }

    /// Notes that bytes were written, and cleans up when it is time.
    fn account(&self, disk: &Disk, kind: ArtifactKind, written_bytes: u64) {
        {
            let mut books = disk.books.lock().unwrap_or_else(PoisonError::into_inner);
            books.written_bytes += written_bytes;
            let is_full = |swept: u64| disk.bytes_max < swept.saturating_add(books.written_bytes);
            let is_due = books.swept_bytes.is_none_or(is_full)
                || disk.bytes_max / SWEEP_PART < books.written_bytes;
            if !is_due {
                return;
            }
            let known_bytes = books.swept_bytes.unwrap_or(0).saturating_add(books.written_bytes);
            *books = Books { swept_bytes: Some(known_bytes), written_bytes: 0 };
        }
        let bytes_after = disk.bytes_max - disk.bytes_max / FREE_PART;
        match disk.directory.sweep(disk.bytes_max, bytes_after) {
            Ok(Some(swept)) => {
                for kind in swept.removed {
                    self.tally.count(kind, CacheCount::Evictions);
                }
                let mut books = disk.books.lock().unwrap_or_else(PoisonError::into_inner);
                books.swept_bytes = Some(swept.left_bytes);
            }
            Ok(None) => {}
            Err(err) => self.tally.fault(kind, fault_of(&err)),
        }
    }

    fn write_fault(&self, disk: &Disk, kind: ArtifactKind, err: &io::Error) {
        let fault = fault_of(err);
        if matches!(fault, StorageFault::Denied | StorageFault::ReadOnly) {
            disk.writes.store(false, Ordering::Relaxed);
        }
        self.tally.fault(kind, fault);
    }
}

impl Artifacts for ArtifactStore {
    fn get_or_make(
        &self,
        key: &ArtifactKey,
        make: &mut dyn FnMut() -> Result<Vec<u8>, DeviceError>,
    ) -> Result<(Vec<u8>, Found), DeviceError> {
        loop {
            let mut state = self.state();
            if let Some(bytes) = state.memory.get(key) {
                drop(state);
                self.tally.asked(key, true);
                return Ok((bytes.to_vec(), Found::Kept));
            }
            let Some(flight) = state.flights.get(key).cloned() else {
                let flight = Arc::new(Flight::default());
                state.flights.insert(key.clone(), flight.clone());
                drop(state);
                let mut landing = Landing { store: self, key, flight, landed: None };
                let fetched = self.fetch(key, make);
                landing.landed = Some(
                    fetched
                        .as_ref()
                        .map_err(Clone::clone)
                        .map(|(bytes, _)| Arc::from(bytes.as_slice())),
                );
                let found = fetched.as_ref().map(|it| it.1);
                self.tally.asked(key, matches!(found, Ok(Found::Kept)));
                if matches!(found, Ok(Found::Made)) {
                    self.tally.count(key.kind, CacheCount::Inserts);
                }
                return fetched;
            };
            drop(state);
            if let Some(landed) = flight.wait() {
                self.tally.asked(key, landed.is_ok());
                return landed.map(|bytes| (bytes.to_vec(), Found::Kept));
            }
        }
    }

    fn reject(&self, key: &ArtifactKey, why: &DeviceError) {
        let digest = key.digest();
        self.tally.flawed(key, EntryFlaw::Refused);
        let is_aside = self.disk().is_some_and(|disk| {
            self.set_aside(disk, key, digest, EntryFlaw::Refused, &why.to_string())
        });
        if !is_aside {
            self.tally.count(key.kind, CacheCount::Rejections);
        }
        let mut state = self.state();
        state.refused.insert(digest);
        self.tally.change(&mut state.memory, |memory| memory.remove(key));
    }
}

impl Drop for ArtifactStore {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.tally.change(&mut state.memory, |memory| *memory = Memory::new(0));
    }
}

impl std::fmt::Debug for ArtifactStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtifactStore")
            .field("disk", &self.disk.get().map(|it| it.as_ref().map(|it| &it.directory)))
            .finish_non_exhaustive()
    }
}

/// Ends a flight, also where the maker unwinds.
struct Landing<'a> {
    store: &'a ArtifactStore,
    key: &'a ArtifactKey,
    flight: Arc<Flight>,
    landed: Option<Landed>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if let Some(Ok(bytes)) = &self.landed {
            let bytes = bytes.clone();
            let gone = self.store.tally.change(&mut state.memory, |it| it.insert(self.key, bytes));
            for kind in gone {
                self.store.tally.count(kind, CacheCount::Evictions);
            }
        }
        state.flights.remove(self.key);
        drop(state);
        self.flight.land(self.landed.take());
    }
}

/// The payload of an entry that is what was asked for; else what is wrong with it.
fn open(key: &ArtifactKey, mut bytes: Vec<u8>) -> Result<Vec<u8>, (EntryFlaw, Flaw)> {
    let found = envelope::decode(&bytes);
    let payload_at = match found {
        Ok(envelope) if envelope.key == *key => bytes.len() - envelope.payload.len(),
        Ok(envelope) => {
            let is_foreign = envelope.key.kind != key.kind || envelope.key.target != key.target;
            let flaw = if is_foreign { EntryFlaw::Foreign } else { EntryFlaw::Misplaced };
            return Err((flaw, Flaw::Misplaced));
        }
        Err(flaw @ Flaw::Format { .. }) => return Err((EntryFlaw::Stale, flaw)),
        Err(flaw @ Flaw::Kind) => return Err((EntryFlaw::Foreign, flaw)),
        Err(flaw) => return Err((EntryFlaw::Corrupt, flaw)),
    };
    bytes.drain(..payload_at);
    Ok(bytes)
}
