//! Times of steps, for whoever asks before a device is opened.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::contract::PreparedId;

/// Runs that are kept until somebody takes them; earlier ones make room.
const RUN_COUNT_MAX: usize = 1 << 10;

/// A handle through which the times of a device's runs are taken.
///
/// A device that was opened with one has a clock around each step, and may run programs in a way
/// that it would not choose otherwise.
#[derive(Clone, Debug, Default)]
pub struct Profile(Arc<Mutex<VecDeque<TimedRun>>>);

/// One run of a program, step by step.
#[derive(Clone, Debug)]
pub struct TimedRun {
    /// What ran.
    pub program: PreparedId,
    /// What the device calls each step, if it has names of its own, and the nanoseconds it took.
    pub steps: Vec<(String, u64)>,
}

impl Profile {
    /// Nothing was measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The runs since this was asked last, in their order.
    pub fn take(&self) -> Vec<TimedRun> {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *runs).into()
    }

    /// For devices: a run that has ended.
    pub fn keep(&self, program: PreparedId, steps: Vec<(String, u64)>) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if RUN_COUNT_MAX <= runs.len() {
            runs.pop_front();
        }
        runs.push_back(TimedRun { program, steps });
    }
}
