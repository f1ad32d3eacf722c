//! Times of steps, for whoever asked before the device was opened.

use std::sync::{Arc, Mutex, PoisonError};

use calor_device::PreparedId;

/// Steps whose times are kept; later ones of a run are left out.
const STEP_COUNT_MAX: usize = 1 << 16;

/// A handle through which the times of a device's last run can be read.
///
/// Give a copy to [`CpuDriver`](crate::CpuDriver) before opening.
#[derive(Clone, Debug)]
pub struct CpuProfile(Arc<Mutex<Times>>);

#[derive(Debug)]
struct Times {
    prepared: Option<PreparedId>,
    step_ns: Vec<u64>,
}

impl CpuProfile {
    /// A profile with room for a run; recording allocates nothing.
    #[expect(clippy::new_without_default, reason = "it allocates much; that should be seen")]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Times {
            prepared: None,
            step_ns: Vec::with_capacity(STEP_COUNT_MAX),
        })))
    }

    /// The program of the last run, and the nanoseconds of each of its steps in order.
    pub fn last_run(&self) -> Option<(PreparedId, Vec<u64>)> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.prepared.map(|it| (it, times.step_ns.clone()))
    }

    pub(crate) fn start(&self, prepared: PreparedId) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.prepared = Some(prepared);
        times.step_ns.clear();
    }

    pub(crate) fn record(&self, ns: u64) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.step_ns.len() < STEP_COUNT_MAX {
            times.step_ns.push(ns);
        }
    }
}
