//! What a store counts and records, and by which names.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use calor_device::{ArtifactKey, ArtifactKind};
use calor_telemetry::{
    Cache, CacheCount, Counter, Counters, EntryFlaw, Event, Label, Recorder, StorageFault,
};

use super::error::CacheError;
use super::memory::Memory;

/// Counters and events of one store.
pub(super) struct Tally {
    counters: Arc<Counters>,
    recorder: Arc<dyn Recorder>,
    /// Faults that were recorded already.
    told: [AtomicBool; StorageFault::ALL.len()],
}

impl Tally {
    pub(super) fn new(counters: Arc<Counters>, recorder: Arc<dyn Recorder>) -> Self {
        Self { counters, recorder, told: Default::default() }
    }

    pub(super) fn fault(&self, kind: ArtifactKind, fault: StorageFault) {
        self.count(kind, CacheCount::Faults);
        if !self.told[fault as usize].swap(true, Ordering::Relaxed) {
            self.recorder.record(Event::CacheStorageFailed { cache: cache_of(kind), fault });
        }
    }

    pub(super) fn flawed(&self, key: &ArtifactKey, flaw: EntryFlaw) {
        match flaw {
            EntryFlaw::Corrupt | EntryFlaw::Misplaced => self.count(key.kind, CacheCount::Corrupt),
            EntryFlaw::Stale => self.count(key.kind, CacheCount::Stale),
            EntryFlaw::Foreign => self.count(key.kind, CacheCount::Foreign),
            EntryFlaw::Refused => {}
        }
        let (cache, label) = (cache_of(key.kind), Label::of(&key.label));
        self.recorder.record(Event::CacheEntryFlawed { cache, label, flaw });
    }

    pub(super) fn asked(&self, key: &ArtifactKey, hit: bool) {
        let cache = cache_of(key.kind);
        self.counters.cache_asked(cache, hit);
        self.recorder.record(Event::CacheAsked { cache, hit });
    }

    pub(super) fn count(&self, kind: ArtifactKind, count: CacheCount) {
        self.counters.increment(Counter::Cache(cache_of(kind), count));
    }

    /// Changes what memory holds, and the level that says how much.
    pub(super) fn change<T>(
        &self,
        memory: &mut Memory,
        change: impl FnOnce(&mut Memory) -> T,
    ) -> T {
        let kinds = [ArtifactKind::Kernel, ArtifactKind::Algorithm];
        let before = kinds.map(|it| memory.held_bytes(it));
        let done = change(memory);
        for (kind, before) in kinds.into_iter().zip(before) {
            let level = Counter::Cache(cache_of(kind), CacheCount::Bytes);
            let now = memory.held_bytes(kind);
            self.counters.add(level, now.saturating_sub(before));
            self.counters.lower(level, before.saturating_sub(now));
        }
        done
    }
}

pub(super) fn cache_of(kind: ArtifactKind) -> Cache {
    match kind {
        ArtifactKind::Kernel => Cache::KernelArtifact,
        ArtifactKind::Algorithm => Cache::LibraryAlgorithm,
    }
}

pub(super) fn fault_of_refusal(refusal: &CacheError) -> StorageFault {
    match refusal {
        CacheError::Io { source, .. } => fault_of(source),
        CacheError::Shared { .. } | CacheError::ForeignOwner { .. } => StorageFault::NotPrivate,
        CacheError::NoFolder { .. } | CacheError::Bundle { .. } | CacheError::NoEntry { .. } => {
            StorageFault::Other
        }
    }
}

pub(super) fn fault_of(err: &io::Error) -> StorageFault {
    use io::ErrorKind as K;
    match err.kind() {
        K::PermissionDenied => StorageFault::Denied,
        K::ReadOnlyFilesystem => StorageFault::ReadOnly,
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge => StorageFault::Full,
        _ => StorageFault::Other,
    }
}

#[test]
fn system_errors_are_told_apart() {
    let fault = |code| fault_of(&io::Error::from_raw_os_error(code));
    let linux = [(13, StorageFault::Denied), (30, StorageFault::ReadOnly)];
    let full = [27, 28, 122].map(|code| (code, StorageFault::Full));
    for (code, want) in linux.into_iter().chain(full).chain([(5, StorageFault::Other)]) {
        assert_eq!(fault(code), want, "{code}");
    }
}
