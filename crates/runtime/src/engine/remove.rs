//! Taking a program away: what it alone held goes back to the device.

use std::collections::HashSet;

use calor_device::{BufferId, Held};

use super::memory::Binding;
use super::{Engine, ProgramId};
use crate::error::RuntimeError;
use crate::plan::BufferKind;

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
        let parts = std::mem::take(&mut program.parts);
        if let Some(prepared) = program.prepared.take() {
            self.device.compiler.release(Held::Prepared(prepared))?;
        }
        parts.iter().for_each(|it| self.codes.unpin(&it.codes));
        self.release_unused_code()?;
        for part in &parts {
            for (row, binding) in part.plan.buffers.iter().zip(&part.bindings) {
                if let (BufferKind::State { .. }, Binding::Buffer(buffer)) = (&row.kind, binding) {
                    self.give_back(*buffer)?;
                    self.report.state_bytes -= row.size_bytes();
                }
            }
        }
        self.free_unbound()?;
        self.free_lane(lane)?;
        self.clear_pool_of_nothing()
    }

    /// Frees what lanes without programs hold, and shared buffers that nothing binds.
    pub(super) fn free_empty_lanes(&mut self) -> Result<(), RuntimeError> {
        self.free_unbound()?;
        (0..self.lanes.len()).try_for_each(|it| self.free_lane(it))?;
        self.clear_pool_of_nothing()
    }

    /// Frees every shared buffer that no program binds.
    fn free_unbound(&mut self) -> Result<(), RuntimeError> {
        let parts = self.programs.iter().flat_map(|it| &it.parts);
        let bindings = parts.flat_map(|it| &it.bindings);
        let bound: HashSet<BufferId> = bindings
            .filter_map(|binding| match binding {
                Binding::Buffer(buffer) => Some(*buffer),
                Binding::Boundary { .. } | Binding::Channel(_) | Binding::Gone => None,
            })
            .collect();
        let unbound = self.shared.iter().filter(|(_, it)| !bound.contains(&it.buffer));
        let keys: Vec<_> = unbound.map(|(key, _)| *key).collect();
        keys.into_iter().try_for_each(|key| self.free_shared(key))
    }

    /// Frees the memory of a lane without programs; the next program makes it anew. An arena stays
    /// while a lane that uses it has programs.
    fn free_lane(&mut self, index: usize) -> Result<(), RuntimeError> {
        let owner = self.arena_lane(index);
        let alive = |it: &&super::Program| !it.removed;
        if !self.programs.iter().filter(alive).any(|it| self.arena_lane(it.lane) == owner) {
            let lane = &mut self.lanes[owner];
            let (arena, bytes) = (lane.arena.take(), std::mem::take(&mut lane.arena_bytes));
            if let Some(buffer) = arena {
                self.device.memory.free(buffer)?;
                self.report.arena_bytes -= bytes;
                self.arena_level.lower(bytes);
            }
        }
        if !self.programs.iter().filter(alive).any(|it| it.lane == index) {
            let lane = &mut self.lanes[index];
            let (boundary, bytes) =
                (lane.boundary.take(), std::mem::take(&mut lane.boundary_bytes));
            if let Some(buffer) = boundary {
                self.give_back(buffer)?;
                self.report.boundary_bytes -= bytes;
            }
        }
        Ok(())
    }
}
