//! The thread that owns a pipeline's device, and how work gets there and back.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use calor_telemetry::clock::now_ns;
use calor_telemetry::{Counters, Stopwatch};
use tokio::sync::oneshot;

use super::Clock;
use super::metrics::Counts;
use crate::embedding::ModelEmbedding;
use crate::error::{EmbeddingError, EmbeddingResult, Fault};
use crate::input::ModelInput;
use crate::model_id::{MODEL_COUNT, ModelId};
use crate::pipeline::{LostModels, PipelineCore, PipelineOutput, ReadyReport};
use crate::profile::Profile;

/// Failures older than this say nothing about health.
const RECENT_NS: u64 = 60_000_000_000;
/// Failures that are remembered.
const RECENT_COUNT_MAX: usize = 1024;

/// One result for each input.
pub(super) type Outputs = Vec<EmbeddingResult<PipelineOutput>>;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// What lives on the thread.
pub(crate) struct Worker {
    /// Gone after a warm-up that failed half way.
    core: Option<PipelineCore>,
    clock: Clock,
    view: Arc<View>,
    failures: VecDeque<u64>,
}

/// What can be seen of the pipeline without asking the thread.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(super) counts: Counts,
    /// Bit `n` is set when model `n` is loaded.
    loaded: AtomicU64,
    pub(crate) memory_bytes: AtomicU64,
    pub(crate) model_bytes: [AtomicU64; MODEL_COUNT],
}

/// The way to the thread; shared by everything that has work for it.
pub(crate) struct DeviceThread {
    /// Gone once no more work is taken.
    sender: RwLock<Option<SyncSender<Job>>>,
    queue_count_max: usize,
    running: Mutex<Option<Running>>,
    pub(crate) view: Arc<View>,
    pub(crate) models: Vec<ModelId>,
    pub(crate) profile: Profile,
    pub(crate) counters: Arc<Counters>,
}

struct Running {
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl DeviceThread {
    pub(super) fn start(
        core: PipelineCore,
        clock: Clock,
        queue_count_max: usize,
    ) -> EmbeddingResult<Self> {
        let (sender, receiver) = sync_channel(queue_count_max);
        let (end, ended) = oneshot::channel();
        let view = Arc::new(View::default());
        let (models, profile) = (core.options().models.clone(), core.options().profile);
        let counters = core.programs().counters().clone();
        let mut worker =
            Worker { core: Some(core), clock, view: view.clone(), failures: VecDeque::new() };
        worker.publish();
        let body = move || {
            worker.serve(&receiver);
            // The caller may have gone; nobody else wants to know.
            let _ = end.send(());
        };
        let builder = std::thread::Builder::new().name("calor-device".into());
        let thread = builder.spawn(body).map_err(|source| EmbeddingError::InternalError {
            place: "start of the device thread",
            source: Some(Box::new(source)),
        })?;
        Ok(Self {
            sender: RwLock::new(Some(sender)),
            queue_count_max,
            running: Mutex::new(Some(Running { ended, thread })),
            view,
            models,
            profile,
            counters,
        })
    }

    /// Puts work into the queue. The answer comes back through the receiver; work whose receiver
    /// is gone when its turn comes is skipped.
    pub(crate) fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> EmbeddingResult<T> + Send + 'static,
    ) -> EmbeddingResult<oneshot::Receiver<EmbeddingResult<T>>> {
        let (reply, receiver) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            if reply.is_closed() {
                return;
            }
            let result = catch_unwind(AssertUnwindSafe(|| work(worker)))
                .unwrap_or_else(|payload| Err(panicked(payload.as_ref())));
            worker.publish();
            if let Err(err) = &result {
                worker.failed(err);
            }
            // A caller that went away meanwhile does not want the answer.
            let _ = reply.send(result);
        });
        let sender = self.sender.read().unwrap_or_else(PoisonError::into_inner);
        match sender.as_ref().ok_or_else(stopped)?.try_send(job) {
            Ok(()) => Ok(receiver),
            Err(TrySendError::Full(_)) => {
                self.view.counts.failed();
                let queue_max = self.queue_count_max;
                Err(EmbeddingError::Overloaded { queued_count: queue_max, queue_max })
            }
            Err(TrySendError::Disconnected(_)) => Err(stopped()),
        }
    }

    /// Sends work and waits for its answer.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> EmbeddingResult<T> + Send + 'static,
    ) -> EmbeddingResult<T> {
        self.send(work)?.await.unwrap_or_else(|_| Err(stopped()))
    }

    pub(crate) fn is_loaded(&self, model_id: ModelId) -> bool {
        self.view.loaded.load(Ordering::Acquire) & 1 << model_id.index() != 0
    }

    /// Takes no more work; waits until all that was taken is done.
    pub(super) async fn stop(&self) {
        if let Some(Running { ended, thread }) = self.close() {
            // Without an answer the thread has ended, too.
            let _ = ended.await;
            let _ = thread.join();
        }
    }

    /// As [`DeviceThread::stop`], blocking the caller's thread.
    pub(super) fn stop_blocking(&self) {
        if let Some(Running { thread, .. }) = self.close() {
            let _ = thread.join();
        }
    }

    fn close(&self) -> Option<Running> {
        self.sender.write().unwrap_or_else(PoisonError::into_inner).take();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Worker {
    fn serve(&mut self, receiver: &Receiver<Job>) {
        for job in receiver {
            job(self);
        }
        // The device goes with the thread; what it says to the last is of no effect.
        let _ = self.core.as_mut().map(PipelineCore::unload_all);
        self.publish();
    }

    /// The pipeline, unless it is gone.
    pub(crate) fn core(&mut self) -> EmbeddingResult<&mut PipelineCore> {
        let gone = EmbeddingError::NotInitialized { what: "a pipeline whose warm-up failed" };
        self.core.as_mut().ok_or(gone)
    }

    /// Builds, runs and checks every program, and gives up the right to build; nothing where that
    /// was done. The pipeline is gone where it fails.
    pub(crate) fn warm(&mut self) -> EmbeddingResult<ReadyReport> {
        if self.core()?.programs().is_sealed() {
            return Ok(ReadyReport::default());
        }
        let (core, report) = self.take()?.warm()?;
        self.core = Some(core);
        Ok(report)
    }

    /// As [`Worker::warm`]; models that fail are gone, and the others stay.
    pub(crate) fn warm_each(&mut self) -> EmbeddingResult<(ReadyReport, Vec<LostModels>)> {
        if self.core()?.programs().is_sealed() {
            return Ok((ReadyReport::default(), Vec::new()));
        }
        let (core, report, lost) = self.take()?.warm_each()?;
        self.core = Some(core);
        Ok((report, lost))
    }

    fn take(&mut self) -> EmbeddingResult<PipelineCore> {
        let gone = EmbeddingError::NotInitialized { what: "a pipeline whose warm-up failed" };
        self.core.take().ok_or(gone)
    }

    /// Embeds with the whole pipeline.
    pub(super) fn embed(&mut self, inputs: &[ModelInput]) -> EmbeddingResult<Outputs> {
        let watch = Stopwatch::start();
        let now_s = (self.clock)();
        let outputs = self.core()?.embed_batch(inputs, now_s)?;
        self.view.counts.batch(&outputs, watch.elapsed_ns() / 1000);
        outputs.iter().filter_map(|it| it.as_ref().err()).for_each(|it| self.failed(it));
        Ok(outputs)
    }

    /// Embeds with one model.
    pub(crate) fn embed_model(
        &mut self,
        model_id: ModelId,
        inputs: &[ModelInput],
    ) -> EmbeddingResult<Vec<EmbeddingResult<ModelEmbedding>>> {
        let now_s = (self.clock)();
        let results = self.core()?.embed_model(model_id, inputs, now_s)?;
        self.view.counts.model(&results);
        results.iter().filter_map(|it| it.as_ref().err()).for_each(|it| self.failed(it));
        Ok(results)
    }

    /// Models that give a vector for a short text, now.
    pub(super) fn answering(&mut self) -> EmbeddingResult<Vec<ModelId>> {
        let probe = ModelInput::text("health check")?;
        let now_s = (self.clock)();
        let outputs = self.core()?.embed_batch(&[probe], now_s)?;
        let has =
            |id: &ModelId| outputs.iter().flatten().any(|it| it.embeddings.get(*id).is_some());
        Ok(ModelId::iter().filter(has).collect())
    }

    /// Failures of the last minute that were not the callers' own.
    pub(super) fn recent_failure_count(&mut self) -> usize {
        let since_ns = now_ns().saturating_sub(RECENT_NS);
        self.failures.retain(|at_ns| since_ns <= *at_ns);
        self.failures.len()
    }

    fn failed(&mut self, err: &EmbeddingError) {
        self.view.counts.failed();
        if matches!(err.fault(), Fault::Environment | Fault::Internal) {
            if self.failures.len() == RECENT_COUNT_MAX {
                self.failures.pop_front();
            }
            self.failures.push_back(now_ns());
        }
    }

    fn publish(&self) {
        let view = &self.view;
        let core = self.core.as_ref();
        let memory_bytes = core.map_or(0, |it| it.programs().memory().total_bytes());
        view.memory_bytes.store(memory_bytes, Ordering::Relaxed);
        for (model_id, bytes) in ModelId::iter().zip(&view.model_bytes) {
            bytes.store(core.map_or(0, |it| it.model_bytes(model_id)), Ordering::Relaxed);
        }
        let loaded = core.into_iter().flat_map(PipelineCore::loaded);
        let bits = loaded.fold(0, |bits, it| bits | 1 << it.index());
        view.loaded.store(bits, Ordering::Release);
    }
}

/// The thread has ended or takes no more work.
fn stopped() -> EmbeddingError {
    EmbeddingError::NotInitialized { what: "a pipeline that was shut down" }
}

fn panicked(payload: &(dyn Any + Send)) -> EmbeddingError {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let source = text.unwrap_or("a panic without a message").into();
    EmbeddingError::InternalError { place: "a request that panicked", source: Some(source) }
}
