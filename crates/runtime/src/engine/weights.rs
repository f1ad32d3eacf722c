//! Weights: read from their source, prepared once, shared by key between programs.

use calor_device::{BufferId, CodeId};
use calor_kernel::Digest;
use calor_telemetry::event::Event;
use calor_telemetry::{Label, Stopwatch};

use super::loading::WeightsReport;
use super::schedule::Schedule;
use super::{Engine, ProgramSpec, identity, needed_by_steps};
use crate::error::RuntimeError;
use crate::plan::Plan;

/// A buffer that programs share.
pub(super) struct Shared {
    pub(super) buffer: BufferId,
    pub(super) bytes: u64,
}

impl Engine {
    pub(crate) fn prove_weights(&mut self) {
        self.proves_weights = true;
    }

    pub(super) fn free_shared(&mut self, key: (Digest, Digest)) -> Result<(), RuntimeError> {
        if let Some(shared) = self.shared.remove(&key) {
            self.device.memory.free(shared.buffer)?;
            self.report.weights_bytes -= shared.bytes;
            self.weights_level.lower(shared.bytes);
        }
        Ok(())
    }

    /// Makes every weight-only buffer that the program needs, and drops what only the way there
    /// needed. Where this fails, none of them is left behind.
    pub(super) fn prelude(
        &mut self,
        spec: &ProgramSpec<'_>,
        plan: &Plan,
        codes: &[CodeId],
    ) -> Result<Vec<Option<BufferId>>, RuntimeError> {
        let watch = Stopwatch::start();
        let before = self.report.weights_bytes;
        let identity = identity(spec);
        let needed = needed_by_steps(plan);
        let key = |index: usize| plan.buffers[index].key.map(|key| (identity, key));
        let exists = |index: usize| key(index).is_some_and(|it| self.shared.contains_key(&it));
        let schedule = Schedule::of(plan, &needed, &exists);
        let loaded = self.load(spec, plan, codes, &schedule);
        for index in &schedule.own {
            if let Some(key) = key(*index).filter(|_| loaded.is_err() || !needed[*index]) {
                self.free_shared(key)?;
            }
        }
        let loaded = loaded?;
        let size_bytes = self.report.weights_bytes - before;
        if size_bytes > 0 {
            let wall_ns = watch.elapsed_ns();
            self.weights.add(WeightsReport { wall_ns, ..loaded });
            self.recorder.record(Event::WeightsLoaded {
                model: Label::of(spec.label),
                device: self.device_label,
                size_bytes,
                read_bytes: loaded.read_bytes,
                checked_bytes: loaded.checked_bytes,
                proven_bytes: loaded.proven_bytes,
                wall_ns,
            });
        }
        let buffer = |index: usize| {
            let key = key(index).filter(|_| needed[index])?;
            self.shared.get(&key).map(|it| it.buffer)
        };
        Ok((0..plan.buffers.len()).map(buffer).collect())
    }
}
