//! How many loops must have ended before a register can be evaluated.

use crate::program::{InstrOp, LoopProgram};

/// Loops that come before a register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stage {
    /// Step loops.
    pub(crate) step: u32,
    /// Folds over lanes since the last of them; for a register at a step level, within the step.
    pub(crate) lane: u32,
}

/// The stage of each register.
pub(crate) fn stages(program: &LoopProgram) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::with_capacity(program.body.len());
    for instr in &program.body {
        let operands = instr.op.regs();
        let of = |at: usize| stages[at];
        let all = operands.iter().map(|reg| of(reg.0 as usize));
        let stage = if instr.level.has_step() {
            // What lies outside of the loop is ready before it, whatever its own passes.
            let stepping = operands.iter().filter(|reg| program.instr(**reg).level.has_step());
            let lane = stepping.map(|reg| of(reg.0 as usize).lane).max().unwrap_or(0);
            Stage { step: all.map(|it| it.step).max().unwrap_or(0), lane }
        } else {
            all.max().unwrap_or_default()
        };
        stages.push(match instr.op {
            InstrOp::FoldLanes(..) => Stage { lane: stage.lane + 1, ..stage },
            InstrOp::FoldSteps(..) => Stage { step: stage.step + 1, lane: 0 },
            InstrOp::Const(_)
            | InstrOp::Outer(_)
            | InstrOp::Step
            | InstrOp::Lane
            | InstrOp::Word(_)
            | InstrOp::Load { .. }
            | InstrOp::Unary(..)
            | InstrOp::Binary(..)
            | InstrOp::Select(..)
            | InstrOp::Cast(_)
            | InstrOp::Scan { .. }
            | InstrOp::Philox { .. } => stage,
        });
    }
    stages
}
