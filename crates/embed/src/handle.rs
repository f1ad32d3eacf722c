//! A pipeline for many callers at once: a thread that owns the device, and futures.
//!
//! Requests wait in a bounded queue; a full one refuses. No future blocks the executor that polls
//! it, and none needs a particular executor.

mod device_thread;
mod metrics;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::embedding::MissingModels;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::ModelInput;
use crate::model_id::ModelId;
use crate::pipeline::{PipelineCore, PipelineOutput};
use crate::registry::ModelRegistry;
use crate::warmup::{PipelineWarmup, WarmupConfig, WarmupReport};

pub(crate) use device_thread::DeviceThread;
pub use metrics::PipelineMetrics;

/// What the pipeline calls itself.
pub const PROVIDER_NAME: &str = "fusemoe-12-pipeline";
/// Requests that may wait.
pub const QUEUE_COUNT_MAX: usize = 10_000;
/// Failures in a minute from which on a pipeline is degraded.
const RECENT_FAILURE_COUNT_MAX: usize = 10;

/// Seconds since the Unix epoch: the time of day is the caller's to know.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The pipeline of twelve models for any number of callers.
///
/// Dropping it waits, like [`EmbeddingPipeline::shutdown`], and blocks meanwhile.
pub struct EmbeddingPipeline {
    pub(crate) thread: Arc<DeviceThread>,
    registry: ModelRegistry,
    /// What warming up found; held while it runs, so that it runs once.
    warmed: tokio::sync::Mutex<Option<WarmupReport>>,
}

/// How well a pipeline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Every configured model answers.
    Healthy,
    /// It answers, with models missing, memory almost full, or failures in the last minute.
    Degraded,
    /// Too few models answer for a result.
    Unhealthy,
}

/// What a health check found.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthReport {
    /// The verdict.
    pub state: HealthState,
    /// [`PROVIDER_NAME`].
    pub provider: &'static str,
    /// Models that are to answer.
    pub configured: Vec<ModelId>,
    /// Models that do.
    pub answering: Vec<ModelId>,
    /// What no training made.
    pub untrained: &'static [&'static str],
    /// Device memory in use.
    pub memory_bytes: u64,
    /// Device memory that there is.
    pub memory_bytes_max: u64,
    /// Failures of the last minute that were not the callers' own.
    pub recent_failure_count: usize,
}

impl EmbeddingPipeline {
    /// Gives `core` a thread of its own. `clock` is read once for each batch.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(core: PipelineCore, clock: Clock) -> EmbeddingResult<Self> {
        Self::start_with_queue(core, clock, QUEUE_COUNT_MAX)
    }

    /// As [`EmbeddingPipeline::start`], with room for `queue_count_max` waiting requests.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] for a queue without room, and when the system gives no
    /// thread.
    pub fn start_with_queue(
        core: PipelineCore,
        clock: Clock,
        queue_count_max: usize,
    ) -> EmbeddingResult<Self> {
        if queue_count_max == 0 {
            return Err(EmbeddingError::ConfigError {
                field: "queue_count_max",
                value: "0".into(),
                want: "it must be at least 1",
            });
        }
        let thread = Arc::new(DeviceThread::start(core, clock, queue_count_max)?);
        let registry = ModelRegistry::new(thread.clone());
        Ok(Self { thread, registry, warmed: tokio::sync::Mutex::default() })
    }

    /// Loads and warms everything with the defaults of [`WarmupConfig`]. The second time, and for
    /// callers that come meanwhile, nothing is done anew.
    ///
    /// # Errors
    /// [`EmbeddingError::InitializationFailed`] when the report says that the pipeline is not
    /// ready; [`EmbeddingPipeline::warmup_report`] says why.
    pub async fn initialize(&self) -> EmbeddingResult<()> {
        self.initialize_with(WarmupConfig::default()).await.map(|_| ())
    }

    /// As [`EmbeddingPipeline::initialize`], with other settings; the report of the first time.
    ///
    /// # Errors
    /// As there.
    pub async fn initialize_with(&self, config: WarmupConfig) -> EmbeddingResult<WarmupReport> {
        let mut warmed = self.warmed.lock().await;
        let report = match &*warmed {
            Some(report) => report.clone(),
            None => {
                let report = PipelineWarmup::new(config).warmup(self).await?;
                warmed.insert(report).clone()
            }
        };
        match report.ready_for_inference {
            true => Ok(report),
            false => {
                Err(EmbeddingError::InitializationFailed { failed_count: report.models_failed })
            }
        }
    }

    /// What warming up found; nothing before it ended.
    pub async fn warmup_report(&self) -> Option<WarmupReport> {
        self.warmed.lock().await.clone()
    }

    /// What the pipeline calls itself.
    pub fn provider_name(&self) -> &'static str {
        PROVIDER_NAME
    }

    /// The models, one by one.
    pub fn registry(&self) -> &ModelRegistry {
        &self.registry
    }

    /// Embeds a text.
    ///
    /// # Errors
    /// As [`EmbeddingPipeline::embed_input`].
    pub async fn embed(&self, text: impl Into<String>) -> EmbeddingResult<PipelineOutput> {
        self.embed_input(ModelInput::text(text)?).await
    }

    /// Embeds one input.
    ///
    /// # Errors
    /// What is wrong with the input, and as [`EmbeddingPipeline::embed_batch`].
    pub async fn embed_input(&self, input: ModelInput) -> EmbeddingResult<PipelineOutput> {
        let mut outputs = self.embed_batch(vec![input]).await?;
        let lost = || EmbeddingError::InternalError { place: "batch of one", source: None };
        outputs.pop().unwrap_or_else(|| Err(lost()))
    }

    /// Embeds inputs in one batch: one result for each, in their order. A bad one fails alone.
    ///
    /// A caller that drops the future before its turn costs nothing.
    ///
    /// # Errors
    /// Of the whole batch: [`EmbeddingError::Overloaded`] when the queue is full,
    /// [`EmbeddingError::NotInitialized`] after the shutdown, [`EmbeddingError::InternalError`]
    /// when the batch made the thread panic, and what the device says.
    pub async fn embed_batch(
        &self,
        inputs: Vec<ModelInput>,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>> {
        self.thread.call(move |worker| worker.embed(&inputs)).await
    }

    /// As [`EmbeddingPipeline::embed_batch`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`EmbeddingPipeline::embed_batch`].
    ///
    /// # Panics
    /// Within an executor of `tokio`, which must not be blocked.
    pub fn embed_batch_blocking(
        &self,
        inputs: Vec<ModelInput>,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>> {
        let receiver = self.thread.send(move |worker| worker.embed(&inputs))?;
        let lost = || EmbeddingError::NotInitialized { what: "a pipeline that was shut down" };
        receiver.blocking_recv().unwrap_or_else(|_| Err(lost()))
    }

    /// Embeds a short text and looks at what answers.
    ///
    /// # Errors
    /// When the thread cannot be asked, or the device fails: it is not healthy then.
    pub async fn health_check(&self) -> EmbeddingResult<HealthReport> {
        let check = |worker: &mut device_thread::Worker| {
            let answering = worker.answering()?;
            let recent_failure_count = worker.recent_failure_count();
            let core = worker.core()?;
            let (options, programs) = (core.options(), core.programs());
            let mut report = HealthReport {
                state: HealthState::Healthy,
                provider: PROVIDER_NAME,
                configured: options.models.clone(),
                answering,
                untrained: options.profile.untrained(),
                memory_bytes: programs.memory().total_bytes(),
                memory_bytes_max: programs.signature().memory_bytes,
                recent_failure_count,
            };
            report.state = report.verdict(options.missing);
            Ok(report)
        };
        self.thread.call(check).await
    }

    /// What was done so far. Does not wait for the thread.
    pub fn metrics(&self) -> PipelineMetrics {
        self.thread.view.counts.snapshot()
    }

    /// Tells what a cache in front of the pipeline had: part of [`PipelineMetrics`].
    pub fn count_cached(&self, hit_count: u64, miss_count: u64) {
        let counts = &self.thread.view.counts;
        metrics::add(&counts.cache_hits, hit_count);
        metrics::add(&counts.cache_misses, miss_count);
    }

    /// Device memory in use, as of the last request.
    pub fn memory_bytes(&self) -> u64 {
        self.thread.view.memory_bytes.load(Ordering::Relaxed)
    }

    /// Takes no more requests, finishes those that wait, gives the device's memory back and ends
    /// the thread. The second time nothing happens.
    pub async fn shutdown(&self) {
        self.thread.stop().await;
    }
}

impl Drop for EmbeddingPipeline {
    fn drop(&mut self) {
        self.thread.stop_blocking();
    }
}

impl std::fmt::Debug for EmbeddingPipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddingPipeline").field("registry", &self.registry).finish()
    }
}

impl HealthReport {
    /// Ten of twelve configured models are enough for a degraded result where partial ones are
    /// allowed.
    fn verdict(&self, missing: MissingModels) -> HealthState {
        let silent = |it: &&ModelId| !self.answering.contains(it);
        let silent_count = self.configured.iter().filter(silent).count();
        let enough = match missing {
            MissingModels::Refuse => silent_count == 0,
            MissingModels::AllowPartial => 6 * silent_count <= self.configured.len(),
        };
        // 90 %, without a product that could overflow.
        let is_full = self.memory_bytes_max - self.memory_bytes_max / 10 <= self.memory_bytes;
        let failing = RECENT_FAILURE_COUNT_MAX <= self.recent_failure_count;
        match (enough, silent_count == 0 && !is_full && !failing) {
            (false, _) => HealthState::Unhealthy,
            (true, false) => HealthState::Degraded,
            (true, true) => HealthState::Healthy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(silent: usize, change: impl Fn(&mut HealthReport), want: [HealthState; 2]) {
        let mut report = HealthReport {
            state: HealthState::Healthy,
            provider: PROVIDER_NAME,
            configured: ModelId::ALL.to_vec(),
            answering: ModelId::ALL[silent..].to_vec(),
            untrained: &[],
            memory_bytes: 10,
            memory_bytes_max: 100,
            recent_failure_count: 0,
        };
        change(&mut report);
        let got = [MissingModels::Refuse, MissingModels::AllowPartial].map(|it| report.verdict(it));
        assert_eq!(got, want, "{silent} silent");
    }

    #[test]
    fn a_verdict_follows_models_memory_and_failures() {
        use HealthState::{Degraded, Healthy, Unhealthy};
        check(0, |_| {}, [Healthy, Healthy]);
        check(2, |_| {}, [Unhealthy, Degraded]);
        check(3, |_| {}, [Unhealthy, Unhealthy]);
        check(0, |it| it.memory_bytes = 90, [Degraded, Degraded]);
        check(0, |it| it.recent_failure_count = 10, [Degraded, Degraded]);
    }
}
