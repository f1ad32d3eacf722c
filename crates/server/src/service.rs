//! What requests of every kind come down to: inputs in, answers out.

mod told;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use calor_embed::batching::{BatchResult, ItemTerms, Priority};
use calor_embed::input::ModelInput;
use calor_embed::pipeline::LostModel;
use calor_embed::{EmbeddingError, ModelId, PipelineOutput};
use calor_telemetry::clock::{Stopwatch, now_ns};
use calor_telemetry::{Counters, Recorder};

use crate::admission::Admission;
use crate::batcher::{Answer, Batcher, Job, Reply, Steps};
use crate::counting::{Counted, Cut, Input, count_each, prepared};
use crate::engine::{Live, Opener, Wanted};
use crate::metrics::{Levels, Metrics, add};
use crate::options::{ServerOptions, Target};
use crate::progress::Progress;
use crate::readiness::{Phase, Readiness};
use crate::refusal::Refusal;
use crate::results::{Looked, Promise, Results, Waiting};
use crate::traces::Traces;
use told::Told;

/// Texts of so many bytes in all are counted on a thread that may be blocked.
const INLINE_BYTES_MAX: usize = 16 << 10;
/// As many are made ready for all models without one: four kinds of tokenizers take longer.
const PREPARED_BYTES_MAX: usize = 4 << 10;

/// A server without its doors.
pub(crate) struct Service {
    pub(crate) options: ServerOptions,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) counters: Arc<Counters>,
    recorder: Arc<dyn Recorder>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) results: Results,
    pub(crate) connection_count: AtomicUsize,
    pub(crate) batcher: Arc<Batcher>,
    pub(crate) opener: Opener,
    /// How far the opening of models is, or the last one came.
    pub(crate) progress: Arc<Progress>,
    pub(crate) traces: Option<Traces>,
    /// Held while models are opened: one opening at a time.
    pub(crate) opening: tokio::sync::Mutex<()>,
    pub(crate) started_ns: u64,
    live: RwLock<Option<Arc<Live>>>,
    generation: AtomicU64,
    /// Requests that were begun.
    request_count: AtomicU64,
}

/// Where a server tells what it does.
pub(crate) struct Observed {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) recorder: Arc<dyn Recorder>,
}

/// What a request wants.
pub(crate) struct Ask {
    pub(crate) target: Target,
    pub(crate) wanted: Wanted,
    pub(crate) inputs: Vec<Input>,
    /// Of these, inputs that do not count towards the limit of a request.
    pub(crate) extra_count: usize,
    pub(crate) cut: Cut,
    pub(crate) terms: Terms,
}

/// How urgent a request is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) priority: Priority,
    pub(crate) timeout: Option<Duration>,
}

/// What became of a request.
pub(crate) struct Answered {
    pub(crate) answers: Vec<BatchResult<Answer>>,
    pub(crate) token_count: usize,
    pub(crate) char_count: usize,
    pub(crate) hit_count: usize,
    pub(crate) total_ns: u64,
    pub(crate) tokenization_ns: u64,
    /// From the batch's end until the request went on.
    pub(crate) wake_ns: u64,
}

impl Service {
    pub(crate) fn new(
        options: ServerOptions,
        observed: Observed,
        admission: Arc<Admission>,
        batcher: Arc<Batcher>,
        opener: Opener,
        traces: Option<Traces>,
    ) -> Self {
        let Observed { metrics, counters, recorder } = observed;
        let results = Results::new(options.results_cache_bytes, counters.clone());
        Self {
            options,
            readiness: Readiness::new(),
            metrics,
            counters,
            recorder,
            admission,
            results,
            connection_count: AtomicUsize::new(0),
            batcher,
            opener,
            progress: Arc::default(),
            traces,
            opening: tokio::sync::Mutex::new(()),
            started_ns: now_ns(),
            live: RwLock::new(None),
            generation: AtomicU64::new(0),
            request_count: AtomicU64::new(0),
        }
    }

    /// The models that serve now.
    pub(crate) fn live(&self) -> Result<Arc<Live>, Refusal> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).clone();
        match (live, self.readiness.phase()) {
            // What comes in while others finish is answered, too.
            (Some(live), Phase::Ready | Phase::Draining) => Ok(live),
            (_, phase) => Err(Refusal::NotReady { phase }),
        }
    }

    /// The number of the next request, from 1.
    fn next_request(&self) -> u64 {
        1 + self.request_count.fetch_add(1, Ordering::Relaxed)
    }

    /// How many openings there were.
    pub(crate) fn live_generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn set_live(&self, live: Option<Arc<Live>>) {
        if let Some(live) = &live {
            self.generation.store(live.generation, Ordering::Release);
        }
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }

    /// Who answers a request that names a model, or none.
    pub(crate) fn target(&self, live: &Live, name: Option<&str>) -> Result<Target, Refusal> {
        let is_default = |it: &str| self.options.served_model_names.iter().any(|other| other == it);
        let unknown = |name: &str| {
            let there = self.names(live).join(", ");
            Refusal::UnknownModel { name: name.chars().take(100).collect(), there }
        };
        let target = match name.filter(|it| !is_default(it)) {
            None => self.default_target(live),
            Some(name) => Target::by_name(name).ok_or_else(|| unknown(name))?,
        };
        self.check_there(live, target, || unknown(target.name()))?;
        Ok(target)
    }

    /// Refuses a target that was lost by its name and with the reason, and one that never was with
    /// `none`.
    pub(crate) fn check_there(
        &self,
        live: &Live,
        target: Target,
        none: impl FnOnce() -> Refusal,
    ) -> Result<(), Refusal> {
        if live.about.has(target) {
            return Ok(());
        }
        if !live.has_lost(target) {
            return Err(none());
        }
        let is_its = |it: &&LostModel| match target {
            Target::Fused => true,
            Target::Model(model) => it.model_id == model,
        };
        let lost = live.lost.iter().filter(is_its).cloned().collect();
        Err(Refusal::Lost { target, lost })
    }

    /// What was chosen where it is or was to be there, else the first model. Nothing stands in for
    /// what was lost.
    pub(crate) fn default_target(&self, live: &Live) -> Target {
        let chosen = self.options.default_target;
        match live.about.has(chosen) || live.has_lost(chosen) {
            true => chosen,
            false => live.first().unwrap_or(Target::Fused),
        }
    }

    /// Names that a request may use.
    pub(crate) fn names(&self, live: &Live) -> Vec<String> {
        let all = std::iter::once(Target::Fused).chain(ModelId::iter().map(Target::Model));
        let there = all.filter(|it| live.about.has(*it)).map(|it| it.name().to_owned());
        self.options.served_model_names.iter().cloned().chain(there).collect()
    }

    /// Answers a request: one result for each input, in their order.
    pub(crate) async fn answer(&self, ask: Ask) -> Result<Answered, Refusal> {
        let mut told = Told::begin(self, ask.target, ask.inputs.len());
        let result = self.try_answer(ask, &mut told).await;
        told.end(&result);
        result
    }

    async fn try_answer(&self, ask: Ask, told: &mut Told<'_>) -> Result<Answered, Refusal> {
        let watch = Stopwatch::start();
        let live = self.live()?;
        let Ask { target, wanted, inputs, extra_count, cut, terms } = ask;
        match (inputs.len() - extra_count, self.options.limits.client_batch_max) {
            (0, _) => return Err(Refusal::NoInputs),
            (got, max) if max < got => return Err(Refusal::TooManyInputs { got, max }),
            _ => {}
        }
        let input_count = inputs.len();
        let single = input_count == 1;
        add(if single { &self.metrics.single_count } else { &self.metrics.batch_count }, 1);
        let counted = self.count_all(&live, target, &wanted, inputs, cut).await?;
        let tokenization_ns = watch.elapsed_ns();
        self.metrics.tokenization.record_ns(tokenization_ns);
        let token_count = counted.iter().map(|it| it.token_count).sum();
        let char_count = counted.iter().map(Counted::char_count).sum();
        counted.iter().for_each(|it| self.metrics.input_length.record(it.token_count));
        told.cuts = counted.iter().map(|it| it.cut).collect();
        told.summary = Summary { token_count, char_count, tokenization_ns, ..Summary::default() };
        let _permit = self.admission.enter(token_count)?;
        let timeout = terms.timeout.unwrap_or(self.options.times.request);
        let deadline_ns =
            watch.start_ns().saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let since_ns = now_ns();
        let job = |it: Counted| {
            let Counted { input, token_count, prepared, .. } = it;
            let Terms { priority, .. } = terms;
            let terms = ItemTerms { token_count, priority, deadline_ns: Some(deadline_ns) };
            Job {
                request_index: told.request_index,
                input,
                prepared,
                wanted: wanted.clone(),
                terms,
                since_ns,
                is_second: false,
            }
        };
        let jobs = counted.into_iter().map(job).collect();
        let waiting = self.answers(&live, jobs);
        let Ok((answers, hit_count)) = tokio::time::timeout(timeout, waiting).await else {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            return Err(EmbeddingError::Timeout { timeout_ms }.into());
        };
        let answers = match (single, answers) {
            (true, mut answers) => match answers.pop() {
                Some(Err(source)) => return Err(Refusal::Whole(source)),
                it => it.into_iter().collect(),
            },
            (false, answers) => answers,
        };
        let total_ns = watch.elapsed_ns();
        let sent_ns = answers.iter().flatten().map(|it| it.sent_ns).max();
        let wake_ns = sent_ns.map_or(0, |it| now_ns().saturating_sub(it));
        self.metrics.answered(input_count, total_ns);
        Ok(Answered {
            answers,
            token_count,
            char_count,
            hit_count,
            total_ns,
            tokenization_ns,
            wake_ns,
        })
    }

    /// Answers that are known, and the others from the models; how many were known.
    async fn answers(&self, live: &Live, all: Vec<Job>) -> (Vec<BatchResult<Answer>>, usize) {
        let mut places = Vec::with_capacity(all.len());
        let mut jobs = Vec::new();
        for job in all {
            places.push(match self.results.look(live, &job.wanted, &job.input) {
                Looked::Found(output) => Place::Known(output),
                Looked::Joined(waiting) => Place::Joined(waiting, job),
                Looked::Absent(promise) => {
                    jobs.push(job);
                    Place::Asked(promise)
                }
            });
        }
        let mut replies = self.batcher.submit(jobs).into_iter();
        // Promises of this request are kept before it waits for those of others: no two requests
        // wait for each other.
        let mut half = Vec::with_capacity(places.len());
        for place in places {
            half.push(match place {
                Place::Known(output) => Half::Answer(Ok(known(output))),
                Place::Joined(waiting, job) => Half::Joined(waiting, job),
                Place::Asked(promise) => {
                    let result = receive(replies.next()).await;
                    if let (Some(promise), Ok(answer)) = (promise, &result) {
                        promise.keep(&answer.output);
                    }
                    Half::Answer(result)
                }
            });
        }
        let mut answers = Vec::with_capacity(half.len());
        let mut hit_count = 0;
        for it in half {
            answers.push(match it {
                Half::Answer(result) => {
                    hit_count += usize::from(matches!(&result, Ok(it) if it.batch_count == 0));
                    result
                }
                Half::Joined(waiting, job) => match waiting.wait().await {
                    Some(output) => {
                        hit_count += 1;
                        Ok(known(output))
                    }
                    // Whoever computed it failed or went away.
                    None => receive(self.batcher.submit(vec![job]).pop()).await,
                },
            });
        }
        (answers, hit_count)
    }

    /// Counts every text, and cuts or refuses what is too long. Where all models run together,
    /// inputs whose results are not known are made ready for the device meanwhile.
    async fn count_all(
        &self,
        live: &Arc<Live>,
        target: Target,
        wanted: &Wanted,
        inputs: Vec<Input>,
        cut: Cut,
    ) -> Result<Vec<Counted>, Refusal> {
        let truncate = cut.truncate.unwrap_or(self.options.auto_truncate);
        let bytes: usize = inputs.iter().map(Input::byte_count).sum();
        let is_fused = matches!(wanted, Wanted::Fused { .. });
        let front = live.front.clone().filter(|_| is_fused);
        let inline_bytes_max = if front.is_some() { PREPARED_BYTES_MAX } else { INLINE_BYTES_MAX };
        let (live, now_s) = (live.clone(), self.batcher.now_s());
        let (results, wanted) = (self.results.clone(), wanted.clone());
        let work = move || {
            let is_new = |it: &ModelInput| !results.knows(&live, &wanted, it);
            let ready = front.map(|it| prepared(&it, &inputs, now_s, is_new));
            let mut ready = ready.unwrap_or_default();
            ready.resize_with(inputs.len(), || None);
            count_each(&live, target, inputs.into_iter().zip(ready), truncate, cut.is_left)
        };
        if bytes <= inline_bytes_max {
            return work();
        }
        let lost = |_| EmbeddingError::InternalError { place: "tokenizing", source: None };
        tokio::task::spawn_blocking(work).await.map_err(lost)?
    }

    /// What a scrape shows beside the counts.
    pub(crate) fn levels(&self) -> Levels {
        let (queue_size, queue_tokens) = self.batcher.waiting();
        let live = self.live().ok();
        let about = live.as_ref().map(|it| &it.about);
        let models = ModelId::iter()
            .map(|it| (it.as_str(), about.is_some_and(|about| about.models.contains(&it))));
        let place = |(at, name): (usize, &String)| {
            (name.clone(), self.batcher.serves(at), self.batcher.balancer().load(at))
        };
        Levels {
            places: self.opener.places.iter().enumerate().map(place).collect(),
            queue_size,
            queue_tokens,
            requests_inside: self.admission.request_count(),
            connections: self.connection_count.load(Ordering::Relaxed),
            is_ready: self.readiness.phase() == Phase::Ready,
            memory_bytes: about.map_or(0, |it| it.memory_bytes),
            memory_bytes_max: about.map_or(0, |it| it.memory_bytes_max),
            result_count: self.results.held().0,
            models: models.collect(),
            lost: live.as_ref().map_or_else(Vec::new, |it| it.lost.clone()),
            warm_seconds: live.as_ref().map_or(0.0, |it| it.report.wall_ns as f64 / 1e9),
        }
    }
}

enum Place {
    Known(Arc<PipelineOutput>),
    Joined(Waiting, Job),
    Asked(Option<Promise>),
}

enum Half {
    Answer(BatchResult<Answer>),
    Joined(Waiting, Job),
}

/// An answer that nothing had to be run for.
fn known(output: Arc<PipelineOutput>) -> Answer {
    Answer { output, queue_ns: 0, inference_ns: 0, steps: None, batch_count: 0, sent_ns: now_ns() }
}

async fn receive(reply: Option<Reply>) -> BatchResult<Answer> {
    let lost = || EmbeddingError::InternalError { place: "reply of a batch", source: None };
    match reply {
        Some(reply) => reply.await.unwrap_or_else(|_| Err(lost())),
        None => Err(lost()),
    }
}

impl Answered {
    /// Every answer, or why one is missing.
    pub(crate) fn all(self) -> Result<(Vec<Answer>, Summary), Refusal> {
        let summary = self.summary();
        let answers = self.answers.into_iter().enumerate();
        let answers = answers
            .map(|(index, it)| it.map_err(|source| Refusal::Input { index, source }))
            .collect::<Result<_, _>>()?;
        Ok((answers, summary))
    }

    /// What is said about the request as a whole.
    pub(crate) fn summary(&self) -> Summary {
        let good = || self.answers.iter().flatten();
        let count = good().count();
        let mean = |of: fn(&Answer) -> u64| good().map(of).sum::<u64>() / (count.max(1) as u64);
        Summary {
            char_count: self.char_count,
            token_count: self.token_count,
            hit_count: self.hit_count,
            total_ns: self.total_ns,
            tokenization_ns: self.tokenization_ns,
            queue_ns: mean(|it| it.queue_ns),
            inference_ns: mean(|it| it.inference_ns),
            steps: good().find_map(|it| it.steps).filter(|_| count == 1),
            wake_ns: self.wake_ns,
            batch_count: good().map(|it| it.batch_count).max().unwrap_or(0),
        }
    }
}

/// What is said about a request as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) char_count: usize,
    pub(crate) token_count: usize,
    pub(crate) hit_count: usize,
    pub(crate) total_ns: u64,
    pub(crate) tokenization_ns: u64,
    pub(crate) queue_ns: u64,
    pub(crate) inference_ns: u64,
    pub(crate) steps: Option<Steps>,
    /// From the batch's end until the request went on.
    pub(crate) wake_ns: u64,
    pub(crate) batch_count: usize,
}
