//! What a GPU is, and times of the steps of a run.

use std::sync::{Arc, Mutex, PoisonError};

use calor_device::PreparedId;

/// Times of steps, taken with events around each step of an eager run.
///
/// A device that was opened with one does not capture its programs.
#[derive(Clone, Debug, Default)]
pub struct CudaProfile(Arc<Mutex<LastRun>>);

/// A program, and nanoseconds of each of its steps.
type LastRun = Option<(PreparedId, Vec<u64>)>;

impl CudaProfile {
    /// Nothing was measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The last run's program, and nanoseconds of each of its steps.
    pub fn last_run(&self) -> LastRun {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn keep(&self, program: PreparedId, step_ns: Vec<u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((program, step_ns));
    }
}
