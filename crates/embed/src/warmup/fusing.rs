//! The fusion on its way through warm-up.

use calor_telemetry::clock::Stopwatch;

use super::report::FusionWarmupResult;
use super::timer::{Waited, until};
use super::{Fault, PipelineWarmup, timely, words};
use crate::embedding::l2_norm;
use crate::error::EmbeddingResult;
use crate::handle::EmbeddingPipeline;
use crate::model_id::{FUSED_LEN, ModelId};
use crate::pipeline::PipelineOutput;

impl PipelineWarmup {
    /// Every batch size and every expert, between two runs of one text.
    pub(super) async fn fuse(
        &self,
        pipeline: &EmbeddingPipeline,
        end_ns: u64,
    ) -> FusionWarmupResult {
        let watch = Stopwatch::start();
        let mut row = FusionWarmupResult::default();
        let sizes = [1].into_iter().chain(self.config.batch_sizes.iter().copied());
        let sizes: Vec<usize> = sizes.chain([1]).collect();
        let last = sizes.len() - 1;
        for (step, size) in sizes.into_iter().enumerate() {
            if step == last && row.error.is_none() {
                row.error = self.force(pipeline, end_ns, &mut row).await.err();
            }
            if row.error.is_some() {
                break;
            }
            // Beyond every model's own steps, so that these texts are new.
            let inputs = self.generate_synthetic_input(ModelId::Semantic, size, 1_000 + step);
            let run = Stopwatch::start();
            let outputs = match inputs {
                Ok(inputs) => until(end_ns, pipeline.embed_batch(inputs)).await,
                Err(err) => Waited::Done(Err(err)),
            };
            let ms = run.elapsed_ns() as f64 / 1e6;
            let fault = match outputs {
                Waited::Done(Ok(outputs)) => take_fused(&mut row, &outputs).err(),
                Waited::Done(Err(err)) => Some(words(&err)),
                Waited::TimedOut => Some("not finished in time".into()),
                Waited::Panicked(text) => Some(text),
            };
            if fault.is_some() {
                row.error = fault;
                break;
            }
            if step == 0 {
                row.first_latency_ms = ms;
            }
            if size == 1 {
                row.final_latency_ms = ms;
            }
        }
        row.duration_ms = watch.elapsed_ns() / 1_000_000;
        row.success = row.error.is_none();
        row
    }

    /// Runs every expert; why not, in words.
    async fn force(
        &self,
        pipeline: &EmbeddingPipeline,
        end_ns: u64,
        row: &mut FusionWarmupResult,
    ) -> Result<(), Fault> {
        let forced = pipeline.thread.call(|worker| worker.core()?.force_experts());
        let forced = timely(until(end_ns, forced).await, "experts were not run in time")?;
        for (seen, forced) in row.experts_seen.iter_mut().zip(forced) {
            *seen |= forced;
        }
        match row.experts_seen.iter().position(|it| !it) {
            Some(expert) => Err(format!("expert {expert} was never chosen, even by its own gate")),
            None => Ok(()),
        }
    }
}

fn take_fused(
    row: &mut FusionWarmupResult,
    outputs: &[EmbeddingResult<PipelineOutput>],
) -> Result<(), Fault> {
    for output in outputs {
        let output = output.as_ref().map_err(words)?;
        let fused = output.fused.as_ref().ok_or("nothing was fused")?;
        fused.validate().map_err(|err| words(&err))?;
        if fused.vector.len() != FUSED_LEN || l2_norm(&fused.vector) == 0.0 {
            return Err("the fused vector is nothing".into());
        }
        for expert in &fused.selected_experts {
            row.experts_seen[usize::from(*expert)] = true;
        }
        row.samples_processed += 1;
    }
    Ok(())
}
