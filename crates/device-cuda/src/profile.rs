//! What a GPU is, and times of the steps of a run.

use std::sync::{Arc, Mutex, PoisonError};

use calor_device::PreparedId;

/// Times of steps, taken with events around each step of an eager run.
///
/// A device that was opened with one does not capture its programs.
#[derive(Clone, Debug, Default)]
pub struct CudaProfile(Arc<Mutex<Vec<TimedRun>>>);

/// One run of a program, step by step.
#[derive(Clone, Debug)]
pub struct TimedRun {
    /// What ran.
    pub program: PreparedId,
    /// What each step is called by its kernel, and the nanoseconds it took.
    pub steps: Vec<(String, u64)>,
}

impl CudaProfile {
    /// Nothing was measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The runs since this was asked last, in their order.
    pub fn take(&self) -> Vec<TimedRun> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn keep(&self, program: PreparedId, steps: Vec<(String, u64)>) {
        let run = TimedRun { program, steps };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(run);
    }
}
