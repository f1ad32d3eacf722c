//! What a build and a session share: a device, its code, its shared buffers and its programs.

mod building;
mod codes;
mod direct;
mod loading;
mod memory;
mod metered;
mod prepare;
mod proof;
mod quota;
mod reader;
mod remove;
mod run;
mod schedule;
mod timed;
mod warm;
mod weights;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use calor_device::{Artifacts, CodeId, Device, HostMemory, NoArtifacts, PreparedId, Profile};
use calor_ir::CheckedGraph;
use calor_kernel::Digest;
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::counter::Plain;
use calor_telemetry::event::Event;
use calor_telemetry::{Counters, Label, Recorder};

use crate::error::RuntimeError;
use crate::kernel::KernelHandle;
use crate::plan::{Capabilities, Choices, Place, Plan, PlanSpan, plan};
use crate::pool::GpuMemoryPool;
use crate::source::WeightSource;
use codes::{Codes, on_threads};
use memory::{ALIGN_BYTES, Binding, Boundary, Channel, LIVE_BYTES, Lane};
use metered::{Level, Metered};
use prepare::device_step;
use timed::Timed;
use weights::Shared;

pub(crate) use codes::UNUSED_CODE_BYTES_MAX;
pub use loading::WeightsReport;
pub use memory::MemoryReport;
pub use quota::WantedMemory;
pub use run::{INPUT_COUNT_MAX, Input, Run};

/// Counts that a part of a program has in the live block.
pub const LIVE_COUNT_MAX: usize = 4;
/// Most parts of a program: what the live block has room for.
pub const PART_COUNT_MAX: usize = LIVE_BYTES as usize / 4 / LIVE_COUNT_MAX;

/// In events: every model of a build.
const ALL: Label = Label::fixed("all");

/// How long building took, by kind of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildTimes {
    /// Planning.
    pub plans_ns: u64,
    /// Compiling and loading code, or finding it.
    pub code_ns: u64,
    /// Reserving arenas and boundaries.
    pub memory_ns: u64,
    /// Reading, converting and uploading weights.
    pub weights_ns: u64,
    /// Preparing programs: capture where a device captures.
    pub prepare_ns: u64,
}

/// A program of a build or session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramId(usize);

/// Programs that never overlap in time; they share an arena and boundary memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId(usize);

/// Memory that outlives runs, in which one program leaves rows for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelId(usize);

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
    /// Inputs and outputs that lie in channels, by name.
    pub channels: &'a [(&'a str, ChannelId)],
}

/// A graph of a program that has several.
#[derive(Clone)]
pub struct PartSpec<'a> {
    /// Parts of one branch run behind each other and share its memory; branches run at once.
    pub branch: usize,
    /// What it is to be. The lanes of all parts are the same.
    pub spec: ProgramSpec<'a>,
}

/// A program of several graphs.
#[derive(Clone)]
pub struct JoinedSpec<'a> {
    /// For people and events.
    pub label: &'a str,
    /// Its graphs, 1 to [`PART_COUNT_MAX`].
    pub parts: Vec<PartSpec<'a>>,
}

struct Program {
    label: Label,
    parts: Vec<Part>,
    lane: usize,
    prepared: Option<PreparedId>,
    removed: bool,
}

/// One graph of a program.
struct Part {
    label: Label,
    branch: usize,
    bucket: [u32; 2],
    plan: Plan,
    /// Bytes moved in a run, as the plan says.
    moved_bytes: u64,
    codes: Vec<CodeId>,
    bindings: Vec<Binding>,
    /// First byte of its branch in the arena.
    arena_base: u64,
    digest: Digest,
}

pub(crate) struct Engine {
    device: Device,
    device_label: Label,
    pub(crate) counters: Arc<Counters>,
    pub(crate) recorder: Arc<dyn Recorder>,
    timed: Option<Timed>,
    artifacts: Arc<dyn Artifacts>,
    codes: Codes,
    shared: HashMap<(Digest, Digest), Shared>,
    proves_weights: bool,
    weights: WeightsReport,
    lanes: Vec<Lane>,
    channels: Vec<Option<Channel>>,
    programs: Vec<Program>,
    report: MemoryReport,
    weights_level: Level,
    arena_level: Level,
    times: BuildTimes,
    pool: GpuMemoryPool,
    quota_bytes: u64,
    /// What is written in front of a run, put together.
    written: Vec<u8>,
    /// What weights are read into; there while programs are added.
    host: Vec<Box<dyn HostMemory>>,
    /// What digests weights that the device reads by itself; there while programs are added.
    digester: Option<KernelHandle>,
}

impl Engine {
    pub(crate) fn new(
        mut device: Device,
        quota_bytes: u64,
        counters: Arc<Counters>,
        recorder: Arc<dyn Recorder>,
    ) -> Self {
        device.memory = Box::new(Metered::new(device.memory, counters.clone()));
        let device_label = Label::of(device.signature.kind);
        let pool = GpuMemoryPool::new(quota_bytes, counters.clone());
        let weights_level = Level::new(&counters, Plain::WeightsBytes);
        let arena_level = Level::new(&counters, Plain::ArenaBytes);
        Self {
            device,
            device_label,
            counters,
            recorder,
            timed: None,
            artifacts: Arc::new(NoArtifacts),
            codes: Codes::default(),
            shared: HashMap::new(),
            proves_weights: false,
            weights: WeightsReport::default(),
            lanes: Vec::new(),
            channels: Vec::new(),
            programs: Vec::new(),
            report: MemoryReport::default(),
            weights_level,
            arena_level,
            times: BuildTimes::default(),
            pool,
            quota_bytes,
            written: Vec::new(),
            host: Vec::new(),
            digester: None,
        }
    }

    pub(crate) fn keep_in(&mut self, artifacts: Arc<dyn Artifacts>) {
        self.artifacts = artifacts;
    }

    pub(crate) fn time_steps(&mut self, profile: Profile) {
        self.timed = Some(Timed::new(profile));
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn report(&self) -> MemoryReport {
        MemoryReport { pool_bytes: self.pool.idle_bytes(), ..self.report }
    }

    pub(crate) fn times(&self) -> BuildTimes {
        self.times
    }

    pub(crate) fn weights(&self) -> WeightsReport {
        self.weights
    }

    pub(crate) fn lane(&mut self) -> LaneId {
        self.lanes.push(Lane::default());
        LaneId(self.lanes.len() - 1)
    }

    /// A lane with a boundary of its own that uses the arena of another.
    pub(crate) fn lane_beside(&mut self, other: LaneId) -> LaneId {
        let arena_of = Some(self.arena_lane(other.0));
        self.lanes.push(Lane { arena_of, ..Lane::default() });
        LaneId(self.lanes.len() - 1)
    }

    pub(crate) fn plan_of(&self, program: ProgramId, part: usize) -> &Plan {
        &self.programs[program.0].parts[part].plan
    }

    pub(crate) fn digest_of(&self, program: ProgramId, part: usize) -> Digest {
        self.programs[program.0].parts[part].digest
    }

    /// The plan that a program of this graph gets.
    pub(crate) fn planned(
        &self,
        graph: &CheckedGraph,
        choices: &Choices,
    ) -> Result<Plan, RuntimeError> {
        Ok(plan(graph, &self.capabilities(), choices)?)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            claims: self.device.claims,
            parallel_count: self.device.signature.parallel_count,
        }
    }

    /// Programs before anything of them exists.
    fn drafts<'a>(&self, specs: &'a [JoinedSpec<'a>]) -> Result<Vec<Draft<'a>>, RuntimeError> {
        let mut plans = self.plans(specs)?.into_iter();
        let of = |spec: &'a JoinedSpec<'a>| {
            let own = plans.by_ref().take(spec.parts.len()).collect();
            self.draft(spec, own)
        };
        specs.iter().map(of).collect()
    }

    /// A program before anything of it exists.
    fn draft<'a>(
        &self,
        spec: &'a JoinedSpec<'a>,
        plans: Vec<Plan>,
    ) -> Result<Draft<'a>, RuntimeError> {
        let parts: Vec<(&ProgramSpec<'_>, &Plan)> =
            spec.parts.iter().map(|it| &it.spec).zip(&plans).collect();
        for (spec, plan) in &parts {
            self.check_channels(spec, plan)?;
        }
        let boundary = Boundary::of(&parts);
        let (bases, arena_bytes) = branches(&spec.parts, &plans);
        Ok(Draft { spec, plans, boundary, bases, arena_bytes })
    }

    /// The plans of all parts, in order, made on as many threads as pay.
    fn plans(&self, specs: &[JoinedSpec<'_>]) -> Result<Vec<Plan>, RuntimeError> {
        let capabilities = self.capabilities();
        let mut parts = Vec::new();
        for spec in specs {
            assert!(
                (1..=PART_COUNT_MAX).contains(&spec.parts.len()),
                "a program has 1 to {PART_COUNT_MAX} parts"
            );
            let lane = spec.parts[0].spec.lane;
            assert!(spec.parts.iter().all(|it| it.spec.lane == lane), "the parts are of one lane");
            parts.extend(spec.parts.iter().map(|it| &it.spec));
        }
        let made = on_threads(&parts, |spec| {
            let watch = Stopwatch::start();
            let plan = plan(spec.graph, &capabilities, spec.choices);
            (plan, watch.elapsed_ns())
        });
        let mut plans = Vec::with_capacity(parts.len());
        for (spec, (plan, wall_ns)) in parts.into_iter().zip(made) {
            let plan = plan?;
            self.counters.increment(Plain::Plans);
            self.counters.add(Plain::PlannedNodes, spec.graph.graph().nodes().len() as u64);
            self.counters.add(Plain::PlannedSteps, plan.steps.len() as u64);
            self.recorder.record(Event::PlanMade {
                model: Label::of(spec.label),
                device: self.device_label,
                bucket_token_count: u64::from(spec.token_count_max),
                bucket_sequence_count: u64::from(spec.sequence_count_max),
                step_count: plan.steps.len() as u64,
                arena_bytes: plan.arena_bytes,
                wall_ns,
            });
            plans.push(plan);
        }
        Ok(plans)
    }
}

/// A program before anything of it exists.
struct Draft<'a> {
    spec: &'a JoinedSpec<'a>,
    plans: Vec<Plan>,
    boundary: Boundary,
    bases: Vec<u64>,
    arena_bytes: u64,
}

impl Draft<'_> {
    fn lane(&self) -> LaneId {
        self.spec.parts[0].spec.lane
    }
}

/// Where the arena of each part's branch begins, and the bytes of all branches together.
fn branches(parts: &[PartSpec<'_>], plans: &[Plan]) -> (Vec<u64>, u64) {
    let mut sizes: BTreeMap<usize, u64> = BTreeMap::new();
    for (part, plan) in parts.iter().zip(plans) {
        let size = sizes.entry(part.branch).or_default();
        *size = plan.arena_bytes.next_multiple_of(ALIGN_BYTES).max(*size);
    }
    // A single branch needs no rounding.
    if let ([_], [plan]) = (parts, plans) {
        return (vec![0], plan.arena_bytes);
    }
    let mut bases = BTreeMap::new();
    let mut bytes = 0;
    for (branch, size) in sizes {
        bases.insert(branch, bytes);
        bytes += size;
    }
    (parts.iter().map(|it| bases[&it.branch]).collect(), bytes)
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
