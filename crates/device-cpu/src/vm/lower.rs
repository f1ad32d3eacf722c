//! A loop program as nodes for one of two forms.
//!
//! In the *row* form the vector runs over the program's lanes. In the *across* form it runs over
//! the last outer dimension, and each lane of the program is a node of its own: that serves
//! programs of a few lanes and many points. Nothing here knows registers or memory.

use calor_ir::{Binary, DType, Fold, Unary};
use calor_kernel::{Address, Bounds, InstrOp, Level, LoopProgram, Reg};

use super::lanes::binary_of;

/// Most lanes of a program in the across form: each is computed by nodes of its own.
const ACROSS_WIDTH_MAX: u32 = 15;

/// Index of a node.
pub(super) type NodeIndex = usize;

/// Which launch word or number is the distance between lanes.
#[derive(Clone, Copy, Debug)]
pub(super) enum LaneStride {
    /// A number.
    Fixed(i64),
    /// A launch word.
    Word(u32),
}

/// An index out of a node: `clamp(index, 0, words[stride_word + 1] - 1) * words[stride_word]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    pub(super) index: NodeIndex,
    pub(super) stride_word: u32,
}

/// Where an element lies.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The first launch word: the offset; the strides of the outer dimensions follow.
    pub(super) word: u32,
    /// Elements to add to the offset.
    pub(super) extra: i64,
    /// The launch word of the step stride.
    pub(super) step_word: u32,
    pub(super) lane: LaneStride,
    pub(super) terms: Vec<Term>,
}

/// What a node computes; see [`InstrOp`].
#[derive(Clone, Debug)]
pub(super) enum NodeOp {
    Const(f64),
    Outer(u8),
    Step,
    Lane,
    Word(u32),
    Load { arg: u8, place: Place, guard: Option<NodeIndex> },
    Unary(Unary, NodeIndex),
    Binary(Binary, NodeIndex, NodeIndex),
    Select(NodeIndex, NodeIndex, NodeIndex),
    Cast(NodeIndex),
    FoldLanes(Fold, NodeIndex),
    FoldSteps(Fold, NodeIndex),
    Scan { a: NodeIndex, b: NodeIndex, initial: NodeIndex },
    Philox { key0: NodeIndex, key1: NodeIndex, counter: NodeIndex },
}

/// One value of the form.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) op: NodeOp,
    pub(super) level: Level,
    pub(super) dtype: DType,
    /// Whether a result of a narrow type is rounded to it.
    pub(super) round: bool,
}

/// One store of the form.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) arg: u8,
    pub(super) place: Place,
    pub(super) value: NodeIndex,
    pub(super) add: bool,
    pub(super) level: Level,
}

/// How many lanes a row of the form has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// The program's width.
    Fixed(u32),
    /// The extent of the last outer dimension: a launch word.
    Word(u32),
}

/// A program in one form.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) nodes: Vec<Node>,
    pub(super) puts: Vec<Put>,
    pub(super) bounds: Option<(NodeIndex, NodeIndex)>,
    /// Outer dimensions that are looped over.
    pub(super) outer_rank: usize,
    pub(super) width: Width,
}

impl NodeOp {
    /// The nodes it reads.
    pub(super) fn inputs(&self) -> Vec<NodeIndex> {
        match self {
            Self::Const(_) | Self::Outer(_) | Self::Step | Self::Lane | Self::Word(_) => vec![],
            Self::Load { place, guard, .. } => {
                place.terms.iter().map(|it| it.index).chain(*guard).collect()
            }
            Self::Unary(_, x) | Self::Cast(x) => vec![*x],
            Self::FoldLanes(_, x) | Self::FoldSteps(_, x) => vec![*x],
            Self::Binary(_, a, b) => vec![*a, *b],
            Self::Select(c, a, b) => vec![*c, *a, *b],
            Self::Scan { a, b, initial } => vec![*a, *b, *initial],
            Self::Philox { key0, key1, counter } => vec![*key0, *key1, *counter],
        }
    }
}

impl Form {
    /// The row form; every program has it.
    pub(super) fn row(program: &LoopProgram) -> Self {
        Lowering::new(program, false).finish()
    }

    /// The across form, of programs of few lanes whose step bounds are the same for all points
    /// of the last outer dimension. Sums of stores that add would change their order between
    /// steps, so those with steps have none.
    pub(super) fn across(program: &LoopProgram) -> Option<Self> {
        let adds = program.stores.iter().any(|it| it.add);
        let small = program.width <= ACROSS_WIDTH_MAX && 0 < program.rank;
        if !small || (adds && program.bounds.is_some()) {
            return None;
        }
        let form = Lowering::new(program, true).finish();
        let uniform = |node: NodeIndex| form.nodes[node].level == Level::Row;
        let fits = form.bounds.is_none_or(|(lo, hi)| uniform(lo) && uniform(hi));
        fits.then_some(form)
    }
}

struct Lowering<'a> {
    program: &'a LoopProgram,
    across: bool,
    nodes: Vec<Node>,
    /// For each register its node, or its node for each lane of the program.
    made: Vec<Vec<NodeIndex>>,
}

impl<'a> Lowering<'a> {
    fn new(program: &'a LoopProgram, across: bool) -> Self {
        let mut it = Self { program, across, nodes: Vec::new(), made: Vec::new() };
        for instr in &program.body {
            let copies = if across && instr.level.has_lane() { program.width } else { 1 };
            let made = (0..copies).map(|lane| it.instr(&instr.op, instr, lane)).collect();
            it.made.push(made);
        }
        it
    }

    fn finish(mut self) -> Form {
        let mut puts = Vec::new();
        for store in &self.program.stores {
            let level = self.program.store_level(store);
            let copies = if self.across && level.has_lane() { self.program.width } else { 1 };
            for lane in 0..copies {
                let value = self.at(store.value, lane);
                let place = self.place(&store.address, lane);
                // Every point of the last outer dimension stores.
                let level = if self.across { Level::of(level.has_step(), true) } else { level };
                puts.push(Put { arg: store.arg, place, value, add: store.add, level });
            }
        }
        let bounds = self.program.bounds.map(|Bounds { lo, hi }| (self.at(lo, 0), self.at(hi, 0)));
        let rank = usize::from(self.program.rank);
        let (outer_rank, width) = if self.across {
            (rank - 1, Width::Word(rank as u32 - 1))
        } else {
            (rank, Width::Fixed(self.program.width))
        };
        Form { nodes: self.nodes, puts, bounds, outer_rank, width }
    }

    /// The node of a register at a lane of the program.
    fn at(&self, reg: Reg, lane: u32) -> NodeIndex {
        let made = &self.made[reg.0 as usize];
        made[if made.len() == 1 { 0 } else { lane as usize }]
    }

    fn place(&mut self, address: &Address, lane: u32) -> Place {
        let rank = u32::from(self.program.rank);
        let lane_stride = i64::from(address.lane_stride);
        let terms = address.terms.iter().enumerate().map(|(at, term)| {
            let index = self.at(term.index, lane);
            (index, address.word + 2 + rank + 2 * at as u32)
        });
        let terms: Vec<_> = terms.collect();
        let terms = terms.into_iter().map(|(index, stride_word)| {
            let index = self.index(index);
            Term { index, stride_word }
        });
        let terms = terms.collect();
        Place {
            word: address.word,
            extra: if self.across { lane_stride * i64::from(lane) } else { 0 },
            step_word: address.word + 1 + rank,
            lane: if self.across {
                LaneStride::Word(address.word + rank)
            } else {
                LaneStride::Fixed(lane_stride)
            },
            terms,
        }
    }

    /// An index as `i32` or `i64`, which is what addresses read.
    fn index(&mut self, node: NodeIndex) -> NodeIndex {
        match self.nodes[node].dtype {
            DType::I32 | DType::I64 => node,
            DType::Bool
            | DType::U8
            | DType::I8
            | DType::U32
            | DType::F8E4M3
            | DType::F16
            | DType::BF16
            | DType::F32
            | DType::F64 => {
                let level = self.nodes[node].level;
                self.push(NodeOp::Cast(node), level, DType::I64)
            }
        }
    }

    fn push(&mut self, op: NodeOp, level: Level, dtype: DType) -> NodeIndex {
        self.nodes.push(Node { op, level, dtype, round: true });
        self.nodes.len() - 1
    }

    fn instr(&mut self, op: &InstrOp, instr: &calor_kernel::Instr, lane: u32) -> NodeIndex {
        let at = |reg: &Reg| self.at(*reg, lane);
        let node = match op {
            InstrOp::Const(value) => NodeOp::Const(*value),
            InstrOp::Outer(axis) if self.across && axis + 1 == self.program.rank => NodeOp::Lane,
            InstrOp::Outer(axis) => NodeOp::Outer(*axis),
            InstrOp::Step => NodeOp::Step,
            InstrOp::Lane if self.across => NodeOp::Const(f64::from(lane)),
            InstrOp::Lane => NodeOp::Lane,
            InstrOp::Word(word) => NodeOp::Word(*word),
            InstrOp::Load { arg, address, guard } => {
                let guard = guard.as_ref().map(at);
                NodeOp::Load { arg: *arg, place: self.place(address, lane), guard }
            }
            InstrOp::Unary(op, x) => NodeOp::Unary(*op, at(x)),
            InstrOp::Binary(op, a, b) => NodeOp::Binary(*op, at(a), at(b)),
            InstrOp::Select(c, a, b) => NodeOp::Select(at(c), at(a), at(b)),
            InstrOp::Cast(x) => NodeOp::Cast(at(x)),
            InstrOp::FoldLanes(fold, x) if self.across => return self.chain(*fold, *x, instr),
            InstrOp::FoldLanes(fold, x) => NodeOp::FoldLanes(*fold, at(x)),
            InstrOp::FoldSteps(fold, x) => NodeOp::FoldSteps(*fold, at(x)),
            InstrOp::Scan { a, b, initial } => {
                NodeOp::Scan { a: at(a), b: at(b), initial: at(initial) }
            }
            InstrOp::Philox { key0, key1, counter } => {
                NodeOp::Philox { key0: at(key0), key1: at(key1), counter: at(counter) }
            }
        };
        let level = if self.across { self.across_level(&node, instr.level) } else { instr.level };
        self.push(node, level, instr.dtype)
    }

    /// The program's lanes folded one after another.
    fn chain(&mut self, fold: Fold, x: Reg, instr: &calor_kernel::Instr) -> NodeIndex {
        let op = match (fold, instr.dtype) {
            (Fold::Sum, DType::Bool) => Binary::Or,
            _ => binary_of(fold),
        };
        let mut sum = self.at(x, 0);
        for lane in 1..self.program.width {
            let next = self.at(x, lane);
            let level = self.nodes[sum].level.join(self.nodes[next].level);
            sum = self.push(NodeOp::Binary(op, sum, next), level, instr.dtype);
            self.nodes[sum].round = lane + 1 == self.program.width;
        }
        sum
    }

    /// Steps stay; the vector's lanes are the points of the last outer dimension.
    fn across_level(&self, op: &NodeOp, level: Level) -> Level {
        let varies = match op {
            NodeOp::Lane | NodeOp::Load { .. } => true,
            NodeOp::Const(_) | NodeOp::Outer(_) | NodeOp::Step | NodeOp::Word(_) => false,
            _ => op.inputs().iter().any(|it| self.nodes[*it].level.has_lane()),
        };
        Level::of(level.has_step(), varies)
    }
}
