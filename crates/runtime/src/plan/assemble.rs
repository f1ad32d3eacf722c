//! From stored values, kernels and offers to ordered steps, buffers and offsets.

use std::collections::{HashMap, HashSet};

use calor_device::{Layout, Offer, OfferArg, OfferWord, Word};
use calor_ir::{DType, Graph, NodeId, Type, ValueId};
use calor_kernel::{Canonical, Digest, Unit};

use super::claims::Claimed;
use super::cost::loop_flops;
use super::draft::{Draft, DraftStep, Home, Settled, settle};
use super::group::Grouped;
use super::live::live_counts;
use super::order::edges;
use super::root::Kernel;
use super::sequence::{Item, sequence};
use super::view::{dense_root, rows_of};
use super::work::{Work, product_flops};
use super::{BufferKind, BufferRow, Plan, PlanError};

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
        replaced: HashSet::new(),
    };
    let items = sequence(claimed, &grouped);
    assembler.boundary(&items);
    for item in items {
        match item {
            Item::Claimed(node) => assembler.claimed_step(node)?,
            Item::Generated(value) => assembler.kernel_steps(value),
        }
    }
    assembler.leave();
    let Assembler { units, buffers, prelude, steps, interior, .. } = assembler;
    let Settled { prelude, steps, arena_bytes, peak_live_bytes } =
        settle(&prelude, &steps, &interior);
    let (edges, defaults) = (edges(&steps), claimed.defaults.clone());
    let work = Work::default();
    Ok(Plan { units, buffers, prelude, steps, edges, arena_bytes, peak_live_bytes, defaults, work })
}

/// A plan in the making.
pub(super) struct Assembler<'a> {
    pub(super) claimed: &'a Claimed,
    pub(super) grouped: &'a Grouped,
    pub(super) live: Vec<Option<u8>>,
    pub(super) units: Vec<Unit>,
    pub(super) unit_index: HashMap<Digest, u32>,
    pub(super) buffers: Vec<BufferRow>,
    pub(super) home: HashMap<ValueId, Home>,
    pub(super) keys: HashMap<ValueId, Digest>,
    pub(super) prepared: HashMap<Digest, u32>,
    pub(super) interior: Vec<u64>,
    pub(super) prelude: Vec<DraftStep>,
    pub(super) steps: Vec<DraftStep>,
    /// States whose next value is written in their place.
    pub(super) replaced: HashSet<ValueId>,
}

impl Assembler<'_> {
    fn graph(&self) -> &Graph {
        &self.claimed.graph
    }

    /// A buffer that is the home of a value.
    pub(super) fn buffer(&mut self, value: ValueId, row: BufferRow) {
        if let Some(key) = row.key {
            self.keys.insert(value, key);
        }
        self.home.insert(value, Home::Buffer(self.buffers.len() as u32));
        self.buffers.push(row);
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

    /// All bytes of a value.
    pub(super) fn whole(&mut self, value: ValueId) -> Draft {
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
                OfferArg::Prepared { values, unit, bytes } => {
                    (self.prepare(values, unit, *bytes), None)
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
        let mut flops = 0;
        for node in std::iter::once(&node).chain(&offer.absorbs) {
            flops += product_flops(self.graph(), self.graph().node(*node))?;
        }
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

    /// The buffer that holds what `unit` makes of constant values.
    fn prepare(&mut self, values: &[ValueId], unit: &Unit, bytes: u64) -> Draft {
        let mut args: Vec<Draft> = values.iter().map(|it| self.whole(*it)).collect();
        let mut out = Canonical::new("prepared", 1);
        out.bytes(&unit.canonical()).i64(bytes as i64);
        for value in values {
            let root = dense_root(self.graph(), *value);
            match self.keys.get(&root) {
                Some(key) => out.bytes(&key.0),
                None => out.i64(root.index() as i64),
            };
        }
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
                args.push(to);
                let index = self.unit(unit);
                self.prelude.push(DraftStep::Run {
                    unit: index,
                    words: Vec::new(),
                    args,
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
                    OfferArg::Prepared { .. } | OfferArg::Workspace { .. } => 0,
                }) as i64)
            }
        }
    }
}
