//! The whole pipeline on several devices: bulk inputs, and each device takes the next piece when it
//! is free.

use std::sync::Arc;

use super::balancer::MultiGpuBalancer;
use super::bulk::{Bulk, Replica, check_count};
use crate::error::EmbeddingResult;
use crate::input::ModelInput;
use crate::model::BoxFuture;
use crate::pipeline::{PipelineCore, PipelineOutput};
use crate::warmup::{block_on, words};

/// A pipeline, a replica of it on each device.
#[derive(Debug)]
pub struct MultiGpuPipeline {
    balancer: Arc<MultiGpuBalancer>,
    cores: Vec<PipelineCore>,
    item_counts: Vec<u64>,
    faults: Vec<Option<String>>,
}

impl MultiGpuPipeline {
    /// Over replicas that were opened alike, one for each device of the balancer and in its order.
    ///
    /// # Errors
    /// [`crate::EmbeddingError::DimensionMismatch`] for another number of replicas than devices.
    pub fn new(balancer: Arc<MultiGpuBalancer>, cores: Vec<PipelineCore>) -> EmbeddingResult<Self> {
        check_count(&balancer, cores.len())?;
        let (item_counts, faults) = (vec![0; cores.len()], vec![None; cores.len()]);
        Ok(Self { balancer, cores, item_counts, faults })
    }

    /// Who has how much to do, and who is lost.
    pub fn balancer(&self) -> &Arc<MultiGpuBalancer> {
        &self.balancer
    }

    /// The replicas, those of lost devices included.
    pub fn cores(&self) -> &[PipelineCore] {
        &self.cores
    }

    /// Inputs that each device has answered.
    pub fn item_counts(&self) -> &[u64] {
        &self.item_counts
    }

    /// What each device failed with when it was lost.
    pub fn faults(&self) -> &[Option<String>] {
        &self.faults
    }

    /// As [`PipelineCore::embed_batch`], over all devices at once. A device that fails is lost: its
    /// piece goes to the others, and so does what it would have taken.
    ///
    /// # Errors
    /// When all devices are lost: what the last of them said.
    pub fn embed_batch(
        &mut self,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>> {
        let Self { balancer, cores, item_counts, faults } = self;
        if let [core] = cores.as_mut_slice() {
            // Nobody to share with: the pieces of one device overlap.
            let done = core.embed_batch(inputs, now_s)?;
            item_counts[0] += done.len() as u64;
            return Ok(done);
        }
        let bulk = Bulk::new(balancer, inputs.iter().cloned().map(Ok));
        while bulk.has_more() {
            let work = |(gpu_idx, core): (usize, &mut PipelineCore)| {
                let mut worker = Worker { core, now_s, item_count: 0, fault: None };
                block_on(bulk.lane(gpu_idx, &mut worker));
                (worker.item_count, worker.fault)
            };
            let done: Vec<(u64, Option<String>)> = std::thread::scope(|scope| {
                let spawn = |it| scope.spawn(|| work(it));
                let threads: Vec<_> = cores.iter_mut().enumerate().map(spawn).collect();
                threads.into_iter().map(|it| it.join().unwrap_or_default()).collect()
            });
            for (gpu_idx, (item_count, fault)) in done.into_iter().enumerate() {
                item_counts[gpu_idx] += item_count;
                if balancer.is_lost(gpu_idx) && faults[gpu_idx].is_none() {
                    faults[gpu_idx] = fault.or_else(|| Some("it panicked".into()));
                }
            }
        }
        bulk.finish()
    }
}

/// A replica while a batch runs.
struct Worker<'a> {
    core: &'a mut PipelineCore,
    now_s: i64,
    item_count: u64,
    /// What it failed with last.
    fault: Option<String>,
}

impl Replica<PipelineOutput> for Worker<'_> {
    fn run<'a>(
        &'a mut self,
        inputs: &'a [ModelInput],
    ) -> BoxFuture<'a, EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>>> {
        Box::pin(async move {
            let done = self.core.embed_batch(inputs, self.now_s);
            match &done {
                Ok(done) => self.item_count += done.len() as u64,
                Err(err) => self.fault = Some(words(err)),
            }
            done
        })
    }
}
