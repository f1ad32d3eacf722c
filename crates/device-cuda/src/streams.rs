//! Which steps of a program share a stream: branches that run at once.

use crate::api::{self, CUstream, Failed};
use crate::device::Stream;

/// Streams beside the device's own, which captures use; they grow with the widest program.
#[derive(Debug, Default)]
pub(crate) struct Sides {
    plain: Vec<Stream>,
    /// For the branch that takes longest, so that the others do not hold it up.
    urgent: Option<Stream>,
}

impl Sides {
    /// Makes streams for so many branches, the first of which needs none.
    pub(crate) fn reserve(&mut self, branch_count: usize) -> Result<(), Failed> {
        if branch_count < 2 {
            return Ok(());
        }
        if self.urgent.is_none() {
            let [_, most] = api::priorities()?;
            self.urgent = Some(Stream::new(most)?);
        }
        while self.plain.len() + 1 < branch_count {
            self.plain.push(Stream::new(0)?);
        }
        Ok(())
    }

    /// The stream of a branch for which room was made.
    pub(crate) fn stream(&self, branch: usize, longest: bool) -> CUstream {
        match &self.urgent {
            Some(urgent) if longest => urgent.raw(),
            _ => self.plain[branch - 1].raw(),
        }
    }
}

/// A step's stream, and what it waits for there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) branch: usize,
    /// Steps of other branches.
    pub(crate) waits: Vec<u32>,
    /// Whether nothing is in front of it on its branch.
    pub(crate) is_first: bool,
    /// Whether a step of another branch waits for it.
    pub(crate) is_awaited: bool,
}

/// Steps by branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Branches {
    pub(crate) places: Vec<Place>,
    pub(crate) count: usize,
    /// The branch with the most to do. It is never the first where there are several: the first
    /// is the device's own stream, whose urgency is fixed.
    pub(crate) longest: usize,
}

impl Branches {
    /// A step goes behind the last of its predecessors that ends a branch, on the branch with the
    /// most to do if there are several; a step without such opens a branch. `step_costs` says what
    /// each step has to do.
    pub(crate) fn of(step_costs: &[u64], edges: &[(u32, u32)]) -> Self {
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); step_costs.len()];
        for (from, to) in edges {
            before[*to as usize].push(*from);
        }
        let mut places: Vec<Place> = Vec::with_capacity(step_costs.len());
        let mut tails: Vec<u32> = Vec::new();
        let mut lengths: Vec<u64> = Vec::new();
        for (step, before) in before.into_iter().enumerate() {
            let ends = |branch: &usize| before.contains(&tails[*branch]);
            let found = (0..tails.len()).filter(ends).max_by_key(|it| lengths[*it]);
            let is_first = found.is_none();
            let branch = found.unwrap_or(tails.len());
            if is_first {
                tails.push(step as u32);
                lengths.push(0);
            }
            tails[branch] = step as u32;
            lengths[branch] += step_costs[step];
            let elsewhere = |it: &u32| places[*it as usize].branch != branch;
            let waits: Vec<u32> = before.into_iter().filter(elsewhere).collect();
            for it in &waits {
                places[*it as usize].is_awaited = true;
            }
            places.push(Place { branch, waits, is_first, is_awaited: false });
        }
        let mut branches = Self { places, count: tails.len().max(1), longest: 0 };
        let longest = (0..lengths.len()).max_by_key(|it| lengths[*it]).unwrap_or(0);
        if 1 < branches.count && longest == 0 {
            branches.swap(0, 1);
            branches.longest = 1;
        } else {
            branches.longest = longest;
        }
        branches
    }

    fn swap(&mut self, a: usize, b: usize) {
        for place in &mut self.places {
            place.branch = match place.branch {
                it if it == a => b,
                it if it == b => a,
                it => it,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(step_count: usize, edges: &[(u32, u32)], want: &[usize], longest: usize) -> Branches {
        let made = Branches::of(&vec![1; step_count], edges);
        let got: Vec<usize> = made.places.iter().map(|it| it.branch).collect();
        assert_eq!((got.as_slice(), made.longest), (want, longest));
        made
    }

    #[test]
    fn a_chain_is_one_branch() {
        let made = check(3, &[(0, 1), (1, 2)], &[0, 0, 0], 0);
        assert_eq!(made.count, 1);
        assert!(made.places.iter().all(|it| it.waits.is_empty() && !it.is_awaited));
        check(0, &[], &[], 0);
    }

    #[test]
    fn what_does_not_follow_runs_beside() {
        // 0 → 1 → 2 → 5 and 3 → 4, which 5 needs as well.
        let edges = [(0, 1), (1, 2), (3, 4), (2, 5), (4, 5)];
        let made = check(6, &edges, &[1, 1, 1, 0, 0, 1], 1);
        assert_eq!(made.count, 2);
        assert_eq!(made.places[5].waits, [4]);
        let awaited: Vec<bool> = made.places.iter().map(|it| it.is_awaited).collect();
        assert_eq!(awaited, [false, false, false, false, true, false]);
        let first: Vec<bool> = made.places.iter().map(|it| it.is_first).collect();
        assert_eq!(first, [true, false, false, true, false, false]);
    }

    #[test]
    fn few_long_steps_outweigh_many_short_ones() {
        // 0 → 1 → 2 beside 3, which is as long as five of them.
        let made = Branches::of(&[1, 1, 1, 5], &[(0, 1), (1, 2)]);
        let got: Vec<usize> = made.places.iter().map(|it| it.branch).collect();
        assert_eq!((got, made.longest), (vec![0, 0, 0, 1], 1));
    }

    #[test]
    fn a_fork_opens_a_branch_that_waits() {
        let made = check(4, &[(0, 1), (0, 2), (1, 3)], &[1, 1, 0, 1], 1);
        assert_eq!(made.places[2].waits, [0]);
        assert!(made.places[2].is_first && made.places[0].is_awaited);
    }
}
