//! What a build and a session share: a device, its code, its shared buffers and its programs.

mod codes;
mod loading;
mod memory;
mod proof;
mod reader;
mod remove;
mod schedule;
mod weights;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use calor_device::{
    Artifacts, BufferId, CodeId, Device, NoArtifacts, PreparedId, Span, Step, Word,
};
use calor_ir::CheckedGraph;
use calor_kernel::{Digest, Unit};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::counter::Plain;
use calor_telemetry::event::Event;
use calor_telemetry::{Counters, Label, Recorder};

use crate::error::RuntimeError;
use crate::plan::{
    BufferKind, BufferRow, Capabilities, Choices, Place, Plan, PlanSpan, PlanStep, plan,
};
use crate::source::WeightSource;
use codes::Codes;
use memory::{Binding, Lane, boundary_bytes};
use weights::Shared;

pub(crate) use codes::UNUSED_CODE_BYTES_MAX;
pub use loading::WeightsReport;
pub use memory::MemoryReport;

/// Counts that a live block holds.
pub const LIVE_COUNT_MAX: usize = 4;
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
    removed: bool,
}

pub(crate) struct Engine {
    device: Device,
    device_label: Label,
    pub(crate) counters: Arc<Counters>,
    pub(crate) recorder: Arc<dyn Recorder>,
    artifacts: Arc<dyn Artifacts>,
    codes: Codes,
    shared: HashMap<(Digest, Digest), Shared>,
    proves_weights: bool,
    weights: WeightsReport,
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
            artifacts: Arc::new(NoArtifacts),
            codes: Codes::default(),
            shared: HashMap::new(),
            proves_weights: false,
            weights: WeightsReport::default(),
            lanes: Vec::new(),
            programs: Vec::new(),
            report: MemoryReport::default(),
            quota_bytes,
        }
    }

    pub(crate) fn keep_in(&mut self, artifacts: Arc<dyn Artifacts>) {
        self.artifacts = artifacts;
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn report(&self) -> MemoryReport {
        self.report
    }

    pub(crate) fn weights(&self) -> WeightsReport {
        self.weights
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
        let codes = self.codes_of(&plan.units)?;
        let shared = self.prelude(spec, &plan, &codes)?;
        let (bindings, live_offset, boundary_bytes) = self.bind(&plan, shared)?;
        self.grow(spec.lane, plan.arena_bytes, boundary_bytes)?;
        self.codes.pin(&codes);
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
            removed: false,
        });
        self.release_unused_code()?;
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
        let is_state = |row: &&BufferRow| matches!(row.kind, BufferKind::State { .. });
        let states: u64 = plan.buffers.iter().filter(is_state).map(BufferRow::size_bytes).sum();
        let boundary = boundary_bytes(plan).saturating_sub(lane.boundary_bytes);
        let arena = plan.arena_bytes.saturating_sub(lane.arena_bytes);
        let want_bytes = weights + states + boundary + arena;
        let left_bytes = self.quota_bytes.saturating_sub(self.report.total_bytes());
        if left_bytes < want_bytes {
            let program = spec.label.to_owned();
            return Err(RuntimeError::Quota { program, want_bytes, left_bytes });
        }
        Ok(())
    }

    /// Turns every program that is not prepared into something that runs with one call.
    pub(crate) fn prepare(&mut self) -> Result<(), RuntimeError> {
        for index in 0..self.programs.len() {
            if !self.programs[index].removed {
                self.prepare_one(index)?;
            }
        }
        Ok(())
    }

    fn prepare_one(&mut self, index: usize) -> Result<PreparedId, RuntimeError> {
        let program = &self.programs[index];
        if program.removed {
            return Err(RuntimeError::Removed { program: program.label.text().to_owned() });
        }
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
