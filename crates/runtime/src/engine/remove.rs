//! Taking a program away: what it alone held goes back to the device.

use std::collections::{BTreeMap, HashSet};

use calor_device::{BufferId, Held};

use super::memory::{Binding, Lane};
use super::{Engine, ProgramId};
use crate::error::RuntimeError;
use crate::plan::{BufferKind, Choices, Plan};

/// What is left of the plan of a removed program.
const NOTHING: Plan = Plan {
    units: Vec::new(),
    buffers: Vec::new(),
    prelude: Vec::new(),
    steps: Vec::new(),
    edges: Vec::new(),
    arena_bytes: 0,
    peak_live_bytes: 0,
    defaults: Choices(BTreeMap::new()),
};

impl Engine {
    /// Frees what only this program held: its prepared form, its states, weights that no other
    /// program binds, and its lane's memory when it was the last there. Its code stays loaded
    /// within the bound of unused code. Its id stays taken. The last one takes along what waits in
    /// the pool.
    pub(crate) fn remove(&mut self, id: ProgramId) -> Result<(), RuntimeError> {
        let program = &mut self.programs[id.0];
        if program.removed {
            return Err(RuntimeError::Removed { program: program.label.text().to_owned() });
        }
        program.removed = true;
        let lane = program.lane;
        let plan = std::mem::replace(&mut program.plan, NOTHING);
        let bindings = std::mem::take(&mut program.bindings);
        let codes = std::mem::take(&mut program.codes);
        if let Some(prepared) = program.prepared.take() {
            self.device.compiler.release(Held::Prepared(prepared))?;
        }
        self.codes.unpin(&codes);
        self.release_unused_code()?;
        for (row, binding) in plan.buffers.iter().zip(bindings) {
            if let (BufferKind::State { .. }, Binding::Buffer(buffer)) = (&row.kind, binding) {
                self.give_back(buffer)?;
                self.report.state_bytes -= row.size_bytes();
            }
        }
        self.free_unbound()?;
        self.free_lane(lane)?;
        if self.programs.iter().all(|it| it.removed) {
            self.pool.clear(&mut *self.device.memory)?;
        }
        Ok(())
    }

    /// Frees every shared buffer that no program binds.
    fn free_unbound(&mut self) -> Result<(), RuntimeError> {
        let bindings = self.programs.iter().flat_map(|it| &it.bindings);
        let bound: HashSet<BufferId> = bindings
            .filter_map(|binding| match binding {
                Binding::Buffer(buffer) => Some(*buffer),
                Binding::Boundary { .. } | Binding::Gone => None,
            })
            .collect();
        let unbound = self.shared.iter().filter(|(_, it)| !bound.contains(&it.buffer));
        let keys: Vec<_> = unbound.map(|(key, _)| *key).collect();
        keys.into_iter().try_for_each(|key| self.free_shared(key))
    }

    /// Frees the memory of a lane without programs; the next program makes it anew.
    fn free_lane(&mut self, index: usize) -> Result<(), RuntimeError> {
        if self.programs.iter().any(|it| it.lane == index && !it.removed) {
            return Ok(());
        }
        let Lane { arena, arena_bytes, boundary, boundary_bytes } =
            std::mem::take(&mut self.lanes[index]);
        if let Some(buffer) = arena {
            self.device.memory.free(buffer)?;
            self.report.arena_bytes -= arena_bytes;
        }
        if let Some(buffer) = boundary {
            self.give_back(buffer)?;
            self.report.boundary_bytes -= boundary_bytes;
        }
        Ok(())
    }
}
