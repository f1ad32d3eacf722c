//! Memory of programs: lanes, boundaries, states, and what it is used for.

use calor_device::{BufferId, DeviceError, Held};
use calor_telemetry::counter::Plain;
use calor_telemetry::event::{Event, Memory as Purpose};

use super::{Engine, LaneId, ProgramId};
use crate::error::RuntimeError;
use crate::plan::{BufferKind, BufferRow, Plan};

/// Bytes between boundary buffers start at multiples of this.
const ALIGN_BYTES: u64 = 256;

/// Device memory by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Weights as loaded, and prepared ones.
    pub weights_bytes: u64,
    /// Arenas of all lanes.
    pub arena_bytes: u64,
    /// Inputs, outputs and live blocks of all lanes.
    pub boundary_bytes: u64,
    /// States of programs.
    pub state_bytes: u64,
    /// What the pool holds beside boundaries and states: buffers that wait, and what sizes were
    /// rounded up.
    pub pool_bytes: u64,
}

impl MemoryReport {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        let Self { weights_bytes, arena_bytes, boundary_bytes, state_bytes, pool_bytes } = *self;
        weights_bytes + arena_bytes + boundary_bytes + state_bytes + pool_bytes
    }
}

/// Where a boundary buffer of a plan lies.
#[derive(Clone, Copy)]
pub(super) enum Binding {
    /// In the lane's boundary memory.
    Boundary { offset: u64 },
    /// Shared between programs, or a state of this one.
    Buffer(BufferId),
    /// Only the prelude needed it.
    Gone,
}

/// Memory that the programs of a lane share.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) arena: Option<BufferId>,
    pub(super) arena_bytes: u64,
    pub(super) boundary: Option<BufferId>,
    pub(super) boundary_bytes: u64,
}

/// Bytes of inputs, outputs and the live block of a plan.
pub(super) fn boundary_bytes(plan: &Plan) -> u64 {
    let is_boundary =
        |row: &&BufferRow| matches!(row.kind, BufferKind::Input { .. } | BufferKind::Output { .. });
    let rows = plan.buffers.iter().filter(is_boundary);
    rows.map(|row| row.size_bytes().next_multiple_of(ALIGN_BYTES)).sum::<u64>() + ALIGN_BYTES
}

impl Engine {
    pub(super) fn alloc(&mut self, bytes: u64, purpose: Purpose) -> Result<BufferId, RuntimeError> {
        let buffer = match purpose {
            Purpose::Weights | Purpose::Arena => self.alloc_direct(bytes)?,
            Purpose::Boundary | Purpose::Workspace | Purpose::Staging => {
                self.pool.allocate(&mut *self.device.memory, bytes)?
            }
        };
        match purpose {
            Purpose::Weights => self.report.weights_bytes += bytes,
            Purpose::Arena => self.report.arena_bytes += bytes,
            Purpose::Boundary | Purpose::Workspace | Purpose::Staging => {
                self.report.boundary_bytes += bytes;
            }
        }
        let device = self.device_label;
        let after_seal = false;
        let size_bytes = bytes;
        self.recorder.record(Event::Allocated { device, purpose, size_bytes, after_seal });
        Ok(buffer)
    }

    /// Memory beside the pool, for which what waits there makes room.
    fn alloc_direct(&mut self, bytes: u64) -> Result<BufferId, DeviceError> {
        let memory = &mut *self.device.memory;
        let buffer = match memory.alloc(bytes.max(1)) {
            Err(DeviceError::OutOfMemory { .. }) => {
                self.pool.clear(memory)?;
                memory.alloc(bytes.max(1))?
            }
            made => made?,
        };
        self.counters.increment(Plain::Allocations);
        Ok(buffer)
    }

    /// Gives a boundary or a state back.
    pub(super) fn give_back(&mut self, buffer: BufferId) -> Result<(), DeviceError> {
        self.pool.deallocate(&mut *self.device.memory, buffer)
    }

    /// Places of all boundary buffers, the live block's place, and the boundary's size.
    pub(super) fn bind(
        &mut self,
        plan: &Plan,
        shared: Vec<Option<BufferId>>,
    ) -> Result<(Vec<Binding>, u64, u64), RuntimeError> {
        let mut offset = 0;
        let mut bindings = Vec::with_capacity(plan.buffers.len());
        for (row, shared) in plan.buffers.iter().zip(shared) {
            bindings.push(match &row.kind {
                BufferKind::Input { .. } | BufferKind::Output { .. } => {
                    let at = offset;
                    offset += row.size_bytes().next_multiple_of(ALIGN_BYTES);
                    Binding::Boundary { offset: at }
                }
                BufferKind::State { .. } => {
                    let bytes = row.size_bytes();
                    let buffer = self.pool.allocate(&mut *self.device.memory, bytes)?;
                    self.report.state_bytes += bytes;
                    self.device.memory.write(buffer, 0, &vec![0; bytes as usize])?;
                    Binding::Buffer(buffer)
                }
                BufferKind::Weight { .. } | BufferKind::Constant { .. } | BufferKind::Prepared => {
                    shared.map_or(Binding::Gone, Binding::Buffer)
                }
            });
        }
        Ok((bindings, offset, offset + ALIGN_BYTES))
    }

    /// Makes room in a lane. Larger memory moves, so the lane's programs are prepared again.
    pub(super) fn grow(
        &mut self,
        lane: LaneId,
        arena: u64,
        boundary: u64,
    ) -> Result<(), RuntimeError> {
        let (old_arena, old_boundary) = {
            let lane = &self.lanes[lane.0];
            (lane.arena_bytes, lane.boundary_bytes)
        };
        if arena > old_arena || boundary > old_boundary || self.lanes[lane.0].arena.is_none() {
            for index in 0..self.programs.len() {
                if self.programs[index].lane == lane.0
                    && let Some(prepared) = self.programs[index].prepared.take()
                {
                    self.device.compiler.release(Held::Prepared(prepared))?;
                }
            }
        }
        if arena > old_arena || self.lanes[lane.0].arena.is_none() {
            if let Some(old) = self.lanes[lane.0].arena.take() {
                self.device.memory.free(old)?;
                self.report.arena_bytes -= old_arena;
            }
            let buffer = self.alloc(arena, Purpose::Arena)?;
            let lane = &mut self.lanes[lane.0];
            (lane.arena, lane.arena_bytes) = (Some(buffer), arena);
        }
        if boundary > old_boundary {
            if let Some(old) = self.lanes[lane.0].boundary.take() {
                self.give_back(old)?;
                self.report.boundary_bytes -= old_boundary;
            }
            let buffer = self.alloc(boundary, Purpose::Boundary)?;
            let lane = &mut self.lanes[lane.0];
            (lane.boundary, lane.boundary_bytes) = (Some(buffer), boundary);
        }
        Ok(())
    }

    pub(crate) fn write(
        &mut self,
        program: ProgramId,
        slot: usize,
        bytes: &[u8],
    ) -> Result<(), RuntimeError> {
        let (buffer, offset) = self.place(program, slot, bytes.len())?;
        Ok(self.device.memory.write(buffer, offset, bytes)?)
    }

    pub(crate) fn read(
        &mut self,
        program: ProgramId,
        slot: usize,
        out: &mut [u8],
    ) -> Result<(), RuntimeError> {
        let (buffer, offset) = self.place(program, slot, out.len())?;
        Ok(self.device.memory.read(buffer, offset, out)?)
    }

    pub(super) fn place(
        &self,
        program: ProgramId,
        slot: usize,
        len: usize,
    ) -> Result<(BufferId, u64), RuntimeError> {
        let program = &self.programs[program.0];
        let missing = || RuntimeError::NoBuffer {
            program: program.label.text().to_owned(),
            name: format!("#{slot}"),
        };
        let row = program.plan.buffers.get(slot).ok_or_else(missing)?;
        if row.size_bytes() < len as u64 {
            return Err(RuntimeError::Size {
                name: format!("#{slot}"),
                want_bytes: row.size_bytes(),
                got_bytes: len as u64,
            });
        }
        match program.bindings[slot] {
            Binding::Boundary { offset } => {
                let lane = &self.lanes[program.lane];
                lane.boundary.map(|buffer| (buffer, offset)).ok_or_else(missing)
            }
            Binding::Buffer(buffer) => Ok((buffer, 0)),
            Binding::Gone => Err(missing()),
        }
    }
}
