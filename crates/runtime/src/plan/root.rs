//! The kernels that compute one stored value.

use std::collections::HashSet;

use calor_ir::{Binary, DType, Graph, Op, Prim, ValueId};
use calor_kernel::{InstrOp, Level, LoopProgram, Reg, Store};

use super::index::{Coord, LANE, Map, STEP};
use super::pull::{Puller, Stop, arguments};

/// Widest rows that neighbouring outer dimensions are joined into.
const JOINED_WIDTH_MAX: usize = 4096;

/// One generated launch.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) program: LoopProgram,
    /// Launch words at full extent.
    pub(super) words: Vec<i64>,
    /// Rows of the value for each index of the first outer dimension, when that dimension is the
    /// value's first, possibly joined with later ones.
    pub(super) leads: Option<i64>,
    /// Values read, by argument.
    pub(super) reads: Vec<ValueId>,
    /// The value written, by the last argument.
    pub(super) write: ValueId,
}

/// The kernels of a value, in order, and the values that they compute on the way.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) kernels: Vec<Kernel>,
    pub(super) touched: HashSet<ValueId>,
}

/// Kernels that compute `value` from stored values.
pub(super) fn build(
    graph: &Graph,
    stored: &HashSet<ValueId>,
    value: ValueId,
) -> Result<Built, Stop> {
    let node = graph.node(graph.maker(value));
    match &node.op {
        Op::Prim(Prim::Concat { axis }) => concat(graph, stored, value, *axis),
        Op::Prim(Prim::ScatterAdd { axis }) => scatter(graph, stored, value, *axis),
        Op::Prim(Prim::LinearScan { axis }) => scan(graph, stored, value, *axis),
        Op::Prim(_) | Op::Composite(..) | Op::Input(_) => {
            let whole = Target { graph, stored, sizes: sizes(graph, value), write: value };
            let lanes = has_lanes(graph, value);
            whole.kernel(lanes, Coord::default(), |puller, map| puller.root(value, map))
        }
    }
}

fn sizes(graph: &Graph, value: ValueId) -> Vec<usize> {
    graph.shape(value).sizes().to_vec()
}

/// Whether the last dimension becomes the lanes. Not when the value is a fold over rows: then
/// the lanes are what is folded. Not for a single row: its length must not become text.
fn has_lanes(graph: &Graph, value: ValueId) -> bool {
    let shape = graph.shape(value);
    let mut at = value;
    loop {
        let node = graph.node(graph.maker(at));
        match &node.op {
            Op::Prim(Prim::Reduce { axis, .. }) => {
                let last = *axis + 1 == graph.shape(node.inputs[0]).rank();
                return !last && shape.last() > 1;
            }
            Op::Prim(Prim::Unary(_) | Prim::Cast(_) | Prim::Reshape(_)) => at = node.inputs[0],
            Op::Prim(Prim::Binary(_) | Prim::Select) => {
                let fold = |it: &&ValueId| {
                    matches!(graph.op(**it), Op::Prim(Prim::Reduce { .. } | Prim::Reshape(_)))
                };
                match node.inputs.iter().find(fold) {
                    Some(input) => at = *input,
                    None => break,
                }
            }
            Op::Prim(_) | Op::Input(_) | Op::Composite(..) => break,
        }
    }
    shape.rank() > 1 && shape.last() > 1
}

/// What is iterated over and where it goes.
struct Target<'a> {
    graph: &'a Graph,
    stored: &'a HashSet<ValueId>,
    /// Sizes of the iterated part of the value.
    sizes: Vec<usize>,
    write: ValueId,
}

impl Target<'_> {
    /// One kernel that stores `code` at every index of the part, `shift` elements further on.
    fn kernel(
        &self,
        lanes: bool,
        shift: Coord,
        code: impl FnOnce(&mut Puller<'_>, &Map) -> Result<Reg, Stop>,
    ) -> Result<Built, Stop> {
        let outer = self.sizes.len() - usize::from(lanes);
        let width = lanes.then(|| self.sizes[outer]);
        let mut puller = Puller::new(self.graph, self.stored, &self.sizes[..outer], width);
        let mut map: Map = (0..outer).map(Coord::var).collect();
        if lanes {
            map.push(Coord::var(LANE));
        }
        let reg = code(&mut puller, &map)?;
        let strides = self.graph.shape(self.write).strides();
        let linear = map
            .iter()
            .zip(strides)
            .fold(shift, |sum, (coord, stride)| sum.plus(&coord.scaled(stride as i64, 0)));
        let address = puller.address(&linear)?;
        self.finish(puller, vec![(address, reg, false)], outer)
    }

    fn finish(
        &self,
        puller: Puller<'_>,
        stores: Vec<(calor_kernel::Address, Reg, bool)>,
        outer: usize,
    ) -> Result<Built, Stop> {
        let pulled = puller.finish();
        let write = self.graph.ty(self.write).dtype;
        let arg = pulled.reads.len() as u8;
        let mut program = LoopProgram {
            rank: outer as u8,
            width: pulled.width as u32,
            args: arguments(&pulled.reads, &[write]),
            body: pulled.body,
            bounds: pulled.bounds,
            stores: stores
                .into_iter()
                .map(|(address, value, add)| Store { arg, address, value, add })
                .collect(),
            word_count: pulled.words.len() as u32,
        };
        let mut words = pulled.words;
        let first = self.sizes.first().copied().unwrap_or(1) as i64;
        join_outer(&mut program, &mut words);
        let whole = self.sizes.first() == self.graph.shape(self.write).sizes().first();
        let leads = (whole && program.rank > 0 && words[0] % first.max(1) == 0 && first > 0)
            .then(|| words[0] / first);
        program.check().map_err(|err| Stop::Fail(err.into()))?;
        let kernel = Kernel {
            program,
            words,
            leads,
            reads: pulled.reads.iter().map(|(value, _)| *value).collect(),
            write: self.write,
        };
        Ok(Built { kernels: vec![kernel], touched: pulled.touched })
    }
}

/// Parts that are stored side by side. Equal parts share one kernel with several stores.
fn concat(
    graph: &Graph,
    stored: &HashSet<ValueId>,
    value: ValueId,
    axis: usize,
) -> Result<Built, Stop> {
    let parts = &graph.node(graph.maker(value)).inputs;
    let stride = graph.shape(value).strides()[axis] as i64;
    let strides = graph.shape(value).strides();
    let same = parts.iter().all(|it| graph.shape(*it) == graph.shape(parts[0]));
    if same && parts.len() <= 4 {
        let target = Target { graph, stored, sizes: sizes(graph, parts[0]), write: value };
        let lanes = target.sizes.len() > 1 && target.sizes.last() != Some(&1);
        let outer = target.sizes.len() - usize::from(lanes);
        let width = lanes.then(|| target.sizes[outer]);
        let mut puller = Puller::new(graph, stored, &target.sizes[..outer], width);
        let mut map: Map = (0..outer).map(Coord::var).collect();
        if lanes {
            map.push(Coord::var(LANE));
        }
        let linear = map.iter().zip(strides).fold(Coord::default(), |sum, (coord, stride)| {
            sum.plus(&coord.scaled(stride as i64, 0))
        });
        let mut stores = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let reg = puller.pull(*part, &map)?;
            let shift = (at * target.sizes[axis]) as i64 * stride;
            stores.push((puller.address(&linear.scaled(1, shift))?, reg, false));
        }
        return target.finish(puller, stores, outer);
    }
    let mut all = Built { kernels: Vec::new(), touched: HashSet::new() };
    let mut start = 0;
    for part in parts {
        let target = Target { graph, stored, sizes: sizes(graph, *part), write: value };
        let lanes = target.sizes.len() > 1 && target.sizes.last() != Some(&1);
        let shift = Coord::number(start as i64 * stride);
        let built = target.kernel(lanes, shift, |puller, map| puller.pull(*part, map))?;
        start += target.sizes[axis];
        all.kernels.extend(built.kernels);
        all.touched.extend(built.touched);
    }
    Ok(all)
}

/// A copy of the base, then one pass that adds row after row: steps run over the updates, so the
/// order of additions is that of the updates.
fn scatter(
    graph: &Graph,
    stored: &HashSet<ValueId>,
    value: ValueId,
    axis: usize,
) -> Result<Built, Stop> {
    let inputs = &graph.node(graph.maker(value)).inputs;
    let (base, indices, updates) = (inputs[0], inputs[1], inputs[2]);
    let whole = Target { graph, stored, sizes: sizes(graph, value), write: value };
    let lanes = whole.sizes.len() > 1 && whole.sizes.last() != Some(&1);
    let mut all = whole.kernel(lanes, Coord::default(), |puller, map| puller.pull(base, map))?;

    let update_sizes = sizes(graph, updates);
    let extent = graph.shape(value).sizes()[axis];
    let mut loops = update_sizes.clone();
    loops.remove(axis);
    let lanes = axis + 1 < update_sizes.len() && loops.last() != Some(&1);
    let outer = loops.len() - usize::from(lanes);
    let width = lanes.then(|| loops[outer]);
    let mut puller = Puller::new(graph, stored, &loops[..outer], width);
    puller.run_steps(value, update_sizes[axis])?;
    let index = puller.pull(indices, &vec![Coord::var(STEP)])?;
    let mut map: Map = (0..outer).map(Coord::var).collect();
    if lanes {
        map.push(Coord::var(LANE));
    }
    let mut to = map.clone();
    map.insert(axis, Coord::var(STEP));
    to.insert(axis, Coord::register(index, extent));
    let update = puller.pull(updates, &map)?;
    let strides = graph.shape(value).strides();
    let linear = to
        .iter()
        .zip(strides)
        .fold(Coord::default(), |sum, (coord, stride)| sum.plus(&coord.scaled(stride as i64, 0)));
    let address = puller.address(&linear)?;
    let target = Target { graph, stored, sizes: loops, write: value };
    let mut built = target.finish(puller, vec![(address, update, true)], outer)?;
    built.kernels.iter_mut().for_each(|kernel| kernel.leads = None);
    all.kernels.extend(built.kernels);
    all.touched.extend(built.touched);
    Ok(all)
}

/// A recurrence: steps run along the axis and every step is stored.
fn scan(
    graph: &Graph,
    stored: &HashSet<ValueId>,
    value: ValueId,
    axis: usize,
) -> Result<Built, Stop> {
    let inputs = &graph.node(graph.maker(value)).inputs;
    let all = sizes(graph, value);
    let mut loops = all.clone();
    loops.remove(axis);
    let lanes = axis + 1 < all.len() && loops.last() != Some(&1);
    let outer = loops.len() - usize::from(lanes);
    let width = lanes.then(|| loops[outer]);
    let mut puller = Puller::new(graph, stored, &loops[..outer], width);
    puller.run_steps(value, all[axis])?;
    let mut map: Map = (0..outer).map(Coord::var).collect();
    if lanes {
        map.push(Coord::var(LANE));
    }
    let initial = puller.pull(inputs[2], &map)?;
    map.insert(axis, Coord::var(STEP));
    let (a, b) = (puller.pull(inputs[0], &map)?, puller.pull(inputs[1], &map)?);
    let level = puller.level(a).join(puller.level(b)).join(puller.level(initial)).join(Level::Step);
    let dtype = puller.dtype(a);
    let (a, b) = (at_step(&mut puller, a), at_step(&mut puller, b));
    let h = puller.emit(InstrOp::Scan { a, b, initial }, level, dtype);
    let strides = graph.shape(value).strides();
    let linear = map
        .iter()
        .zip(strides)
        .fold(Coord::default(), |sum, (coord, stride)| sum.plus(&coord.scaled(stride as i64, 0)));
    let address = puller.address(&linear)?;
    let target = Target { graph, stored, sizes: loops, write: value };
    let mut built = target.finish(puller, vec![(address, h, false)], outer)?;
    built.kernels.iter_mut().for_each(|kernel| kernel.leads = None);
    Ok(built)
}

/// A factor that is the same at every step still belongs to the step loop.
fn at_step(puller: &mut Puller<'_>, x: Reg) -> Reg {
    if puller.level(x).has_step() {
        return x;
    }
    let step = puller.emit(InstrOp::Step, Level::Step, DType::I32);
    let zero = puller.emit(InstrOp::Const(0.0), Level::Row, DType::I32);
    let always = puller.emit(InstrOp::Binary(Binary::Le, zero, step), Level::Step, DType::Bool);
    let (level, dtype) = (puller.level(x).join(Level::Step), puller.dtype(x));
    puller.emit(InstrOp::Select(always, x, x), level, dtype)
}

/// Joins neighbouring outer dimensions that every address walks through without a gap, and the
/// last one with the lanes where rows are short.
fn join_outer(program: &mut LoopProgram, words: &mut Vec<i64>) {
    join_lanes(program, words);
    let mut at = 0;
    while at + 1 < usize::from(program.rank) {
        let inner = words[at + 1];
        let walks = |word: usize| words[word + 1 + at] == words[word + 2 + at] * inner;
        let free = !uses_outer(program, at) && !uses_outer(program, at + 1);
        if free && addresses(program).all(|it| walks(it.word as usize)) {
            remove_outer(program, words, at);
        } else {
            at += 1;
        }
    }
}

/// Joins the last outer dimension into short rows. The first dimension never becomes text: it
/// counts rows of a request.
fn join_lanes(program: &mut LoopProgram, words: &mut Vec<i64>) {
    while program.rank >= 2 {
        let at = usize::from(program.rank) - 1;
        let extent = words[at] as usize;
        let width = program.width as usize;
        let lane_ops =
            program.body.iter().any(|it| matches!(it.op, InstrOp::Lane | InstrOp::FoldLanes(..)));
        let walks = addresses(program).all(|it| {
            let stride = words[it.word as usize + 1 + at];
            let lanes = i64::from(it.lane_stride) * width as i64;
            stride == lanes && (width > 1 || it.lane_stride != 0 || stride <= 1)
        });
        let row_bounds = program.bounds.is_some();
        let joined = width * extent;
        if lane_ops || row_bounds || uses_outer(program, at) || !walks {
            return;
        }
        if extent == 0 || JOINED_WIDTH_MAX < joined || width == 1 {
            return;
        }
        program.width = joined as u32;
        drop_outer_word(program, words, at);
    }
}

fn addresses(program: &LoopProgram) -> impl Iterator<Item = &calor_kernel::Address> {
    let loads = program.body.iter().filter_map(|it| match &it.op {
        InstrOp::Load { address, .. } => Some(address),
        _ => None,
    });
    loads.chain(program.stores.iter().map(|it| &it.address))
}

fn uses_outer(program: &LoopProgram, axis: usize) -> bool {
    program.body.iter().any(|it| it.op == InstrOp::Outer(axis as u8))
}

/// Dimension `at` takes over `at + 1`.
fn remove_outer(program: &mut LoopProgram, words: &mut Vec<i64>, at: usize) {
    words[at + 1] *= words[at];
    drop_outer_word(program, words, at);
}

/// Takes outer dimension `at` out of the program and its words.
fn drop_outer_word(program: &mut LoopProgram, words: &mut Vec<i64>, at: usize) {
    let mut gone: Vec<usize> = vec![at];
    gone.extend(addresses(program).map(|it| it.word as usize + 1 + at));
    gone.sort_unstable();
    let shift = |word: u32| word - gone.iter().filter(|it| **it < word as usize).count() as u32;
    for instr in &mut program.body {
        match &mut instr.op {
            InstrOp::Load { address, .. } => address.word = shift(address.word),
            InstrOp::Word(word) => *word = shift(*word),
            InstrOp::Outer(axis) if usize::from(*axis) > at => *axis -= 1,
            _ => {}
        }
    }
    for store in &mut program.stores {
        store.address.word = shift(store.address.word);
    }
    for word in gone.iter().rev() {
        words.remove(*word);
    }
    program.rank -= 1;
    program.word_count = words.len() as u32;
}
