//! What programs want of a device's memory before they exist, and whether that is left.

use std::collections::{BTreeMap, HashSet};

use super::memory::{ALIGN_BYTES, MemoryReport};
use super::schedule::Schedule;
use super::{Draft, Engine, JoinedSpec, PartSpec, identity, needed_by_steps, proof};
use crate::error::RuntimeError;
use crate::plan::{BufferKind, Plan};
use crate::pool::GpuMemoryPool;

/// What programs want of a device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedMemory {
    /// As long as they are there.
    pub kept: MemoryReport,
    /// Beside that while weights are loaded: what raw ones pass through, and what is given back.
    pub loading_bytes: u64,
    /// Beside that, because buffers are aligned.
    pub rounding_bytes: u64,
}

impl Engine {
    /// What these programs would add to what is there. Nothing is compiled and nothing allocated.
    pub(crate) fn wanted(&self, specs: &[JoinedSpec<'_>]) -> Result<WantedMemory, RuntimeError> {
        let drafts = self.drafts(specs)?;
        let plans = drafts.iter().flat_map(|it| &it.plans);
        let loading_bytes = plans.map(|it| self.loading_bytes(it)).max().unwrap_or(0);
        let (kept, rounding_bytes) = self.wanted_by(&drafts);
        Ok(WantedMemory { kept, loading_bytes, rounding_bytes })
    }

    /// What loading the weights of a plan wants and gives back.
    fn loading_bytes(&self, plan: &Plan) -> u64 {
        let needed = needed_by_steps(plan);
        let schedule = Schedule::of(plan, &needed, &|_| false);
        let passing = schedule.own.iter().filter(|it| !needed[**it]);
        let passing: u64 = passing.map(|it| plan.buffers[*it].size_bytes()).sum();
        let sums_bytes = |index: &usize| {
            let row = &plan.buffers[*index];
            let count = row.ty.shape.element_count().div_ceil(proof::ROW_LEN);
            match row.kind {
                BufferKind::Weight { .. } if self.proves_weights => {
                    count as u64 * proof::SUMS_BYTES
                }
                _ => 0,
            }
        };
        let sums: u64 = schedule.rounds.iter().flat_map(|it| &it.loads).map(sums_bytes).sum();
        schedule.hall_bytes + passing + sums
    }

    /// What stays, and what its alignment adds.
    fn wanted_by(&self, drafts: &[Draft<'_>]) -> (MemoryReport, u64) {
        let (mut wanted, mut rounding_bytes) = (MemoryReport::default(), 0);
        let rounding = |bytes: u64| bytes.next_multiple_of(ALIGN_BYTES) - bytes;
        let mut seen = HashSet::new();
        let (mut arenas, mut boundaries) = (BTreeMap::new(), BTreeMap::new());
        for draft in drafts {
            for (PartSpec { spec, .. }, plan) in draft.spec.parts.iter().zip(&draft.plans) {
                let identity = identity(spec);
                for (row, needed) in plan.buffers.iter().zip(needed_by_steps(plan)) {
                    if let Some(key) = row.key.filter(|_| needed)
                        && !self.shared.contains_key(&(identity, key))
                        && seen.insert((identity, key))
                    {
                        wanted.weights_bytes += row.size_bytes();
                        rounding_bytes += rounding(row.size_bytes());
                    }
                    if matches!(row.kind, BufferKind::State { .. }) {
                        wanted.state_bytes += GpuMemoryPool::granted_bytes(row.size_bytes());
                    }
                }
            }
            let lane = draft.lane().0;
            let arena: &mut u64 = arenas.entry(self.arena_lane(lane)).or_default();
            *arena = draft.arena_bytes.max(*arena);
            let boundary: &mut u64 = boundaries.entry(lane).or_default();
            *boundary = draft.boundary.bytes.max(*boundary);
        }
        rounding_bytes += arenas.values().map(|it| rounding(*it)).sum::<u64>();
        wanted.arena_bytes =
            arenas.iter().map(|(at, it)| it.saturating_sub(self.lanes[*at].arena_bytes)).sum();
        let grown = |(at, bytes): (&usize, &u64)| {
            let (boundary, boundary_bytes) =
                (self.lanes[*at].boundary, self.lanes[*at].boundary_bytes);
            let held = boundary.map_or(0, |_| GpuMemoryPool::granted_bytes(boundary_bytes));
            GpuMemoryPool::granted_bytes(*bytes.max(&boundary_bytes)) - held
        };
        wanted.boundary_bytes = boundaries.iter().map(grown).sum();
        (wanted, rounding_bytes)
    }

    /// Refuses up front what would not fit, with the bytes wanted and left.
    pub(super) fn within_quota(&mut self, drafts: &[Draft<'_>]) -> Result<(), RuntimeError> {
        let (wanted, _) = self.wanted_by(drafts);
        let left = |engine: &Self| engine.quota_bytes.saturating_sub(engine.report().total_bytes());
        if left(self) < wanted.total_bytes() {
            // What waits in the pool counts, and is the first to go.
            self.pool.clear(&mut *self.device.memory)?;
        }
        let left_bytes = left(self);
        if left_bytes < wanted.total_bytes() {
            let program = drafts[0].spec.label.to_owned();
            return Err(RuntimeError::Quota { program, wanted, left_bytes });
        }
        Ok(())
    }
}
