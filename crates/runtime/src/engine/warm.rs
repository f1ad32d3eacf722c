//! Before the first request: loaded code by its key, and a run of every program.

use std::time::Duration;

use calor_kernel::Unit;
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::event::{Event, WarmupStep};
use calor_telemetry::label::Label;

use super::{ALL, Engine, Part, ProgramId};
use crate::error::RuntimeError;
use crate::kernel::{KernelHandle, KernelKey};
use crate::plan::BufferKind;

impl Engine {
    /// Does a step of becoming ready and tells of it; its nanoseconds come back as well.
    pub(super) fn step<T>(
        &mut self,
        step: WarmupStep,
        model: Label,
        work: impl FnOnce(&mut Self) -> Result<T, RuntimeError>,
    ) -> Result<(T, u64), RuntimeError> {
        let (watch, before) = (Stopwatch::start(), self.report().total_bytes());
        let result = work(self);
        let wall_ns = watch.elapsed_ns();
        let device_bytes = self.report().total_bytes().saturating_sub(before);
        let success = result.is_ok();
        let event = Event::WarmupStepDone { step, model, success, device_bytes, wall_ns };
        self.recorder.record(event);
        result.map(|it| (it, wall_ns))
    }

    /// Prepares what is not prepared yet, and gives up the right to build.
    pub(crate) fn seal(&mut self) -> Result<(), RuntimeError> {
        self.prepare()?;
        self.step(WarmupStep::Seal, ALL, |own| own.clear_pool())?;
        Ok(())
    }

    /// Prepares every program and runs it once over inputs of zeros, at full extent.
    pub(crate) fn run_each_once(&mut self, deadline: Duration) -> Result<(), RuntimeError> {
        self.prepare()?;
        self.step(WarmupStep::Run, ALL, |own| own.run_all(deadline))?;
        Ok(())
    }

    fn run_all(&mut self, deadline: Duration) -> Result<(), RuntimeError> {
        for index in 0..self.programs.len() {
            if self.programs[index].removed {
                continue;
            }
            let mut inputs = Vec::new();
            for (part, Part { plan, .. }) in self.programs[index].parts.iter().enumerate() {
                for (slot, row) in plan.buffers.iter().enumerate() {
                    if matches!(row.kind, BufferKind::Input { .. }) {
                        inputs.push((part, slot, row.size_bytes()));
                    }
                }
            }
            for (part, slot, len) in inputs {
                let (buffer, offset) = self.place(ProgramId(index), part, slot, len as usize)?;
                self.device.memory.write(buffer, offset, &vec![0; len as usize])?;
            }
            let run = self.start(ProgramId(index), &[], &[])?;
            self.finish(run, deadline)?;
        }
        Ok(())
    }

    pub(crate) fn kernel(&self, key: KernelKey) -> Option<KernelHandle> {
        self.codes.handle(key)
    }

    pub(crate) fn kernel_of(&mut self, unit: &Unit) -> Result<KernelHandle, RuntimeError> {
        let mut found = self.codes_of([unit])?;
        Ok(found.remove(0))
    }

    pub(crate) fn kernel_keys(&self) -> Vec<KernelKey> {
        let mut keys: Vec<KernelKey> = self.codes.keys().collect();
        keys.sort_unstable();
        keys
    }
}
