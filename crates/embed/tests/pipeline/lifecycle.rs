//! Queue, cancellation, panics, health, metrics and shutdown.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use calor_embed::handle::Clock;
use calor_embed::{
    EmbeddingError, EmbeddingPipeline, HealthState, ModelId, ModelInput, PipelineCore, Profile,
};

use crate::fixture::{NOW_S, arithmetic, block_on, clock, null_build, options, poll_once};

fn text(content: &str) -> ModelInput {
    ModelInput::text(content).unwrap()
}

/// A clock at which the device thread waits: it tells that it came, and goes on when told.
fn turnstile() -> (Clock, Receiver<()>, Sender<()>) {
    let (came, comes) = channel();
    let (go, goes) = channel();
    let goes = Mutex::new(goes);
    let clock = move || {
        came.send(()).unwrap();
        goes.lock().unwrap().recv().unwrap();
        NOW_S
    };
    (Arc::new(clock), comes, go)
}

#[test]
fn a_full_queue_is_overloaded_and_a_waiting_future_does_not_block() {
    let (clock, comes, go) = turnstile();
    let pipeline = EmbeddingPipeline::start_with_queue(arithmetic(), clock, 1).unwrap();
    let mut runs = pin!(pipeline.embed("runs"));
    assert!(poll_once(runs.as_mut()).is_pending());
    comes.recv().unwrap();
    let mut waits = pin!(pipeline.embed("waits"));
    assert!(poll_once(waits.as_mut()).is_pending());
    let refused = block_on(pipeline.embed("refused"));
    assert!(
        matches!(refused, Err(EmbeddingError::Overloaded { queued_count: 1, queue_max: 1 })),
        "{refused:?}"
    );
    go.send(()).unwrap();
    go.send(()).unwrap();
    block_on(runs).unwrap();
    block_on(waits).unwrap();
    assert_eq!(pipeline.metrics().errors, 1);
}

#[test]
fn a_request_without_a_caller_is_skipped() {
    let (clock, comes, go) = turnstile();
    let pipeline = EmbeddingPipeline::start(arithmetic(), clock).unwrap();
    let mut runs = pin!(pipeline.embed("runs"));
    assert!(poll_once(runs.as_mut()).is_pending());
    comes.recv().unwrap();
    {
        let mut dropped = pin!(pipeline.embed("dropped"));
        assert!(poll_once(dropped.as_mut()).is_pending());
    }
    go.send(()).unwrap();
    block_on(runs).unwrap();
    block_on(pipeline.shutdown());
    assert_eq!(pipeline.metrics().embeddings_generated, 1);
}

#[test]
fn a_panic_fails_its_request_alone() {
    let broken = Arc::new(AtomicBool::new(true));
    let clock = {
        let broken = broken.clone();
        move || if broken.load(Ordering::Relaxed) { panic!("no time") } else { NOW_S }
    };
    let pipeline = EmbeddingPipeline::start(arithmetic(), Arc::new(clock)).unwrap();
    let err = block_on(pipeline.embed("now")).unwrap_err();
    let EmbeddingError::InternalError { source: Some(source), .. } = &err else {
        panic!("{err:?}")
    };
    assert_eq!(source.to_string(), "no time");
    broken.store(false, Ordering::Relaxed);
    assert_eq!(block_on(pipeline.embed("now")).unwrap().embeddings.filled_count(), 4);
    let metrics = pipeline.metrics();
    assert_eq!((metrics.errors, metrics.embeddings_generated), (1, 1));
}

#[test]
fn shutdown_finishes_what_waits_and_takes_nothing_more() {
    let (clock, comes, go) = turnstile();
    let pipeline = EmbeddingPipeline::start(arithmetic(), clock).unwrap();
    let mut first = pin!(pipeline.embed("first"));
    let mut second = pin!(pipeline.embed_batch(vec![text("second"), text("third")]));
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    comes.recv().unwrap();
    let mut ends = pin!(pipeline.shutdown());
    assert!(poll_once(ends.as_mut()).is_pending());
    let late = block_on(pipeline.embed("late"));
    assert!(matches!(late, Err(EmbeddingError::NotInitialized { .. })), "{late:?}");
    go.send(()).unwrap();
    go.send(()).unwrap();
    block_on(ends);
    block_on(first).unwrap();
    assert_eq!(block_on(second).unwrap().len(), 2);
    block_on(pipeline.shutdown());
    assert!(pipeline.registry().loaded_models().is_empty());
    let late = pipeline.embed_batch_blocking(vec![text("late")]);
    assert!(matches!(late, Err(EmbeddingError::NotInitialized { .. })), "{late:?}");
}

#[test]
fn health_names_what_answers_and_what_is_untrained() {
    let core = PipelineCore::open(null_build(), options(Profile::Random, &ModelId::ALL)).unwrap();
    let pipeline = EmbeddingPipeline::start(core, clock()).unwrap();
    assert_eq!(pipeline.provider_name(), "fusemoe-12-pipeline");
    let report = block_on(pipeline.health_check()).unwrap();
    assert_eq!(report.state, HealthState::Healthy);
    assert_eq!(report.provider, "fusemoe-12-pipeline");
    assert_eq!((report.configured.len(), report.answering.len()), (12, 12));
    assert_eq!(report.untrained, Profile::Random.untrained());
    assert!(0 < report.memory_bytes && report.memory_bytes < report.memory_bytes_max);
    assert_eq!(pipeline.metrics().embeddings_generated, 0);

    block_on(pipeline.registry().unload_model(ModelId::Hdc)).unwrap();
    let report = block_on(pipeline.health_check()).unwrap();
    assert_eq!(report.state, HealthState::Unhealthy);
    assert!(!report.answering.contains(&ModelId::Hdc));
    block_on(pipeline.shutdown());
    assert!(block_on(pipeline.health_check()).is_err());
    assert_eq!(pipeline.memory_bytes(), 0);
}

#[test]
fn metrics_count_items_batches_and_failures() {
    let pipeline = EmbeddingPipeline::start(arithmetic(), clock()).unwrap();
    let empty = ModelInput::Text { content: String::new(), instruction: None };
    let batch = vec![text("a"), empty, text("b")];
    assert_eq!(pipeline.embed_batch_blocking(batch).unwrap().len(), 3);
    block_on(pipeline.embed("c")).unwrap();
    pipeline.count_cached(3, 2);
    let metrics = pipeline.metrics();
    assert_eq!((metrics.batches_processed, metrics.batch_items_processed), (2, 4));
    assert_eq!((metrics.embeddings_generated, metrics.errors), (3, 1));
    assert_eq!((metrics.cache_hits, metrics.cache_misses), (3, 2));
    assert!(0.0 <= metrics.avg_latency_us);
    assert_eq!(metrics.model_latencies_us[ModelId::Semantic.index()], 0.0);
}

#[test]
fn a_queue_without_room_is_refused() {
    let started = EmbeddingPipeline::start_with_queue(arithmetic(), clock(), 0);
    assert!(matches!(started, Err(EmbeddingError::ConfigError { .. })));
}
