//! How far an opening of models is, model by model.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use calor_embed::ModelId;

/// Which models are warm already; told by whoever opens them, shown by probes.
#[derive(Debug, Default)]
pub struct Progress(Mutex<BTreeMap<ModelId, u64>>);

impl Progress {
    /// Every program of these models ran and agreed, in so many nanoseconds.
    pub fn warm(&self, models: &[ModelId], check_ns: u64) {
        let mut warm = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        warm.extend(models.iter().map(|it| (*it, check_ns)));
    }

    /// Another opening begins.
    pub(crate) fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Models that are warm, with what their check took.
    pub(crate) fn seen(&self) -> BTreeMap<ModelId, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
