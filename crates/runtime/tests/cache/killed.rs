//! Several processes share a folder, and some of them are killed while they write.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use calor_device::{ArtifactKey, Artifacts, DeviceError, Found};
use calor_runtime::cache::{Directory, StoreOptions};
use calor_telemetry::CacheCount;

use crate::fixture::{Kept, again, cannot, key, options, other_part, payload, sized};

const PROCESSES: usize = 8;

#[test]
fn eight_processes_make_each_thing_once() {
    const NAME: &str = "killed::eight_processes_make_each_thing_once";
    if let Some(folder) = other_part() {
        let kept = Kept::at(&folder);
        for number in 0..20 {
            let make = &mut || {
                std::thread::sleep(Duration::from_millis(10));
                Ok(payload(&key(number)))
            };
            let (bytes, found) = kept.store.get_or_make(&key(number), make).unwrap();
            assert_eq!(bytes, payload(&key(number)));
            if found == Found::Made {
                println!("made {number}");
            }
        }
        assert_eq!(kept.count(CacheCount::Faults) + kept.count(CacheCount::Corrupt), 0);
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let start = |_| again(NAME, root.path()).stdout(Stdio::piped()).spawn().unwrap();
    let children: Vec<Child> = (0..PROCESSES).map(start).collect();
    let mut made: HashMap<String, usize> = HashMap::new();
    for child in children {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success());
        let text = String::from_utf8(done.stdout).unwrap();
        for line in text.lines().filter(|it| it.starts_with("made ")) {
            *made.entry(line.to_owned()).or_default() += 1;
        }
    }
    // Each was made, and the locks of a local disk see to it that nobody made it twice.
    assert_eq!(made.len(), 20);
    assert!(made.values().all(|it| *it == 1), "{made:?}");
}

/// Numbers that look random; each process has its own.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Keys whose entries together are larger than the folder may be.
fn some_key(number: u64) -> ArtifactKey {
    sized(number as u32, 200 + (number * number * 97 % 200_000) as usize)
}

const KEYS: u64 = 64;

fn small(folder: &Path) -> StoreOptions {
    let (disk_bytes_max, memory_bytes_max) = (3 << 20, 0);
    StoreOptions { disk_bytes_max, memory_bytes_max, ..options(folder) }
}

#[expect(clippy::print_stdout, reason = "its other part listens")]
fn write_for_ever(folder: &Path) -> ! {
    let kept = Kept::open(small(folder));
    let mut numbers = Numbers(u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for step in 0_u64.. {
        if step == 10 {
            println!("\nready");
        }
        let key = some_key(numbers.below(KEYS));
        kept.get(&key);
        if numbers.below(16) == 0 {
            kept.store.reject(&key, &DeviceError::Damaged { why: "to see it made again" });
        }
        assert_eq!(kept.count(CacheCount::Corrupt), 0, "half an entry was seen");
        assert_eq!(kept.count(CacheCount::Faults), 0, "the folder failed");
    }
    unreachable!("it is killed before")
}

/// How many rounds. A thousand take two minutes:
/// `CALOR_KILL_ROUNDS=1000 cargo nextest run -p calor-runtime killed_writers`.
#[expect(clippy::disallowed_methods, reason = "how long to look is said from outside")]
fn rounds() -> u64 {
    std::env::var("CALOR_KILL_ROUNDS").map_or(50, |it| it.parse().unwrap())
}

#[test]
fn killed_writers_leave_no_half_entries() {
    const NAME: &str = "killed::killed_writers_leave_no_half_entries";
    if let Some(folder) = other_part() {
        write_for_ever(&folder);
    }
    let root = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(88_172_645_463_325_252);
    let mut entry_count = 0;
    for round in 0..rounds() {
        let start = |_| {
            let mut command = again(NAME, root.path());
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let out = BufReader::new(child.stdout.take().unwrap());
            (child, out)
        };
        let mut children: Vec<_> = (0..PROCESSES).map(start).collect();
        let (_, out) = &mut children[0];
        assert!(out.lines().any(|it| it.unwrap() == "ready"), "round {round}");
        std::thread::sleep(Duration::from_micros(numbers.below(60_000)));
        for (child, _) in &mut children {
            child.kill().unwrap();
        }
        for (child, _) in children {
            let done = child.wait_with_output().unwrap();
            // A writer that fails may still be saying so when it is killed.
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(said.is_empty(), "round {round}: {said}");
            assert_eq!(done.status.code(), None, "round {round}: it ended by itself");
        }
        let directory = Directory::open(root.path()).unwrap();
        let rows = directory.inventory().unwrap();
        entry_count += rows.len() as u64;
        for row in rows {
            assert!(row.content.is_ok(), "round {round}: {row:?}");
        }
        // What is kept is what was made; only that is asked for, so that all else is theirs.
        let kept = Kept::open(small(root.path()));
        for number in 0..KEYS {
            let key = some_key(number);
            let make = &mut || Err(cannot());
            if let Ok((bytes, _)) = kept.store.get_or_make(&key, make) {
                assert_eq!(bytes, payload(&key), "round {round}");
            }
        }
        assert_eq!(kept.count(CacheCount::Corrupt), 0, "round {round}");
    }
    assert!(15 * rounds() < entry_count, "the writers wrote next to nothing: {entry_count}");
}
