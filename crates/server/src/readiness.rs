//! Where a server is on its way from the start to the end.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;

/// Where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Models are opened, built, run and checked.
    Warming,
    /// Requests are answered.
    Ready,
    /// Models failed; they are opened anew.
    Recovering,
    /// Models could not be opened; nothing will change by itself.
    Failed,
    /// The end was asked for; what came in is finished.
    Draining,
}

impl Phase {
    /// In reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Warming => "warming up",
            Self::Ready => "ready",
            Self::Recovering => "recovering",
            Self::Failed => "failed",
            Self::Draining => "shutting down",
        }
    }
}

/// The phase, seen by everyone and set by few.
#[derive(Debug)]
pub(crate) struct Readiness {
    phase: watch::Sender<Phase>,
    /// Whether it was ever ready: what a startup probe asks.
    started: AtomicU8,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Warming), started: AtomicU8::new(0) }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire) != 0
    }

    /// Goes to a phase. From draining there is no way back.
    pub(crate) fn set(&self, phase: Phase) {
        if phase == Phase::Ready {
            self.started.store(1, Ordering::Release);
        }
        self.phase.send_if_modified(|it| {
            let changes = *it != Phase::Draining && *it != phase;
            if changes {
                *it = phase;
            }
            changes
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }
}

#[test]
fn draining_is_the_end() {
    let readiness = Readiness::new();
    assert!(!readiness.has_started());
    readiness.set(Phase::Ready);
    readiness.set(Phase::Recovering);
    assert!(readiness.has_started() && readiness.phase() == Phase::Recovering);
    readiness.set(Phase::Draining);
    readiness.set(Phase::Ready);
    assert_eq!(readiness.phase(), Phase::Draining);
}
