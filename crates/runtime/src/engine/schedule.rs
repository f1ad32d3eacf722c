//! The order of a prelude: which steps are left to do, what is read before each, and where.
//!
//! Raw weights lie in one hall of device memory that each round of steps uses anew, so that never
//! two whole copies of the weights exist and nothing is allocated between steps. Knows plans only.

use std::ops::Range;

use super::buffers_of;
use crate::plan::{BufferKind, Plan};

/// Bytes of the hall, unless a single step needs more.
const HALL_BYTES: u64 = 32 << 20;
/// Buffers in the hall begin at multiples of this.
pub(super) const ALIGN_BYTES: u64 = 256;

/// What is left to do of a prelude.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub(super) rounds: Vec<Round>,
    /// Room of the largest round.
    pub(super) hall_bytes: u64,
    /// First byte in the hall of each buffer that lies there, by index.
    pub(super) in_hall: Vec<Option<u64>>,
    /// Buffers that need memory of their own: those that programs keep, and those that several
    /// rounds read.
    pub(super) own: Vec<usize>,
}

/// Steps that run together, after what they read is there.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Buffers that the loader fills.
    pub(super) loads: Vec<usize>,
    /// Steps of the prelude.
    pub(super) steps: Vec<usize>,
}

impl Schedule {
    /// The schedule for a program whose runs need some buffers, where some exist already.
    pub(super) fn of(plan: &Plan, needed: &[bool], exists: &dyn Fn(usize) -> bool) -> Self {
        let is_new = |index: &usize| plan.buffers[*index].key.is_some() && !exists(*index);
        let touched: Vec<(usize, Vec<usize>)> = left_to_do(plan, needed, exists)
            .into_iter()
            .map(|step| {
                let it = &plan.prelude[step];
                let mut new: Vec<usize> =
                    buffers_of(it.reads()).chain(buffers_of(it.writes())).filter(is_new).collect();
                new.sort_unstable();
                new.dedup();
                (step, new)
            })
            .collect();
        let mut out = Self { in_hall: vec![None; plan.buffers.len()], ..Self::default() };
        // In which rounds each new buffer is used.
        let mut uses: Vec<Option<Range<usize>>> = vec![None; plan.buffers.len()];
        let (mut round, mut used_bytes) = (Round::default(), 0);
        for (step, new) in &touched {
            let fresh = || new.iter().copied().filter(|it| uses[*it].is_none());
            let passing = || fresh().filter(|it| !needed[*it]);
            let want_bytes: u64 = passing().map(|it| room(plan, it)).sum();
            if HALL_BYTES < used_bytes + want_bytes && !round.steps.is_empty() {
                out.rounds.push(std::mem::take(&mut round));
                used_bytes = 0;
            }
            for index in passing() {
                out.in_hall[index] = Some(used_bytes);
                used_bytes += room(plan, index);
            }
            out.hall_bytes = out.hall_bytes.max(used_bytes);
            round.loads.extend(fresh().filter(|it| is_loaded(plan, *it)));
            round.steps.push(*step);
            let now = out.rounds.len();
            for index in new {
                let first = uses[*index].as_ref().map_or(now, |it| it.start);
                uses[*index] = Some(first..now);
            }
        }
        for (index, uses) in uses.iter().enumerate() {
            match uses {
                Some(it) if it.start < it.end => out.in_hall[index] = None,
                Some(_) => {}
                None if needed[index] && is_new(&index) => round.loads.push(index),
                None => continue,
            }
            if out.in_hall[index].is_none() {
                out.own.push(index);
            }
        }
        out.rounds.push(round);
        out
    }
}

/// Room in the hall.
fn room(plan: &Plan, index: usize) -> u64 {
    plan.buffers[index].size_bytes().next_multiple_of(ALIGN_BYTES)
}

/// Whether the loader fills the buffer, rather than a step.
fn is_loaded(plan: &Plan, index: usize) -> bool {
    matches!(plan.buffers[index].kind, BufferKind::Weight { .. } | BufferKind::Constant { .. })
}

/// Steps that write something which is wanted and not there: by the runs, or by such a step. A
/// value that several steps make is made by all of them or none.
fn left_to_do(plan: &Plan, needed: &[bool], exists: &dyn Fn(usize) -> bool) -> Vec<usize> {
    let mut wanted = needed.to_vec();
    let mut steps = Vec::new();
    for (at, step) in plan.prelude.iter().enumerate().rev() {
        if buffers_of(step.writes()).any(|it| wanted[it] && !exists(it)) {
            buffers_of(step.reads()).for_each(|it| wanted[it] = true);
            steps.push(at);
        }
    }
    steps.reverse();
    steps
}
