//! What is kept, for whom, and how much of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use calor_device::{ArtifactKey, ArtifactKind, Artifacts, DeviceError, Found};
use calor_runtime::cache::{Bundle, Directory, Layer, StoreOptions};
use calor_telemetry::{Cache, CacheCount, Counter, Event};

use crate::fixture::{Kept, cannot, key, options, payload, sized};

const REFUSED: DeviceError = DeviceError::Damaged { why: "the device says so" };

fn in_memory() -> StoreOptions {
    StoreOptions { folder: None, ..options("unused".as_ref()) }
}

#[test]
fn sixty_four_threads_make_one_thing_once() {
    let root = tempfile::tempdir().unwrap();
    for options in [in_memory(), options(root.path())] {
        let kept = Kept::open(options);
        let (made, start) = (AtomicU32::new(0), Barrier::new(64));
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    start.wait();
                    let make = &mut || {
                        made.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(5));
                        Ok(payload(&key(1)))
                    };
                    let got = kept.store.get_or_make(&key(1), make).unwrap();
                    assert_eq!(got.0, payload(&key(1)));
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
        let counts = [CacheCount::Hits, CacheCount::Misses, CacheCount::Inserts];
        assert_eq!(counts.map(|it| kept.count(it)), [63, 1, 1]);
        assert_eq!(kept.count(CacheCount::Bytes), 300);
    }
}

#[test]
fn different_things_are_made_at_once() {
    let root = tempfile::tempdir().unwrap();
    let kept = Kept::at(root.path());
    let making = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (kept, making) = (&kept, &making);
            scope.spawn(move || {
                let make = &mut || {
                    making.fetch_add(1, Ordering::Relaxed);
                    let all = || making.load(Ordering::Relaxed) == 8;
                    let met = (0..2000).any(|_| {
                        std::thread::sleep(Duration::from_millis(5));
                        all()
                    });
                    assert!(met, "they never met");
                    Ok(payload(&key(number)))
                };
                kept.store.get_or_make(&key(number), make).unwrap();
            });
        }
    });
}

#[test]
fn a_failure_reaches_all_who_wait_and_may_be_tried_again() {
    let kept = Kept::open(in_memory());
    let (made, start) = (AtomicU32::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                let make = &mut || {
                    made.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(100));
                    Err(cannot())
                };
                let err = kept.store.get_or_make(&key(1), make).unwrap_err();
                assert_eq!(err.to_string(), cannot().to_string());
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
    assert_eq!([CacheCount::Hits, CacheCount::Misses].map(|it| kept.count(it)), [0, 8]);
    assert_eq!(kept.get(&key(1)), Found::Made);
    assert_eq!(kept.get(&key(1)), Found::Kept);
}

#[test]
fn a_maker_that_unwinds_is_replaced() {
    let kept = Kept::open(in_memory());
    std::thread::scope(|scope| {
        let start = Arc::new(Barrier::new(2));
        let (store, begun) = (&kept.store, start.clone());
        let first = scope.spawn(move || {
            let make = &mut || {
                begun.wait();
                std::thread::sleep(Duration::from_millis(50));
                panic!("on purpose")
            };
            store.get_or_make(&key(1), make).unwrap();
        });
        start.wait();
        assert_eq!(kept.get(&key(1)), Found::Made);
        assert!(first.join().is_err());
    });
}

#[test]
fn another_process_would_find_it_and_not_write_it_again() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(Kept::at(root.path()).get(&key(1)), Found::Made);
    let entries = Directory::open(root.path()).unwrap();
    let digest = key(1).digest().to_string();
    let file = entries.path().join(&digest[..2]).join(&digest);
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(&file).unwrap().set_modified(long_ago).unwrap();
    let before = fs::metadata(&file).unwrap();
    let other = Kept::at(root.path());
    assert_eq!(other.get(&key(1)), Found::Kept);
    assert_eq!(other.get(&key(1)), Found::Kept);
    assert_eq!([CacheCount::Hits, CacheCount::Inserts].map(|it| other.count(it)), [2, 0]);
    let after = fs::metadata(&file).unwrap();
    assert_eq!((after.ino(), after.len()), (before.ino(), before.len()));
    assert!(before.mtime() < after.mtime(), "a hit is remembered by the file's date alone");
}

#[test]
fn memory_and_folder_stay_within_their_bounds() {
    let root = tempfile::tempdir().unwrap();
    let (disk_bytes_max, memory_bytes_max) = (40_000, 5_000);
    let kept =
        Kept::open(StoreOptions { disk_bytes_max, memory_bytes_max, ..options(root.path()) });
    let directory = Directory::open(root.path()).unwrap();
    for number in 0..100 {
        assert_eq!(kept.get(&sized(number, 1000)), Found::Made);
        assert!(directory.usage().unwrap().size_bytes <= disk_bytes_max, "{number}");
        assert!(kept.count(CacheCount::Bytes) <= memory_bytes_max, "{number}");
        // The first one is used all the time, by somebody who has it on the disk alone.
        if number % 8 == 0 {
            let other = StoreOptions { memory_bytes_max: 0, ..options(root.path()) };
            assert_eq!(Kept::open(other).get(&sized(0, 1000)), Found::Kept);
        }
    }
    assert!(25 < directory.usage().unwrap().entry_count);
    assert!(60 < kept.count(CacheCount::Evictions));
    let other = Kept::at(root.path());
    assert_eq!(other.get(&sized(0, 1000)), Found::Kept);
    assert_eq!(other.get(&sized(99, 1000)), Found::Kept);
    assert_eq!(other.get(&sized(1, 1000)), Found::Made);
    let huge = sized(1000, 50_000);
    assert_eq!([kept.get(&huge), kept.get(&huge)], [Found::Made, Found::Made]);
    assert_eq!(kept.count(CacheCount::Faults), 2);
    let counters = kept.counters.clone();
    assert!(0 < kept.count(CacheCount::Bytes));
    drop(kept.store);
    let level = calor_telemetry::Cache::KernelArtifact;
    let level = calor_telemetry::Counter::Cache(level, CacheCount::Bytes);
    assert_eq!(counters.snapshot().get(level), 0);
}

#[test]
fn without_room_on_the_disk_nothing_is_there() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("cache");
    let kept = Kept::open(StoreOptions { disk_bytes_max: 0, ..options(&folder) });
    assert_eq!([kept.get(&key(1)), kept.get(&key(1))], [Found::Made, Found::Kept]);
    assert!(!folder.exists() && kept.store.directory().is_none());
    drop(Kept::at(&folder));
    assert!(!folder.exists(), "nothing was asked for");
    assert_eq!(kept.count(CacheCount::Faults), 0);
}

#[test]
fn what_a_device_refuses_is_not_given_again() {
    let root = tempfile::tempdir().unwrap();
    let kept = Kept::at(root.path());
    kept.get(&key(1));
    kept.get(&key(2));
    kept.store.reject(&key(1), &REFUSED);
    assert_eq!(kept.count(CacheCount::Rejections), 1);
    let directory = Directory::open(root.path()).unwrap();
    assert_eq!(directory.usage().unwrap().quarantine_count, 1);
    let aside = directory.path().join("quarantine").join(format!("{}.refused", key(1).digest()));
    let why = fs::read_to_string(aside.with_extension("refused.txt")).unwrap();
    assert_eq!(why, format!("{REFUSED}\n"));
    assert_eq!([kept.get(&key(1)), kept.get(&key(2))], [Found::Made, Found::Kept]);
    assert_eq!(Kept::at(root.path()).get(&key(1)), Found::Kept);
}

fn bundle_of(keys: &[ArtifactKey]) -> Bundle {
    let root = tempfile::tempdir().unwrap();
    let kept = Kept::at(root.path());
    for key in keys {
        kept.get(key);
    }
    let digests: Vec<_> = keys.iter().map(ArtifactKey::digest).collect();
    Bundle::of(kept.store.directory().unwrap(), &digests).unwrap()
}

#[test]
fn layers_are_asked_first_and_never_written() {
    let root = tempfile::tempdir().unwrap();
    let (below, folder) = (root.path().join("below"), root.path().join("folder"));
    Kept::at(&below).get(&key(1));
    let file = root.path().join("bundle");
    bundle_of(&[key(2)]).write(&file).unwrap();
    let layers = vec![Layer::open(&below).unwrap(), Layer::open(&file).unwrap()];
    let kept = Kept::open(StoreOptions { layers, ..options(&folder) });
    let found = [1, 2, 3].map(|it| kept.get(&key(it)));
    assert_eq!(found, [Found::Kept, Found::Kept, Found::Made]);
    let count = |it: &std::path::Path| Directory::open(it).unwrap().usage().unwrap().entry_count;
    assert_eq!([count(&below), count(&folder)], [1, 1]);

    // A layer cannot forget: the store does it for this process.
    for number in [1, 2] {
        kept.store.reject(&key(number), &REFUSED);
        assert_eq!(kept.get(&key(number)), Found::Made);
    }
    assert_eq!([count(&below), count(&folder)], [1, 3]);
    assert!(Layer::open(&root.path().join("absent")).is_err());
    fs::write(&file, "no bundle").unwrap();
    assert!(Layer::open(&file).is_err());
}

#[test]
fn asking_is_recorded() {
    let root = tempfile::tempdir().unwrap();
    let kept = Kept::at(root.path());
    kept.get(&key(1));
    kept.get(&key(1));
    let asked: Vec<bool> = kept
        .log
        .records()
        .iter()
        .map(|it| match it.event {
            Event::CacheAsked { hit, .. } => hit,
            ref other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, [false, true]);
}

#[test]
fn algorithms_are_counted_apart() {
    let kept = Kept::open(in_memory());
    let algorithm = ArtifactKey { kind: ArtifactKind::Algorithm, ..key(1) };
    kept.get(&key(1));
    assert_eq!([kept.get(&algorithm), kept.get(&algorithm)], [Found::Made, Found::Kept]);
    let of = |cache, count| kept.counters.snapshot().get(Counter::Cache(cache, count));
    let counts = [CacheCount::Hits, CacheCount::Misses, CacheCount::Inserts, CacheCount::Bytes];
    assert_eq!(counts.map(|it| of(Cache::KernelArtifact, it)), [0, 1, 1, 300]);
    assert_eq!(counts.map(|it| of(Cache::LibraryAlgorithm, it)), [1, 1, 1, 300]);
}
