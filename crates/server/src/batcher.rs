//! The queue between requests and models, and the thread that empties it.
//!
//! The thread owns the models. It is no task of an executor: what runs on a device blocks it.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use calor_embed::batching::{
    BatchAccumulator, BatchConfig, BatchResult, ItemTerms, QueueStats, run_split,
};
use calor_embed::handle::Clock;
use calor_embed::input::ModelInput;
use calor_embed::{EmbeddingError, EmbeddingResult, PipelineOutput};
use calor_telemetry::clock::now_ns;
use tokio::sync::oneshot;

use crate::admission::Admission;
use crate::engine::{Engine, Wanted};
use crate::metrics::{Metrics, add};

/// An input on its way to the models.
pub(crate) struct Job {
    pub(crate) input: ModelInput,
    pub(crate) wanted: Wanted,
    /// What it costs.
    pub(crate) token_count: usize,
    /// When it was queued.
    pub(crate) since_ns: u64,
}

/// What became of an input.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) output: Arc<PipelineOutput>,
    /// From the queue to the start of its batch.
    pub(crate) queue_ns: u64,
    /// Of its batch.
    pub(crate) inference_ns: u64,
    /// Items of its batch.
    pub(crate) batch_count: usize,
}

/// Where an answer arrives.
pub(crate) type Reply = oneshot::Receiver<BatchResult<Answer>>;

/// What else the thread does, between batches.
enum Task {
    /// Other models from here on; the old ones are dropped, and the caller is told.
    Swap(Box<dyn Engine>, oneshot::Sender<()>),
    /// A run of its own, so that a device that slept is awake.
    Warm(oneshot::Sender<()>),
}

struct State {
    queue: BatchAccumulator<Job, Answer>,
    tasks: VecDeque<Task>,
    /// No more work comes; what waits is finished.
    is_closing: bool,
    has_engine: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Set by a failure after which the models cannot be trusted.
    broken: AtomicBool,
    on_broken: Box<dyn Fn() + Send + Sync>,
    metrics: Arc<Metrics>,
    admission: Arc<Admission>,
    clock: Clock,
    idle: Option<Duration>,
}

/// The way to the thread.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread shares with the rest of the server.
pub(crate) struct Surroundings {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admission: Arc<Admission>,
    /// Seconds since 1970.
    pub(crate) clock: Clock,
    /// After this long without work the models are run once, to keep a device awake.
    pub(crate) idle: Option<Duration>,
    /// Called on the thread after a failure that models do not survive; they are gone then.
    pub(crate) on_broken: Box<dyn Fn() + Send + Sync>,
}

impl Batcher {
    /// Starts the thread. Until the first swap there are no models, and items wait.
    pub(crate) fn start(
        config: BatchConfig,
        surroundings: Surroundings,
    ) -> EmbeddingResult<Arc<Self>> {
        let queue = BatchAccumulator::new(config)?;
        let state = State { queue, tasks: VecDeque::new(), is_closing: false, has_engine: false };
        let Surroundings { metrics, admission, clock, idle, on_broken } = surroundings;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            broken: AtomicBool::new(false),
            on_broken,
            metrics,
            admission,
            clock,
            idle,
        });
        let own = shared.clone();
        let builder = std::thread::Builder::new().name("calor-batches".into());
        let thread =
            builder.spawn(move || serve(&own)).map_err(|source| EmbeddingError::InternalError {
                place: "start of the batching thread",
                source: Some(Box::new(source)),
            })?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Queues jobs together, so that they can run together. Each is answered.
    pub(crate) fn submit(&self, jobs: Vec<(Job, ItemTerms)>) -> Vec<Reply> {
        let mut state = self.shared.lock();
        let replies = jobs.into_iter().map(|(job, terms)| {
            let (sender, reply) = oneshot::channel();
            match state.is_closing {
                true => drop(sender.send(Err(closed()))),
                false => drop(state.queue.add_with(job, sender, terms)),
            }
            reply
        });
        let replies = replies.collect();
        drop(state);
        self.shared.changed.notify_one();
        replies
    }

    /// Gives the thread other models. The receiver hears when they serve.
    pub(crate) fn swap(&self, engine: Box<dyn Engine>) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.shared.lock().tasks.push_back(Task::Swap(engine, sender));
        self.shared.changed.notify_one();
        receiver
    }

    /// Has the models run once, in their turn.
    pub(crate) async fn keep_warm(&self) {
        let (sender, receiver) = oneshot::channel();
        self.shared.lock().tasks.push_back(Task::Warm(sender));
        self.shared.changed.notify_one();
        // A thread that ended has nothing to keep warm.
        let _ = receiver.await;
    }

    /// Items and tokens that wait.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = self.shared.lock();
        (state.queue.len(), state.queue.token_count())
    }

    /// What the queue did so far.
    pub(crate) fn stats(&self) -> QueueStats {
        self.shared.lock().queue.stats()
    }

    /// Answers everything that waits with an error.
    pub(crate) fn refuse_all(&self, refusal: impl Fn() -> EmbeddingError) {
        self.shared.lock().queue.refuse_all(refusal);
    }

    /// Takes no more work, finishes what waits and ends the thread. Blocks.
    pub(crate) fn stop(&self) {
        self.shared.lock().is_closing = true;
        self.shared.changed.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread itself was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the memory of models back beside the ones that serve now.
fn retire(old: Box<dyn Engine>) {
    let builder = std::thread::Builder::new().name("calor-retire".into());
    // Without a thread they were dropped with the closure: later for requests, and no less gone.
    let _ = builder.spawn(move || drop(old));
}

/// What the thread does next.
enum Next {
    Swap(Box<dyn Engine>, oneshot::Sender<()>),
    Batch(Vec<(Job, oneshot::Sender<BatchResult<Answer>>)>),
    /// Somebody asked for it, or nothing happened for long.
    Warm(Option<oneshot::Sender<()>>),
    End,
}

fn serve(shared: &Shared) {
    let mut engine: Option<Box<dyn Engine>> = None;
    loop {
        match next(shared) {
            Next::Swap(other, done) => {
                if let Some(old) = engine.replace(other) {
                    retire(old);
                }
                shared.broken.store(false, Ordering::Release);
                // Whoever asked for the swap may have gone.
                let _ = done.send(());
            }
            Next::Batch(batch) => {
                if let Some(it) = &mut engine {
                    run(shared, it.as_mut(), batch);
                }
            }
            Next::Warm(done) => {
                if let Some(it) = &mut engine {
                    keep_warm(shared, it.as_mut());
                }
                // Whoever asked may have gone.
                let _ = done.map(|it| it.send(()));
            }
            Next::End => return,
        }
        if shared.broken.load(Ordering::Acquire) && engine.take().is_some() {
            shared.lock().has_engine = false;
            (shared.on_broken)();
        }
    }
}

fn next(shared: &Shared) -> Next {
    let since_ns = now_ns();
    let mut state = shared.lock();
    loop {
        match state.tasks.pop_front() {
            Some(Task::Swap(engine, done)) => {
                state.has_engine = true;
                return Next::Swap(engine, done);
            }
            Some(Task::Warm(done)) => return Next::Warm(Some(done)),
            None => {}
        }
        state.queue.expire();
        if state.is_closing && (state.queue.is_empty() || !state.has_engine) {
            state.queue.refuse_all(closed);
            return Next::End;
        }
        let is_due = state.queue.may_flush() || (state.is_closing && !state.queue.is_empty());
        if state.has_engine && is_due {
            let batch = state.queue.flush();
            if !batch.is_empty() {
                return Next::Batch(batch);
            }
            continue;
        }
        let idle_ns = shared.idle.filter(|_| state.has_engine && state.queue.is_empty());
        let idle_ns = idle_ns
            .map(|it| since_ns.saturating_add(u64::try_from(it.as_nanos()).unwrap_or(u64::MAX)));
        let now = now_ns();
        if idle_ns.is_some_and(|it| it <= now) {
            return Next::Warm(None);
        }
        let until_ns = state.queue.next_deadline_ns().filter(|_| state.has_engine);
        state = match until_ns.into_iter().chain(idle_ns).min() {
            None => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(until_ns) => {
                // A moment more than needed, so that what is due then is due.
                let wait = Duration::from_nanos(until_ns.saturating_sub(now).saturating_add(1_000));
                let waited = shared.changed.wait_timeout(state, wait);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}

/// Runs a batch, one group for each thing that is wanted, and answers every item.
fn run(
    shared: &Shared,
    engine: &mut dyn Engine,
    batch: Vec<(Job, oneshot::Sender<BatchResult<Answer>>)>,
) {
    let start_ns = now_ns();
    let token_count: usize = batch.iter().map(|it| it.0.token_count).sum();
    shared.metrics.batch_size.record(batch.len());
    shared.metrics.batch_tokens.record(token_count);
    add(&shared.metrics.items, batch.len() as u64);
    for (wanted, group) in groups(batch) {
        run_group(shared, engine, &wanted, group);
    }
    let wall_ns = now_ns().saturating_sub(start_ns);
    add(&shared.metrics.busy_ns, wall_ns);
    shared.admission.observe(token_count, wall_ns);
    shared.lock().queue.observe_batch(wall_ns);
}

type Group = Vec<(Job, oneshot::Sender<BatchResult<Answer>>)>;

/// Items by what they want; fused ones together, in the richest form that one of them wants.
fn groups(batch: Group) -> Vec<(Wanted, Group)> {
    let mut groups: Vec<(Wanted, Group)> = Vec::new();
    for item in batch {
        let place = groups.iter_mut().find(|(wanted, _)| match (wanted, &item.0.wanted) {
            (Wanted::Fused { .. }, Wanted::Fused { .. }) => true,
            (have, want) => have == want,
        });
        match place {
            None => groups.push((item.0.wanted.clone(), vec![item])),
            Some((wanted, group)) => {
                if item.0.wanted == (Wanted::Fused { own_forms: true }) {
                    *wanted = Wanted::Fused { own_forms: true };
                }
                group.push(item);
            }
        }
    }
    groups
}

fn run_group(shared: &Shared, engine: &mut dyn Engine, wanted: &Wanted, group: Group) {
    let start_ns = now_ns();
    let (jobs, replies): (Vec<Job>, Vec<_>) = group.into_iter().unzip();
    let mut inputs = Vec::with_capacity(jobs.len());
    let mut waits_ns = Vec::with_capacity(jobs.len());
    for job in jobs {
        waits_ns.push(start_ns.saturating_sub(job.since_ns));
        inputs.push(job.input);
    }
    let now_s = (shared.clock)();
    let results = guarded(shared, || run_split(&inputs, |part| engine.run(wanted, part, now_s)));
    let inference_ns = now_ns().saturating_sub(start_ns);
    let batch_count = inputs.len();
    let mut results = match results {
        Ok(results) => results.into_iter(),
        Err(err) => {
            if is_lost(&err) {
                shared.broken.store(true, Ordering::Release);
            }
            // The first item keeps the error with its causes, the others get its words.
            let words = crate::refusal::chain(&err);
            let other = |_| Err(EmbeddingError::GpuError { source: words.clone().into() });
            let all: Vec<_> =
                std::iter::once(Err(err)).chain((1..batch_count).map(other)).collect();
            all.into_iter()
        }
    };
    for (reply, queue_ns) in replies.into_iter().zip(waits_ns) {
        let lost = || EmbeddingError::InternalError { place: "results of a batch", source: None };
        let result = results.next().unwrap_or_else(|| Err(lost()));
        shared.metrics.queue.record_ns(queue_ns);
        shared.metrics.inference.record_ns(inference_ns);
        let answer = result.map(|output| Answer {
            output: Arc::new(output),
            queue_ns,
            inference_ns,
            batch_count,
        });
        // The caller may have gone meanwhile.
        let _ = reply.send(answer);
    }
}

/// Runs something that may panic; after a panic the models are not trusted any more.
fn guarded<T>(shared: &Shared, work: impl FnOnce() -> EmbeddingResult<T>) -> EmbeddingResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        shared.broken.store(true, Ordering::Release);
        Err(panicked(payload.as_ref()))
    })
}

/// Runs a short text, so that a device that sleeps when nothing is asked is awake for the next.
fn keep_warm(shared: &Shared, engine: &mut dyn Engine) {
    let about = engine.about();
    let wanted = match about.is_fused {
        true => Wanted::Fused { own_forms: false },
        false => Wanted::Models(about.models.into_iter().collect()),
    };
    let now_s = (shared.clock)();
    let result = guarded(shared, || {
        let probe = ModelInput::text("still warm")?;
        engine.run(&wanted, &[probe], now_s)
    });
    add(&shared.metrics.rewarms, 1);
    if result.is_err_and(|it| is_lost(&it)) {
        shared.broken.store(true, Ordering::Release);
    }
}

/// Whether a device that says this has to be opened anew: everything but want of memory.
fn is_lost(err: &EmbeddingError) -> bool {
    match err {
        EmbeddingError::GpuError { .. } => !calor_embed::batching::is_out_of_memory(err),
        EmbeddingError::InternalError { .. } => true,
        _ => false,
    }
}

fn closed() -> EmbeddingError {
    EmbeddingError::NotInitialized { what: "a server that shuts down" }
}

fn panicked(payload: &(dyn Any + Send)) -> EmbeddingError {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let source = text.unwrap_or("a panic without a message").into();
    EmbeddingError::InternalError { place: "a batch that panicked", source: Some(source) }
}
