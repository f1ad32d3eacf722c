//! Steps whose interior values have no offsets yet, and how they get them.

use calor_device::Word;

use super::arena::{Lifetime, lay_out, peak_bytes};
use super::{Place, PlanSpan, PlanStep};

/// Where a value lies until offsets are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Home {
    /// A boundary buffer.
    Buffer(u32),
    /// A value in the arena, by its number.
    Interior(usize),
}

/// A span whose interior offset is not known yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft {
    pub(super) home: Home,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A step before offsets are known.
pub(super) enum DraftStep {
    Run {
        unit: u32,
        words: Vec<Word>,
        args: Vec<Draft>,
        write_count: u32,
        label: String,
        flops: u64,
    },
    Copy {
        from: Draft,
        to: Draft,
    },
}

/// Steps and arena of a run.
pub(super) struct Settled {
    pub(super) prelude: Vec<PlanStep>,
    pub(super) steps: Vec<PlanStep>,
    pub(super) arena_bytes: u64,
    pub(super) peak_live_bytes: u64,
}

/// Gives interior values their offsets. `interior` are their sizes in bytes.
pub(super) fn settle(prelude: &[DraftStep], steps: &[DraftStep], interior: &[u64]) -> Settled {
    let lives = lifetimes(steps, interior);
    let layout = lay_out(&lives);
    let place = |draft: &Draft| match draft.home {
        Home::Buffer(index) => {
            PlanSpan { place: Place::Buffer(index), offset: draft.offset, len: draft.len }
        }
        Home::Interior(index) => PlanSpan {
            place: Place::Arena,
            offset: layout.offsets[index] + draft.offset,
            len: draft.len,
        },
    };
    let settle = |step: &DraftStep| match step {
        DraftStep::Run { unit, words, args, write_count, label, flops } => PlanStep::Run {
            unit: *unit,
            words: words.clone(),
            args: args.iter().map(place).collect(),
            write_count: *write_count,
            label: label.clone(),
            moved_bytes: args.iter().map(|it| it.len).sum(),
            flops: *flops,
        },
        DraftStep::Copy { from, to } => PlanStep::Copy { from: place(from), to: place(to) },
    };
    Settled {
        prelude: prelude.iter().map(settle).collect(),
        steps: steps.iter().map(settle).collect(),
        arena_bytes: layout.bytes,
        peak_live_bytes: peak_bytes(&lives),
    }
}

fn lifetimes(steps: &[DraftStep], interior: &[u64]) -> Vec<Lifetime> {
    let unused = |bytes: &u64| Lifetime { first: usize::MAX, last: 0, bytes: *bytes };
    let mut lives: Vec<Lifetime> = interior.iter().map(unused).collect();
    for (at, step) in steps.iter().enumerate() {
        let drafts: Vec<&Draft> = match step {
            DraftStep::Run { args, .. } => args.iter().collect(),
            DraftStep::Copy { from, to } => vec![from, to],
        };
        for draft in drafts {
            if let Home::Interior(index) = draft.home {
                lives[index].first = lives[index].first.min(at);
                lives[index].last = lives[index].last.max(at);
            }
        }
    }
    for life in lives.iter_mut().filter(|it| it.first == usize::MAX) {
        (life.first, life.bytes) = (0, 0);
    }
    lives
}
