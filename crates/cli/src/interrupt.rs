//! Ctrl-C and its kin: what is temporary goes, then the command ends.
//!
//! Loops that can stop ask [`requested`]. What does not stop within a moment is ended from
//! here, after everything under a [`Guard`] was removed.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::exit::Exit;

/// How long the work may take to stop by itself.
const PATIENCE: Duration = Duration::from_millis(1500);

static HELD: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);
static GUARDED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Whether the user asked to stop.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// From now on the first request to stop is only noted: whoever asks [`requested`] needs more
/// than a moment to end well. The second still means now.
pub(crate) fn hold() {
    HELD.store(true, Ordering::SeqCst);
}

/// A temporary folder that must not outlive the command. Dropping this ends the watch over it;
/// its owner removes it.
#[derive(Debug)]
pub(crate) struct Guard(PathBuf);

/// Removes `dir` if the command is ended from outside.
pub(crate) fn guard(dir: &Path) -> Guard {
    paths().push(dir.into());
    Guard(dir.into())
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut paths = paths();
        if let Some(place) = paths.iter().position(|it| *it == self.0) {
            paths.swap_remove(place);
        }
    }
}

/// Listens to the system from now on.
pub(crate) fn install() {
    // Without a handler the system ends the command as it always did.
    let _ = ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            leave(); // The second time means now.
        }
        if HELD.load(Ordering::SeqCst) {
            return;
        }
        thread::spawn(|| {
            thread::sleep(PATIENCE);
            leave();
        });
    });
}

fn leave() -> ! {
    for path in paths().iter() {
        let _ = std::fs::remove_dir_all(path);
    }
    std::process::exit(i32::from(Exit::Interrupted.code()))
}

fn paths() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    GUARDED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_guard_ends_with_its_owner() {
    let path = Path::new("only-in-this-test");
    let first = guard(path);
    let second = guard(path);
    drop(first);
    assert_eq!(paths().iter().filter(|it| *it == path).count(), 1);
    drop(second);
    assert!(!paths().iter().any(|it| it == path));
}
