//! Pulling: the straight-line code between one value and the stored values that it needs.
//!
//! Starting at the value to be computed, each operand is asked for at the coordinates where it
//! is needed; views turn into arithmetic on coordinates, stored values into loads. Where the
//! three loops cannot express what is asked, the answer is [`Stop::Store`]: that value has to
//! exist in memory first.

use std::collections::{HashMap, HashSet};

use calor_ir::{Attrs, Binary, DType, DotDims, Fold, Graph, Op, Prim, Shape, ValueId};
use calor_kernel::{Access, Address, Arg, Bounds, Instr, InstrOp, Level, Reg, Term};

use super::PlanError;
use super::index::{Coord, LANE, Map, STEP, through_reshape};
use super::view::dense_root;

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
    same: HashMap<String, Reg>,
    touched: HashSet<ValueId>,
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

    /// Level of a register.
    pub(super) fn level(&self, reg: Reg) -> Level {
        self.body[reg.0 as usize].level
    }

    /// Type of a register.
    pub(super) fn dtype(&self, reg: Reg) -> DType {
        self.body[reg.0 as usize].dtype
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
        if self.folding && self.after[reg.0 as usize] {
            return Err(Stop::Store(dense_root(self.graph, value)));
        }
        Ok(reg)
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
            Prim::Philox => {
                let key0 = self.pull(inputs[0], &vec![Coord::number(0)])?;
                let key1 = self.pull(inputs[0], &vec![Coord::number(1)])?;
                let counter = self.pull(inputs[1], map)?;
                let level = self.level(key0).join(self.level(key1)).join(self.level(counter));
                Ok(self.emit(InstrOp::Philox { key0, key1, counter }, level, dtype))
            }
            Prim::Broadcast { axes, shape } => {
                let from = graph.shape(inputs[0]);
                let at = |(size, axis): (&usize, &usize)| {
                    let repeated = *size == 1 && shape.sizes()[*axis] != 1;
                    if repeated { Coord::number(0) } else { map[*axis].clone() }
                };
                let source = from.sizes().iter().zip(axes).map(at).collect();
                self.pull(inputs[0], &source)
            }
            Prim::Reshape(to) => {
                let from = graph.shape(inputs[0]);
                let source = through_reshape(&from, to, map).ok_or(Stop::Store(inputs[0]))?;
                self.pull(inputs[0], &source)
            }
            Prim::Permute(axes) => {
                let mut source = map.clone();
                for (coord, axis) in map.iter().zip(axes) {
                    source[*axis] = coord.clone();
                }
                self.pull(inputs[0], &source)
            }
            Prim::Slice { start, step, .. } => {
                let at = |(axis, coord): (usize, &Coord)| {
                    coord.scaled(step[axis] as i64, start[axis] as i64)
                };
                let source = map.iter().enumerate().map(at).collect();
                self.pull(inputs[0], &source)
            }
            Prim::Pad { low, value: number, .. } => self.pad(inputs[0], low, *number, map),
            Prim::Gather { axis } => {
                let (table, indices) = (inputs[0], inputs[1]);
                let count = graph.shape(indices).rank();
                let index = self.pull(indices, &map[*axis..*axis + count].to_vec())?;
                let extent = graph.shape(table).sizes()[*axis];
                let mut source = map[..*axis].to_vec();
                source.push(Coord::register(index, extent));
                source.extend_from_slice(&map[*axis + count..]);
                self.pull(table, &source)
            }
            Prim::Reduce { fold, axis } => {
                let extent = graph.shape(inputs[0]).sizes()[*axis];
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

    /// A fold over one extent: over lanes where the coordinates have none, else over steps.
    fn fold(
        &mut self,
        value: ValueId,
        fold: Fold,
        extent: usize,
        map: &Map,
        item: impl FnOnce(&mut Self, Coord) -> Result<Reg, Stop>,
    ) -> Result<Reg, Stop> {
        let level = self.level_of(map);
        let out = self.graph.ty(value).dtype;
        if extent == 0 {
            let nothing = match fold {
                Fold::Sum => 0.0,
                Fold::Max => out.lowest(),
                Fold::Min => out.highest(),
            };
            return Ok(self.number(out, nothing));
        }
        let over_lanes = !level.has_lane() && self.width.is_none_or(|width| width == extent);
        if over_lanes {
            self.width = Some(extent);
            let x = item(self, Coord::var(LANE))?;
            let x = self.widen(x);
            let level = Level::of(self.level(x).has_step(), false);
            let dtype = self.dtype(x);
            let x = self.spread(x, Level::Lane);
            let folded = self.emit(InstrOp::FoldLanes(fold, x), level, dtype);
            return Ok(self.cast(folded, out));
        }
        if !level.has_lane() && self.width != Some(1) && extent > 64 {
            // A long fold beside lanes of another number runs better on its own.
            return Err(Stop::Store(value));
        }
        self.enter_steps(value, Steps::Extent(extent), map)?;
        let x = item(self, Coord::var(STEP));
        self.folding = false;
        let x = self.widen(x?);
        let x = self.spread(x, Level::Step);
        let level = Level::of(false, self.level(x).has_lane());
        let dtype = self.dtype(x);
        let folded = self.emit(InstrOp::FoldSteps(fold, x), level, dtype);
        Ok(self.cast(folded, out))
    }

    /// Makes a register vary over the folded loop, as folds want, even if it is constant there.
    fn spread(&mut self, x: Reg, over: Level) -> Reg {
        let level = self.level(x);
        let has = if over == Level::Lane { level.has_lane() } else { level.has_step() };
        if has {
            return x;
        }
        let index = match over {
            Level::Lane => self.emit(InstrOp::Lane, Level::Lane, DType::I32),
            Level::Row | Level::Step | Level::StepLane => {
                self.emit(InstrOp::Step, Level::Step, DType::I32)
            }
        };
        let zero = self.number(DType::I32, 0.0);
        let always = self.binary(Binary::Le, zero, index);
        self.select(always, x, x)
    }

    fn enter_steps(&mut self, value: ValueId, steps: Steps, map: &Map) -> Result<(), Stop> {
        let nested = self.folding || self.level_of(map).has_step();
        if nested || self.steps.is_some_and(|it| it != steps) {
            return Err(Stop::Store(value));
        }
        if self.steps.is_none() {
            let (lo, hi) = match steps {
                Steps::Segment(lo, hi) => (lo, hi),
                Steps::Extent(extent) => {
                    let word = self.words.len() as u32;
                    self.words.push(extent as i64);
                    let lo = self.number(DType::I32, 0.0);
                    (lo, self.emit(InstrOp::Word(word), Level::Row, DType::I32))
                }
            };
            self.bounds = Some(Bounds { lo, hi });
            self.steps = Some(steps);
        }
        self.folding = true;
        Ok(())
    }

    fn dot(
        &mut self,
        value: ValueId,
        a: ValueId,
        b: ValueId,
        dims: &DotDims,
        map: &Map,
    ) -> Result<Reg, Stop> {
        let (left, right) = (self.graph.shape(a).rank(), self.graph.shape(b).rank());
        let mut left_map = vec![None; left];
        let mut right_map = vec![None; right];
        for (at, (i, j)) in dims.batch.iter().enumerate() {
            left_map[*i] = Some(map[at].clone());
            right_map[*j] = Some(map[at].clone());
        }
        let contracted = |axis: usize, of: fn(&(usize, usize)) -> usize| {
            dims.contract.iter().any(|pair| of(pair) == axis)
        };
        let mut next = dims.batch.len();
        for (axis, slot) in left_map.iter_mut().enumerate() {
            if slot.is_none() && !contracted(axis, |pair| pair.0) {
                *slot = Some(map[next].clone());
                next += 1;
            }
        }
        for (axis, slot) in right_map.iter_mut().enumerate() {
            if slot.is_none() && !contracted(axis, |pair| pair.1) {
                *slot = Some(map[next].clone());
                next += 1;
            }
        }
        let product = |this: &mut Self, at: Option<Coord>| {
            let fill = |map: &[Option<Coord>]| -> Map {
                let fill = |it: &Option<Coord>| it.clone().or_else(|| at.clone());
                map.iter().map(|it| fill(it).unwrap_or_default()).collect()
            };
            let x = this.pull(a, &fill(&left_map))?;
            let y = this.pull(b, &fill(&right_map))?;
            let (x, y) = (this.cast(x, dims.out), this.cast(y, dims.out));
            let (x, y) = (this.widen(x), this.widen(y));
            Ok(this.binary(Binary::Mul, x, y))
        };
        match dims.contract.as_slice() {
            [] => {
                let x = product(self, None)?;
                Ok(self.cast(x, dims.out))
            }
            [(i, _)] => {
                let extent = self.graph.shape(a).sizes()[*i];
                self.fold(value, Fold::Sum, extent, map, |this, at| product(this, Some(at)))
            }
            [_, _, ..] => Err(Stop::Fail(PlanError::Template {
                op: "dot",
                why: "more than one contracted pair is left after normalisation",
            })),
        }
    }

    /// A pooled segment: steps from `lo` to `hi`.
    fn segment(&mut self, value: ValueId, attrs: &Attrs, map: &Map) -> Result<Reg, Stop> {
        let graph = self.graph;
        let node = graph.node(graph.maker(value));
        let (x, lo, hi) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let row = vec![map[0].clone()];
        let lo = self.pull(lo, &row)?;
        let hi = self.pull(hi, &row)?;
        if self.level(lo) != Level::Row || self.level(hi) != Level::Row {
            return Err(Stop::Store(value));
        }
        // A segment never leaves the rows of `x`. Their number is a word, not text.
        let word = self.words.len() as u32;
        self.words.push(graph.shape(x).sizes()[0] as i64);
        let end = self.emit(InstrOp::Word(word), Level::Row, DType::I32);
        let zero = self.number(DType::I32, 0.0);
        let first = self.binary(Binary::Max, lo, zero);
        let hi = self.binary(Binary::Min, hi, end);
        self.enter_steps(value, Steps::Segment(first, hi), map)?;
        let item = self.pull(x, &vec![Coord::var(STEP), map[1].clone()]);
        self.folding = false;
        let item = self.widen(item?);
        let dtype = self.dtype(item);
        let kind = attrs.get_word("kind").unwrap_or("sum");
        let fold = match kind {
            "max" => Fold::Max,
            "min" => Fold::Min,
            _ => Fold::Sum,
        };
        let item = self.spread(item, Level::Step);
        let level = Level::of(false, self.level(item).has_lane());
        let folded = self.emit(InstrOp::FoldSteps(fold, item), level, dtype);
        let out = graph.ty(value).dtype;
        let count = self.binary(Binary::Sub, hi, first);
        let result = match kind {
            "mean" => {
                let one = self.number(DType::I32, 1.0);
                let count = self.binary(Binary::Max, count, one);
                let count = self.cast(count, dtype);
                self.binary(Binary::Div, folded, count)
            }
            "max" | "min" => {
                let some = self.binary(Binary::Lt, first, hi);
                let nothing = self.number(dtype, 0.0);
                self.select(some, folded, nothing)
            }
            _ => folded,
        };
        Ok(self.cast(result, out))
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

    fn load(&mut self, base: ValueId, shape: Shape, map: &Map) -> Result<Reg, Stop> {
        let dtype = self.graph.ty(base).dtype;
        let strides = shape.strides();
        let linear = map.iter().zip(strides).fold(Coord::default(), |sum, (coord, stride)| {
            sum.plus(&coord.scaled(stride as i64, 0))
        });
        let Ok(lane_stride) = u32::try_from(linear.coef[LANE]) else {
            return Err(Stop::Fail(PlanError::Template { op: "load", why: "lanes run backwards" }));
        };
        let arg = match self.args.iter().position(|(it, _)| *it == base) {
            Some(arg) => arg,
            None => {
                self.args.push((base, dtype));
                self.args.len() - 1
            }
        };
        let word = self.words.len() as u32;
        let rank = self.rank;
        self.words.push(linear.constant);
        self.words.extend_from_slice(&linear.coef[..rank]);
        self.words.push(linear.coef[STEP]);
        let mut level = Level::of(linear.has(STEP), lane_stride != 0);
        let mut terms = Vec::new();
        for indirect in &linear.indirect {
            self.words.extend([indirect.scale, indirect.extent]);
            level = level.join(self.level(indirect.index));
            terms.push(Term { index: indirect.index });
        }
        if let Some(guard) = self.guard {
            level = level.join(self.level(guard));
        }
        let address = Address { word, lane_stride, terms };
        let op = InstrOp::Load { arg: arg as u8, address, guard: self.guard };
        Ok(self.push(Instr { op, level, dtype }))
    }

    fn push(&mut self, instr: Instr) -> Reg {
        let folded = matches!(instr.op, InstrOp::FoldSteps(..));
        let after = folded || instr.op.regs().iter().any(|it| self.after[it.0 as usize]);
        self.after.push(after);
        self.body.push(instr);
        Reg(self.body.len() as u32 - 1)
    }

    /// Words for an address that is stored to.
    pub(super) fn address(&mut self, linear: &Coord) -> Result<Address, Stop> {
        let Ok(lane_stride) = u32::try_from(linear.coef[LANE]) else {
            return Err(Stop::Fail(PlanError::Template {
                op: "store",
                why: "lanes run backwards",
            }));
        };
        let word = self.words.len() as u32;
        let rank = self.rank;
        self.words.push(linear.constant);
        self.words.extend_from_slice(&linear.coef[..rank]);
        self.words.push(linear.coef[STEP]);
        let mut terms = Vec::new();
        for indirect in &linear.indirect {
            self.words.extend([indirect.scale, indirect.extent]);
            terms.push(Term { index: indirect.index });
        }
        Ok(Address { word, lane_stride, terms })
    }

    /// Starts a step loop for a root that runs along an axis.
    pub(super) fn run_steps(&mut self, value: ValueId, extent: usize) -> Result<(), Stop> {
        self.enter_steps(value, Steps::Extent(extent), &Vec::new())?;
        self.folding = false;
        Ok(())
    }

    fn level_of(&self, map: &Map) -> Level {
        map.iter().fold(Level::Row, |level, coord| {
            let own = Level::of(coord.has(STEP), coord.has(LANE));
            coord
                .indirect
                .iter()
                .fold(level.join(own), |level, it| level.join(self.level(it.index)))
        })
    }

    /// The register that holds a coordinate, `i32`.
    fn coord(&mut self, coord: &Coord) -> Reg {
        let mut sum: Option<Reg> = None;
        for (var, coef) in coord.coef.iter().enumerate().filter(|(_, coef)| **coef != 0) {
            let (op, level) = match var {
                STEP => (InstrOp::Step, Level::Step),
                LANE => (InstrOp::Lane, Level::Lane),
                outer => (InstrOp::Outer(outer as u8), Level::Row),
            };
            let mut term = self.emit(op, level, DType::I32);
            if *coef != 1 {
                let factor = self.number(DType::I32, *coef as f64);
                term = self.binary(Binary::Mul, term, factor);
            }
            sum = Some(self.plus(sum, term));
        }
        for indirect in &coord.indirect {
            let zero = self.number(DType::I32, 0.0);
            let last = self.number(DType::I32, (indirect.extent - 1) as f64);
            let scale = self.number(DType::I32, indirect.scale as f64);
            let index = self.cast(indirect.index, DType::I32);
            let index = self.binary(Binary::Min, index, last);
            let index = self.binary(Binary::Max, index, zero);
            let term = self.binary(Binary::Mul, index, scale);
            sum = Some(self.plus(sum, term));
        }
        if sum.is_none() || coord.constant != 0 {
            let constant = self.number(DType::I32, coord.constant as f64);
            sum = Some(self.plus(sum, constant));
        }
        sum.unwrap_or(Reg(0))
    }

    fn plus(&mut self, sum: Option<Reg>, term: Reg) -> Reg {
        match sum {
            Some(sum) => self.binary(Binary::Add, sum, term),
            None => term,
        }
    }

    /// Sums of narrow floats are kept in `f32`.
    fn widen(&mut self, x: Reg) -> Reg {
        match self.dtype(x) {
            DType::F16 | DType::BF16 | DType::F8E4M3 => self.cast(x, DType::F32),
            DType::Bool
            | DType::U8
            | DType::I8
            | DType::I32
            | DType::U32
            | DType::I64
            | DType::F32
            | DType::F64 => x,
        }
    }

    fn number(&mut self, dtype: DType, number: f64) -> Reg {
        self.emit(InstrOp::Const(number), Level::Row, dtype)
    }

    fn binary(&mut self, op: Binary, a: Reg, b: Reg) -> Reg {
        let level = self.level(a).join(self.level(b));
        let dtype = op.result(self.dtype(a));
        self.emit(InstrOp::Binary(op, a, b), level, dtype)
    }

    fn select(&mut self, condition: Reg, a: Reg, b: Reg) -> Reg {
        let level = self.level(condition).join(self.level(a)).join(self.level(b));
        let dtype = self.dtype(a);
        self.emit(InstrOp::Select(condition, a, b), level, dtype)
    }

    fn cast(&mut self, x: Reg, dtype: DType) -> Reg {
        if self.dtype(x) == dtype {
            return x;
        }
        let level = self.level(x);
        self.emit(InstrOp::Cast(x), level, dtype)
    }

    /// Adds an instruction, or gives the register of an equal one. Loads do not come here.
    pub(super) fn emit(&mut self, op: InstrOp, level: Level, dtype: DType) -> Reg {
        let key = format!("{op:?}:{dtype}");
        if let Some(reg) = self.same.get(&key) {
            return *reg;
        }
        let reg = self.push(Instr { op, level, dtype });
        self.same.insert(key, reg);
        reg
    }
}

/// The argument list of a program that reads these values and writes those types.
pub(super) fn arguments(reads: &[(ValueId, DType)], writes: &[DType]) -> Vec<Arg> {
    let read = |(_, dtype): &(ValueId, DType)| Arg { dtype: *dtype, access: Access::Read };
    let write = |dtype: &DType| Arg { dtype: *dtype, access: Access::Write };
    reads.iter().map(read).chain(writes.iter().map(write)).collect()
}
