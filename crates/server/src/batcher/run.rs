//! Running a batch on the thread that owns the models, and answering its items.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use calor_embed::batching::{ItemTerms, run_split};
use calor_embed::input::ModelInput;
use calor_embed::pipeline::PreparedInput;
use calor_embed::{EmbeddingError, EmbeddingResult, PipelineOutput};
use calor_telemetry::Event;
use calor_telemetry::clock::now_ns;

use super::{Answer, Group, Job, Place, Sender, Steps};
use crate::engine::{Engine, Wanted};
use crate::metrics::add;

/// Runs a batch, one group for each thing that is wanted, and answers every item.
pub(super) fn run(place: &Place<'_>, engine: &mut dyn Engine, batch: Group) {
    let start_ns = now_ns();
    let about = BatchFacts::of(place, &batch);
    let _load = place.shared.balancer.reserve_on(place.index, about.token_count as u64);
    for (wanted, group) in groups(batch) {
        run_group(place, engine, &wanted, group, about.batch_index);
    }
    let wall_ns = now_ns().saturating_sub(start_ns);
    about.ran(place, wall_ns);
    observed(place, about.token_count, wall_ns, wall_ns);
}

/// What is said of a batch.
#[derive(Clone, Copy)]
pub(super) struct BatchFacts {
    pub(super) batch_index: u64,
    pub(super) item_count: usize,
    pub(super) token_count: usize,
}

impl BatchFacts {
    /// Of a batch that begins; the metrics hear of it.
    pub(super) fn of(place: &Place<'_>, batch: &Group) -> Self {
        let batch_index = place.next_batch();
        Self { batch_index, item_count: batch.len(), token_count: counted(place, batch) }
    }

    /// Its programs have run, on this thread.
    pub(super) fn ran(&self, place: &Place<'_>, wall_ns: u64) {
        place.shared.recorder.record(Event::BatchRan {
            batch_index: self.batch_index,
            place_index: place.index as u64,
            item_count: self.item_count as u64,
            token_count: self.token_count as u64,
            wall_ns,
        });
    }
}

/// Tells a batch to the metrics: its tokens.
fn counted(place: &Place<'_>, batch: &Group) -> usize {
    let metrics = &place.shared.metrics;
    let token_count: usize = batch.iter().map(|it| it.0.terms.token_count).sum();
    metrics.batch_size.record(batch.len());
    metrics.batch_tokens.record(token_count);
    add(&metrics.items, batch.len() as u64);
    token_count
}

/// Tells what a batch took: of the device, and from its queue to its answers.
pub(super) fn observed(place: &Place<'_>, token_count: usize, device_ns: u64, wall_ns: u64) {
    let shared = place.shared;
    add(&shared.metrics.busy_ns, device_ns);
    shared.admission.observe(token_count, device_ns);
    shared.lock().queue.observe_batch(wall_ns);
}

/// Items by what they want; fused ones together, in the richest form that one of them wants.
pub(super) fn groups(batch: Group) -> Vec<(Wanted, Group)> {
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

fn run_group(
    place: &Place<'_>,
    engine: &mut dyn Engine,
    wanted: &Wanted,
    group: Group,
    batch_index: u64,
) {
    let mut going = Going::of(group, batch_index);
    let now_s = (place.shared.clock)();
    let results =
        guarded(place, || run_split(&going.inputs, |part| engine.run(wanted, part, now_s)));
    if matches!(wanted, Wanted::Fused { .. }) {
        going.ran(engine);
    }
    going.answer(place, results);
}

/// Items of one group between the queue and their answers.
pub(super) struct Going {
    batch_index: u64,
    start_ns: u64,
    pub(super) steps: Option<Steps>,
    pub(super) inputs: Vec<ModelInput>,
    pub(super) prepared: Vec<Option<PreparedInput>>,
    /// What was around each input, and where its answer goes.
    around: Vec<(Around, Sender)>,
}

/// A job without its input.
struct Around {
    request_index: u64,
    wanted: Wanted,
    terms: ItemTerms,
    since_ns: u64,
    is_second: bool,
}

impl Going {
    pub(super) fn of(group: Group, batch_index: u64) -> Self {
        let mut going = Self {
            batch_index,
            start_ns: now_ns(),
            steps: None,
            inputs: Vec::with_capacity(group.len()),
            prepared: Vec::with_capacity(group.len()),
            around: Vec::with_capacity(group.len()),
        };
        for (job, reply) in group {
            let Job { request_index, input, prepared, wanted, terms, since_ns, is_second } = job;
            going.inputs.push(input);
            going.prepared.push(prepared);
            let around = Around { request_index, wanted, terms, since_ns, is_second };
            going.around.push((around, reply));
        }
        going
    }

    /// Fused vectors of them were computed just now.
    pub(super) fn ran(&mut self, engine: &dyn Engine) {
        if self.inputs.len() == 1 {
            self.steps = engine.times().map(|group| Steps { group, ..Steps::default() });
        }
    }

    /// Answers every item. What was computed on a device that is lost goes back into the queue,
    /// once, where others serve.
    pub(super) fn answer(
        self,
        place: &Place<'_>,
        results: EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>>,
    ) {
        match results {
            Ok(results) => self.send(place, results),
            Err(err) if is_lost(&err) => {
                place.breaks();
                self.send_elsewhere(place, err);
            }
            Err(err) => {
                let results = words_for_all(err, self.inputs.len());
                self.send(place, results);
            }
        }
    }

    fn send(self, place: &Place<'_>, results: Vec<EmbeddingResult<PipelineOutput>>) {
        let sent_ns = now_ns();
        let inference_ns = sent_ns.saturating_sub(self.start_ns);
        let batch_count = self.inputs.len();
        let mut results = results.into_iter();
        let metrics = &place.shared.metrics;
        for (around, reply) in self.around {
            let lost =
                || EmbeddingError::InternalError { place: "results of a batch", source: None };
            let result = results.next().unwrap_or_else(|| Err(lost()));
            let queue_ns = self.start_ns.saturating_sub(around.since_ns);
            metrics.queue.record_ns(queue_ns);
            metrics.inference.record_ns(inference_ns);
            place.shared.recorder.record(Event::ItemRan {
                request_index: around.request_index,
                batch_index: self.batch_index,
                token_count: around.terms.token_count as u64,
                queue_ns,
            });
            let answer = result.map(|output| Answer {
                output: Arc::new(output),
                queue_ns,
                inference_ns,
                steps: self.steps,
                batch_count,
                sent_ns,
            });
            // The caller may have gone meanwhile.
            let _ = reply.send(answer);
        }
    }

    fn send_elsewhere(self, place: &Place<'_>, err: EmbeddingError) {
        let mut state = place.shared.lock();
        let others =
            state.places.iter().enumerate().any(|(at, it)| at != place.index && it.has_engine);
        let (mut kept, mut start_ns) = (Vec::new(), u64::MAX);
        for (input, (around, reply)) in self.inputs.into_iter().zip(self.around) {
            let Around { request_index, wanted, terms, since_ns, is_second } = around;
            let prepared = None;
            let job =
                Job { request_index, input, prepared, wanted, terms, since_ns, is_second: true };
            if others && !is_second {
                let _ = state.queue.add_with(job, reply, terms);
                add(&place.shared.metrics.moved_items, 1);
            } else {
                start_ns = self.start_ns;
                kept.push((job, reply));
            }
        }
        drop(state);
        place.shared.changed.notify_all();
        if !kept.is_empty() {
            let going = Self { start_ns, ..Self::of(kept, self.batch_index) };
            let results = words_for_all(err, going.inputs.len());
            going.send(place, results);
        }
    }
}

/// The first item keeps the error with its causes, the others get its words.
fn words_for_all(err: EmbeddingError, count: usize) -> Vec<EmbeddingResult<PipelineOutput>> {
    let words = crate::refusal::chain(&err);
    let other = |_| Err(EmbeddingError::GpuError { source: words.clone().into() });
    std::iter::once(Err(err)).chain((1..count).map(other)).collect()
}

/// Runs something that may panic; after a panic the models are not trusted any more.
pub(super) fn guarded<T>(
    place: &Place<'_>,
    work: impl FnOnce() -> EmbeddingResult<T>,
) -> EmbeddingResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        place.breaks();
        Err(panicked(payload.as_ref()))
    })
}

/// Runs a short text, so that a device that sleeps when nothing is asked is awake for the next.
pub(super) fn keep_warm(place: &Place<'_>, engine: &mut dyn Engine) {
    let about = engine.about();
    let wanted = match about.is_fused {
        true => Wanted::Fused { own_forms: false },
        false => Wanted::Models(about.models.into_iter().collect()),
    };
    let now_s = (place.shared.clock)();
    let result = guarded(place, || {
        let probe = ModelInput::text("still warm")?;
        engine.run(&wanted, &[probe], now_s)
    });
    add(&place.shared.metrics.rewarms, 1);
    if result.is_err_and(|it| is_lost(&it)) {
        place.breaks();
    }
}

/// Whether a device that says this has to be opened anew: everything but want of memory.
pub(super) fn is_lost(err: &EmbeddingError) -> bool {
    match err {
        EmbeddingError::GpuError { .. } => !calor_embed::batching::is_out_of_memory(err),
        EmbeddingError::InternalError { .. } => true,
        _ => false,
    }
}

fn panicked(payload: &(dyn Any + Send)) -> EmbeddingError {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let source = text.unwrap_or("a panic without a message").into();
    EmbeddingError::InternalError { place: "a batch that panicked", source: Some(source) }
}
