//! From stored values, kernels and offers to ordered steps, buffers and offsets.

use std::collections::HashMap;

use calor_device::{Layout, Offer, OfferArg, OfferWord, Word};
use calor_ir::{DType, Graph, Literal, NodeId, Op, Prim, Role, Type, ValueId};
use calor_kernel::{Call, Canonical, Digest, InstrOp, Level, LoopProgram, Unit};

use super::arena::{Lifetime, lay_out, peak_bytes};
use super::claims::{Claimed, writes};
use super::group::Grouped;
use super::live::live_counts;
use super::order::edges;
use super::root::Kernel;
use super::view::{dense_root, rows_of};
use super::{BufferKind, BufferRow, Place, Plan, PlanError, PlanSpan, PlanStep};

/// The plan of a grouped graph.
pub(super) fn assemble(claimed: &Claimed, grouped: Grouped) -> Result<Plan, PlanError> {
    let mut assembler = Assembler {
        claimed,
        grouped: &grouped,
        live: live_counts(&claimed.graph),
        units: Vec::new(),
        unit_index: HashMap::new(),
        buffers: Vec::new(),
        home: HashMap::new(),
        keys: HashMap::new(),
        prepared: HashMap::new(),
        interior: Vec::new(),
        prelude: Vec::new(),
        steps: Vec::new(),
    };
    assembler.boundary();
    for item in assembler.items() {
        match item {
            Item::Claimed(node) => assembler.claimed_step(node)?,
            Item::Generated(value) => assembler.kernel_steps(value),
        }
    }
    assembler.leave();
    Ok(assembler.finish())
}

#[derive(Clone, Copy)]
enum Item {
    Claimed(NodeId),
    Generated(ValueId),
}

/// Where a value lies until offsets are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Buffer(u32),
    Interior(usize),
}

/// A span whose interior offset is not known yet.
#[derive(Clone, Copy, Debug)]
struct Draft {
    home: Home,
    offset: u64,
    len: u64,
}

enum DraftStep {
    Run {
        unit: u32,
        words: Vec<Word>,
        args: Vec<Draft>,
        write_count: u32,
        label: String,
        flops: u64,
    },
    Copy {
        from: Draft,
        to: Draft,
    },
}

struct Assembler<'a> {
    claimed: &'a Claimed,
    grouped: &'a Grouped,
    live: Vec<Option<u8>>,
    units: Vec<Unit>,
    unit_index: HashMap<Digest, u32>,
    buffers: Vec<BufferRow>,
    home: HashMap<ValueId, Home>,
    keys: HashMap<ValueId, Digest>,
    prepared: HashMap<Digest, u32>,
    interior: Vec<u64>,
    prelude: Vec<DraftStep>,
    steps: Vec<DraftStep>,
}

impl Assembler<'_> {
    fn graph(&self) -> &Graph {
        &self.claimed.graph
    }

    /// Buffers of inputs, literals and outputs.
    fn boundary(&mut self) {
        let claimed = self.claimed;
        let graph = &claimed.graph;
        for (value, input) in graph.inputs() {
            let name = input.name.clone();
            let ty = graph.ty(value);
            let (kind, key) = match input.role {
                Role::Data => (BufferKind::Input { name }, None),
                Role::State => (BufferKind::State { name }, None),
                Role::Weight => {
                    let mut out = Canonical::new("weight", 1);
                    out.text(&name).text(&ty.to_string());
                    (BufferKind::Weight { name }, Some(Digest::of(&out.finish())))
                }
            };
            self.buffer(value, BufferRow { kind, ty, key, live: input.live });
        }
        let mut literals: Vec<ValueId> = self.grouped.stored.iter().copied().collect();
        literals.sort_unstable();
        for value in literals {
            if let Op::Prim(Prim::Constant(literal)) = graph.op(value)
                && literal.splat().is_none()
            {
                let bytes = literal_bytes(literal);
                let key = Some(Digest::of(&bytes));
                let kind = BufferKind::Constant { bytes };
                self.buffer(value, BufferRow { kind, ty: graph.ty(value), key, live: None });
            }
        }
        for output in graph.outputs() {
            let root = dense_root(graph, output.value);
            let kind = BufferKind::Output { name: output.name.clone() };
            let live = self.live[output.value.index()];
            let row = BufferRow { kind, ty: graph.ty(output.value), key: None, live };
            // What has a home already, or comes out of the prelude, is copied at the end.
            if self.home.contains_key(&root) || self.claimed.constant[root.index()] {
                self.buffers.push(row);
            } else {
                self.buffer(root, row);
            }
        }
    }

    fn buffer(&mut self, value: ValueId, row: BufferRow) {
        if let Some(key) = row.key {
            self.keys.insert(value, key);
        }
        self.home.insert(value, Home::Buffer(self.buffers.len() as u32));
        self.buffers.push(row);
    }

    /// Everything that runs, in an order that respects the graph's.
    fn items(&self) -> Vec<Item> {
        let mut items: Vec<(usize, Item)> = Vec::new();
        for (node, offer) in &self.claimed.offers {
            let last = writes(offer).map(ValueId::index).max().unwrap_or(0);
            items.push((last, Item::Claimed(*node)));
        }
        for value in self.grouped.kernels.keys() {
            items.push((value.index(), Item::Generated(*value)));
        }
        items.sort_by_key(|(at, _)| *at);
        items.into_iter().map(|(_, item)| item).collect()
    }

    /// Where a stored value lies; interior values get a place when they are first written.
    fn home_of(&mut self, value: ValueId) -> Home {
        if let Some(home) = self.home.get(&value) {
            return *home;
        }
        self.interior.push(self.graph().ty(value).size_bytes() as u64);
        let home = Home::Interior(self.interior.len() - 1);
        self.home.insert(value, home);
        home
    }

    fn whole(&mut self, value: ValueId) -> Draft {
        let root = dense_root(self.graph(), value);
        let len = self.graph().ty(root).size_bytes() as u64;
        Draft { home: self.home_of(root), offset: 0, len }
    }

    fn unit(&mut self, unit: &Unit) -> u32 {
        let digest = unit.digest();
        if let Some(index) = self.unit_index.get(&digest) {
            return *index;
        }
        self.units.push(unit.clone());
        self.unit_index.insert(digest, self.units.len() as u32 - 1);
        self.units.len() as u32 - 1
    }

    fn kernel_steps(&mut self, value: ValueId) {
        let grouped = self.grouped;
        let kernels = &grouped.kernels[&value];
        let once = self.is_prelude(value, kernels.iter().flat_map(|it| it.reads.iter().copied()));
        if once {
            let key = self.kernels_key(value, kernels);
            if let Some(buffer) = self.prepared.get(&key) {
                self.home.insert(value, Home::Buffer(*buffer));
                self.keys.insert(value, key);
                return;
            }
            let row = BufferRow {
                kind: BufferKind::Prepared,
                ty: self.graph().ty(value),
                key: Some(key),
                live: None,
            };
            self.prepared.insert(key, self.buffers.len() as u32);
            self.buffer(value, row);
        }
        for kernel in kernels {
            let step = self.kernel_step(kernel);
            if once { self.prelude.push(step) } else { self.steps.push(step) }
        }
    }

    /// Whether a value is made once, from weights alone.
    fn is_prelude(&self, value: ValueId, mut reads: impl Iterator<Item = ValueId>) -> bool {
        let is_home = self.home.contains_key(&value);
        !is_home
            && self.claimed.constant[value.index()]
            && reads.all(|it| self.keys.contains_key(&it))
    }

    fn kernel_step(&mut self, kernel: &Kernel) -> DraftStep {
        let flops = loop_flops(&kernel.program, &kernel.words);
        let unit = Unit::Loop(kernel.program.clone());
        let mut words: Vec<Word> = kernel.words.iter().map(|it| Word::Fixed(*it)).collect();
        let label = self.live[kernel.write.index()];
        if let (Some(count), Some(scale)) = (label, kernel.leads) {
            words[0] = Word::Live { count, scale, max: kernel.words[0] };
        }
        let mut args: Vec<Draft> = kernel.reads.iter().map(|it| self.whole(*it)).collect();
        args.push(self.whole(kernel.write));
        let label = unit.label();
        DraftStep::Run { unit: self.unit(&unit), words, args, write_count: 1, label, flops }
    }

    fn kernels_key(&self, value: ValueId, kernels: &[Kernel]) -> Digest {
        let mut out = Canonical::new("prepared", 1);
        out.text(&self.graph().ty(value).to_string()).count(kernels.len());
        for kernel in kernels {
            out.bytes(&kernel.program.canonical()).count(kernel.words.len());
            for word in &kernel.words {
                out.i64(*word);
            }
            for read in &kernel.reads {
                out.bytes(&self.keys[read].0);
            }
        }
        Digest::of(&out.finish())
    }

    fn claimed_step(&mut self, node: NodeId) -> Result<(), PlanError> {
        let claimed = self.claimed;
        let offer = &claimed.offers[&node];
        let mut args = Vec::new();
        let mut strides = Vec::new();
        let mut write_count = 0;
        for arg in &offer.args {
            let (draft, stride) = match arg {
                OfferArg::Read(value, layout) => self.read(*value, *layout)?,
                OfferArg::Prepared { value, unit, bytes } => {
                    (self.prepare(*value, unit, *bytes), None)
                }
                OfferArg::Write(value) => {
                    write_count += 1;
                    (self.whole(*value), None)
                }
                OfferArg::Workspace { bytes } => {
                    write_count += 1;
                    self.interior.push(*bytes);
                    let home = Home::Interior(self.interior.len() - 1);
                    (Draft { home, offset: 0, len: *bytes }, None)
                }
            };
            args.push(draft);
            strides.push(stride);
        }
        let words: Vec<Word> =
            offer.words.iter().map(|it| self.word(offer, it, &strides)).collect();
        let flops = call_flops(&offer.unit, &words_max(&words));
        let (unit, label) = (self.unit(&offer.unit), offer.unit.label());
        self.steps.push(DraftStep::Run { unit, words, args, write_count, label, flops });
        Ok(())
    }

    fn read(
        &mut self,
        value: ValueId,
        layout: Layout,
    ) -> Result<(Draft, Option<usize>), PlanError> {
        let graph = &self.claimed.graph;
        let ty = graph.ty(value);
        let inner = match layout {
            Layout::Dense => return Ok((self.whole(value), None)),
            Layout::Rows { inner } => inner,
        };
        let rows = rows_of(graph, &self.grouped.stored, value, inner)
            .filter(|it| self.grouped.stored.contains(&it.base));
        let Some(rows) = rows else { return Ok((self.whole(value), None)) };
        let size = ty.dtype.size_bytes();
        let split = ty.shape.rank() - inner;
        let row_count: usize = ty.shape.sizes()[..split].iter().product();
        let row_len: usize = ty.shape.sizes()[split..].iter().product();
        let len = if row_count == 0 { 0 } else { (row_count - 1) * rows.stride + row_len };
        let home = self.home_of(rows.base);
        let draft = Draft { home, offset: (rows.offset * size) as u64, len: (len * size) as u64 };
        Ok((draft, Some(rows.stride)))
    }

    /// The buffer that holds what `unit` makes of a constant value.
    fn prepare(&mut self, value: ValueId, unit: &Unit, bytes: u64) -> Draft {
        let source = self.whole(value);
        let root = dense_root(self.graph(), value);
        let mut out = Canonical::new("prepared", 1);
        out.bytes(&unit.canonical()).i64(bytes as i64);
        match self.keys.get(&root) {
            Some(key) => out.bytes(&key.0),
            None => out.i64(root.index() as i64),
        };
        let key = Digest::of(&out.finish());
        let buffer = match self.prepared.get(&key) {
            Some(buffer) => *buffer,
            None => {
                let buffer = self.buffers.len() as u32;
                let ty = Type::new(DType::U8, &[bytes as usize]);
                self.buffers.push(BufferRow {
                    kind: BufferKind::Prepared,
                    ty,
                    key: Some(key),
                    live: None,
                });
                self.prepared.insert(key, buffer);
                let to = Draft { home: Home::Buffer(buffer), offset: 0, len: bytes };
                let index = self.unit(unit);
                self.prelude.push(DraftStep::Run {
                    unit: index,
                    words: Vec::new(),
                    args: vec![source, to],
                    write_count: 1,
                    label: unit.label(),
                    flops: 0,
                });
                buffer
            }
        };
        Draft { home: Home::Buffer(buffer), offset: 0, len: bytes }
    }

    fn word(&self, offer: &Offer, word: &OfferWord, strides: &[Option<usize>]) -> Word {
        let graph = self.graph();
        let extent = |value: ValueId, inner: usize| {
            let sizes = graph.shape(value);
            let sizes = sizes.sizes();
            let split = sizes.len().saturating_sub(inner);
            let max = sizes[..split].iter().product::<usize>() as i64;
            match (self.live[value.index()], sizes.first()) {
                (Some(count), Some(first)) if split > 0 && *first > 0 => {
                    Word::Live { count, scale: max / *first as i64, max }
                }
                (Some(_) | None, _) => Word::Fixed(max),
            }
        };
        match word {
            OfferWord::Fixed(number) => Word::Fixed(*number),
            OfferWord::Rows(value) => extent(*value, graph.shape(*value).rank().saturating_sub(1)),
            OfferWord::OuterRows { value, inner } => extent(*value, *inner),
            OfferWord::Stride { arg, inner } => {
                let dense = |value: ValueId| {
                    let sizes = graph.shape(value);
                    let split = sizes.rank().saturating_sub(*inner);
                    sizes.sizes()[split..].iter().product::<usize>()
                };
                let stride = strides.get(*arg).copied().flatten();
                Word::Fixed(stride.unwrap_or_else(|| match &offer.args[*arg] {
                    OfferArg::Read(value, _) | OfferArg::Write(value) => dense(*value),
                    OfferArg::Prepared { value, .. } => dense(*value),
                    OfferArg::Workspace { .. } => 0,
                }) as i64)
            }
        }
    }

    /// Copies what leaves the graph and was not computed in its place.
    fn leave(&mut self) {
        let claimed = self.claimed;
        let graph = &claimed.graph;
        for (index, row) in self.buffers.clone().iter().enumerate() {
            let (BufferKind::Output { name: wanted } | BufferKind::State { name: wanted }) =
                &row.kind
            else {
                continue;
            };
            let value = match &row.kind {
                BufferKind::Output { .. } => {
                    graph.outputs().iter().find(|it| it.name == *wanted).map(|it| it.value)
                }
                _ => graph.states().iter().find_map(|state| match graph.op(state.input) {
                    Op::Input(input) if input.name == *wanted => Some(state.next),
                    Op::Input(_) | Op::Prim(_) | Op::Composite(..) => None,
                }),
            };
            let Some(value) = value else { continue };
            let from = self.whole(value);
            let to = Draft { home: Home::Buffer(index as u32), ..from };
            if from.home != to.home {
                self.steps.push(DraftStep::Copy { from, to });
            }
        }
    }

    fn finish(self) -> Plan {
        let lives = self.lifetimes();
        let layout = lay_out(&lives);
        let place = |draft: &Draft| match draft.home {
            Home::Buffer(index) => {
                PlanSpan { place: Place::Buffer(index), offset: draft.offset, len: draft.len }
            }
            Home::Interior(index) => PlanSpan {
                place: Place::Arena,
                offset: layout.offsets[index] + draft.offset,
                len: draft.len,
            },
        };
        let settle = |step: &DraftStep| match step {
            DraftStep::Run { unit, words, args, write_count, label, flops } => PlanStep::Run {
                unit: *unit,
                words: words.clone(),
                args: args.iter().map(place).collect(),
                write_count: *write_count,
                label: label.clone(),
                moved_bytes: args.iter().map(|it| it.len).sum(),
                flops: *flops,
            },
            DraftStep::Copy { from, to } => PlanStep::Copy { from: place(from), to: place(to) },
        };
        let steps: Vec<PlanStep> = self.steps.iter().map(settle).collect();
        Plan {
            edges: edges(&steps),
            prelude: self.prelude.iter().map(settle).collect(),
            steps,
            units: self.units,
            buffers: self.buffers,
            arena_bytes: layout.bytes,
            peak_live_bytes: peak_bytes(&lives),
            defaults: self.claimed.defaults.clone(),
        }
    }

    fn lifetimes(&self) -> Vec<Lifetime> {
        let mut lives: Vec<Lifetime> = self
            .interior
            .iter()
            .map(|bytes| Lifetime { first: usize::MAX, last: 0, bytes: *bytes })
            .collect();
        for (at, step) in self.steps.iter().enumerate() {
            let drafts: Vec<&Draft> = match step {
                DraftStep::Run { args, .. } => args.iter().collect(),
                DraftStep::Copy { from, to } => vec![from, to],
            };
            for draft in drafts {
                if let Home::Interior(index) = draft.home {
                    lives[index].first = lives[index].first.min(at);
                    lives[index].last = lives[index].last.max(at);
                }
            }
        }
        for life in lives.iter_mut().filter(|it| it.first == usize::MAX) {
            (life.first, life.bytes) = (0, 0);
        }
        lives
    }
}

fn words_max(words: &[Word]) -> Vec<i64> {
    words
        .iter()
        .map(|word| match word {
            Word::Fixed(number) => *number,
            Word::Live { max, .. } => *max,
        })
        .collect()
}

/// Arithmetic instructions times the points of their level. Steps between bounds that come out of
/// buffers count once: their number is not known here.
fn loop_flops(program: &LoopProgram, words: &[i64]) -> u64 {
    let outer: i64 = words[..usize::from(program.rank)].iter().product();
    let count = program.body.iter().filter(|it| {
        it.dtype.is_float()
            && matches!(
                it.op,
                InstrOp::Unary(..)
                    | InstrOp::Binary(..)
                    | InstrOp::FoldLanes(..)
                    | InstrOp::FoldSteps(..)
                    | InstrOp::Scan { .. }
            )
    });
    let lanes: u64 = count
        .map(|it| match it.level {
            Level::Row | Level::Step => 1,
            Level::Lane | Level::StepLane => u64::from(program.width),
        })
        .sum();
    let steps = match program.bounds.map(|it| &program.instr(it.hi).op) {
        Some(InstrOp::Word(word)) => words[*word as usize].max(0) as u64,
        Some(_) | None => 1,
    };
    outer.max(0) as u64 * lanes * steps
}

fn call_flops(unit: &Unit, words: &[i64]) -> u64 {
    match unit {
        Unit::Call(Call::Gemm { n, k, .. }) => {
            let rows = words.first().copied().unwrap_or(0).max(0) as u64;
            2 * rows * u64::from(*n) * u64::from(*k)
        }
        Unit::Call(Call::Pack { .. }) | Unit::Source(_) | Unit::Loop(_) => 0,
    }
}

/// A literal as the device sees it.
fn literal_bytes(literal: &Literal) -> Vec<u8> {
    let mut out = Vec::with_capacity(literal.shape.element_count() * literal.dtype.size_bytes());
    for value in &literal.values {
        literal.dtype.encode(*value, &mut out);
    }
    out
}
