//! Before the first request: loaded code by its key, and a run of every program.

use std::time::Duration;

use calor_kernel::Unit;

use super::{Engine, Part, ProgramId};
use crate::error::RuntimeError;
use crate::kernel::{KernelHandle, KernelKey};
use crate::plan::BufferKind;

impl Engine {
    /// Prepares every program and runs it once over inputs of zeros, at full extent.
    pub(crate) fn run_each_once(&mut self, deadline: Duration) -> Result<(), RuntimeError> {
        self.prepare()?;
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
