//! Planning: from a checked graph to steps, kernels and memory.
//!
//! [`plan`] is a pure function: same graph, claims, options and choices, same bytes out. It
//! imports no clock, no environment and no device queue.
//!
//! The road through it: composites that the device claims stay whole, the others are expanded
//! (`claims`); values that must exist in memory are chosen and each gets a generated kernel that
//! computes everything between it and other such values (`group`, `pull`, `index`); extents that
//! follow the request are found (`live`); what depends on weights alone moves into the prelude;
//! lifetimes become arena offsets (`arena`). What a run has to compute is counted from the graph
//! itself (`work`).

mod arena;
mod assemble;
mod boundary;
mod claims;
mod cost;
mod draft;
mod error;
mod group;
mod index;
mod live;
mod normalise;
mod order;
mod pull;
mod root;
mod sequence;
mod show;
mod state;
mod view;
mod work;

use std::collections::BTreeMap;

use calor_device::{Claim, Word};
use calor_ir::{CheckedGraph, Type};
use calor_kernel::{Canonical, Digest, Unit};

pub use error::PlanError;
pub use work::Work;

/// What planning decides by rule unless it is told otherwise.
///
/// Keys are written by the planner into [`Plan::defaults`]; warm-up measures and plans again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices(pub BTreeMap<String, i64>);

impl Choices {
    /// Canonical bytes of the choices; part of the program's key.
    pub fn digest(&self) -> Digest {
        let mut out = Canonical::new("choices", 1);
        out.count(self.0.len());
        for (key, value) in &self.0 {
            out.text(key).i64(*value);
        }
        Digest::of(&out.finish())
    }
}

/// What is known of the machine when planning.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// What the device does better than generated code.
    pub claims: &'static [Claim],
    /// Chunks that keep the machine busy when one long reduction is split.
    pub parallel_count: u32,
}

/// Who fills a boundary buffer, and how long it lives.
#[derive(Clone, Debug, PartialEq)]
pub enum BufferKind {
    /// The caller, before each run.
    Input {
        /// Name of the graph's input.
        name: String,
    },
    /// The loader, once. Not kept after the prelude when no step reads it.
    Weight {
        /// Name of the graph's input.
        name: String,
    },
    /// Bytes that stand in the graph.
    Constant {
        /// Contents.
        bytes: Vec<u8>,
    },
    /// The prelude, once; shared between programs by key.
    Prepared,
    /// The program, for the caller.
    Output {
        /// Name of the graph's output.
        name: String,
    },
    /// The previous run.
    State {
        /// Name of the graph's input.
        name: String,
    },
}

/// A buffer outside the arena.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferRow {
    /// Who fills it.
    pub kind: BufferKind,
    /// Type of its contents; packed weights are `u8`.
    pub ty: Type,
    /// For weights, constants and prepared buffers: equal keys mean equal contents, given the
    /// same checkpoint.
    pub key: Option<Digest>,
    /// Which count of the live block bounds the first dimension, if any.
    pub live: Option<u8>,
}

impl BufferRow {
    /// Bytes of the buffer.
    pub fn size_bytes(&self) -> u64 {
        self.ty.size_bytes() as u64
    }
}

/// Where a span lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a boundary buffer, by its index in [`Plan::buffers`].
    Buffer(u32),
    /// In the lane's arena.
    Arena,
}

/// Bytes that a step reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanSpan {
    /// Where.
    pub place: Place,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanStep {
    /// A kernel or a library call.
    Run {
        /// Index in [`Plan::units`].
        unit: u32,
        /// Launch words.
        words: Vec<Word>,
        /// Buffers, in the unit's order.
        args: Vec<PlanSpan>,
        /// How many of the arguments, at the end of the list, are written.
        write_count: u32,
        /// What it computes, for people.
        label: String,
        /// Bytes read and written at full extent.
        moved_bytes: u64,
        /// Floating-point operations at full extent.
        flops: u64,
    },
    /// Bytes from one place to another.
    Copy {
        /// Source.
        from: PlanSpan,
        /// Destination.
        to: PlanSpan,
    },
}

impl PlanStep {
    /// What it reads.
    pub fn reads(&self) -> &[PlanSpan] {
        match self {
            Self::Run { args, write_count, .. } => &args[..args.len() - *write_count as usize],
            Self::Copy { from, .. } => std::slice::from_ref(from),
        }
    }

    /// What it writes.
    pub fn writes(&self) -> &[PlanSpan] {
        match self {
            Self::Run { args, write_count, .. } => &args[args.len() - *write_count as usize..],
            Self::Copy { to, .. } => std::slice::from_ref(to),
        }
    }
}

/// What a program does, as data.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Distinct units, in order of first use.
    pub units: Vec<Unit>,
    /// Boundary buffers.
    pub buffers: Vec<BufferRow>,
    /// Steps that depend on weights alone, run once when they are loaded.
    pub prelude: Vec<PlanStep>,
    /// Steps of each run.
    pub steps: Vec<PlanStep>,
    /// Pairs (before, after) of indices into [`Plan::steps`].
    pub edges: Vec<(u32, u32)>,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Most bytes of interior values that are alive at once.
    pub peak_live_bytes: u64,
    /// Choices that were made by rule.
    pub defaults: Choices,
    /// Multiplications and additions of a run.
    pub work: Work,
}

impl Plan {
    /// Canonical digest of everything that decides what the program computes and where. The text
    /// for people names units in short, so what each is made of is added.
    pub fn digest(&self) -> Digest {
        let mut out = Canonical::new("plan", 1);
        out.text(&self.to_string()).count(self.units.len());
        for unit in &self.units {
            out.bytes(&unit.digest().0);
        }
        Digest::of(&out.finish())
    }

    /// Index of the buffer of an input, weight or state called `name`.
    pub fn input_index(&self, wanted: &str) -> Option<usize> {
        self.buffers.iter().position(|row| match &row.kind {
            BufferKind::Input { name }
            | BufferKind::Weight { name }
            | BufferKind::State { name } => name == wanted,
            BufferKind::Constant { .. } | BufferKind::Prepared | BufferKind::Output { .. } => false,
        })
    }

    /// Index of the buffer of the output called `name`.
    pub fn output_index(&self, wanted: &str) -> Option<usize> {
        self.buffers
            .iter()
            .position(|row| matches!(&row.kind, BufferKind::Output { name } if name == wanted))
    }

    /// Bytes and floating-point operations of one run at full extent.
    pub fn cost(&self) -> (u64, u64) {
        self.steps.iter().fold((0, 0), |(bytes, flops), step| match step {
            PlanStep::Run { moved_bytes, flops: work, .. } => (bytes + moved_bytes, flops + work),
            PlanStep::Copy { from, .. } => (bytes + 2 * from.len, flops),
        })
    }
}

/// Plans a graph.
///
/// # Errors
/// [`PlanError`] when an opaque composite has no claim, or the graph needs what no template has.
pub fn plan(
    graph: &CheckedGraph,
    capabilities: &Capabilities,
    choices: &Choices,
) -> Result<Plan, PlanError> {
    let claimed = claims::settle(graph.graph(), capabilities, choices)?;
    let grouped = group::group(&claimed)?;
    let plan = assemble::assemble(&claimed, grouped)?;
    let work = Work::of(graph.graph(), &plan)?;
    Ok(Plan { work, ..plan })
}
