//! One model on several devices: bulk texts, and each device takes the next piece when it is free.

use std::sync::Arc;

use super::balancer::MultiGpuBalancer;
use super::bulk::{Bulk, Replica, check_count, join};
use crate::embedding::ModelEmbedding;
use crate::error::EmbeddingResult;
use crate::input::ModelInput;
use crate::model::{BoxFuture, EmbeddingModel};

/// Multi-GPU embedding service: one model, a replica of it on each device.
pub struct MultiGpuEmbedder {
    balancer: Arc<MultiGpuBalancer>,
    models: Vec<Arc<dyn EmbeddingModel>>,
}

impl MultiGpuEmbedder {
    /// Over the replicas of a model, one for each device of the balancer and in its order.
    ///
    /// # Errors
    /// [`crate::EmbeddingError::DimensionMismatch`] for another number of replicas than devices.
    pub fn new(
        balancer: Arc<MultiGpuBalancer>,
        models: Vec<Arc<dyn EmbeddingModel>>,
    ) -> EmbeddingResult<Self> {
        check_count(&balancer, models.len())?;
        Ok(Self { balancer, models })
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
        let bulk = Bulk::new(&self.balancer, texts.into_iter().map(ModelInput::text));
        while bulk.has_more() {
            let (bulk, models) = (&bulk, self.models.clone());
            let lane = |(gpu_idx, mut model): (usize, Arc<dyn EmbeddingModel>)| {
                Box::pin(async move { bulk.lane(gpu_idx, &mut model).await })
            };
            let mut lanes: Vec<_> = models.into_iter().enumerate().map(lane).collect();
            join(&mut lanes).await;
        }
        bulk.finish()
    }
}

impl Replica<ModelEmbedding> for Arc<dyn EmbeddingModel> {
    fn run<'a>(
        &'a mut self,
        inputs: &'a [ModelInput],
    ) -> BoxFuture<'a, EmbeddingResult<Vec<EmbeddingResult<ModelEmbedding>>>> {
        self.embed_batch(inputs)
    }
}

impl std::fmt::Debug for MultiGpuEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MultiGpuEmbedder").field("balancer", &self.balancer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::error::EmbeddingError;
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
    fn a_batch_may_be_run_by_any_thread() {
        let embedder = embedder(&[well(0)]);
        let future: BoxFuture<'_, _> = Box::pin(embedder.embed_batch(texts(1)));
        in_order(block_on(future).unwrap());
    }

    #[test]
    fn replicas_and_devices_are_as_many() {
        let balancer = Arc::new(MultiGpuBalancer::new(&[0, 1]).unwrap());
        let models: Vec<Arc<dyn EmbeddingModel>> = vec![well(0)];
        assert!(MultiGpuEmbedder::new(balancer, models).is_err());
    }
}
