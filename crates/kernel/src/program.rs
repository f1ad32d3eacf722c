//! A loop program: one generated kernel as data.
//!
//! Every template (elementwise chain, row program, column and segment reduction, contraction,
//! recurrence, scatter) is the same nest of three loops around straight-line code:
//!
//! ```text
//! for each point of the outer grid          rank ≤ 7, extents are launch words
//!   for step in lo..hi                      optional, bounds computed from outer values
//!     for lane in 0..width                  width is text
//! ```
//!
//! A register lives at the level of the loops that it varies over. Folding over lanes or steps
//! takes a register to the level without that loop. Everything that depends on token or sequence
//! counts (extents, strides, offsets) is a launch word; widths and lane strides are text.
//!
//! Knows nothing of graphs. The interpreter is in `device-cpu`, the writers are in this crate.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Fold, Unary};

use crate::canonical::Canonical;

/// Most outer dimensions.
pub const OUTER_RANK_MAX: usize = 7;

/// Index of the instruction that defines a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub u32);

/// Which of the two inner loops a register varies over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// One value at each outer point.
    Row,
    /// One value for each lane.
    Lane,
    /// One value for each step.
    Step,
    /// One value for each step and lane.
    StepLane,
}

impl Level {
    /// The level from its two loops.
    pub const fn of(step: bool, lane: bool) -> Self {
        match (step, lane) {
            (false, false) => Self::Row,
            (false, true) => Self::Lane,
            (true, false) => Self::Step,
            (true, true) => Self::StepLane,
        }
    }

    /// Whether it varies over steps.
    pub const fn has_step(self) -> bool {
        matches!(self, Self::Step | Self::StepLane)
    }

    /// Whether it varies over lanes.
    pub const fn has_lane(self) -> bool {
        matches!(self, Self::Lane | Self::StepLane)
    }

    /// The level of something computed from both.
    pub const fn join(self, other: Self) -> Self {
        Self::of(self.has_step() || other.has_step(), self.has_lane() || other.has_lane())
    }
}

/// Whether a kernel reads or writes a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read.
    Read,
    /// Written, and read too if a store adds.
    Write,
}

/// One buffer argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arg {
    /// Type of its elements.
    pub dtype: DType,
    /// How it is used.
    pub access: Access,
}

/// An index that comes out of a register: `clamp(index, 0, extent - 1) * stride`, both launch
/// words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// An integer register.
    pub index: Reg,
}

/// Where an element lies in its buffer, counted in elements:
/// `offset + Σ outer[d] * stride[d] + step * step_stride + lane * lane_stride + Σ terms`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Index of the first of its launch words: the offset, one stride for each outer dimension,
    /// the step stride, then stride and extent of each term.
    pub word: u32,
    /// Elements between lanes; text.
    pub lane_stride: u32,
    /// Indices out of registers.
    pub terms: Vec<Term>,
}

impl Address {
    /// Number of launch words that an address uses.
    pub fn word_count(&self, rank: usize) -> usize {
        2 + rank + 2 * self.terms.len()
    }
}

/// What an instruction computes.
#[derive(Clone, Debug, PartialEq)]
pub enum InstrOp {
    /// A number.
    Const(f64),
    /// The index along an outer dimension, `i32`.
    Outer(u8),
    /// The step, `i32`.
    Step,
    /// The lane, `i32`.
    Lane,
    /// A launch word, `i32`.
    Word(u32),
    /// An element of a buffer; zero where the guard is false, and then nothing is read.
    Load {
        /// Which buffer.
        arg: u8,
        /// Which element.
        address: Address,
        /// A `bool` register.
        guard: Option<Reg>,
    },
    /// One argument.
    Unary(Unary, Reg),
    /// Two arguments of one type.
    Binary(Binary, Reg, Reg),
    /// `condition ? a : b`.
    Select(Reg, Reg, Reg),
    /// Another type.
    Cast(Reg),
    /// Folded over the lanes of a row, in a fixed order.
    FoldLanes(Fold, Reg),
    /// Folded over the steps, first to last.
    FoldSteps(Fold, Reg),
    /// `h = a * h + b` from step to step, starting at `initial`; the value after the step.
    Scan {
        /// The factor, at a step level.
        a: Reg,
        /// The addend, at a step level.
        b: Reg,
        /// The start, without steps.
        initial: Reg,
    },
    /// First word of Philox-4x32-10 of the counter (c, 0, 0, 0), `u32`.
    Philox {
        /// First key word.
        key0: Reg,
        /// Second key word.
        key1: Reg,
        /// The counter.
        counter: Reg,
    },
}

/// One instruction; it defines the register of its own index.
#[derive(Clone, Debug, PartialEq)]
pub struct Instr {
    /// What it computes.
    pub op: InstrOp,
    /// The loops it varies over.
    pub level: Level,
    /// Type of the register.
    pub dtype: DType,
}

/// What is written at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// Which buffer.
    pub arg: u8,
    /// Which element.
    pub address: Address,
    /// The value; it is written once for each point of its level joined with the address's.
    pub value: Reg,
    /// Added to what is there, in order of outer points and steps.
    pub add: bool,
}

/// Bounds of the step loop, both at row level and `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// First step.
    pub lo: Reg,
    /// One past the last step; no steps when it is not above `lo`.
    pub hi: Reg,
}

/// The family that a program belongs to; decides the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Template {
    /// No folds and no steps.
    Elementwise,
    /// Folds over lanes.
    Row,
    /// Folds over steps: columns, segments, contractions.
    Steps,
    /// A recurrence over steps.
    Scan,
    /// Stores that add.
    Scatter,
}

impl Template {
    /// Name in reports and kernel labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Elementwise => "elementwise",
            Self::Row => "row",
            Self::Steps => "steps",
            Self::Scan => "scan",
            Self::Scatter => "scatter",
        }
    }
}

/// One generated kernel.
///
/// Launch words: the outer extents first (`rank` words), then those of every address in order of
/// the body and the stores, then free words that [`InstrOp::Word`] reads.
#[derive(Clone, Debug, PartialEq)]
pub struct LoopProgram {
    /// Number of outer dimensions.
    pub rank: u8,
    /// Number of lanes; at least one.
    pub width: u32,
    /// Buffers.
    pub args: Vec<Arg>,
    /// Straight-line code; a register is defined before its use.
    pub body: Vec<Instr>,
    /// Bounds of the step loop; nothing when no register has steps.
    pub bounds: Option<Bounds>,
    /// What is written.
    pub stores: Vec<Store>,
    /// Number of launch words.
    pub word_count: u32,
}

impl LoopProgram {
    /// The instruction that defines a register.
    pub fn instr(&self, reg: Reg) -> &Instr {
        &self.body[reg.0 as usize]
    }

    /// The family of the program.
    pub fn template(&self) -> Template {
        let has = |wanted: fn(&InstrOp) -> bool| self.body.iter().any(|it| wanted(&it.op));
        if self.stores.iter().any(|it| it.add) {
            Template::Scatter
        } else if has(|op| matches!(op, InstrOp::Scan { .. })) {
            Template::Scan
        } else if self.bounds.is_some() {
            Template::Steps
        } else if has(|op| matches!(op, InstrOp::FoldLanes(..))) {
            Template::Row
        } else {
            Template::Elementwise
        }
    }

    /// Everything that decides the kernel's text, and nothing else.
    pub fn canonical(&self) -> Vec<u8> {
        let Self { rank, width, args, body, bounds, stores, word_count } = self;
        let mut out = Canonical::new("loop", 1);
        out.u8(*rank).u32(*width).u32(*word_count);
        out.count(args.len());
        for Arg { dtype, access } in args {
            out.text(dtype.name()).u8(match access {
                Access::Read => 0,
                Access::Write => 1,
            });
        }
        out.count(body.len());
        for instr in body {
            write_instr(&mut out, instr);
        }
        match bounds {
            Some(Bounds { lo, hi }) => out.u8(1).u32(lo.0).u32(hi.0),
            None => out.u8(0),
        };
        out.count(stores.len());
        for Store { arg, address, value, add } in stores {
            out.u8(*arg);
            write_address(&mut out, address);
            out.u32(value.0).u8(u8::from(*add));
        }
        out.finish()
    }

    /// Whether the program keeps the rules stated in this file.
    ///
    /// # Errors
    /// The first rule that is broken and the instruction or store that breaks it.
    pub fn check(&self) -> Result<(), ProgramError> {
        let fail = |at: usize, rule: &'static str| Err(ProgramError { at, rule });
        if OUTER_RANK_MAX < usize::from(self.rank) || self.width == 0 {
            return fail(0, "rank or width out of range");
        }
        for (at, instr) in self.body.iter().enumerate() {
            for reg in instr.op.regs() {
                if at <= reg.0 as usize {
                    return fail(at, "a register is used before it is defined");
                }
            }
            if let Some(level) = self.level_of(&instr.op)
                && level != instr.level
            {
                return fail(at, "the level is not that of the operands");
            }
            if instr.level.has_step() && self.bounds.is_none() {
                return fail(at, "a step level without a step loop");
            }
            if let InstrOp::Load { arg, .. } = &instr.op {
                match self.args.get(usize::from(*arg)) {
                    Some(it) if it.dtype == instr.dtype => {}
                    Some(_) => return fail(at, "the loaded type is not the buffer's"),
                    None => return fail(at, "no such buffer"),
                }
            }
        }
        if let Some(Bounds { lo, hi }) = self.bounds {
            for reg in [lo, hi] {
                if self.instr(reg).level != Level::Row {
                    return fail(reg.0 as usize, "a step bound that is not at row level");
                }
            }
        }
        for (at, store) in self.stores.iter().enumerate() {
            match self.args.get(usize::from(store.arg)) {
                Some(Arg { dtype, access: Access::Write })
                    if *dtype == self.instr(store.value).dtype => {}
                Some(_) | None => return fail(at, "a store to a buffer of another type or access"),
            }
        }
        self.check_operands()
    }

    /// The level that the operands imply; nothing where only the address decides.
    fn level_of(&self, op: &InstrOp) -> Option<Level> {
        let at = |reg: &Reg| self.instr(*reg).level;
        Some(match op {
            InstrOp::Const(_) | InstrOp::Outer(_) | InstrOp::Word(_) => Level::Row,
            InstrOp::Step => Level::Step,
            InstrOp::Lane => Level::Lane,
            InstrOp::Load { .. } => return None,
            InstrOp::Unary(_, x) | InstrOp::Cast(x) => at(x),
            InstrOp::Binary(_, a, b) => at(a).join(at(b)),
            InstrOp::Select(c, a, b) => at(c).join(at(a)).join(at(b)),
            InstrOp::FoldLanes(_, x) => Level::of(at(x).has_step(), false),
            InstrOp::FoldSteps(_, x) => Level::of(false, at(x).has_lane()),
            InstrOp::Scan { a, b, initial } => at(a).join(at(b)).join(at(initial)),
            InstrOp::Philox { key0, key1, counter } => at(key0).join(at(key1)).join(at(counter)),
        })
    }
}

/// A broken rule of [`LoopProgram`]: a bug in whoever made the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramError {
    /// Index of the instruction or store.
    pub at: usize,
    /// The rule.
    pub rule: &'static str,
}

impl std::fmt::Display for ProgramError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "loop program, instruction {}: {}", self.at, self.rule)
    }
}

impl std::error::Error for ProgramError {}

impl InstrOp {
    /// The registers it reads.
    pub fn regs(&self) -> Vec<Reg> {
        match self {
            Self::Const(_) | Self::Outer(_) | Self::Step | Self::Lane | Self::Word(_) => vec![],
            Self::Load { address, guard, .. } => {
                address.terms.iter().map(|it| it.index).chain(*guard).collect()
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

fn write_address(out: &mut Canonical, Address { word, lane_stride, terms }: &Address) {
    out.u32(*word).u32(*lane_stride).count(terms.len());
    for Term { index } in terms {
        out.u32(index.0);
    }
}

fn write_instr(out: &mut Canonical, Instr { op, level, dtype }: &Instr) {
    out.text(dtype.name()).u8(match level {
        Level::Row => 0,
        Level::Lane => 1,
        Level::Step => 2,
        Level::StepLane => 3,
    });
    match op {
        InstrOp::Const(value) => out.u8(0).f64(*value),
        InstrOp::Outer(axis) => out.u8(1).u8(*axis),
        InstrOp::Step => out.u8(2),
        InstrOp::Lane => out.u8(3),
        InstrOp::Word(word) => out.u8(4).u32(*word),
        InstrOp::Load { arg, address, guard } => {
            out.u8(5).u8(*arg);
            write_address(out, address);
            match guard {
                Some(reg) => out.u8(1).u32(reg.0),
                None => out.u8(0),
            }
        }
        InstrOp::Unary(op, x) => out.u8(6).text(op.name()).u32(x.0),
        InstrOp::Binary(op, a, b) => out.u8(7).text(op.name()).u32(a.0).u32(b.0),
        InstrOp::Select(c, a, b) => out.u8(8).u32(c.0).u32(a.0).u32(b.0),
        InstrOp::Cast(x) => out.u8(9).u32(x.0),
        InstrOp::FoldLanes(fold, x) => out.u8(10).text(fold.name()).u32(x.0),
        InstrOp::FoldSteps(fold, x) => out.u8(11).text(fold.name()).u32(x.0),
        InstrOp::Scan { a, b, initial } => out.u8(12).u32(a.0).u32(b.0).u32(initial.0),
        InstrOp::Philox { key0, key1, counter } => {
            out.u8(13).u32(key0.0).u32(key1.0).u32(counter.0)
        }
    };
}
