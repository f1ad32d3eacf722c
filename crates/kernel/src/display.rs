//! Loop programs for people, and their skeletons for devices that recognise patterns.

use std::fmt::{self, Write};

use crate::program::{Access, Address, Arg, Bounds, InstrOp, Level, LoopProgram, Reg, Store};

impl LoopProgram {
    /// The program with every constant replaced by `?` and its width by `W`, and the constants in
    /// order. Launch words of addresses are left out, because their places follow from the rest.
    ///
    /// Programs with one skeleton differ in numbers alone:
    /// `rank 1; W; a0 f32, a1 mut f32; r0 lane f32 = load a0 +1; …`.
    pub fn skeleton(&self) -> (String, Vec<f64>) {
        let style = Style { skeleton: true };
        let mut constants = Vec::new();
        let mut parts = vec![format!("rank {}", self.rank), "W".into(), style.args(self)];
        for (at, instr) in self.body.iter().enumerate() {
            if let InstrOp::Const(value) = instr.op {
                constants.push(value);
            }
            parts.push(style.instr(self, at));
        }
        parts.extend(self.bounds.map(|it| style.bounds(it)));
        parts.extend(self.stores.iter().map(|it| style.store(it)));
        (parts.join("; "), constants)
    }
}

impl fmt::Display for LoopProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, width, args: _, body, bounds, stores, word_count } = self;
        let style = Style { skeleton: false };
        let name = self.template().name();
        writeln!(f, "{name} rank {rank}, {width} lanes, {word_count} words")?;
        writeln!(f, "  {}", style.args(self))?;
        for at in 0..body.len() {
            writeln!(f, "  {}", style.instr(self, at))?;
        }
        if let Some(bounds) = bounds {
            writeln!(f, "  {}", style.bounds(*bounds))?;
        }
        stores.iter().try_for_each(|it| writeln!(f, "  {}", style.store(it)))
    }
}

/// How much is said: everything, or what a skeleton keeps.
struct Style {
    skeleton: bool,
}

impl Style {
    fn args(&self, program: &LoopProgram) -> String {
        let arg = |(at, Arg { dtype, access }): (usize, &Arg)| match access {
            Access::Read => format!("a{at} {dtype}"),
            Access::Write => format!("a{at} mut {dtype}"),
        };
        program.args.iter().enumerate().map(arg).collect::<Vec<_>>().join(", ")
    }

    fn instr(&self, program: &LoopProgram, at: usize) -> String {
        let instr = &program.body[at];
        let level = match instr.level {
            Level::Row => "row",
            Level::Lane => "lane",
            Level::Step => "step",
            Level::StepLane => "step*lane",
        };
        let mut text = format!("r{at} {level} {} = {}", instr.dtype, self.op(&instr.op));
        if let InstrOp::Load { arg, address, guard } = &instr.op {
            let _ = write!(text, " a{arg} {}", self.address(address));
            if let Some(guard) = guard {
                let _ = write!(text, " if r{}", guard.0);
            }
        } else {
            text.extend(instr.op.regs().iter().map(|it| format!(" r{}", it.0)));
        }
        text
    }

    fn op(&self, op: &InstrOp) -> String {
        match op {
            InstrOp::Const(_) if self.skeleton => "?".into(),
            InstrOp::Const(value) => format!("{value:?}"),
            InstrOp::Outer(axis) => format!("outer {axis}"),
            InstrOp::Step => "step".into(),
            InstrOp::Lane => "lane".into(),
            InstrOp::Word(word) => format!("word {word}"),
            InstrOp::Load { .. } => "load".into(),
            InstrOp::Unary(op, _) => op.name().into(),
            InstrOp::Binary(op, ..) => op.name().into(),
            InstrOp::Select(..) => "select".into(),
            InstrOp::Cast(_) => "cast".into(),
            InstrOp::FoldLanes(fold, _) => format!("lanes.{}", fold.name()),
            InstrOp::FoldSteps(fold, _) => format!("steps.{}", fold.name()),
            InstrOp::Scan { .. } => "scan".into(),
            InstrOp::Philox { .. } => "philox".into(),
        }
    }

    /// `@word +stride [index]…`: the first launch word, the distance of lanes, the indices.
    fn address(&self, Address { word, lane_stride, terms }: &Address) -> String {
        let mut text = match self.skeleton {
            true => format!("+{lane_stride}"),
            false => format!("@{word} +{lane_stride}"),
        };
        text.extend(terms.iter().map(|it| format!(" [{}]", name(it.index))));
        text
    }

    fn bounds(&self, Bounds { lo, hi }: Bounds) -> String {
        format!("steps {}..{}", name(lo), name(hi))
    }

    fn store(&self, Store { arg, address, value, add }: &Store) -> String {
        let verb = if *add { "add" } else { "store" };
        format!("{verb} a{arg} {} = {}", self.address(address), name(*value))
    }
}

fn name(reg: Reg) -> String {
    format!("r{}", reg.0)
}
