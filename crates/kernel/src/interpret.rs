//! The slow reference for loop programs: one value at a time, every index checked.
//!
//! What generated kernels and fast interpreters are compared with. Arithmetic is that of `f64`
//! rounded to `f32` where the type is a float of at most 32 bits; sums run from the first lane or
//! step to the last.

use std::fmt;

use calor_ir::op::{Binary, Fold};

use crate::dialect::{fold_op, fold_start};
use crate::program::{Access, Address, Instr, InstrOp, Level, LoopProgram, ProgramError, Reg};
use crate::scalar;

/// Why a loop program could not be run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InterpretError {
    /// The program breaks a rule.
    Program(ProgramError),
    /// Another number of launch words than the program has.
    Words {
        /// Number that the program has.
        want_count: usize,
        /// Number given.
        got_count: usize,
    },
    /// Another number of buffers than the program has.
    Buffers {
        /// Number that the program has.
        want_count: usize,
        /// Number given.
        got_count: usize,
    },
    /// An element that the buffer does not have.
    Outside {
        /// Which buffer.
        arg: u8,
        /// How it is used there.
        access: Access,
        /// Index of the element.
        element: i64,
        /// Number of elements that the buffer has.
        element_count: usize,
    },
}

impl fmt::Display for InterpretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(error) => error.fmt(f),
            Self::Words { want_count, got_count } => {
                write!(f, "{got_count} launch words for a program with {want_count}")
            }
            Self::Buffers { want_count, got_count } => {
                write!(f, "{got_count} buffers for a program with {want_count}")
            }
            Self::Outside { arg, access, element, element_count } => {
                let verb = match access {
                    Access::Read => "reads",
                    Access::Write => "writes",
                };
                write!(f, "{verb} element {element} of buffer {arg}, which has {element_count}")
            }
        }
    }
}

impl std::error::Error for InterpretError {}

/// Runs `program` for these launch words. Each buffer holds its elements as numbers of its type.
///
/// # Errors
/// [`InterpretError`] for the first rule broken or element outside of its buffer. Buffers may
/// then be half written.
pub fn interpret(
    program: &LoopProgram,
    words: &[i64],
    buffers: &mut [Vec<f64>],
) -> Result<(), InterpretError> {
    program.check().map_err(InterpretError::Program)?;
    if words.len() != program.word_count as usize {
        let (want_count, got_count) = (program.word_count as usize, words.len());
        return Err(InterpretError::Words { want_count, got_count });
    }
    if buffers.len() != program.args.len() {
        let (want_count, got_count) = (program.args.len(), buffers.len());
        return Err(InterpretError::Buffers { want_count, got_count });
    }
    let extents = &words[..usize::from(program.rank)];
    let point_count: i64 = extents.iter().map(|it| (*it).max(0)).product();
    for point in 0..point_count {
        let mut rest = point;
        let mut outer = vec![0; extents.len()];
        for (index, extent) in outer.iter_mut().zip(extents).rev() {
            *index = rest % extent;
            rest /= extent;
        }
        let mut values = vec![None; program.body.len()];
        let mut at = Point { program, words, outer, steps: 0..0, values: &mut values };
        at.run(buffers)?;
    }
    Ok(())
}

/// One outer point: the values of each register over its own loops, steps outside of lanes.
struct Point<'a> {
    program: &'a LoopProgram,
    words: &'a [i64],
    outer: Vec<i64>,
    steps: std::ops::Range<i64>,
    values: &'a mut Vec<Option<Vec<f64>>>,
}

impl Point<'_> {
    fn run(&mut self, buffers: &mut [Vec<f64>]) -> Result<(), InterpretError> {
        let program = self.program;
        if let Some(bounds) = program.bounds {
            let lo = self.eval(bounds.lo, buffers)?[0] as i64;
            let hi = self.eval(bounds.hi, buffers)?[0] as i64;
            self.steps = lo..hi.max(lo);
        }
        for at in 0..program.body.len() {
            self.eval(Reg(at as u32), buffers)?;
        }
        for store in &program.stores {
            let level = program.store_level(store);
            let dtype = program.instr(store.value).dtype;
            for (step, lane) in self.points_of(level) {
                let element = self.element(&store.address, level, step, lane);
                let mut value = self.get(store.value, step, lane);
                let there = place(buffers, store.arg, element, Access::Write)?;
                if store.add {
                    value = scalar::binary(fold_op(Fold::Sum, dtype), dtype, *there, value);
                }
                *there = dtype.round(value);
            }
        }
        Ok(())
    }

    /// Every step and lane of a level, in order; the first one of a loop that it does not have.
    fn points_of(&self, level: Level) -> Vec<(i64, i64)> {
        let steps = if level.has_step() { self.steps.clone() } else { 0..1 };
        let lanes = if level.has_lane() { i64::from(self.program.width) } else { 1 };
        steps.flat_map(|step| (0..lanes).map(move |lane| (step, lane))).collect()
    }

    /// The value of an evaluated register at a step and lane.
    fn get(&self, reg: Reg, step: i64, lane: i64) -> f64 {
        let level = self.program.instr(reg).level;
        let lanes = if level.has_lane() { i64::from(self.program.width) } else { 1 };
        let row = if level.has_step() { step - self.steps.start } else { 0 };
        let lane = if level.has_lane() { lane } else { 0 };
        self.values[reg.0 as usize]
            .as_ref()
            .map_or(f64::NAN, |it| it[(row * lanes + lane) as usize])
    }

    fn element(&self, address: &Address, level: Level, step: i64, lane: i64) -> i64 {
        let words = &self.words[address.word as usize..];
        let rank = self.outer.len();
        let outer: i64 = self.outer.iter().zip(&words[1..]).map(|(index, word)| index * word).sum();
        let mut element = words[0] + outer;
        if level.has_step() {
            element += step * words[1 + rank];
        }
        if level.has_lane() {
            element += lane * i64::from(address.lane_stride);
        }
        for (term, pair) in address.terms.iter().zip(words[2 + rank..].chunks(2)) {
            let index = self.get(term.index, step, lane) as i64;
            element += index.min(pair[1] - 1).max(0) * pair[0];
        }
        element
    }

    fn eval(&mut self, reg: Reg, buffers: &mut [Vec<f64>]) -> Result<Vec<f64>, InterpretError> {
        if let Some(values) = &self.values[reg.0 as usize] {
            return Ok(values.clone());
        }
        let instr = self.program.instr(reg);
        for operand in instr.op.regs() {
            self.eval(operand, buffers)?;
        }
        let values = match &instr.op {
            InstrOp::FoldLanes(fold, x) => self.fold(instr, *fold, *x, Level::Lane),
            InstrOp::FoldSteps(fold, x) => self.fold(instr, *fold, *x, Level::Step),
            InstrOp::Scan { .. } => self.scan(instr),
            InstrOp::Load { arg, address, guard } => {
                let mut values = Vec::new();
                for (step, lane) in self.points_of(instr.level) {
                    let skipped = guard.is_some_and(|it| self.get(it, step, lane) == 0.0);
                    let element = self.element(address, instr.level, step, lane);
                    values.push(match skipped {
                        true => 0.0,
                        false => *place(buffers, *arg, element, Access::Read)?,
                    });
                }
                values
            }
            InstrOp::Const(_)
            | InstrOp::Outer(_)
            | InstrOp::Step
            | InstrOp::Lane
            | InstrOp::Word(_)
            | InstrOp::Unary(..)
            | InstrOp::Binary(..)
            | InstrOp::Select(..)
            | InstrOp::Cast(_)
            | InstrOp::Philox { .. } => {
                let points = self.points_of(instr.level);
                points.into_iter().map(|(step, lane)| self.pure(instr, step, lane)).collect()
            }
        };
        self.values[reg.0 as usize] = Some(values.clone());
        Ok(values)
    }

    /// One value of an instruction that depends on nothing but registers of the same point.
    fn pure(&self, instr: &Instr, step: i64, lane: i64) -> f64 {
        let get = |reg: &Reg| self.get(*reg, step, lane);
        let of = |reg: &Reg| self.program.instr(*reg).dtype;
        match &instr.op {
            InstrOp::Const(value) => instr.dtype.round(*value),
            InstrOp::Outer(axis) => self.outer[usize::from(*axis)] as f64,
            InstrOp::Step => step as f64,
            InstrOp::Lane => lane as f64,
            InstrOp::Word(word) => self.words[*word as usize] as f64,
            InstrOp::Unary(op, x) => scalar::unary(*op, of(x), get(x)),
            InstrOp::Binary(op, a, b) => scalar::binary(*op, of(a), get(a), get(b)),
            InstrOp::Select(c, a, b) => {
                if get(c) != 0.0 {
                    get(a)
                } else {
                    get(b)
                }
            }
            InstrOp::Cast(x) => scalar::cast(of(x), instr.dtype, get(x)),
            InstrOp::Philox { key0, key1, counter } => {
                let [key0, key1, counter] = [key0, key1, counter].map(|it| get(it) as u32);
                f64::from(scalar::philox(key0, key1, counter))
            }
            InstrOp::Load { .. }
            | InstrOp::FoldLanes(..)
            | InstrOp::FoldSteps(..)
            | InstrOp::Scan { .. } => unreachable!("these read more than one point"),
        }
    }

    /// A fold of `x` over the lanes or over the steps.
    fn fold(&self, instr: &Instr, fold: Fold, x: Reg, over: Level) -> Vec<f64> {
        let (op, start) = (fold_op(fold, instr.dtype), fold_start(fold, instr.dtype));
        let kept = self.points_of(instr.level).into_iter();
        let folded = self.points_of(over);
        kept.map(|(step, lane)| {
            folded.iter().fold(start, |value, (folded_step, folded_lane)| {
                let (step, lane) = match over.has_lane() {
                    true => (step, *folded_lane),
                    false => (*folded_step, lane),
                };
                scalar::binary(op, instr.dtype, value, self.get(x, step, lane))
            })
        })
        .collect()
    }

    fn scan(&self, instr: &Instr) -> Vec<f64> {
        let InstrOp::Scan { a, b, initial } = instr.op else {
            unreachable!("only recurrences come here")
        };
        let lanes = if instr.level.has_lane() { self.program.width } else { 1 };
        let mut state: Vec<f64> =
            (0..lanes).map(|lane| self.get(initial, self.steps.start, lane.into())).collect();
        let mut values = Vec::new();
        for (step, lane) in self.points_of(instr.level) {
            let state = &mut state[lane as usize];
            let product = scalar::binary(Binary::Mul, instr.dtype, self.get(a, step, lane), *state);
            *state = scalar::binary(Binary::Add, instr.dtype, product, self.get(b, step, lane));
            values.push(*state);
        }
        values
    }
}

fn place(
    buffers: &mut [Vec<f64>],
    arg: u8,
    element: i64,
    access: Access,
) -> Result<&mut f64, InterpretError> {
    let buffer = &mut buffers[usize::from(arg)];
    let element_count = buffer.len();
    let found = usize::try_from(element).ok().and_then(|it| buffer.get_mut(it));
    found.ok_or(InterpretError::Outside { arg, access, element, element_count })
}
