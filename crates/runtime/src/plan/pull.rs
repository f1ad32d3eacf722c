//! Pulling: the straight-line code between one value and the stored values that it needs.
//!
//! Starting at the value to be computed, each operand is asked for at the coordinates where it
//! is needed; views turn into arithmetic on coordinates, stored values into loads. Where the
//! three loops cannot express what is asked, the answer is [`Stop::Store`]: that value has to
//! exist in memory first.

mod folds;
mod memory;
mod registers;

use std::collections::{HashMap, HashSet};

use calor_ir::{Binary, DType, Graph, Op, Prim, ValueId};
use calor_kernel::{Access, Arg, Bounds, Instr, InstrOp, Reg};

use super::PlanError;
use super::index::{Coord, Map};
use super::normalise::{FEW_RESULTS, LONG_FOLD};
use super::view::{dense_root, through_view};
use registers::Key;

/// Why code cannot be pulled.
#[derive(Debug)]
pub(super) enum Stop {
    /// This value must be stored first.
    Store(ValueId),
    /// Nothing helps.
    Fail(PlanError),
}

/// How the step loop is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Steps {
    /// From zero to a static extent.
    Extent(usize),
    /// From one register to another.
    Segment(Reg, Reg),
}

/// Code under construction.
pub(super) struct Puller<'a> {
    graph: &'a Graph,
    stored: &'a HashSet<ValueId>,
    rank: usize,
    width: Option<usize>,
    steps: Option<Steps>,
    bounds: Option<Bounds>,
    folding: bool,
    guard: Option<Reg>,
    body: Vec<Instr>,
    after: Vec<bool>,
    args: Vec<(ValueId, DType)>,
    words: Vec<i64>,
    memo: HashMap<(ValueId, Map, Option<Reg>), Reg>,
    same: HashMap<(Key, DType), Reg>,
    touched: HashSet<ValueId>,
    /// Where registers that index a table come from.
    indices: HashMap<Reg, ValueId>,
}

/// What was pulled.
pub(super) struct Pulled {
    pub(super) width: usize,
    pub(super) bounds: Option<Bounds>,
    pub(super) body: Vec<Instr>,
    pub(super) reads: Vec<(ValueId, DType)>,
    pub(super) words: Vec<i64>,
    pub(super) touched: HashSet<ValueId>,
}

impl<'a> Puller<'a> {
    /// Code for a program with these outer extents and, if already known, lanes.
    pub(super) fn new(
        graph: &'a Graph,
        stored: &'a HashSet<ValueId>,
        outer: &[usize],
        width: Option<usize>,
    ) -> Self {
        Self {
            graph,
            stored,
            rank: outer.len(),
            width,
            steps: None,
            bounds: None,
            folding: false,
            guard: None,
            body: Vec::new(),
            after: Vec::new(),
            args: Vec::new(),
            words: outer.iter().map(|it| *it as i64).collect(),
            memo: HashMap::new(),
            same: HashMap::new(),
            touched: HashSet::new(),
            indices: HashMap::new(),
        }
    }

    /// The code, with the words used so far.
    pub(super) fn finish(self) -> Pulled {
        Pulled {
            width: self.width.unwrap_or(1),
            bounds: self.bounds,
            body: self.body,
            reads: self.args,
            words: self.words,
            touched: self.touched,
        }
    }

    /// The root itself, which is about to be stored and therefore is not loaded.
    pub(super) fn root(&mut self, value: ValueId, map: &Map) -> Result<Reg, Stop> {
        self.compute(value, map)
    }

    /// The element of `value` at `map`.
    pub(super) fn pull(&mut self, value: ValueId, map: &Map) -> Result<Reg, Stop> {
        let key = (value, map.clone(), self.guard);
        if let Some(reg) = self.memo.get(&key).copied() {
            return self.usable(value, reg);
        }
        let base = dense_root(self.graph, value);
        let reg = if self.stored.contains(&base) {
            self.load(base, self.graph.shape(value), map)?
        } else {
            self.touched.insert(value);
            self.compute(value, map)?
        };
        self.memo.insert(key, reg);
        self.usable(value, reg)
    }

    /// There is one step loop: inside it, nothing that it has to finish first can be used.
    fn usable(&self, value: ValueId, reg: Reg) -> Result<Reg, Stop> {
        if !self.folding || !self.after[reg.0 as usize] {
            return Ok(reg);
        }
        // What is stored already is late only because it is looked up late.
        let late = if self.is_stored(value) { self.late_index(reg) } else { None };
        Err(Stop::Store(dense_root(self.graph, late.unwrap_or(value))))
    }

    /// The indices of a load that come out of the step loop.
    fn late_index(&self, load: Reg) -> Option<ValueId> {
        let InstrOp::Load { address, .. } = &self.body[load.0 as usize].op else { return None };
        let late = address.terms.iter().find(|it| self.after[it.index.0 as usize])?;
        self.indices.get(&late.index).copied()
    }

    fn is_stored(&self, value: ValueId) -> bool {
        self.stored.contains(&dense_root(self.graph, value))
    }

    fn compute(&mut self, value: ValueId, map: &Map) -> Result<Reg, Stop> {
        let graph = self.graph;
        let node = graph.node(graph.maker(value));
        let dtype = graph.ty(value).dtype;
        let inputs = &node.inputs;
        let prim = match &node.op {
            Op::Input(_) => return Err(Stop::Store(value)),
            Op::Composite(_, attrs) if super::claims::is_builtin(graph, graph.maker(value)) => {
                return self.segment(value, attrs, map);
            }
            Op::Composite(..) => return Err(Stop::Store(value)),
            Op::Prim(prim) => prim,
        };
        match prim {
            Prim::Unary(op) => {
                let x = self.pull(inputs[0], map)?;
                let level = self.level(x);
                Ok(self.emit(InstrOp::Unary(*op, x), level, dtype))
            }
            Prim::Binary(op) => {
                let (a, b) = (self.pull(inputs[0], map)?, self.pull(inputs[1], map)?);
                Ok(self.binary(*op, a, b))
            }
            Prim::Select => {
                let condition = self.pull(inputs[0], map)?;
                let (a, b) = (self.pull(inputs[1], map)?, self.pull(inputs[2], map)?);
                Ok(self.select(condition, a, b))
            }
            Prim::Cast(to) => {
                let x = self.pull(inputs[0], map)?;
                Ok(self.cast(x, *to))
            }
            Prim::Constant(literal) => match literal.splat() {
                Some(number) => Ok(self.number(dtype, number)),
                None => Err(Stop::Store(value)),
            },
            Prim::Iota { dtype, axis, .. } => {
                let index = self.coord(&map[*axis]);
                Ok(self.cast(index, *dtype))
            }
            Prim::Philox => self.philox(inputs[0], inputs[1], map),
            Prim::Broadcast { .. } | Prim::Reshape(_) | Prim::Permute(_) | Prim::Slice { .. } => {
                let source = self.source(prim, inputs[0], map).ok_or(Stop::Store(inputs[0]))?;
                self.pull(inputs[0], &source)
            }
            Prim::Pad { low, value: number, .. } => self.pad(inputs[0], low, *number, map),
            Prim::Gather { axis } => self.gather(inputs[0], inputs[1], *axis, map),
            Prim::Reduce { fold, axis } => {
                let extent = graph.shape(inputs[0]).sizes()[*axis];
                if is_second_phase(graph, value) && !self.is_stored(inputs[0]) {
                    return Err(Stop::Store(inputs[0]));
                }
                self.fold(value, *fold, extent, map, |this, at| {
                    let mut source = map.clone();
                    source.insert(*axis, at);
                    this.pull(inputs[0], &source)
                })
            }
            Prim::Dot(dims) => self.dot(value, inputs[0], inputs[1], dims, map),
            Prim::Concat { .. } | Prim::ScatterAdd { .. } | Prim::LinearScan { .. } => {
                Err(Stop::Store(value))
            }
        }
    }

    /// The coordinates of an element of a view in what it is a view of, where they are affine.
    fn source(&self, view: &Prim, of: ValueId, map: &Map) -> Option<Map> {
        match view {
            Prim::Broadcast { axes, shape } => {
                let from = self.graph.shape(of);
                let at = |(size, axis): (&usize, &usize)| {
                    let repeated = *size == 1 && shape.sizes()[*axis] != 1;
                    if repeated { Coord::number(0) } else { map[*axis].clone() }
                };
                Some(from.sizes().iter().zip(axes).map(at).collect())
            }
            prim => through_view(self.graph, prim, of, map),
        }
    }

    fn philox(&mut self, key: ValueId, counter: ValueId, map: &Map) -> Result<Reg, Stop> {
        let key0 = self.pull(key, &vec![Coord::number(0)])?;
        let key1 = self.pull(key, &vec![Coord::number(1)])?;
        let counter = self.pull(counter, map)?;
        let level = self.level(key0).join(self.level(key1)).join(self.level(counter));
        Ok(self.emit(InstrOp::Philox { key0, key1, counter }, level, DType::U32))
    }

    fn gather(
        &mut self,
        table: ValueId,
        indices: ValueId,
        axis: usize,
        map: &Map,
    ) -> Result<Reg, Stop> {
        let count = self.graph.shape(indices).rank();
        let index = self.pull(indices, &map[axis..axis + count].to_vec())?;
        self.indices.insert(index, indices);
        let extent = self.graph.shape(table).sizes()[axis];
        let mut source = map[..axis].to_vec();
        source.push(Coord::register(index, extent));
        source.extend_from_slice(&map[axis + count..]);
        self.pull(table, &source)
    }

    fn pad(&mut self, x: ValueId, low: &[usize], number: f64, map: &Map) -> Result<Reg, Stop> {
        let sizes = self.graph.shape(x);
        let mut source = Vec::with_capacity(map.len());
        let mut inside: Option<Reg> = None;
        for (axis, coord) in map.iter().enumerate() {
            let moved = coord.scaled(1, -(low[axis] as i64));
            let at = self.coord(&moved);
            let (zero, end) =
                (self.number(DType::I32, 0.0), self.number(DType::I32, sizes.sizes()[axis] as f64));
            let above = self.binary(Binary::Le, zero, at);
            let below = self.binary(Binary::Lt, at, end);
            let here = self.binary(Binary::And, above, below);
            inside = Some(match inside {
                Some(so_far) => self.binary(Binary::And, so_far, here),
                None => here,
            });
            source.push(moved);
        }
        let Some(inside) = inside else { return self.pull(x, map) };
        let before = self.guard;
        self.guard = Some(match before {
            Some(outer) => self.binary(Binary::And, outer, inside),
            None => inside,
        });
        let element = self.pull(x, &source);
        self.guard = before;
        let element = element?;
        let outside = self.number(self.dtype(element), number);
        Ok(self.select(inside, element, outside))
    }
}

/// Whether `value` folds what another fold gives and there are few results of long folds: then
/// the inner one gets a kernel that keeps the machine busy.
fn is_second_phase(graph: &Graph, value: ValueId) -> bool {
    let folded = |value: ValueId| match graph.op(value) {
        Op::Prim(Prim::Reduce { axis, .. }) => {
            let input = graph.node(graph.maker(value)).inputs[0];
            Some((input, graph.shape(input).sizes()[*axis]))
        }
        Op::Prim(_) | Op::Input(_) | Op::Composite(..) => None,
    };
    let Some((inner, outer_extent)) = folded(value) else { return false };
    let Some((_, inner_extent)) = folded(inner) else { return false };
    outer_extent > 1
        && LONG_FOLD <= outer_extent.saturating_mul(inner_extent)
        && graph.shape(value).element_count() <= FEW_RESULTS
}

/// The argument list of a program that reads these values and writes those types.
pub(super) fn arguments(reads: &[(ValueId, DType)], writes: &[DType]) -> Vec<Arg> {
    let read = |(_, dtype): &(ValueId, DType)| Arg { dtype: *dtype, access: Access::Read };
    let write = |dtype: &DType| Arg { dtype: *dtype, access: Access::Write };
    reads.iter().map(read).chain(writes.iter().map(write)).collect()
}
