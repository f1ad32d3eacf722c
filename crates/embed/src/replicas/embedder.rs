//! Bulk work over several devices: pieces in a queue, and each device takes the next when it is
//! free.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use super::balancer::MultiGpuBalancer;
use crate::embedding::ModelEmbedding;
use crate::error::{EmbeddingError, EmbeddingResult, Fault};
use crate::input::ModelInput;
use crate::model::EmbeddingModel;

/// Pieces for each device: enough that a quick one takes work from a slow one.
const PIECES_PER_DEVICE: usize = 4;
/// Most inputs of a piece.
const PIECE_LEN_MAX: usize = 64;

/// Multi-GPU embedding service: one model, a replica of it on each device.
pub struct MultiGpuEmbedder {
    balancer: Arc<MultiGpuBalancer>,
    models: Vec<Arc<dyn EmbeddingModel>>,
}

/// A part of a batch.
#[derive(Clone, Debug)]
struct Piece {
    /// Place of its first input.
    start: usize,
    inputs: Vec<ModelInput>,
}

type Results = Vec<Option<EmbeddingResult<ModelEmbedding>>>;

/// What the devices share while a batch runs.
struct Batch {
    queue: VecDeque<Piece>,
    results: Results,
    /// What the last lost device said.
    fault: Option<EmbeddingError>,
}

impl MultiGpuEmbedder {
    /// Over the replicas of a model, one for each device of the balancer and in its order.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`] for another number of replicas than devices.
    pub fn new(
        balancer: Arc<MultiGpuBalancer>,
        models: Vec<Arc<dyn EmbeddingModel>>,
    ) -> EmbeddingResult<Self> {
        match models.len() == balancer.gpu_count() {
            true => Ok(Self { balancer, models }),
            false => Err(EmbeddingError::DimensionMismatch {
                what: "replicas",
                want_len: balancer.gpu_count(),
                got_len: models.len(),
            }),
        }
    }

    /// Who has how much to do.
    pub fn balancer(&self) -> &Arc<MultiGpuBalancer> {
        &self.balancer
    }

    /// Embeds texts over all devices: one result for each, in their order; none for none.
    ///
    /// A bad text fails alone. A device that fails is lost: its piece goes to the others, and so
    /// does what it would have taken; texts are embedded anew, never twice into the results.
    ///
    /// # Errors
    /// When all devices are lost: what the last of them said.
    pub async fn embed_batch(
        &self,
        texts: Vec<String>,
    ) -> EmbeddingResult<Vec<EmbeddingResult<ModelEmbedding>>> {
        let mut results: Results = Vec::with_capacity(texts.len());
        let mut good = Vec::with_capacity(texts.len());
        for (place, text) in texts.into_iter().enumerate() {
            match ModelInput::text(text) {
                Ok(input) => {
                    good.push((place, input));
                    results.push(None);
                }
                Err(err) => results.push(Some(Err(err))),
            }
        }
        let queue = self.pieces(good);
        let batch = Mutex::new(Batch { queue, results, fault: None });
        // A piece may come back after the others found nothing more to do.
        while 0 < self.balancer.live_count() && !lock(&batch).queue.is_empty() {
            let mut lanes: Vec<_> = (0..self.models.len())
                .map(|gpu_idx| Box::pin(self.lane(gpu_idx, &batch)))
                .collect();
            join(&mut lanes).await;
        }
        let Batch { results, fault, queue } =
            batch.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !queue.is_empty() {
            let lost = EmbeddingError::NotInitialized { what: "any device: all are lost" };
            return Err(fault.unwrap_or(lost));
        }
        let lost = || EmbeddingError::InternalError { place: "a piece of a batch", source: None };
        Ok(results.into_iter().map(|it| it.unwrap_or_else(|| Err(lost()))).collect())
    }

    /// Neighbours together, as many pieces as keep every device busy to the end.
    fn pieces(&self, inputs: Vec<(usize, ModelInput)>) -> VecDeque<Piece> {
        let wanted = PIECES_PER_DEVICE * self.balancer.live_count().max(1);
        let len = inputs.len().div_ceil(wanted).clamp(1, PIECE_LEN_MAX);
        let mut pieces: VecDeque<Piece> = VecDeque::new();
        for (place, input) in inputs {
            match pieces.back_mut() {
                Some(last) if last.inputs.len() < len && last.end() == place => {
                    last.inputs.push(input);
                }
                _ => pieces.push_back(Piece { start: place, inputs: vec![input] }),
            }
        }
        pieces
    }

    /// What one device does: the next piece, until there is none or it is lost.
    async fn lane(&self, gpu_idx: usize, batch: &Mutex<Batch>) {
        loop {
            let Some(piece) = lock(batch).queue.pop_front() else { return };
            let cost = piece.inputs.iter().map(|it| 1 + it.content_bytes().len() as u64 / 4).sum();
            let Some(_guard) = self.balancer.reserve_on(gpu_idx, cost) else {
                lock(batch).queue.push_front(piece);
                return;
            };
            match unwinding(self.models[gpu_idx].embed_batch(&piece.inputs)).await {
                Ok(done) if done.len() == piece.inputs.len() => {
                    let mut batch = lock(batch);
                    for (place, result) in (piece.start..).zip(done) {
                        batch.results[place] = Some(result);
                    }
                }
                failed => {
                    let fault = failed.err().unwrap_or(EmbeddingError::InternalError {
                        place: "the number of a replica's results",
                        source: None,
                    });
                    if is_lost(&fault) {
                        self.balancer.mark_lost(gpu_idx);
                        let mut batch = lock(batch);
                        batch.queue.push_front(piece);
                        batch.fault = Some(fault);
                        return;
                    }
                    lock(batch).refuse(&piece, fault);
                }
            }
        }
    }
}

impl Batch {
    /// Gives every input of a piece the error of the whole: the first the error itself, the others
    /// its words, because an error cannot be copied with its cause.
    fn refuse(&mut self, piece: &Piece, fault: EmbeddingError) {
        let words = fault.to_string();
        let other = |item_index| EmbeddingError::BatchError {
            item_index,
            source: Box::new(EmbeddingError::GpuError { source: words.clone().into() }),
        };
        let faults = std::iter::once(fault).chain((piece.start + 1..).map(other));
        for (place, fault) in (piece.start..piece.end()).zip(faults) {
            self.results[place] = Some(Err(fault));
        }
    }
}

impl Piece {
    fn end(&self) -> usize {
        self.start + self.inputs.len()
    }
}

impl std::fmt::Debug for MultiGpuEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MultiGpuEmbedder").field("balancer", &self.balancer).finish_non_exhaustive()
    }
}

/// Whether a replica that says this is of no use any more.
fn is_lost(err: &EmbeddingError) -> bool {
    let ours = matches!(err.fault(), Fault::Environment | Fault::Internal | Fault::Configuration);
    ours && !matches!(err, EmbeddingError::Overloaded { .. })
}

fn lock(batch: &Mutex<Batch>) -> std::sync::MutexGuard<'_, Batch> {
    batch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls a future; a panic in it is an error.
async fn unwinding<T>(
    future: Pin<Box<dyn Future<Output = EmbeddingResult<T>> + Send + '_>>,
) -> EmbeddingResult<T> {
    let mut future = future;
    let panicked =
        || EmbeddingError::InternalError { place: "a replica that panicked", source: None };
    std::future::poll_fn(move |context| {
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)))
            .unwrap_or_else(|_| Poll::Ready(Err(panicked())))
    })
    .await
}

/// Runs futures at once until all have ended.
async fn join<F: Future<Output = ()> + Unpin>(futures: &mut [F]) {
    let mut ended = vec![false; futures.len()];
    std::future::poll_fn(|context| {
        for (future, ended) in futures.iter_mut().zip(&mut ended) {
            *ended = *ended || Pin::new(future).poll(context).is_ready();
        }
        if ended.iter().all(|it| *it) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::model::BoxFuture;
    use crate::model_id::ModelId;
    use crate::warmup::block_on;

    /// A replica that takes its time on a thread of its own, and fails when it is told to.
    #[derive(Clone)]
    struct Replica {
        item_ms: u64,
        /// Runs after which it fails.
        good_count: usize,
        what: What,
        runs: Arc<AtomicUsize>,
        items: Arc<AtomicUsize>,
        at_once: Arc<AtOnce>,
    }

    /// Replicas that work now, and the most that ever did.
    #[derive(Default)]
    struct AtOnce {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum What {
        IsLost,
        Panics,
        Refuses,
    }

    fn replica(item_ms: u64, good_count: usize, what: What) -> Arc<Replica> {
        let (runs, items, at_once) = (Arc::default(), Arc::default(), Arc::default());
        Arc::new(Replica { item_ms, good_count, what, runs, items, at_once })
    }

    fn well(item_ms: u64) -> Arc<Replica> {
        replica(item_ms, usize::MAX, What::IsLost)
    }

    impl EmbeddingModel for Replica {
        fn model_id(&self) -> ModelId {
            ModelId::Entity
        }

        fn is_initialized(&self) -> bool {
            true
        }

        fn memory_usage_bytes(&self) -> u64 {
            0
        }

        fn embed_batch<'a>(
            &'a self,
            inputs: &'a [ModelInput],
        ) -> BoxFuture<'a, EmbeddingResult<Vec<EmbeddingResult<ModelEmbedding>>>> {
            let run = self.runs.fetch_add(1, Ordering::Relaxed);
            let now = 1 + self.at_once.now.fetch_add(1, Ordering::Relaxed);
            self.at_once.most.fetch_max(now, Ordering::Relaxed);
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let wait = Duration::from_millis(self.item_ms * inputs.len() as u64);
            std::thread::spawn(move || {
                std::thread::sleep(wait);
                sender.send(())
            });
            Box::pin(async move {
                receiver.await.unwrap();
                self.at_once.now.fetch_sub(1, Ordering::Relaxed);
                if self.good_count <= run {
                    match self.what {
                        What::IsLost => {
                            return Err(EmbeddingError::GpuError { source: "gone".into() });
                        }
                        What::Panics => panic!("as told"),
                        What::Refuses => {
                            return Err(EmbeddingError::Overloaded {
                                queued_count: 1,
                                queue_max: 1,
                            });
                        }
                    }
                }
                self.items.fetch_add(inputs.len(), Ordering::Relaxed);
                Ok(inputs.iter().map(|it| Ok(vector(it))).collect())
            })
        }
    }

    /// A vector that begins with the number that its text is.
    fn vector(input: &ModelInput) -> ModelEmbedding {
        let number = std::str::from_utf8(input.content_bytes()).unwrap().parse().unwrap();
        let mut vector = vec![0.0; ModelId::Entity.slot_dimension()];
        vector[0] = number;
        ModelEmbedding::projected(ModelId::Entity, vector, 0).unwrap()
    }

    fn embedder(replicas: &[Arc<Replica>]) -> MultiGpuEmbedder {
        let ordinals: Vec<usize> = (0..replicas.len()).collect();
        let balancer = Arc::new(MultiGpuBalancer::new(&ordinals).unwrap());
        let models = replicas.iter().map(|it| it.clone() as Arc<dyn EmbeddingModel>).collect();
        MultiGpuEmbedder::new(balancer, models).unwrap()
    }

    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|it| it.to_string()).collect()
    }

    #[track_caller]
    fn in_order(results: Vec<EmbeddingResult<ModelEmbedding>>) {
        for (place, result) in results.into_iter().enumerate() {
            assert_eq!(result.unwrap().vector[0], place as f32);
        }
    }

    #[test]
    fn results_are_in_order_and_every_device_works() {
        let replicas = [well(1), well(1), well(1)];
        let embedder = embedder(&replicas);
        in_order(block_on(embedder.embed_batch(texts(100))).unwrap());
        let items = replicas.each_ref().map(|it| it.items.load(Ordering::Relaxed));
        assert_eq!(items.iter().sum::<usize>(), 100);
        assert!(items.iter().all(|it| 0 < *it), "{items:?}");
        assert_eq!([0, 1, 2].map(|it| embedder.balancer().load(it)), [0; 3]);
    }

    #[test]
    fn nothing_in_is_nothing_out_and_a_bad_text_fails_alone() {
        let embedder = embedder(&[well(0), well(0)]);
        assert!(block_on(embedder.embed_batch(Vec::new())).unwrap().is_empty());
        let mut some = texts(5);
        some[2] = String::new();
        let results = block_on(embedder.embed_batch(some)).unwrap();
        for (place, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), place == 2, "{place}");
        }
    }

    #[test]
    fn a_quick_device_takes_work_from_a_slow_one() {
        let replicas = [well(8), well(1)];
        in_order(block_on(embedder(&replicas).embed_batch(texts(64))).unwrap());
        let [slow, quick] = replicas.each_ref().map(|it| it.items.load(Ordering::Relaxed));
        assert!(2 * slow < quick, "{slow} and {quick}");
    }

    #[test]
    fn all_devices_work_at_once() {
        for count in [1, 2, 4] {
            let at_once = Arc::new(AtOnce::default());
            let replicas: Vec<_> = (0..count)
                .map(|_| {
                    let replica = Arc::unwrap_or_clone(well(4));
                    Arc::new(Replica { at_once: at_once.clone(), ..replica })
                })
                .collect();
            in_order(block_on(embedder(&replicas).embed_batch(texts(64))).unwrap());
            assert_eq!(at_once.most.load(Ordering::Relaxed), count);
        }
    }

    #[test]
    fn a_lost_device_drains_to_the_others() {
        for what in [What::IsLost, What::Panics] {
            let replicas = [replica(1, 1, what), well(1)];
            let embedder = embedder(&replicas);
            in_order(block_on(embedder.embed_batch(texts(50))).unwrap());
            assert_eq!(embedder.balancer().live_count(), 1);
            assert_eq!(embedder.balancer().load(0), 0, "nothing leaks");
            // It takes nothing more until it is restored.
            let before = replicas[0].runs.load(Ordering::Relaxed);
            in_order(block_on(embedder.embed_batch(texts(20))).unwrap());
            assert_eq!(replicas[0].runs.load(Ordering::Relaxed), before);
            embedder.balancer().restore(0);
            in_order(block_on(embedder.embed_batch(texts(20))).unwrap());
            assert!(before < replicas[0].runs.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn a_piece_that_comes_back_late_is_taken() {
        // The slow one fails when the quick one has finished everything else.
        let replicas = [replica(60, 0, What::IsLost), well(0)];
        in_order(block_on(embedder(&replicas).embed_batch(texts(8))).unwrap());
        assert_eq!(replicas[1].items.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn without_devices_the_last_fault_is_reported() {
        let embedder = embedder(&[replica(0, 0, What::IsLost), replica(0, 0, What::Panics)]);
        let refused = block_on(embedder.embed_batch(texts(10))).unwrap_err();
        let known = matches!(
            refused,
            EmbeddingError::GpuError { .. } | EmbeddingError::InternalError { .. }
        );
        assert!(known, "{refused:?}");
        let refused = block_on(embedder.embed_batch(texts(10))).unwrap_err();
        assert!(matches!(refused, EmbeddingError::NotInitialized { .. }), "{refused:?}");
    }

    #[test]
    fn a_full_queue_refuses_its_piece_and_loses_no_device() {
        let embedder = embedder(&[replica(0, 0, What::Refuses)]);
        let results = block_on(embedder.embed_batch(texts(3))).unwrap();
        assert!(matches!(results[0], Err(EmbeddingError::Overloaded { .. })));
        assert!(results.iter().all(Result::is_err));
        assert_eq!(embedder.balancer().live_count(), 1);
    }

    #[test]
    fn a_batch_that_is_given_up_leaves_no_load() {
        let embedder = embedder(&[well(50)]);
        {
            let mut future = Box::pin(embedder.embed_batch(texts(4)));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_pending());
            assert!(0 < embedder.balancer().load(0));
        }
        assert_eq!(embedder.balancer().load(0), 0);
    }

    #[test]
    fn replicas_and_devices_are_as_many() {
        let balancer = Arc::new(MultiGpuBalancer::new(&[0, 1]).unwrap());
        let models: Vec<Arc<dyn EmbeddingModel>> = vec![well(0)];
        assert!(MultiGpuEmbedder::new(balancer, models).is_err());
    }
}
