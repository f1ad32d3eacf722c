//! What a build and a session share: a device, its code, its shared buffers and its programs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use calor_device::{BufferId, CodeId, Device, Held, PreparedId, Span, Step, Word};
use calor_ir::CheckedGraph;
use calor_kernel::{Digest, Unit};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::counter::Plain;
use calor_telemetry::event::{Cache, Event, Memory as Purpose, Origin};
use calor_telemetry::{Counters, Label, Recorder};

use crate::error::RuntimeError;
use crate::plan::{
    BufferKind, BufferRow, Capabilities, Choices, Place, Plan, PlanSpan, PlanStep, plan,
};
use crate::source::WeightSource;

/// Counts that a live block holds.
pub const LIVE_COUNT_MAX: usize = 4;
/// Elements that are read from a weight source at once.
const CHUNK_LEN: usize = 1 << 18;
/// Bytes between boundary buffers start at multiples of this.
const ALIGN_BYTES: u64 = 256;

/// A program of a build or session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramId(usize);

/// Programs that never overlap in time; they share an arena and boundary memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId(usize);

/// What a program is to be.
#[derive(Clone)]
pub struct ProgramSpec<'a> {
    /// For people and events: the model.
    pub label: &'a str,
    /// Room for tokens, images or rows: the most that live count 0 may be.
    pub token_count_max: u32,
    /// Room for sequences: the most that live count 1 may be.
    pub sequence_count_max: u32,
    /// Its lane.
    pub lane: LaneId,
    /// What it computes.
    pub graph: &'a CheckedGraph,
    /// Weights, if the graph has any.
    pub source: Option<Arc<dyn WeightSource>>,
    /// Choices of the plan.
    pub choices: &'a Choices,
}

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
}

impl MemoryReport {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes + self.arena_bytes + self.boundary_bytes + self.state_bytes
    }
}

#[derive(Clone, Copy)]
enum Binding {
    /// In the lane's boundary memory.
    Boundary { offset: u64 },
    /// Shared between programs, or a state of this one.
    Buffer(BufferId),
    /// Only the prelude needed it.
    Gone,
}

struct Program {
    label: Label,
    bucket: [u32; 2],
    plan: Plan,
    codes: Vec<CodeId>,
    bindings: Vec<Binding>,
    live_offset: u64,
    lane: usize,
    prepared: Option<PreparedId>,
    digest: Digest,
}

#[derive(Default)]
struct Lane {
    arena: Option<BufferId>,
    arena_bytes: u64,
    boundary: Option<BufferId>,
    boundary_bytes: u64,
}

struct Shared {
    buffer: BufferId,
    bytes: u64,
    kept: bool,
}

pub(crate) struct Engine {
    device: Device,
    device_label: Label,
    pub(crate) counters: Arc<Counters>,
    pub(crate) recorder: Arc<dyn Recorder>,
    codes: HashMap<Digest, CodeId>,
    shared: HashMap<(Digest, Digest), Shared>,
    lanes: Vec<Lane>,
    programs: Vec<Program>,
    report: MemoryReport,
    quota_bytes: u64,
}

impl Engine {
    pub(crate) fn new(
        device: Device,
        quota_bytes: u64,
        counters: Arc<Counters>,
        recorder: Arc<dyn Recorder>,
    ) -> Self {
        let device_label = Label::of(device.signature.kind);
        Self {
            device,
            device_label,
            counters,
            recorder,
            codes: HashMap::new(),
            shared: HashMap::new(),
            lanes: Vec::new(),
            programs: Vec::new(),
            report: MemoryReport::default(),
            quota_bytes,
        }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn report(&self) -> MemoryReport {
        self.report
    }

    pub(crate) fn lane(&mut self) -> LaneId {
        self.lanes.push(Lane::default());
        LaneId(self.lanes.len() - 1)
    }

    pub(crate) fn plan_of(&self, program: ProgramId) -> &Plan {
        &self.programs[program.0].plan
    }

    pub(crate) fn digest_of(&self, program: ProgramId) -> Digest {
        self.programs[program.0].digest
    }

    /// Plans, compiles, loads weights and reserves memory for a program.
    pub(crate) fn add(&mut self, spec: &ProgramSpec<'_>) -> Result<ProgramId, RuntimeError> {
        let plan = self.plan(spec)?;
        self.within_quota(spec, &plan)?;
        let mut codes = Vec::with_capacity(plan.units.len());
        for unit in &plan.units {
            codes.push(self.code(unit)?);
        }
        let shared = self.prelude(spec, &plan, &codes)?;
        let (bindings, live_offset, boundary_bytes) = self.bind(&plan, shared)?;
        self.grow(spec.lane, plan.arena_bytes, boundary_bytes)?;
        let digest = plan.digest();
        self.programs.push(Program {
            label: Label::of(spec.label),
            bucket: [spec.token_count_max, spec.sequence_count_max],
            plan,
            codes,
            bindings,
            live_offset,
            lane: spec.lane.0,
            prepared: None,
            digest,
        });
        Ok(ProgramId(self.programs.len() - 1))
    }

    fn plan(&self, spec: &ProgramSpec<'_>) -> Result<Plan, RuntimeError> {
        let watch = Stopwatch::start();
        let capabilities = Capabilities {
            claims: self.device.claims,
            parallel_count: self.device.signature.parallel_count,
        };
        let plan = plan(spec.graph, &capabilities, spec.choices)?;
        self.counters.increment(Plain::Plans);
        self.recorder.record(Event::PlanMade {
            model: Label::of(spec.label),
            device: self.device_label,
            bucket_token_count: u64::from(spec.token_count_max),
            bucket_sequence_count: u64::from(spec.sequence_count_max),
            step_count: plan.steps.len() as u64,
            arena_bytes: plan.arena_bytes,
            wall_ns: watch.elapsed_ns(),
        });
        Ok(plan)
    }

    /// Refuses up front what would not fit, with the bytes wanted and left.
    fn within_quota(&self, spec: &ProgramSpec<'_>, plan: &Plan) -> Result<(), RuntimeError> {
        let lane = &self.lanes[spec.lane.0];
        let identity = identity(spec);
        let needed = needed_by_steps(plan);
        let weights: u64 = plan
            .buffers
            .iter()
            .zip(&needed)
            .filter(|(row, needed)| {
                let known = row.key.is_some_and(|key| self.shared.contains_key(&(identity, key)));
                **needed && row.key.is_some() && !known
            })
            .map(|(row, _)| row.size_bytes())
            .sum();
        let boundary = boundary_bytes(plan).saturating_sub(lane.boundary_bytes);
        let arena = plan.arena_bytes.saturating_sub(lane.arena_bytes);
        let want_bytes = weights + boundary + arena;
        let left_bytes = self.quota_bytes.saturating_sub(self.report.total_bytes());
        if left_bytes < want_bytes {
            let program = spec.label.to_owned();
            return Err(RuntimeError::Quota { program, want_bytes, left_bytes });
        }
        Ok(())
    }

    fn code(&mut self, unit: &Unit) -> Result<CodeId, RuntimeError> {
        let digest = unit.digest();
        let known = self.codes.get(&digest).copied();
        self.counters.cache_asked(Cache::KernelStructural, known.is_some());
        if let Some(code) = known {
            return Ok(code);
        }
        let kernel = Label::of(&unit.label());
        let watch = Stopwatch::start();
        let artifact = self.device.compiler.compile(unit)?;
        self.counters.increment(Plain::Compiles);
        let code_bytes = artifact.bytes.len() as u64;
        let (device, wall_ns) = (self.device_label, watch.elapsed_ns());
        let origin = Origin::Made;
        self.recorder.record(Event::Compiled { kernel, device, origin, code_bytes, wall_ns });
        let watch = Stopwatch::start();
        let code = self.device.compiler.load(&artifact)?;
        self.counters.increment(Plain::Loads);
        let wall_ns = watch.elapsed_ns();
        self.recorder.record(Event::ModuleLoaded { kernel, device, code_bytes, wall_ns });
        self.codes.insert(digest, code);
        Ok(code)
    }

    fn alloc(&mut self, bytes: u64, purpose: Purpose) -> Result<BufferId, RuntimeError> {
        let buffer = self.device.memory.alloc(bytes.max(1))?;
        self.counters.increment(Plain::Allocations);
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

    fn free_shared(&mut self, key: (Digest, Digest)) -> Result<(), RuntimeError> {
        if let Some(shared) = self.shared.remove(&key) {
            self.device.memory.free(shared.buffer)?;
            self.report.weights_bytes -= shared.bytes;
        }
        Ok(())
    }

    /// Makes every weight-only buffer that the program needs, and drops what only the way there
    /// needed. Each raw weight is loaded right before its first use and freed after its last, so
    /// that never two whole copies of the weights exist.
    fn prelude(
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
        let mut last_use = vec![None; plan.buffers.len()];
        for (at, step) in plan.prelude.iter().enumerate() {
            for index in buffers_of(step.reads()).chain(buffers_of(step.writes())) {
                last_use[index] = Some(at);
            }
        }
        for (at, step) in plan.prelude.iter().enumerate() {
            let made = buffers_of(step.writes())
                .all(|index| key(index).is_some_and(|it| self.shared.contains_key(&it)));
            if made && !self.half_made(plan, at) {
                continue;
            }
            if !self.is_wanted(plan, at, &needed, identity) {
                continue;
            }
            for index in buffers_of(step.reads()).chain(buffers_of(step.writes())) {
                self.materialise(spec, plan, index, identity)?;
            }
            self.run_once(plan, step, codes, identity)?;
            for index in 0..plan.buffers.len() {
                if last_use[index] == Some(at)
                    && !needed[index]
                    && let Some(key) = key(index)
                    && self.shared.get(&key).is_some_and(|it| !it.kept)
                {
                    self.free_shared(key)?;
                }
            }
        }
        let mut buffers = vec![None; plan.buffers.len()];
        for index in 0..plan.buffers.len() {
            if let Some(key) = key(index).filter(|_| needed[index]) {
                self.materialise(spec, plan, index, identity)?;
                if let Some(shared) = self.shared.get_mut(&key) {
                    shared.kept = true;
                    buffers[index] = Some(shared.buffer);
                }
            }
        }
        let size_bytes = self.report.weights_bytes - before.min(self.report.weights_bytes);
        if size_bytes > 0 {
            let (model, device) = (Label::of(spec.label), self.device_label);
            let wall_ns = watch.elapsed_ns();
            self.recorder.record(Event::WeightsLoaded { model, device, size_bytes, wall_ns });
        }
        Ok(buffers)
    }

    /// Whether an earlier prelude step of this plan writes the same buffer: a value made by
    /// several kernels is made by all of them or none.
    fn half_made(&self, plan: &Plan, at: usize) -> bool {
        let writes: Vec<usize> = buffers_of(plan.prelude[at].writes()).collect();
        plan.prelude[..at]
            .iter()
            .any(|step| buffers_of(step.writes()).any(|index| writes.contains(&index)))
    }

    /// Whether a step's result is needed by the program, or by a prelude step that is.
    fn is_wanted(&self, plan: &Plan, at: usize, needed: &[bool], identity: Digest) -> bool {
        let exists = |index: usize| {
            plan.buffers[index].key.is_some_and(|key| self.shared.contains_key(&(identity, key)))
        };
        buffers_of(plan.prelude[at].writes()).any(|index| {
            needed[index]
                || (at + 1..plan.prelude.len()).any(|later| {
                    let step = &plan.prelude[later];
                    buffers_of(step.reads()).any(|it| it == index)
                        && !buffers_of(step.writes()).all(exists)
                        && self.is_wanted(plan, later, needed, identity)
                })
        })
    }

    fn materialise(
        &mut self,
        spec: &ProgramSpec<'_>,
        plan: &Plan,
        index: usize,
        identity: Digest,
    ) -> Result<(), RuntimeError> {
        let row = &plan.buffers[index];
        let Some(key) = row.key else { return Ok(()) };
        if self.shared.contains_key(&(identity, key)) {
            return Ok(());
        }
        let bytes = row.size_bytes();
        let buffer = self.alloc(bytes, Purpose::Weights)?;
        self.shared.insert((identity, key), Shared { buffer, bytes, kept: false });
        match &row.kind {
            BufferKind::Weight { name } => self.load(spec, name, row, buffer),
            BufferKind::Constant { bytes } => Ok(self.device.memory.write(buffer, 0, bytes)?),
            BufferKind::Input { .. }
            | BufferKind::Output { .. }
            | BufferKind::State { .. }
            | BufferKind::Prepared => Ok(()),
        }
    }

    fn load(
        &mut self,
        spec: &ProgramSpec<'_>,
        name: &str,
        row: &BufferRow,
        buffer: BufferId,
    ) -> Result<(), RuntimeError> {
        let Some(source) = &spec.source else {
            return Err(RuntimeError::NoSource { program: spec.label.to_owned() });
        };
        let count = row.ty.shape.element_count();
        let mut chunk = vec![0.0_f32; CHUNK_LEN.min(count)];
        let mut first = 0;
        while first < count {
            let chunk = &mut chunk[..CHUNK_LEN.min(count - first)];
            source
                .read(name, first, chunk)
                .map_err(|source| RuntimeError::Weight { name: name.to_owned(), source })?;
            self.device.memory.write(buffer, first as u64 * 4, bytemuck::cast_slice(chunk))?;
            first += chunk.len();
        }
        Ok(())
    }

    fn run_once(
        &mut self,
        plan: &Plan,
        step: &PlanStep,
        codes: &[CodeId],
        identity: Digest,
    ) -> Result<(), RuntimeError> {
        let span = |span: &PlanSpan| {
            let Place::Buffer(index) = span.place else { return None };
            let key = plan.buffers[index as usize].key?;
            let buffer = self.shared.get(&(identity, key))?.buffer;
            Some(Span { buffer, offset: span.offset, len: span.len })
        };
        let step = device_step(plan, step, codes, &span);
        let prepared = self.device.queue.prepare(&[step], &[], None)?;
        let ticket = self.device.queue.run(prepared)?;
        self.device.queue.wait(ticket, Duration::from_secs(600))?;
        Ok(self.device.compiler.release(Held::Prepared(prepared))?)
    }

    /// Places of all boundary buffers, the live block's place, and the boundary's size.
    fn bind(
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
                    let buffer = self.device.memory.alloc(bytes.max(1))?;
                    self.counters.increment(Plain::Allocations);
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
    fn grow(&mut self, lane: LaneId, arena: u64, boundary: u64) -> Result<(), RuntimeError> {
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
                self.device.memory.free(old)?;
                self.report.boundary_bytes -= old_boundary;
            }
            let buffer = self.alloc(boundary, Purpose::Boundary)?;
            let lane = &mut self.lanes[lane.0];
            (lane.boundary, lane.boundary_bytes) = (Some(buffer), boundary);
        }
        Ok(())
    }

    /// Turns every program that is not prepared into something that runs with one call.
    pub(crate) fn prepare(&mut self) -> Result<(), RuntimeError> {
        for index in 0..self.programs.len() {
            self.prepare_one(index)?;
        }
        Ok(())
    }

    fn prepare_one(&mut self, index: usize) -> Result<PreparedId, RuntimeError> {
        let program = &self.programs[index];
        if let Some(prepared) = program.prepared {
            return Ok(prepared);
        }
        let lane = &self.lanes[program.lane];
        let span = |span: &PlanSpan| match span.place {
            Place::Arena => {
                lane.arena.map(|buffer| Span { buffer, offset: span.offset, len: span.len })
            }
            Place::Buffer(at) => match program.bindings[at as usize] {
                Binding::Boundary { offset } => lane.boundary.map(|buffer| Span {
                    buffer,
                    offset: offset + span.offset,
                    len: span.len,
                }),
                Binding::Buffer(buffer) => {
                    Some(Span { buffer, offset: span.offset, len: span.len })
                }
                Binding::Gone => None,
            },
        };
        let plan = &program.plan;
        let steps: Vec<Step> =
            plan.steps.iter().map(|step| device_step(plan, step, &program.codes, &span)).collect();
        let live = lane.boundary.map(|buffer| Span {
            buffer,
            offset: program.live_offset,
            len: 4 * LIVE_COUNT_MAX as u64,
        });
        let prepared = self.device.queue.prepare(&steps, &plan.edges, live)?;
        self.programs[index].prepared = Some(prepared);
        Ok(prepared)
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

    fn place(
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

    /// Runs a program and waits for its end. `live` are the live counts, in order; counts that
    /// are not given are at their most.
    pub(crate) fn run(
        &mut self,
        id: ProgramId,
        live: &[u32],
        deadline: Duration,
    ) -> Result<(), RuntimeError> {
        let watch = Stopwatch::start();
        let prepared = self.prepare_one(id.0)?;
        let program = &self.programs[id.0];
        let mut counts = [u32::MAX; LIVE_COUNT_MAX];
        for (index, (count, got)) in counts.iter_mut().zip(live).enumerate() {
            let max = program.bucket.get(index).copied().unwrap_or(u32::MAX);
            if max < *got {
                return Err(RuntimeError::Live { index, got: *got, max });
            }
            *count = *got;
        }
        if let Some(buffer) = self.lanes[program.lane].boundary {
            let mut bytes = [0; 4 * LIVE_COUNT_MAX];
            for (slot, count) in bytes.chunks_exact_mut(4).zip(counts) {
                slot.copy_from_slice(&count.to_le_bytes());
            }
            self.device.memory.write(buffer, program.live_offset, &bytes)?;
        }
        let ticket = self.device.queue.run(prepared)?;
        self.device.queue.wait(ticket, deadline)?;
        self.count(id, live, watch.elapsed_ns());
        Ok(())
    }

    fn count(&self, id: ProgramId, live: &[u32], wall_ns: u64) {
        let program = &self.programs[id.0];
        let [tokens, sequences] = program.bucket;
        let live = |index: usize, room: u32| live.get(index).copied().unwrap_or(room).min(room);
        let (live_tokens, live_sequences) = (live(0, tokens), live(1, sequences));
        self.counters.increment(Plain::Programs);
        self.counters.add(Plain::Tokens, u64::from(live_tokens));
        self.counters.add(Plain::PaddingTokens, u64::from(tokens - live_tokens));
        self.counters.add(Plain::Kernels, program.plan.steps.len() as u64);
        self.recorder.record(Event::ProgramRan {
            model: program.label,
            device: self.device_label,
            bucket_token_count: u64::from(tokens),
            bucket_sequence_count: u64::from(sequences),
            live_token_count: u64::from(live_tokens),
            live_sequence_count: u64::from(live_sequences),
            wall_ns,
        });
    }
}

fn identity(spec: &ProgramSpec<'_>) -> Digest {
    spec.source.as_ref().map_or(Digest([0; 32]), |it| it.identity())
}

fn buffers_of(spans: &[PlanSpan]) -> impl Iterator<Item = usize> + '_ {
    spans.iter().filter_map(|span| match span.place {
        Place::Buffer(index) => Some(index as usize),
        Place::Arena => None,
    })
}

/// Which buffers the steps of each run touch.
fn needed_by_steps(plan: &Plan) -> Vec<bool> {
    let mut needed = vec![false; plan.buffers.len()];
    for step in &plan.steps {
        for index in buffers_of(step.reads()).chain(buffers_of(step.writes())) {
            needed[index] = true;
        }
    }
    needed
}

fn boundary_bytes(plan: &Plan) -> u64 {
    let is_boundary =
        |row: &&BufferRow| matches!(row.kind, BufferKind::Input { .. } | BufferKind::Output { .. });
    let rows = plan.buffers.iter().filter(is_boundary);
    rows.map(|row| row.size_bytes().next_multiple_of(ALIGN_BYTES)).sum::<u64>() + ALIGN_BYTES
}

/// A plan's step over real buffers. What has no buffer is of length zero and never touched.
fn device_step(
    plan: &Plan,
    step: &PlanStep,
    codes: &[CodeId],
    span: &dyn Fn(&PlanSpan) -> Option<Span>,
) -> Step {
    let nowhere =
        Span { buffer: BufferId { index: u32::MAX, generation: u32::MAX }, offset: 0, len: 0 };
    let span = |it: &PlanSpan| span(it).unwrap_or(nowhere);
    match step {
        PlanStep::Run { unit, words, args, .. } => {
            let code = codes[*unit as usize];
            let args: Vec<Span> = args.iter().map(span).collect();
            let words: Vec<Word> = words.clone();
            match plan.units[*unit as usize] {
                Unit::Call(_) => Step::Call { code, words, args },
                Unit::Loop(_) | Unit::Source(_) => Step::Launch { code, words, args },
            }
        }
        PlanStep::Copy { from, to } => Step::Copy { from: span(from), to: span(to) },
    }
}
