//! Advisory locks between processes: helpful, and never required.
//!
//! A file that a process holds locked says that it is making an entry or cleaning up. Locks may
//! be missing (some network file systems) or held by something that hangs; nothing waits for one
//! without end, and the worst without it is work done twice.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use calor_telemetry::Stopwatch;

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// A lock that is held until it is dropped; its file goes with it.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Left behind by a failure here, it is swept when it is old.
        let _ = fs::remove_file(&self.path);
    }
}

/// How asking for a lock ended.
#[derive(Debug)]
pub(super) enum Asked {
    /// It is ours; nobody had it when we came.
    Ours(Lock),
    /// It is ours, after another had it.
    Waited(Lock),
    /// What the lock is for has appeared.
    Done,
    /// There is no lock to be had: go on without.
    Without,
}

/// Takes the lock at `path`, waiting `wait` at most, or until `is_done`.
pub(super) fn take(path: &Path, wait: Duration, is_done: &dyn Fn() -> bool) -> Asked {
    let watch = Stopwatch::start();
    let mut pause = PAUSE_MIN;
    let mut waited = false;
    loop {
        let Ok(file) = File::options().create(true).append(true).open(path) else {
            return Asked::Without;
        };
        match file.try_lock() {
            // The one who had it may have removed the file that we opened.
            Ok(()) if is_at(&file, path) => {
                let lock = Lock { path: path.to_owned(), _file: file };
                return if waited { Asked::Waited(lock) } else { Asked::Ours(lock) };
            }
            Ok(()) => waited = true,
            Err(TryLockError::WouldBlock) => {
                waited = true;
                if is_done() {
                    return Asked::Done;
                }
                if wait.as_nanos() <= u128::from(watch.elapsed_ns()) {
                    return Asked::Without;
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Err(TryLockError::Error(_)) => return Asked::Without,
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_holds_it_and_the_next_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let Asked::Ours(first) = take(&path, LONG, &|| false) else { panic!() };
        let none = take(&path, Duration::from_millis(5), &|| false);
        assert!(matches!(none, Asked::Without), "a holder that hangs holds nobody up");
        assert!(matches!(take(&path, LONG, &|| true), Asked::Done));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| take(&path, LONG, &|| false));
            std::thread::sleep(Duration::from_millis(20));
            drop(first);
            assert!(matches!(waiting.join().unwrap(), Asked::Waited(_)));
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_is_never_required() {
        let path = Path::new("/proc/no such folder/a");
        assert!(matches!(take(path, LONG, &|| false), Asked::Without));
    }
}
