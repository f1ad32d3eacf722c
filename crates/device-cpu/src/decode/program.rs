//! Loop programs out of their canonical bytes.

use calor_ir::{Binary, DType, Fold, Unary};
use calor_kernel::{
    Access, Address, Arg, Bounds, Instr, InstrOp, Level, LoopProgram, Reg, Store, Term,
};

use super::Reader;

pub(super) fn program(from: &mut Reader<'_>) -> Option<LoopProgram> {
    let (rank, width, word_count) = (from.u8()?, from.u32()?, from.u32()?);
    let args = many(from, |from| {
        let dtype = from.dtype()?;
        let access = if from.flag()? { Access::Write } else { Access::Read };
        Some(Arg { dtype, access })
    })?;
    let body = many(from, instr)?;
    let bounds = if from.flag()? { Some(Bounds { lo: reg(from)?, hi: reg(from)? }) } else { None };
    let stores = many(from, |from| {
        let (arg, address) = (from.u8()?, address(from)?);
        Some(Store { arg, address, value: reg(from)?, add: from.flag()? })
    })?;
    let program = LoopProgram { rank, width, args, body, bounds, stores, word_count };
    registers_exist(&program).then_some(program)
}

/// Registers are used as indices by whoever checks the rest.
fn registers_exist(program: &LoopProgram) -> bool {
    let exists = |reg: Reg| (reg.0 as usize) < program.body.len();
    let bounds = program.bounds.iter().flat_map(|it| [it.lo, it.hi]);
    let mut stored = program
        .stores
        .iter()
        .flat_map(|it| it.address.terms.iter().map(|term| term.index).chain([it.value]));
    let mut body = program.body.iter().flat_map(|it| it.op.regs());
    body.all(exists) && stored.all(exists) && { bounds }.all(exists)
}

fn many<T>(
    from: &mut Reader<'_>,
    mut one: impl FnMut(&mut Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let count = from.count()?;
    (0..count).map(|_| one(from)).collect()
}

fn reg(from: &mut Reader<'_>) -> Option<Reg> {
    from.u32().map(Reg)
}

fn address(from: &mut Reader<'_>) -> Option<Address> {
    let (word, lane_stride) = (from.u32()?, from.u32()?);
    let terms = many(from, |from| Some(Term { index: reg(from)? }))?;
    Some(Address { word, lane_stride, terms })
}

fn instr(from: &mut Reader<'_>) -> Option<Instr> {
    let dtype: DType = from.dtype()?;
    let level = match from.u8()? {
        0 => Level::Row,
        1 => Level::Lane,
        2 => Level::Step,
        3 => Level::StepLane,
        _ => return None,
    };
    let op = match from.u8()? {
        0 => InstrOp::Const(from.f64()?),
        1 => InstrOp::Outer(from.u8()?),
        2 => InstrOp::Step,
        3 => InstrOp::Lane,
        4 => InstrOp::Word(from.u32()?),
        5 => {
            let (arg, address) = (from.u8()?, address(from)?);
            let guard = if from.flag()? { Some(reg(from)?) } else { None };
            InstrOp::Load { arg, address, guard }
        }
        6 => {
            let name = from.text()?;
            let op = Unary::ALL.into_iter().find(|it| it.name() == name)?;
            InstrOp::Unary(op, reg(from)?)
        }
        7 => {
            let name = from.text()?;
            let op = Binary::ALL.into_iter().find(|it| it.name() == name)?;
            InstrOp::Binary(op, reg(from)?, reg(from)?)
        }
        8 => InstrOp::Select(reg(from)?, reg(from)?, reg(from)?),
        9 => InstrOp::Cast(reg(from)?),
        10 => InstrOp::FoldLanes(fold(from)?, reg(from)?),
        11 => InstrOp::FoldSteps(fold(from)?, reg(from)?),
        12 => InstrOp::Scan { a: reg(from)?, b: reg(from)?, initial: reg(from)? },
        13 => InstrOp::Philox { key0: reg(from)?, key1: reg(from)?, counter: reg(from)? },
        _ => return None,
    };
    Some(Instr { op, level, dtype })
}

fn fold(from: &mut Reader<'_>) -> Option<Fold> {
    let name = from.text()?;
    Fold::ALL.into_iter().find(|it| it.name() == name)
}
