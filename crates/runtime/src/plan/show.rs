//! The text form of a plan: what `calor plan show` prints and snapshots keep.

use std::fmt;

use calor_device::Word;

use super::{BufferKind, Place, Plan, PlanSpan, PlanStep};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, flops) = self.cost();
        writeln!(
            f,
            "{} steps, {} in the prelude, {} units, arena {} B (peak live {} B), {bytes} B moved, \
             {flops} flop",
            self.steps.len(),
            self.prelude.len(),
            self.units.len(),
            self.arena_bytes,
            self.peak_live_bytes,
        )?;
        for (key, value) in &self.defaults.0 {
            writeln!(f, "choice {key} = {value} (rule)")?;
        }
        for (index, row) in self.buffers.iter().enumerate() {
            let (kind, name) = match &row.kind {
                BufferKind::Input { name } => ("input", name.as_str()),
                BufferKind::Weight { name } => ("weight", name.as_str()),
                BufferKind::Constant { .. } => ("constant", ""),
                BufferKind::Prepared => ("prepared", ""),
                BufferKind::Output { name } => ("output", name.as_str()),
                BufferKind::State { name } => ("state", name.as_str()),
            };
            write!(f, "b{index} {kind} {}", row.ty)?;
            if !name.is_empty() {
                write!(f, " {name}")?;
            }
            if let Some(key) = row.key {
                write!(f, " #{}", key.short())?;
            }
            if let Some(live) = row.live {
                write!(f, " live{live}")?;
            }
            writeln!(f)?;
        }
        for (title, steps) in [("prelude", &self.prelude), ("run", &self.steps)] {
            writeln!(f, "{title}:")?;
            for (index, step) in steps.iter().enumerate() {
                write_step(f, index, step)?;
            }
        }
        Ok(())
    }
}

fn write_step(f: &mut fmt::Formatter<'_>, index: usize, step: &PlanStep) -> fmt::Result {
    write!(f, "  {index:>3} ")?;
    match step {
        PlanStep::Run { unit, words, label, .. } => {
            write!(f, "{label:<32} u{unit} (")?;
            write_spans(f, step.reads())?;
            write!(f, ") -> (")?;
            write_spans(f, step.writes())?;
            write!(f, ") [")?;
            for (at, word) in words.iter().enumerate() {
                let gap = if at > 0 { " " } else { "" };
                match word {
                    Word::Fixed(number) => write!(f, "{gap}{number}")?,
                    Word::Live { count, scale, max } => {
                        write!(f, "{gap}live{count}*{scale}<={max}")?;
                    }
                }
            }
            writeln!(f, "]")
        }
        PlanStep::Copy { from, to } => {
            write!(f, "copy (")?;
            write_spans(f, &[*from])?;
            write!(f, ") -> (")?;
            write_spans(f, &[*to])?;
            writeln!(f, ")")
        }
    }
}

fn write_spans(f: &mut fmt::Formatter<'_>, spans: &[PlanSpan]) -> fmt::Result {
    for (at, span) in spans.iter().enumerate() {
        let gap = if at > 0 { ", " } else { "" };
        match span.place {
            Place::Buffer(index) => write!(f, "{gap}b{index}")?,
            Place::Arena => write!(f, "{gap}@")?,
        }
        write!(f, "+{}:{}", span.offset, span.len)?;
    }
    Ok(())
}
