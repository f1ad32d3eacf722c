//! Memory of programs: lanes, boundaries, states, and what it is used for.

use calor_device::{BufferId, DeviceError, Held};
use calor_telemetry::counter::Plain;
use calor_telemetry::event::{Event, Memory as Purpose};

use super::{ChannelId, Engine, LaneId, ProgramId, ProgramSpec};
use crate::error::RuntimeError;
use crate::plan::{BufferKind, BufferRow, Plan};

/// Boundary buffers start at multiples of this.
pub(super) const ALIGN_BYTES: u64 = 256;
/// The live block of a program: it lies in front of all inputs, so that one write brings both.
pub(super) const LIVE_BYTES: u64 = 256;

/// Device memory by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Weights as loaded, and prepared ones.
    pub weights_bytes: u64,
    /// Arenas of all lanes.
    pub arena_bytes: u64,
    /// Inputs, outputs and live blocks of all lanes, and channels.
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
    /// What one program leaves for another.
    Channel(usize),
    /// Only the prelude needed it.
    Gone,
}

/// Memory that the programs of a lane share.
#[derive(Default)]
pub(super) struct Lane {
    /// The lane whose arena this one uses; none for its own.
    pub(super) arena_of: Option<usize>,
    pub(super) arena: Option<BufferId>,
    pub(super) arena_bytes: u64,
    pub(super) boundary: Option<BufferId>,
    pub(super) boundary_bytes: u64,
}

/// Memory that outlives runs, in which one program leaves rows for another.
pub(super) struct Channel {
    pub(super) buffer: BufferId,
    pub(super) bytes: u64,
}

/// Where the boundary buffers of a program's parts lie: the live block, all inputs, all outputs.
#[derive(Default)]
pub(super) struct Boundary {
    /// By part and slot; nothing for what lies elsewhere.
    places: Vec<Vec<Option<u64>>>,
    pub(super) bytes: u64,
}

impl Boundary {
    pub(super) fn of(parts: &[(&ProgramSpec<'_>, &Plan)]) -> Self {
        let mut places: Vec<_> = parts.iter().map(|it| vec![None; it.1.buffers.len()]).collect();
        let mut bytes = LIVE_BYTES;
        for inputs in [true, false] {
            for (places, (spec, plan)) in places.iter_mut().zip(parts) {
                for (place, row) in places.iter_mut().zip(&plan.buffers) {
                    let is_input = matches!(row.kind, BufferKind::Input { .. });
                    let is_output = matches!(row.kind, BufferKind::Output { .. });
                    let wanted = if inputs { is_input } else { is_output };
                    if wanted && channel_of(spec, row).is_none() {
                        *place = Some(bytes);
                        bytes += row.size_bytes().next_multiple_of(ALIGN_BYTES);
                    }
                }
            }
        }
        Self { places, bytes }
    }
}

/// The channel that an input or output is bound to.
fn channel_of(spec: &ProgramSpec<'_>, row: &BufferRow) -> Option<ChannelId> {
    let (BufferKind::Input { name } | BufferKind::Output { name }) = &row.kind else { return None };
    spec.channels.iter().find(|it| it.0 == name).map(|it| it.1)
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
            Purpose::Weights => {
                self.report.weights_bytes += bytes;
                self.weights_level.add(bytes);
            }
            Purpose::Arena => {
                self.report.arena_bytes += bytes;
                self.arena_level.add(bytes);
            }
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

    /// Gives a boundary, a channel or a state back.
    pub(super) fn give_back(&mut self, buffer: BufferId) -> Result<(), DeviceError> {
        self.pool.deallocate(&mut *self.device.memory, buffer)
    }

    /// Memory that outlives runs, in which one program leaves rows for another.
    pub(crate) fn channel(&mut self, bytes: u64) -> Result<ChannelId, RuntimeError> {
        let buffer = self.alloc(bytes, Purpose::Boundary)?;
        self.channels.push(Some(Channel { buffer, bytes }));
        Ok(ChannelId(self.channels.len() - 1))
    }

    /// Gives a channel back; no program is bound to it any more.
    pub(crate) fn remove_channel(&mut self, id: ChannelId) -> Result<(), RuntimeError> {
        let channel = self.channels[id.0].take();
        let Some(Channel { buffer, bytes }) = channel else { return Ok(()) };
        self.give_back(buffer)?;
        self.report.boundary_bytes -= bytes;
        self.clear_pool_of_nothing()
    }

    /// Has the pool hold written buffers of every size, as far as the quota and the device go; the
    /// bytes that wait then.
    pub(crate) fn prime_pool(&mut self) -> Result<u64, RuntimeError> {
        let left_bytes = self.quota_bytes.saturating_sub(self.report().total_bytes());
        Ok(self.pool.prime_within(&mut *self.device.memory, left_bytes)?)
    }

    /// What waits in the pool goes: nothing will ask for it.
    pub(crate) fn clear_pool(&mut self) -> Result<(), RuntimeError> {
        Ok(self.pool.clear(&mut *self.device.memory)?)
    }

    /// What waits in the pool goes where there is no program that could want it.
    pub(super) fn clear_pool_of_nothing(&mut self) -> Result<(), RuntimeError> {
        if self.programs.iter().all(|it| it.removed) {
            self.pool.clear(&mut *self.device.memory)?;
        }
        Ok(())
    }

    /// Channels are large enough for what is bound to them, and everything that is bound exists.
    pub(super) fn check_channels(
        &self,
        spec: &ProgramSpec<'_>,
        plan: &Plan,
    ) -> Result<(), RuntimeError> {
        for (name, id) in spec.channels {
            let missing = || RuntimeError::NoBuffer {
                program: spec.label.to_owned(),
                name: (*name).to_owned(),
            };
            let row = plan.buffers.iter().find(|row| channel_of(spec, row) == Some(*id));
            let row = row.ok_or_else(missing)?;
            let channel = self.channels.get(id.0).and_then(Option::as_ref).ok_or_else(missing)?;
            if channel.bytes < row.size_bytes() {
                return Err(RuntimeError::Size {
                    name: (*name).to_owned(),
                    want_bytes: channel.bytes,
                    got_bytes: row.size_bytes(),
                });
            }
        }
        Ok(())
    }

    /// Places of all buffers of a part. States are allocated and start with zeros.
    pub(super) fn bind(
        &mut self,
        spec: &ProgramSpec<'_>,
        plan: &Plan,
        shared: Vec<Option<BufferId>>,
        boundary: &Boundary,
        part: usize,
    ) -> Result<Vec<Binding>, RuntimeError> {
        let mut bindings = Vec::with_capacity(plan.buffers.len());
        for (slot, (row, shared)) in plan.buffers.iter().zip(shared).enumerate() {
            bindings.push(match &row.kind {
                BufferKind::Input { .. } | BufferKind::Output { .. } => {
                    match (channel_of(spec, row), boundary.places[part][slot]) {
                        (Some(channel), _) => Binding::Channel(channel.0),
                        (None, Some(offset)) => Binding::Boundary { offset },
                        (None, None) => Binding::Gone,
                    }
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
        Ok(bindings)
    }

    /// The lane that owns the arena of a lane.
    pub(super) fn arena_lane(&self, lane: usize) -> usize {
        self.lanes[lane].arena_of.unwrap_or(lane)
    }

    /// Makes room in a lane. Larger memory moves, so the programs over it are prepared again.
    pub(super) fn grow(
        &mut self,
        lane: LaneId,
        arena: u64,
        boundary: u64,
    ) -> Result<(), RuntimeError> {
        let owner = self.arena_lane(lane.0);
        let old_arena = self.lanes[owner].arena_bytes;
        let old_boundary = self.lanes[lane.0].boundary_bytes;
        let arena_moves = arena > old_arena || self.lanes[owner].arena.is_none();
        let boundary_moves = boundary > old_boundary;
        for index in 0..self.programs.len() {
            let of = self.programs[index].lane;
            let moves = arena_moves && self.arena_lane(of) == owner;
            if (moves || boundary_moves && of == lane.0)
                && let Some(prepared) = self.programs[index].prepared.take()
            {
                self.device.compiler.release(Held::Prepared(prepared))?;
            }
        }
        if arena_moves {
            if let Some(old) = self.lanes[owner].arena.take() {
                self.device.memory.free(old)?;
                self.report.arena_bytes -= old_arena;
                self.arena_level.lower(old_arena);
            }
            let buffer = self.alloc(arena, Purpose::Arena)?;
            let lane = &mut self.lanes[owner];
            (lane.arena, lane.arena_bytes) = (Some(buffer), arena);
        }
        if boundary_moves {
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
        let (buffer, offset) = self.place(program, 0, slot, bytes.len())?;
        self.device.memory.write(buffer, offset, bytes)?;
        self.uploaded(bytes.len());
        Ok(())
    }

    pub(super) fn uploaded(&self, len: usize) {
        self.counters.increment(Plain::Uploads);
        self.counters.add(Plain::UploadedBytes, len as u64);
    }

    pub(crate) fn read(
        &mut self,
        program: ProgramId,
        part: usize,
        slot: usize,
        out: &mut [u8],
    ) -> Result<(), RuntimeError> {
        let (buffer, offset) = self.place(program, part, slot, out.len())?;
        self.device.memory.read(buffer, offset, out)?;
        self.counters.increment(Plain::Downloads);
        self.counters.add(Plain::DownloadedBytes, out.len() as u64);
        Ok(())
    }

    /// Where the first `len` bytes of a part's buffer lie.
    pub(super) fn place(
        &self,
        program: ProgramId,
        part: usize,
        slot: usize,
        len: usize,
    ) -> Result<(BufferId, u64), RuntimeError> {
        let program = &self.programs[program.0];
        let missing = || RuntimeError::NoBuffer {
            program: program.label.text().to_owned(),
            name: format!("#{slot}"),
        };
        let part = program.parts.get(part).ok_or_else(missing)?;
        let row = part.plan.buffers.get(slot).ok_or_else(missing)?;
        if row.size_bytes() < len as u64 {
            return Err(RuntimeError::Size {
                name: format!("#{slot}"),
                want_bytes: row.size_bytes(),
                got_bytes: len as u64,
            });
        }
        match part.bindings[slot] {
            Binding::Boundary { offset } => {
                let lane = &self.lanes[program.lane];
                lane.boundary.map(|buffer| (buffer, offset)).ok_or_else(missing)
            }
            Binding::Buffer(buffer) => Ok((buffer, 0)),
            Binding::Channel(at) => {
                self.channels[at].as_ref().map(|it| (it.buffer, 0)).ok_or_else(missing)
            }
            Binding::Gone => Err(missing()),
        }
    }
}
