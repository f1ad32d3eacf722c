//! A folder that cannot be used costs time, never a result.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use calor_device::Found;
use calor_runtime::cache::{CacheError, Directory, StoreOptions};
use calor_telemetry::{CacheCount, Event, StorageFault};

use crate::fixture::{Kept, again, key, options, other_part, sized};

fn faults(kept: &Kept) -> Vec<StorageFault> {
    let fault = |event: &Event| match event {
        Event::CacheStorageFailed { fault, .. } => Some(*fault),
        _ => None,
    };
    kept.log.records().iter().filter_map(|it| fault(&it.event)).collect()
}

#[test]
fn a_shared_folder_is_refused_and_work_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("shared");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let kept = Kept::at(&folder);
    assert!(matches!(kept.store.refusal(), Some(CacheError::Shared { .. })));
    assert_eq!([kept.get(&key(1)), kept.get(&key(1))], [Found::Made, Found::Kept]);
    assert_eq!(
        (faults(&kept), kept.count(CacheCount::Faults)),
        (vec![StorageFault::NotPrivate], 1)
    );
    assert_eq!(fs::read_dir(folder.join("artifacts-v1")).into_iter().flatten().count(), 0);
}

#[test]
fn a_folder_that_is_a_file_is_refused_and_work_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "mine").unwrap();
    let kept = Kept::at(&file);
    assert!(kept.store.refusal().is_some());
    assert_eq!([kept.get(&key(1)), kept.get(&key(1))], [Found::Made, Found::Kept]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

/// As somebody whom permissions bind: the superuser is not.
fn bound_by_permissions(mut command: Command, folder: &Path) -> Command {
    if rustix::process::geteuid().is_root() {
        let nobody = 65_534;
        let all = walk(folder);
        all.iter().for_each(|it| chown(it, Some(nobody), Some(nobody)).unwrap());
        command.uid(nobody).gid(nobody);
    }
    command
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(walk(&path)) } else { all.push(path) }
    }
    all
}

#[test]
fn a_read_only_folder_is_read_and_not_missed() {
    const NAME: &str = "faults::a_read_only_folder_is_read_and_not_missed";
    if let Some(folder) = other_part() {
        let without_memory = StoreOptions { memory_bytes_max: 0, ..options(&folder) };
        let kept = Kept::open(without_memory);
        let found = [1, 2, 3, 4, 2].map(|it| kept.get(&key(it)));
        assert_eq!(found, [Found::Kept, Found::Made, Found::Made, Found::Made, Found::Made]);
        assert_eq!(faults(&kept), [StorageFault::Denied], "recorded once");
        assert_eq!(kept.count(CacheCount::Faults), 1, "nothing is written after that");
        assert_eq!(kept.count(CacheCount::Corrupt), 1, "what is stuck is read once");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    let folder = root.path().join("cache");
    let kept = Kept::at(&folder);
    for number in [1, 2] {
        kept.get(&key(number));
    }
    let bad = key(2).digest().to_string();
    fs::write(folder.join("artifacts-v1").join(&bad[..2]).join(&bad), "bad").unwrap();
    let all = walk(&folder);
    let lock = |file: u32, dir: u32| {
        for path in &all {
            let mode = if path.is_dir() { dir } else { file };
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
    };
    lock(0o400, 0o500);
    let before = walk(&folder);
    let done = bound_by_permissions(again(NAME, &folder), &folder).output();
    lock(0o600, 0o700);
    match done {
        Ok(done) => assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr)),
        Err(err) => println!("SKIPPED {NAME}: another user cannot run this program ({err})"),
    }
    assert_eq!(walk(&folder), before);
}

#[test]
fn a_full_disk_costs_nothing_but_time() {
    const NAME: &str = "faults::a_full_disk_costs_nothing_but_time";
    if let Some(folder) = other_part() {
        let without_memory = StoreOptions { memory_bytes_max: 0, ..options(&folder) };
        let kept = Kept::open(without_memory);
        let keys = [key(1), sized(2, 100_000), sized(3, 200_000), key(4)];
        assert_eq!(keys.each_ref().map(|it| kept.get(it)), [Found::Made; 4]);
        let again = keys.each_ref().map(|it| kept.get(it));
        assert_eq!(again, [Found::Kept, Found::Made, Found::Made, Found::Kept]);
        assert_eq!((faults(&kept), kept.count(CacheCount::Faults)), (vec![StorageFault::Full], 4));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let whole = again(NAME, root.path());
    // No file may grow past some kilobytes, and the signal that says so is ignored.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]).arg(whole.get_program());
    limited.args(whole.get_args());
    limited.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = limited.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let entries = Directory::open(root.path()).unwrap();
    assert_eq!(entries.usage().unwrap().entry_count, 2);
    let name = |it: &PathBuf| it.file_name().unwrap().to_string_lossy().into_owned();
    let names: Vec<String> = walk(entries.path()).iter().map(name).collect();
    assert!(names.iter().all(|it| !it.starts_with(".tmp")), "{names:?}");
}

#[test]
fn a_folder_that_vanishes_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let kept = Kept::open(StoreOptions { memory_bytes_max: 0, ..options(root.path()) });
    kept.get(&key(1));
    fs::remove_dir_all(root.path().join("artifacts-v1")).unwrap();
    assert_eq!(kept.get(&key(1)), Found::Made);
    kept.store.directory().unwrap().clear().unwrap();
    assert_eq!([kept.get(&key(1)), kept.get(&key(1))], [Found::Made, Found::Kept]);
}
