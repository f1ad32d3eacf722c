//! Arithmetic of generated kernels at full extent.

use calor_kernel::{InstrOp, Level, LoopProgram};

/// Arithmetic instructions times the points of their level. Steps between bounds that come out of
/// buffers count once: their number is not known here.
pub(super) fn loop_flops(program: &LoopProgram, words: &[i64]) -> u64 {
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
