//! What must hold for every plan, whatever it computes.

use calor_runtime::{BufferKind, Place, Plan, PlanSpan, PlanStep};
use thiserror::Error;

/// A rule that a plan breaks.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("step {step}: {rule}")]
pub struct Broken {
    /// Index of the step.
    pub step: usize,
    /// The rule.
    pub rule: &'static str,
}

/// Checks spans, arguments, edges and that nothing is read before it is written.
///
/// # Errors
/// The first rule broken.
pub fn check_plan(plan: &Plan) -> Result<(), Broken> {
    for (step, it) in plan.prelude.iter().chain(&plan.steps).enumerate() {
        let broken = |rule| Err(Broken { step, rule });
        if !it.reads().iter().chain(it.writes()).all(|span| is_inside(plan, span)) {
            return broken("a span lies outside of its memory");
        }
        if it.writes().iter().any(|span| is_read_only(plan, span)) {
            return broken("something that the loader or the caller fills is written");
        }
        let meets = |a: &PlanSpan| it.reads().iter().any(|b| overlap(a, b) && a != b);
        if it.writes().iter().any(meets) {
            return broken("a step writes where it reads");
        }
        if let PlanStep::Run { unit, words, args, write_count, .. } = it
            && let calor_kernel::Unit::Loop(program) = &plan.units[*unit as usize]
            && (program.args.len() != args.len()
                || program.word_count as usize != words.len()
                || *write_count != 1)
        {
            return broken("words or arguments are not those of the unit");
        }
    }
    check_written(plan)?;
    check_edges(plan)
}

/// Every byte of the arena, of outputs and of prepared buffers is written before it is read.
fn check_written(plan: &Plan) -> Result<(), Broken> {
    let mut arena: Vec<PlanSpan> = Vec::new();
    for (step, it) in plan.prelude.iter().chain(&plan.steps).enumerate() {
        for span in it.reads().iter().filter(|it| is_volatile(plan, it)) {
            let mut missing = vec![*span];
            for written in &arena {
                missing = missing.iter().flat_map(|it| without(it, written)).collect();
            }
            if missing.iter().any(|it| it.len > 0) {
                return Err(Broken { step, rule: "bytes are read that no step wrote" });
            }
        }
        arena.extend(it.writes().iter().filter(|it| is_volatile(plan, it)));
    }
    Ok(())
}

/// Every pair of steps that touches the same bytes, one of them writing, has a path of edges.
fn check_edges(plan: &Plan) -> Result<(), Broken> {
    let count = plan.steps.len();
    let mut before = vec![vec![false; count]; count];
    for (from, to) in &plan.edges {
        let (from, to) = (*from as usize, *to as usize);
        if to <= from || count <= to {
            return Err(Broken { step: to, rule: "an edge does not lead forward" });
        }
        before[to][from] = true;
    }
    for at in 0..count {
        for direct in 0..at {
            if before[at][direct] {
                let (low, high) = before.split_at_mut(at);
                high[0].iter_mut().zip(&low[direct]).for_each(|(to, from)| *to |= from);
            }
        }
        for (a, known) in plan.steps[..at].iter().zip(&before[at]) {
            let b = &plan.steps[at];
            let meet =
                |a: &[PlanSpan], b: &[PlanSpan]| a.iter().any(|x| b.iter().any(|y| overlap(x, y)));
            let depends = meet(a.writes(), b.reads())
                || meet(a.writes(), b.writes())
                || meet(a.reads(), b.writes());
            if depends && !known {
                return Err(Broken { step: at, rule: "a dependence has no edge" });
            }
        }
    }
    Ok(())
}

fn is_inside(plan: &Plan, span: &PlanSpan) -> bool {
    let size = match span.place {
        Place::Arena => plan.arena_bytes,
        Place::Buffer(index) => match plan.buffers.get(index as usize) {
            Some(row) => row.size_bytes(),
            None => return false,
        },
    };
    span.offset.checked_add(span.len).is_some_and(|end| end <= size)
}

fn is_read_only(plan: &Plan, span: &PlanSpan) -> bool {
    match span.place {
        Place::Arena => false,
        Place::Buffer(index) => match plan.buffers[index as usize].kind {
            BufferKind::Input { .. } | BufferKind::Weight { .. } | BufferKind::Constant { .. } => {
                true
            }
            BufferKind::Prepared | BufferKind::Output { .. } | BufferKind::State { .. } => false,
        },
    }
}

/// Whether nobody but steps writes there.
fn is_volatile(plan: &Plan, span: &PlanSpan) -> bool {
    match span.place {
        Place::Arena => true,
        Place::Buffer(index) => {
            let kind = &plan.buffers[index as usize].kind;
            matches!(kind, BufferKind::Prepared | BufferKind::Output { .. })
        }
    }
}

/// What is left of a span where another one covers it.
fn without(span: &PlanSpan, cover: &PlanSpan) -> Vec<PlanSpan> {
    if !overlap(span, cover) {
        return vec![*span];
    }
    let (start, end) = (span.offset, span.offset + span.len);
    let (from, to) = (cover.offset, cover.offset + cover.len);
    let mut rest = Vec::new();
    if start < from {
        rest.push(PlanSpan { len: from - start, ..*span });
    }
    if to < end {
        rest.push(PlanSpan { offset: to, len: end - to, ..*span });
    }
    rest
}

fn overlap(a: &PlanSpan, b: &PlanSpan) -> bool {
    a.place == b.place && a.offset < b.offset + b.len && b.offset < a.offset + a.len
}
