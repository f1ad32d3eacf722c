//! The queue between requests and models, and the threads that empty it: one for each place where
//! models serve, such as a device.
//!
//! A thread owns the models of its place. It is no task of an executor: what runs on a device
//! blocks it. Whoever is free takes the next batch.

mod flight;
mod run;
mod slowdown;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use calor_embed::batching::{BatchAccumulator, BatchConfig, BatchResult, ItemTerms, QueueStats};
use calor_embed::handle::Clock;
use calor_embed::input::ModelInput;
use calor_embed::pipeline::{GroupTimes, PreparedInput};
use calor_embed::{EmbeddingError, EmbeddingResult, MultiGpuBalancer, PipelineOutput};
use calor_telemetry::Recorder;
use calor_telemetry::clock::now_ns;
use tokio::sync::oneshot;

use slowdown::Slowdown;

use crate::admission::Admission;
use crate::engine::{Engine, Wanted};
use crate::metrics::Metrics;
use crate::options::DeviceClock;

/// An input on its way to the models.
pub(crate) struct Job {
    /// The request that it is of.
    pub(crate) request_index: u64,
    pub(crate) input: ModelInput,
    /// What the device needs of it, if that was made already.
    pub(crate) prepared: Option<PreparedInput>,
    pub(crate) wanted: Wanted,
    /// What it costs, and how urgent it is.
    pub(crate) terms: ItemTerms,
    /// When it was queued.
    pub(crate) since_ns: u64,
    /// Whether a device was lost with it before.
    pub(crate) is_second: bool,
}

/// What became of an input.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) output: Arc<PipelineOutput>,
    /// From the queue to the start of its batch.
    pub(crate) queue_ns: u64,
    /// Of its batch.
    pub(crate) inference_ns: u64,
    /// Of its batch, where it ran alone and that is known.
    pub(crate) steps: Option<Steps>,
    /// Items of its batch.
    pub(crate) batch_count: usize,
    /// When it was sent.
    pub(crate) sent_ns: u64,
}

/// What a batch took, step by step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steps {
    /// Putting together what was made ready.
    pub(crate) prepare_ns: u64,
    /// Everything for which the device is needed.
    pub(crate) compute_ns: u64,
    /// Of its run on the device.
    pub(crate) group: GroupTimes,
}

/// Where an answer arrives.
pub(crate) type Reply = oneshot::Receiver<BatchResult<Answer>>;

type Sender = oneshot::Sender<BatchResult<Answer>>;

/// Items that run together.
type Group = Vec<(Job, Sender)>;

/// What else a thread does, between batches.
enum Task {
    /// Other models from here on; the old ones are dropped, and the caller is told.
    Swap(Box<dyn Engine>, oneshot::Sender<()>),
    /// A run of its own, so that a device that slept is awake.
    Warm(oneshot::Sender<()>),
}

struct State {
    queue: BatchAccumulator<Job, Answer>,
    places: Vec<PlaceState>,
    /// No more work comes; what waits is finished.
    is_closing: bool,
}

#[derive(Default)]
struct PlaceState {
    tasks: VecDeque<Task>,
    has_engine: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// For each place: set by a failure after which its models cannot be trusted.
    broken: Vec<AtomicBool>,
    on_broken: Box<dyn Fn(Broken) + Send + Sync>,
    balancer: Arc<MultiGpuBalancer>,
    metrics: Arc<Metrics>,
    recorder: Arc<dyn Recorder>,
    /// Batches that were begun.
    batch_count: AtomicU64,
    admission: Arc<Admission>,
    clock: Clock,
    idle: Option<Duration>,
    device_clock: Option<DeviceClock>,
}

/// One place, seen by its thread.
struct Place<'a> {
    shared: &'a Shared,
    index: usize,
}

/// Models of a place are gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken {
    pub(crate) place: usize,
    /// Whether those of another place serve on.
    pub(crate) others_serve: bool,
}

/// The way to the threads.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads share with the rest of the server.
pub(crate) struct Surroundings {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Arc<dyn Recorder>,
    pub(crate) admission: Arc<Admission>,
    /// Seconds since 1970.
    pub(crate) clock: Clock,
    /// After this long without work the models are run once, to keep a device awake.
    pub(crate) idle: Option<Duration>,
    /// Reads the clocks of devices.
    pub(crate) device_clock: Option<DeviceClock>,
    /// Called on a thread after a failure that its models do not survive; they are gone then.
    pub(crate) on_broken: Box<dyn Fn(Broken) + Send + Sync>,
}

impl Batcher {
    /// Starts a thread for each place. Until their first swap there are no models, and items wait.
    ///
    /// # Errors
    /// For no place, a queue that runs nothing, and when the system gives no thread.
    pub(crate) fn start(
        config: BatchConfig,
        place_count: usize,
        surroundings: Surroundings,
    ) -> EmbeddingResult<Arc<Self>> {
        let queue = BatchAccumulator::new(config)?;
        let ordinals: Vec<usize> = (0..place_count).collect();
        let balancer = Arc::new(MultiGpuBalancer::new(&ordinals)?);
        let places = ordinals.iter().map(|_| PlaceState::default()).collect();
        let state = State { queue, places, is_closing: false };
        let Surroundings { metrics, recorder, admission, clock, idle, device_clock, on_broken } =
            surroundings;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            broken: ordinals.iter().map(|_| AtomicBool::new(false)).collect(),
            on_broken,
            balancer,
            metrics,
            recorder,
            batch_count: AtomicU64::new(0),
            admission,
            clock,
            idle,
            device_clock,
        });
        let batcher = Arc::new(Self { shared: shared.clone(), threads: Mutex::default() });
        for index in ordinals {
            let own = shared.clone();
            let builder = std::thread::Builder::new().name(format!("calor-batches-{index}"));
            let body = move || serve(&Place { shared: &own, index });
            // Threads that were started end with the batcher.
            let thread = builder.spawn(body).map_err(|source| EmbeddingError::InternalError {
                place: "start of a batching thread",
                source: Some(Box::new(source)),
            })?;
            batcher.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(batcher)
    }

    /// Queues jobs together, so that they can run together. Each is answered.
    pub(crate) fn submit(&self, jobs: Vec<Job>) -> Vec<Reply> {
        let mut state = self.shared.lock();
        let replies = jobs.into_iter().map(|job| {
            let terms = job.terms;
            let (sender, reply) = oneshot::channel();
            match state.is_closing {
                true => drop(sender.send(Err(closed()))),
                false => drop(state.queue.add_with(job, sender, terms)),
            }
            reply
        });
        let replies = replies.collect();
        drop(state);
        self.shared.changed.notify_all();
        replies
    }

    /// Gives places other models, all at the same moment: whoever is answered by new ones is not
    /// answered by old ones after that. The receivers hear when they serve.
    pub(crate) fn swap(
        &self,
        engines: Vec<(usize, Box<dyn Engine>)>,
    ) -> Vec<oneshot::Receiver<()>> {
        let mut state = self.shared.lock();
        let mut receivers = Vec::with_capacity(engines.len());
        for (place, engine) in engines {
            let (sender, receiver) = oneshot::channel();
            if let Some(place) = state.places.get_mut(place) {
                place.tasks.push_back(Task::Swap(engine, sender));
            }
            receivers.push(receiver);
        }
        drop(state);
        self.shared.changed.notify_all();
        receivers
    }

    /// Has the models of every place run once, in their turn.
    pub(crate) async fn keep_warm(&self) {
        let mut receivers = Vec::new();
        for place in &mut self.shared.lock().places {
            let (sender, receiver) = oneshot::channel();
            place.tasks.push_back(Task::Warm(sender));
            receivers.push(receiver);
        }
        self.shared.changed.notify_all();
        for receiver in receivers {
            // A thread that ended has nothing to keep warm.
            let _ = receiver.await;
        }
    }

    /// Whether a place has models, or has them in its next turn.
    pub(crate) fn serves(&self, place: usize) -> bool {
        self.shared.lock().places.get(place).is_some_and(|it| it.has_engine)
    }

    /// Who has how much to do, and which places are lost.
    pub(crate) fn balancer(&self) -> &MultiGpuBalancer {
        &self.shared.balancer
    }

    /// The time of day, in seconds since 1970.
    pub(crate) fn now_s(&self) -> i64 {
        (self.shared.clock)()
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

    /// Takes no more work, finishes what waits and ends the threads. Blocks.
    pub(crate) fn stop(&self) {
        self.shared.lock().is_closing = true;
        self.shared.changed.notify_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
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

impl Place<'_> {
    /// The models of this place are not trusted any more.
    fn breaks(&self) {
        self.shared.broken[self.index].store(true, Ordering::Release);
    }

    /// The number of the next batch, from 1.
    fn next_batch(&self) -> u64 {
        1 + self.shared.batch_count.fetch_add(1, Ordering::Relaxed)
    }

    fn is_broken(&self) -> bool {
        self.shared.broken[self.index].load(Ordering::Acquire)
    }
}

/// Gives the memory of models back beside the ones that serve now.
fn retire(old: Box<dyn Engine>) {
    let builder = std::thread::Builder::new().name("calor-retire".into());
    // Without a thread they were dropped with the closure: later for requests, and no less gone.
    let _ = builder.spawn(move || drop(old));
}

/// What a thread does next.
enum Next {
    Swap(Box<dyn Engine>, oneshot::Sender<()>),
    Batch {
        batch: Group,
        /// Whether another full one waits behind it.
        more: bool,
    },
    /// Somebody asked for it, or nothing happened for long.
    Warm(Option<oneshot::Sender<()>>),
    End,
}

fn serve(place: &Place<'_>) {
    let shared = place.shared;
    let mut engine: Option<Box<dyn Engine>> = None;
    let mut slowdown = Slowdown::default();
    loop {
        match next(place, &mut slowdown) {
            Next::Swap(other, done) => {
                if let Some(old) = engine.replace(other) {
                    retire(old);
                }
                shared.broken[place.index].store(false, Ordering::Release);
                shared.balancer.restore(place.index);
                // Whoever asked for the swap may have gone.
                let _ = done.send(());
            }
            Next::Batch { batch, more } => {
                if let Some(it) = &mut engine {
                    match it.pipeline() {
                        Some(core) if more => flight::overlapped(place, core, batch),
                        Some(core) => flight::alone(place, core, batch),
                        None => run::run(place, it.as_mut(), batch),
                    }
                }
            }
            Next::Warm(done) => {
                if let Some(it) = &mut engine {
                    run::keep_warm(place, it.as_mut());
                }
                // Whoever asked may have gone.
                let _ = done.map(|it| it.send(()));
            }
            Next::End => return,
        }
        if place.is_broken() && engine.take().is_some() {
            shared.balancer.mark_lost(place.index);
            let mut state = shared.lock();
            state.places[place.index].has_engine = false;
            let others_serve = state.places.iter().any(|it| it.has_engine);
            drop(state);
            (shared.on_broken)(Broken { place: place.index, others_serve });
        }
    }
}

fn next(place: &Place<'_>, slowdown: &mut Slowdown) -> Next {
    let shared = place.shared;
    let since_ns = now_ns();
    let mut state = shared.lock();
    loop {
        match state.places[place.index].tasks.pop_front() {
            Some(Task::Swap(engine, done)) => {
                state.places[place.index].has_engine = true;
                return Next::Swap(engine, done);
            }
            Some(Task::Warm(done)) => return Next::Warm(Some(done)),
            None => {}
        }
        let has_engine = state.places[place.index].has_engine;
        state.queue.expire();
        if state.is_closing && (state.queue.is_empty() || !has_engine) {
            if !state.places.iter().any(|it| it.has_engine) {
                state.queue.refuse_all(closed);
            }
            return Next::End;
        }
        let is_due = state.queue.may_flush() || (state.is_closing && !state.queue.is_empty());
        if has_engine && is_due {
            let batch = state.queue.flush();
            if !batch.is_empty() {
                return Next::Batch { batch, more: state.queue.is_full() };
            }
            continue;
        }
        let idle_ns = shared.idle.filter(|_| has_engine && state.queue.is_empty());
        let idle_ns = idle_ns
            .map(|it| since_ns.saturating_add(u64::try_from(it.as_nanos()).unwrap_or(u64::MAX)));
        let now = now_ns();
        if idle_ns.is_some_and(|it| it <= now) {
            return Next::Warm(None);
        }
        let mut look_ns = None;
        if let Some(DeviceClock(read)) = shared.device_clock.as_ref().filter(|_| has_engine) {
            if slowdown.is_due(now) {
                // Asking a driver takes a moment; nobody else waits for the queue meanwhile.
                drop(state);
                let is_slow = slowdown.look(now_ns(), read(place.index));
                state = shared.lock();
                if is_slow && state.queue.is_empty() {
                    return Next::Warm(None);
                }
                continue;
            }
            look_ns = Some(slowdown.next_ns);
        }
        let until_ns = state.queue.next_deadline_ns().filter(|_| has_engine);
        state = match until_ns.into_iter().chain(idle_ns).chain(look_ns).min() {
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

/// Another full batch, where nothing else is to be done first.
fn next_full(place: &Place<'_>) -> Option<Group> {
    let mut state = place.shared.lock();
    if place.is_broken() || !state.places[place.index].tasks.is_empty() || !state.queue.is_full() {
        return None;
    }
    let batch = state.queue.flush();
    (!batch.is_empty()).then_some(batch)
}

fn closed() -> EmbeddingError {
    EmbeddingError::NotInitialized { what: "a server that shuts down" }
}
