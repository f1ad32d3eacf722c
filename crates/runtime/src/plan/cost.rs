//! Work of a step at full extent.

use calor_device::Word;
use calor_kernel::{Call, InstrOp, Level, LoopProgram, Unit};

/// The words at full extent.
pub(super) fn words_max(words: &[Word]) -> Vec<i64> {
    words
        .iter()
        .map(|word| match word {
            Word::Fixed(number) => *number,
            Word::Live { max, .. } => *max,
        })
        .collect()
}

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

/// Multiplications and additions of a library call or hand-written kernel, where they are known.
pub(super) fn call_flops(unit: &Unit, words: &[i64]) -> u64 {
    match unit {
        Unit::Call(Call::Gemm { n, k, .. }) => {
            let rows = words.first().copied().unwrap_or(0).max(0) as u64;
            2 * rows * u64::from(*n) * u64::from(*k)
        }
        Unit::Call(Call::Pack { .. }) | Unit::Source(_) | Unit::Loop(_) => 0,
    }
}
