//! What a pipeline counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::device_thread::Outputs;
use crate::embedding::ModelEmbedding;
use crate::error::EmbeddingResult;
use crate::model_id::{MODEL_COUNT, ModelId};

/// A moment of a pipeline's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PipelineMetrics {
    /// Inputs that became an embedding.
    pub embeddings_generated: u64,
    /// Inputs that a cache in front answered.
    pub cache_hits: u64,
    /// Inputs that a cache in front did not have.
    pub cache_misses: u64,
    /// Mean time of a batch on the device thread, in microseconds.
    pub avg_latency_us: f64,
    /// Inputs and requests that failed.
    pub errors: u64,
    /// Mean time of an input in each model, in microseconds and slot order.
    pub model_latencies_us: [f64; MODEL_COUNT],
    /// Batches that ran.
    pub batches_processed: u64,
    /// Inputs of these batches.
    pub batch_items_processed: u64,
}

/// The counts themselves. Written by the device thread, read by anyone without waiting.
#[derive(Debug, Default)]
pub(super) struct Counts {
    generated: AtomicU64,
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_misses: AtomicU64,
    errors: AtomicU64,
    batches: Mean,
    items: AtomicU64,
    models: [Mean; MODEL_COUNT],
}

#[derive(Debug, Default)]
struct Mean {
    count: AtomicU64,
    sum: AtomicU64,
}

impl Mean {
    fn add(&self, value: u64) {
        add(&self.count, 1);
        add(&self.sum, value);
    }

    fn get(&self) -> f64 {
        let (sum, count) = (get(&self.sum), get(&self.count));
        if count == 0 { 0.0 } else { sum as f64 / count as f64 }
    }
}

pub(super) fn add(cell: &AtomicU64, amount: u64) {
    cell.fetch_add(amount, Ordering::Relaxed);
}

fn get(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

impl Counts {
    pub(super) fn failed(&self) {
        add(&self.errors, 1);
    }

    /// A batch of the whole pipeline.
    pub(super) fn batch(&self, outputs: &Outputs, latency_us: u64) {
        self.batches.add(latency_us);
        add(&self.items, outputs.len() as u64);
        for output in outputs.iter().flatten() {
            add(&self.generated, 1);
            for model_id in ModelId::iter() {
                if let Some(it) = output.embeddings.get(model_id) {
                    self.models[model_id.index()].add(it.latency_us);
                }
            }
        }
    }

    /// A batch of one model.
    pub(super) fn model(&self, results: &[EmbeddingResult<ModelEmbedding>]) {
        for it in results.iter().flatten() {
            self.models[it.model_id.index()].add(it.latency_us);
        }
    }

    pub(super) fn snapshot(&self) -> PipelineMetrics {
        PipelineMetrics {
            embeddings_generated: get(&self.generated),
            cache_hits: get(&self.cache_hits),
            cache_misses: get(&self.cache_misses),
            avg_latency_us: self.batches.get(),
            errors: get(&self.errors),
            model_latencies_us: std::array::from_fn(|it| self.models[it].get()),
            batches_processed: get(&self.batches.count),
            batch_items_processed: get(&self.items),
        }
    }
}
