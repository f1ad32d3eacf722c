//! Which steps must wait for which.

use super::{Place, PlanSpan, PlanStep};

/// Pairs (before, after) that keep every read and write in the order of the list. Pairs that
/// follow from others are left out.
pub(super) fn edges(steps: &[PlanStep]) -> Vec<(u32, u32)> {
    let words = steps.len().div_ceil(64);
    let mut reach = vec![vec![0_u64; words]; steps.len()];
    let mut edges = Vec::new();
    for after in 0..steps.len() {
        for before in (0..after).rev() {
            let known = reach[after][before / 64] >> (before % 64) & 1 == 1;
            if known || !depends(&steps[before], &steps[after]) {
                continue;
            }
            edges.push((before as u32, after as u32));
            let (low, high) = reach.split_at_mut(after);
            for (to, from) in high[0].iter_mut().zip(&low[before]) {
                *to |= from;
            }
            high[0][before / 64] |= 1 << (before % 64);
        }
    }
    edges
}

fn depends(before: &PlanStep, after: &PlanStep) -> bool {
    let meet = |a: &[PlanSpan], b: &[PlanSpan]| a.iter().any(|x| b.iter().any(|y| overlap(x, y)));
    meet(before.writes(), after.reads())
        || meet(before.writes(), after.writes())
        || meet(before.reads(), after.writes())
}

fn overlap(a: &PlanSpan, b: &PlanSpan) -> bool {
    let same = match (a.place, b.place) {
        (Place::Arena, Place::Arena) => true,
        (Place::Buffer(a), Place::Buffer(b)) => a == b,
        (Place::Arena, Place::Buffer(_)) | (Place::Buffer(_), Place::Arena) => false,
    };
    same && a.offset < b.offset + b.len && b.offset < a.offset + a.len
}
