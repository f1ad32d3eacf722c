//! One model on its way through warm-up.

use super::report::{Coverage, ModelWarmupResult};
use super::{WarmupConfig, check_vector, seconds, words};
use crate::embedding::ModelEmbedding;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::ModelInput;
use crate::model_id::ModelId;
use crate::pipeline::PrecisionResult;

/// One model's runs so far.
#[derive(Clone, Debug)]
pub(super) struct Row {
    result: ModelWarmupResult,
    sizes_done: Vec<bool>,
    /// What its runs may take together.
    budget_ns: u64,
    spent_ns: u64,
    longest_ns: u64,
    /// The first vector of all.
    first: Option<Vec<f32>>,
    /// Whether another vector was another.
    differs: bool,
}

impl Row {
    pub(super) fn new(model_id: ModelId, config: &WarmupConfig) -> Self {
        let size_count = config.batch_sizes.len();
        let coverage = Coverage {
            done_count: 0,
            wanted_count: size_count * config.samples_per_model,
            size_count: 0,
            size_wanted_count: size_count,
        };
        let result = ModelWarmupResult {
            model_id,
            success: false,
            duration_ms: 0,
            samples_processed: 0,
            first_latency_ms: 0.0,
            final_latency_ms: 0.0,
            jit_compiled: false,
            error: None,
            coverage,
            precision: None,
        };
        let budget_ns = seconds(config.model_timeout_secs);
        Self {
            result,
            sizes_done: vec![false; size_count],
            budget_ns,
            spent_ns: 0,
            longest_ns: 0,
            first: None,
            differs: false,
        }
    }

    pub(super) fn model_id(&self) -> ModelId {
        self.result.model_id
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.result.error.as_deref()
    }

    /// When its next run has to end: the model's own time, within that of all.
    pub(super) fn until_ns(&self, end_ns: u64) -> u64 {
        let left_ns = self.budget_ns.saturating_sub(self.spent_ns);
        calor_telemetry::clock::now_ns().saturating_add(left_ns).min(end_ns)
    }

    /// Whether its longest run would end in time if it came again.
    pub(super) fn has_time(&self, end_ns: u64) -> bool {
        let done_ns = calor_telemetry::clock::now_ns().saturating_add(self.longest_ns);
        done_ns < self.until_ns(end_ns)
    }

    /// How close it is in its precision.
    pub(super) fn in_precision(&mut self, result: PrecisionResult) {
        self.result.precision = Some(result);
    }

    /// The first failure is the one that counts.
    pub(super) fn fail(&mut self, why: &str) {
        self.result.error.get_or_insert_with(|| why.to_owned());
    }

    /// A run that gave sane vectors.
    pub(super) fn done(&mut self, place: usize, count: usize, wall_ns: u64, compiled: bool) {
        let item_ms = wall_ns as f64 / 1e6 / count as f64;
        // Both latencies are of the first size.
        if place == 0 {
            if !self.sizes_done[0] {
                self.result.first_latency_ms = item_ms;
            }
            self.result.final_latency_ms = item_ms;
        }
        self.sizes_done[place] = true;
        self.spent_ns += wall_ns;
        self.longest_ns = self.longest_ns.max(wall_ns);
        self.result.samples_processed += count;
        self.result.jit_compiled |= compiled;
        self.result.coverage.done_count += 1;
    }

    /// What is wrong with the vectors of a run, if anything is.
    pub(super) fn check(
        &mut self,
        inputs: &[ModelInput],
        outputs: &[EmbeddingResult<ModelEmbedding>],
    ) -> Result<(), super::Fault> {
        let model_id = self.model_id();
        if outputs.len() != inputs.len() {
            return Err(format!("{} vectors for {} inputs", outputs.len(), inputs.len()));
        }
        for output in outputs {
            let output = output.as_ref().map_err(words)?;
            check_vector(model_id, output).map_err(|err| words(&err))?;
            match &self.first {
                None => self.first = Some(output.vector.clone()),
                Some(first) => self.differs |= *first != output.vector,
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> ModelWarmupResult {
        // Inputs are different. Two may be alike to a model, such as ages beyond a year to E2 and
        // words that a vocabulary does not know; all of them are not.
        let model_id = self.model_id();
        let one_for_all = !self.differs && 1 < self.result.samples_processed;
        if one_for_all && model_id != ModelId::TemporalRecent {
            let check = "it is the same for every input";
            self.fail(&words(&EmbeddingError::WarmupValidationFailed { model_id, check }));
        }
        let sizes = self.sizes_done.iter().filter(|it| **it).count();
        self.result.coverage.size_count = sizes;
        if sizes < self.sizes_done.len() {
            self.fail("not every batch size was run in time");
        }
        self.result.success = self.result.error.is_none();
        self.result.duration_ms = self.spent_ns / 1_000_000;
        self.result
    }
}
