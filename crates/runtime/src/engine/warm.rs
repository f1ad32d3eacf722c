//! Kernels before payload: all code of a manifest is loaded before the first weight, and every
//! program has run before the first request.

use std::time::Duration;

use calor_kernel::Unit;

use super::{Engine, ProgramId, ProgramSpec};
use crate::error::RuntimeError;
use crate::kernel::{KernelHandle, KernelKey};
use crate::plan::BufferKind;

impl Engine {
    /// Plans every program, then compiles and loads all code, then adds the programs with their
    /// weights. When one cannot be added, none is.
    pub(crate) fn add_all(
        &mut self,
        specs: &[ProgramSpec<'_>],
    ) -> Result<Vec<ProgramId>, RuntimeError> {
        let plans = specs.iter().map(|it| self.plan(it)).collect::<Result<Vec<_>, _>>()?;
        // Held until the programs hold it: code that nothing uses would give way to more of it.
        let _held = self.codes_of(plans.iter().flat_map(|it| &it.units))?;
        let mut added = Vec::with_capacity(specs.len());
        for (spec, plan) in specs.iter().zip(plans) {
            match self.add_planned(spec, plan) {
                Ok(program) => added.push(program),
                Err(err) => {
                    added.into_iter().try_for_each(|it| self.remove(it))?;
                    return Err(err);
                }
            }
        }
        Ok(added)
    }

    /// Prepares every program and runs it once over inputs of zeros, at full extent.
    pub(crate) fn run_each_once(&mut self, deadline: Duration) -> Result<(), RuntimeError> {
        self.prepare()?;
        for index in 0..self.programs.len() {
            if self.programs[index].removed {
                continue;
            }
            let inputs: Vec<(usize, u64)> = self.programs[index]
                .plan
                .buffers
                .iter()
                .enumerate()
                .filter(|(_, row)| matches!(row.kind, BufferKind::Input { .. }))
                .map(|(slot, row)| (slot, row.size_bytes()))
                .collect();
            for (slot, len) in inputs {
                self.write(ProgramId(index), slot, &vec![0; len as usize])?;
            }
            self.run(ProgramId(index), &[], deadline)?;
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
