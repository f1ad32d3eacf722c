//! How far an opening of models is, model by model.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use calor_embed::ModelId;
use calor_embed::pipeline::LostModel;

/// Which models are warm already, and which failed; told by whoever opens them, shown by probes.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Seen>);

/// What was told so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Models that are warm, with what their check took.
    pub(crate) warm: BTreeMap<ModelId, u64>,
    /// Models that failed, and why.
    pub(crate) lost: BTreeMap<ModelId, String>,
}

impl Progress {
    /// Every program of these models ran and agreed, in so many nanoseconds.
    pub fn warm(&self, models: &[ModelId], check_ns: u64) {
        self.lock().warm.extend(models.iter().map(|it| (*it, check_ns)));
    }

    /// These models failed, and others are built and checked anew without them.
    pub fn lost(&self, lost: impl IntoIterator<Item = LostModel>, again: &[ModelId]) {
        let mut seen = self.lock();
        seen.warm.retain(|it, _| !again.contains(it));
        seen.lost.extend(lost.into_iter().map(|it| (it.model_id, it.why)));
    }

    /// Another opening begins.
    pub(crate) fn begin(&self) {
        *self.lock() = Seen::default();
    }

    /// What was told so far.
    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
