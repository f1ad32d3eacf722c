//! Warm-up: everything that would be slow the first time is done, proven done, and reported.
//!
//! The road itself is warmed and no copy of it: the pipeline builds, runs and checks every program
//! and gives up the right to build. Then each model is run through the entry that requests use, one
//! after another, with inputs that nobody wrote, and its vectors are looked at.

mod config;
mod fusing;
mod policy;
mod report;
mod row;
mod synthetic;
mod timer;

use std::sync::Arc;

use calor_device::{DeviceError, Memory};
use calor_runtime::GpuMemoryPool;
use calor_telemetry::clock::{Stopwatch, now_ns};
use calor_telemetry::counter::Plain;

pub use config::WarmupConfig;
pub use policy::ReadyPolicy;
pub use report::{
    Coverage, FusionWarmupResult, ModelWarmupResult, WarmupPhase, WarmupReport, WarmupState,
};
pub use synthetic::SyntheticDataGenerator;
pub use timer::block_on;

use crate::embedding::ModelEmbedding;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::handle::EmbeddingPipeline;
use crate::input::ModelInput;
use crate::model::EmbeddingModel;
use crate::model_id::{MODEL_COUNT, ModelId};
use crate::pipeline::{LostModels, ReadyReport};
use row::Row;
use timer::{Waited, until};

/// How far from 1 the length of a vector may be that is promised to be 1.
const UNIT_TOLERANCE: f64 = 1e-3;
/// Fresh requests that the first latency is judged by.
const FRESH_COUNT: usize = 20;

/// What is told while warm-up runs.
pub type Listener = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

/// Where warm-up is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress<'a> {
    /// A step ended.
    Phase(&'a WarmupPhase),
    /// A model has run once with every batch size, or failed.
    Model(&'a ModelWarmupResult),
}

/// Pipeline warm-up manager.
pub struct PipelineWarmup {
    config: WarmupConfig,
    synthetic_generator: SyntheticDataGenerator,
    listener: Option<Listener>,
}

impl PipelineWarmup {
    /// A manager with these settings.
    pub fn new(config: WarmupConfig) -> Self {
        let synthetic_generator = SyntheticDataGenerator::new(config.seed);
        Self { config, synthetic_generator, listener: None }
    }

    /// Somebody who is told what happens, where the settings want that.
    #[must_use]
    pub fn with_listener(self, listener: Listener) -> Self {
        Self { listener: Some(listener), ..self }
    }

    /// The whole sequence: load, build, run and check every program; run every model with every
    /// batch size; force the fusion; time fresh requests. Whatever fails is in the report.
    ///
    /// # Errors
    /// For settings that warm nothing; what happens to models is no error but a row.
    pub async fn warmup(&self, pipeline: &EmbeddingPipeline) -> EmbeddingResult<WarmupReport> {
        self.config.check()?;
        let watch = Stopwatch::start();
        let end_ns = watch.start_ns().saturating_add(seconds(self.config.total_timeout_secs));
        let counters = pipeline.thread.counters.clone();
        let compiled = || counters.snapshot().get(Plain::Compiles);
        let before = compiled();
        let mut phases = Vec::new();
        let configured = pipeline.thread.models.clone();
        let mut rows: Vec<Row> = configured.iter().map(|it| Row::new(*it, &self.config)).collect();
        let load = Stopwatch::start();
        for row in &mut rows {
            self.load(pipeline, row, end_ns).await;
        }
        let fault = rows.iter().find_map(Row::error).map(str::to_owned);
        self.end_phase(&mut phases, "load", load, fault);
        let memory = Stopwatch::start();
        let primed = self.prime(pipeline, end_ns).await;
        let fault = primed.as_ref().err().cloned();
        self.end_phase(&mut phases, "memory", memory, fault);
        let parity = Stopwatch::start();
        let fault = self.parity(pipeline, &mut rows, end_ns).await.err();
        let is_refused = fault.is_some();
        self.end_phase(&mut phases, "precision", parity, fault.clone());
        let road = Stopwatch::start();
        let built = match fault.filter(|_| is_refused) {
            Some(fault) => Err(fault),
            None => self.road(pipeline, &mut rows, end_ns).await,
        };
        let fault = built.as_ref().err().cloned();
        self.end_phase(&mut phases, "build, run and check every program", road, fault);
        let report = match built {
            Ok(report) => report,
            Err(err) => {
                rows.iter_mut().for_each(|row| row.fail(&err));
                ReadyReport::default()
            }
        };
        let sealed = compiled();
        let models = Stopwatch::start();
        self.run_rows(pipeline, &mut rows, end_ns).await;
        self.end_phase(&mut phases, "models", models, None);
        let fusion = self.fusion(pipeline, &rows, end_ns, &mut phases).await;
        let fresh = Stopwatch::start();
        let (p95_ms, fault) = self.fresh(pipeline, &rows, end_ns).await;
        self.end_phase(&mut phases, "fresh requests", fresh, fault);
        let late = compiled();
        let results: Vec<ModelWarmupResult> = rows.into_iter().map(Row::finish).collect();
        let failed = results.iter().filter(|it| !it.success).count();
        let fusemoe_warmed = fusion.as_ref().is_some_and(|it| it.success);
        let state = self.verdict(&results, fusion.as_ref())?;
        Ok(WarmupReport {
            total_duration_ms: watch.elapsed_ns() / 1_000_000,
            models_warmed: results.len() - failed,
            models_failed: failed,
            fusemoe_warmed,
            peak_memory_gb: self.get_peak_memory_gb(pipeline),
            primed_bytes: primed.unwrap_or(0),
            model_results: results,
            ready_for_inference: state != WarmupState::Failed,
            state,
            fusion,
            phases,
            compiled_count: late - before,
            compiled_late_count: if report.program_count == 0 { 0 } else { late - sealed },
            program_count: report.program_count,
            post_warmup_p95_ms: p95_ms,
        })
    }

    /// Warms one model alone: every batch size, as often as the settings say and time allows.
    ///
    /// # Errors
    /// For settings that warm nothing; what happens to the model is in its row.
    pub async fn warmup_model(
        &self,
        model: &dyn EmbeddingModel,
    ) -> EmbeddingResult<ModelWarmupResult> {
        self.config.check()?;
        let mut row = Row::new(model.model_id(), &self.config);
        let end_ns = now_ns().saturating_add(seconds(self.config.total_timeout_secs));
        for sample in 0..self.config.samples_per_model {
            self.run_row(model, &mut row, sample, end_ns, None).await;
        }
        Ok(row.finish())
    }

    /// Warms the fusion through the whole pipeline: every batch size, and more texts until every
    /// expert was mixed into some vector.
    ///
    /// # Errors
    /// For settings that warm nothing; what happens to the fusion is in its row.
    pub async fn warmup_fusemoe(
        &self,
        pipeline: &EmbeddingPipeline,
    ) -> EmbeddingResult<FusionWarmupResult> {
        self.config.check()?;
        let end_ns = now_ns().saturating_add(seconds(self.config.total_timeout_secs));
        Ok(self.fuse(pipeline, end_ns).await)
    }

    /// Synthetic inputs for a model, different for each step.
    ///
    /// # Errors
    /// As [`SyntheticDataGenerator::generate_inputs`].
    pub fn generate_synthetic_input(
        &self,
        model_id: ModelId,
        batch_size: usize,
        step: usize,
    ) -> EmbeddingResult<Vec<ModelInput>> {
        self.synthetic_generator.at(model_id, step).generate_inputs(model_id, batch_size)
    }

    /// Whether a vector is sane: of its slot's length, finite, of length 1, and not one number over
    /// and over.
    pub fn validate_output(&self, model_id: ModelId, output: &ModelEmbedding) -> bool {
        check_vector(model_id, output).is_ok()
    }

    /// Holds as many buffers of every size as a pool keeps, writes each of them, and gives them
    /// back: what is asked for later is there, and its pages are. [`PipelineWarmup::warmup`] does
    /// so with the build's own pool, as far as there is room.
    ///
    /// # Errors
    /// When not all have room, and what the device says; everything is given back then, too.
    pub fn prime_memory(
        &self,
        pool: &mut GpuMemoryPool,
        memory: &mut dyn Memory,
    ) -> Result<(), DeviceError> {
        let kept_bytes = pool.prime_within(memory, u64::MAX)?;
        match GpuMemoryPool::KEPT_BYTES_MAX.checked_sub(kept_bytes) {
            None | Some(0) => Ok(()),
            Some(want_bytes) => {
                Err(DeviceError::OutOfMemory { want_bytes, left_bytes: pool.available_bytes() })
            }
        }
    }

    /// Builds, runs and checks every program, measuring choices where the device has some: the
    /// shapes and types of the models themselves, not squares. Nothing is left to do afterwards.
    ///
    /// # Errors
    /// As [`crate::PipelineCore::warm`]; the pipeline is gone then.
    pub async fn trigger_autotuning(
        &self,
        pipeline: &EmbeddingPipeline,
    ) -> EmbeddingResult<ReadyReport> {
        pipeline.thread.call(|worker| worker.warm()).await
    }

    /// Most device memory held, in 10⁹ bytes, as counted where it is made and given back.
    fn get_peak_memory_gb(&self, pipeline: &EmbeddingPipeline) -> f64 {
        let counted = pipeline.thread.counters.snapshot().get(Plain::PeakDeviceBytes);
        counted.max(pipeline.memory_bytes()) as f64 / 1e9
    }

    /// Primes the pool that the build's memory comes from: bytes that wait; why not, in words.
    async fn prime(&self, pipeline: &EmbeddingPipeline, end_ns: u64) -> Result<u64, Fault> {
        let prime = pipeline.thread.call(|worker| worker.core()?.prime_memory());
        timely(until(end_ns, prime).await, "memory was not primed in time")
    }

    async fn load(&self, pipeline: &EmbeddingPipeline, row: &mut Row, end_ns: u64) {
        let loading = pipeline.registry().get_model(row.model_id());
        match until(end_ns, loading).await {
            Waited::Done(Ok(_)) => {}
            Waited::Done(Err(err)) => row.fail(&words(&err)),
            Waited::TimedOut => row.fail("not loaded in time"),
            Waited::Panicked(text) => row.fail(&text),
        }
    }

    /// Every model in its precision beside itself in f32; why not, in words.
    async fn parity(
        &self,
        pipeline: &EmbeddingPipeline,
        rows: &mut [Row],
        end_ns: u64,
    ) -> Result<(), Fault> {
        let (rule, cosine_min) = (self.config.precision_rule, self.config.precision_cosine_min);
        let check = pipeline.thread.call(move |worker| match worker.core()? {
            core if core.programs().is_sealed() => Ok(Vec::new()),
            core => core.check_precision(rule, cosine_min),
        });
        let results = timely(until(end_ns, check).await, "precisions were not compared in time")?;
        for result in results {
            let row = rows.iter_mut().find(|it| it.model_id() == result.model_id);
            row.into_iter().for_each(|it| it.in_precision(result));
        }
        Ok(())
    }

    /// All programs; why not, in words. Models that fail are rows, and the others go on.
    async fn road(
        &self,
        pipeline: &EmbeddingPipeline,
        rows: &mut [Row],
        end_ns: u64,
    ) -> Result<ReadyReport, Fault> {
        let warm = pipeline.thread.call(|worker| worker.warm_each());
        let (report, lost) = timely(until(end_ns, warm).await, "not built in time")?;
        for LostModels { model_ids, source } in lost {
            let fault = words(&source);
            let own = rows.iter_mut().filter(|it| model_ids.contains(&it.model_id()));
            own.for_each(|it| it.fail(&fault));
        }
        Ok(report)
    }

    /// Every model with every batch size once, then again and again while there is time.
    async fn run_rows(&self, pipeline: &EmbeddingPipeline, rows: &mut [Row], end_ns: u64) {
        let loaded = pipeline.registry().loaded_models();
        let counters = &pipeline.thread.counters;
        for sample in 0..self.config.samples_per_model {
            for row in rows.iter_mut().filter(|it| it.error().is_none()) {
                match loaded.iter().find(|it| it.model_id() == row.model_id()) {
                    None => row.fail("not loaded"),
                    Some(model) => {
                        let model = model.as_ref();
                        self.run_row(model, row, sample, end_ns, Some(counters)).await;
                    }
                }
                if sample == 0 {
                    self.tell(&Progress::Model(&row.clone().finish()));
                }
            }
        }
    }

    /// One sample of every batch size.
    async fn run_row(
        &self,
        model: &dyn EmbeddingModel,
        row: &mut Row,
        sample: usize,
        end_ns: u64,
        counters: Option<&calor_telemetry::Counters>,
    ) {
        for (place, batch_size) in self.config.batch_sizes.iter().enumerate() {
            // The first round covers everything; the others are for what time is left, and leave
            // some to the fusion.
            let spare_ns = end_ns.saturating_sub(seconds(self.config.total_timeout_secs) / 4);
            if row.error().is_some() || (0 < sample && !row.has_time(spare_ns)) {
                return;
            }
            let step = sample * self.config.batch_sizes.len() + place;
            let (model_id, kinds) = (row.model_id(), model.supported_input_types());
            let own = self.synthetic_generator.at(model_id, step);
            let inputs = match own.inputs_of(model_id, kinds, *batch_size) {
                Ok(it) => it,
                Err(err) => return row.fail(&words(&err)),
            };
            let compiled = || counters.map_or(0, |it| it.snapshot().get(Plain::Compiles));
            let (before, watch) = (compiled(), Stopwatch::start());
            let waited = until(row.until_ns(end_ns), model.embed_batch(&inputs)).await;
            let wall_ns = watch.elapsed_ns();
            match waited {
                Waited::Done(Ok(outputs)) => match row.check(&inputs, &outputs) {
                    Ok(()) => row.done(place, *batch_size, wall_ns, before < compiled()),
                    Err(fault) => row.fail(&fault),
                },
                Waited::Done(Err(err)) => row.fail(&words(&err)),
                Waited::TimedOut => row.fail("not finished in time"),
                Waited::Panicked(text) => row.fail(&text),
            }
        }
    }

    /// The fusion's row, where all models are there to be fused.
    async fn fusion(
        &self,
        pipeline: &EmbeddingPipeline,
        rows: &[Row],
        end_ns: u64,
        phases: &mut Vec<WarmupPhase>,
    ) -> Option<FusionWarmupResult> {
        if rows.len() < MODEL_COUNT || rows.iter().any(|it| it.error().is_some()) {
            return None;
        }
        let watch = Stopwatch::start();
        let row = self.fuse(pipeline, end_ns).await;
        self.end_phase(phases, "fusion", watch, row.error.clone());
        Some(row)
    }

    /// Fresh single requests through the public entry.
    async fn fresh(
        &self,
        pipeline: &EmbeddingPipeline,
        rows: &[Row],
        end_ns: u64,
    ) -> (f64, Option<Fault>) {
        if rows.iter().all(|it| it.error().is_some()) {
            return (0.0, None);
        }
        let mut walls_ns = Vec::with_capacity(FRESH_COUNT);
        for step in 0..FRESH_COUNT {
            let text = self.synthetic_generator.at(ModelId::Hdc, 2_000 + step);
            let text = text.generate_text(16, 32);
            let watch = Stopwatch::start();
            match until(end_ns, pipeline.embed(text)).await {
                Waited::Done(Ok(_)) => walls_ns.push(watch.elapsed_ns()),
                Waited::Done(Err(err)) => return (0.0, Some(words(&err))),
                Waited::TimedOut => break,
                Waited::Panicked(text) => return (0.0, Some(text)),
            }
        }
        walls_ns.sort_unstable();
        let rank = (walls_ns.len() * 95).div_ceil(100).max(1) - 1;
        (walls_ns.get(rank).map_or(0.0, |it| *it as f64 / 1e6), None)
    }

    fn verdict(
        &self,
        results: &[ModelWarmupResult],
        fusion: Option<&FusionWarmupResult>,
    ) -> EmbeddingResult<WarmupState> {
        if fusion.is_some_and(|it| !it.success) {
            return Ok(WarmupState::Failed);
        }
        let configured: Vec<ModelId> = results.iter().map(|it| it.model_id).collect();
        let good: Vec<ModelId> =
            results.iter().filter(|it| it.success).map(|it| it.model_id).collect();
        Ok(match self.config.policy()?.holds(&configured, &good) {
            _ if good.len() == configured.len() => WarmupState::Ready,
            true => WarmupState::Degraded,
            false => WarmupState::Failed,
        })
    }

    fn end_phase(
        &self,
        phases: &mut Vec<WarmupPhase>,
        name: &'static str,
        watch: Stopwatch,
        error: Option<Fault>,
    ) {
        let phase = WarmupPhase { name, duration_ms: watch.elapsed_ns() / 1_000_000, error };
        self.tell(&Progress::Phase(&phase));
        phases.push(phase);
    }

    fn tell(&self, progress: &Progress<'_>) {
        if let Some(listener) = self.listener.as_ref().filter(|_| self.config.verbose) {
            listener(progress);
        }
    }
}

/// Why something failed, for a report.
type Fault = String;

/// What came in time, or why nothing did.
fn timely<T>(waited: Waited<EmbeddingResult<T>>, late: &str) -> Result<T, Fault> {
    match waited {
        Waited::Done(done) => done.map_err(|err| words(&err)),
        Waited::TimedOut => Err(late.to_owned()),
        Waited::Panicked(text) => Err(text),
    }
}

/// What is wrong with a model's vector.
fn check_vector(model_id: ModelId, output: &ModelEmbedding) -> EmbeddingResult<()> {
    let failed = |check| Err(EmbeddingError::WarmupValidationFailed { model_id, check });
    if output.model_id != model_id {
        return failed("it is another model's");
    }
    if output.vector.len() != model_id.slot_dimension() {
        return failed("its length is not the slot's");
    }
    if !output.vector.iter().all(|it| it.is_finite()) {
        return failed("it is not finite");
    }
    if UNIT_TOLERANCE < (output.l2_norm() - 1.0).abs() {
        return failed("its norm is not 1");
    }
    if output.vector.windows(2).all(|it| it[0] == it[1]) {
        return failed("it is one number over and over");
    }
    Ok(())
}

/// An error with what caused it.
pub(crate) fn words(err: &EmbeddingError) -> Fault {
    let mut text = err.to_string();
    let mut cause = std::error::Error::source(err);
    while let Some(it) = cause {
        text = format!("{text}: {it}");
        cause = it.source();
    }
    text
}

fn seconds(count: u64) -> u64 {
    count.saturating_mul(1_000_000_000)
}

impl std::fmt::Debug for PipelineWarmup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineWarmup").field("config", &self.config).finish_non_exhaustive()
    }
}
