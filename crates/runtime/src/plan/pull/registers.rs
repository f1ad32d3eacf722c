//! Registers: instructions of which equal ones are written once.

use calor_ir::{Binary, DType, Fold, Unary};
use calor_kernel::{Instr, InstrOp, Level, Reg};

use super::super::index::{Coord, LANE, Map, STEP};
use super::Puller;

/// What an instruction other than a load computes, for finding equal ones. Floats are compared by
/// their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Number(u64),
    Outer(u8),
    Step,
    Lane,
    Word(u32),
    Unary(Unary, Reg),
    Binary(Binary, Reg, Reg),
    Select(Reg, Reg, Reg),
    Cast(Reg),
    FoldLanes(Fold, Reg),
    FoldSteps(Fold, Reg),
    Scan([Reg; 3]),
    Philox([Reg; 3]),
    /// A load of this argument. Loads are told apart elsewhere.
    Load(u8),
}

impl Key {
    fn of(op: &InstrOp) -> Self {
        match op {
            InstrOp::Const(number) => Self::Number(number.to_bits()),
            InstrOp::Outer(axis) => Self::Outer(*axis),
            InstrOp::Step => Self::Step,
            InstrOp::Lane => Self::Lane,
            InstrOp::Word(word) => Self::Word(*word),
            InstrOp::Unary(op, x) => Self::Unary(*op, *x),
            InstrOp::Binary(op, a, b) => Self::Binary(*op, *a, *b),
            InstrOp::Select(condition, a, b) => Self::Select(*condition, *a, *b),
            InstrOp::Cast(x) => Self::Cast(*x),
            InstrOp::FoldLanes(fold, x) => Self::FoldLanes(*fold, *x),
            InstrOp::FoldSteps(fold, x) => Self::FoldSteps(*fold, *x),
            InstrOp::Scan { a, b, initial } => Self::Scan([*a, *b, *initial]),
            InstrOp::Philox { key0, key1, counter } => Self::Philox([*key0, *key1, *counter]),
            InstrOp::Load { arg, .. } => Self::Load(*arg),
        }
    }
}

impl Puller<'_> {
    /// Level of a register.
    pub(in crate::plan) fn level(&self, reg: Reg) -> Level {
        self.body[reg.0 as usize].level
    }

    /// Type of a register.
    pub(in crate::plan) fn dtype(&self, reg: Reg) -> DType {
        self.body[reg.0 as usize].dtype
    }

    pub(in crate::plan) fn push(&mut self, instr: Instr) -> Reg {
        let folded = matches!(instr.op, InstrOp::FoldSteps(..));
        let after = folded || instr.op.regs().iter().any(|it| self.after[it.0 as usize]);
        self.after.push(after);
        self.body.push(instr);
        Reg(self.body.len() as u32 - 1)
    }

    pub(in crate::plan) fn level_of(&self, map: &Map) -> Level {
        map.iter().fold(Level::Row, |level, coord| {
            let own = Level::of(coord.has(STEP), coord.has(LANE));
            coord
                .indirect
                .iter()
                .fold(level.join(own), |level, it| level.join(self.level(it.index)))
        })
    }

    /// The register that holds a coordinate, `i32`.
    pub(in crate::plan) fn coord(&mut self, coord: &Coord) -> Reg {
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

    pub(in crate::plan) fn plus(&mut self, sum: Option<Reg>, term: Reg) -> Reg {
        match sum {
            Some(sum) => self.binary(Binary::Add, sum, term),
            None => term,
        }
    }

    /// Sums of narrow floats are kept in `f32`.
    pub(in crate::plan) fn widen(&mut self, x: Reg) -> Reg {
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

    pub(in crate::plan) fn number(&mut self, dtype: DType, number: f64) -> Reg {
        self.emit(InstrOp::Const(number), Level::Row, dtype)
    }

    pub(in crate::plan) fn binary(&mut self, op: Binary, a: Reg, b: Reg) -> Reg {
        let level = self.level(a).join(self.level(b));
        let dtype = op.result(self.dtype(a));
        self.emit(InstrOp::Binary(op, a, b), level, dtype)
    }

    pub(in crate::plan) fn select(&mut self, condition: Reg, a: Reg, b: Reg) -> Reg {
        let level = self.level(condition).join(self.level(a)).join(self.level(b));
        let dtype = self.dtype(a);
        self.emit(InstrOp::Select(condition, a, b), level, dtype)
    }

    pub(in crate::plan) fn cast(&mut self, x: Reg, dtype: DType) -> Reg {
        if self.dtype(x) == dtype {
            return x;
        }
        let level = self.level(x);
        self.emit(InstrOp::Cast(x), level, dtype)
    }

    /// Adds an instruction, or gives the register of an equal one. Loads do not come here.
    pub(in crate::plan) fn emit(&mut self, op: InstrOp, level: Level, dtype: DType) -> Reg {
        let key = (Key::of(&op), dtype);
        if let Some(reg) = self.same.get(&key) {
            return *reg;
        }
        let reg = self.push(Instr { op, level, dtype });
        self.same.insert(key, reg);
        reg
    }
}
