//! The models of a running pipeline: loaded on first use, unloaded on demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::embedding::ModelEmbedding;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::handle::DeviceThread;
use crate::input::{InputKind, ModelInput};
use crate::model::{BoxFuture, EmbeddingModel};
use crate::model_id::{MODEL_COUNT, ModelId};

/// Loads, hands out and unloads the models of a pipeline.
pub struct ModelRegistry {
    thread: Arc<DeviceThread>,
    models: [Arc<RegisteredModel>; MODEL_COUNT],
    /// Held while a model is loaded, so that many callers cause one load.
    gates: [Mutex<()>; MODEL_COUNT],
    loads: AtomicU64,
    failed_loads: AtomicU64,
    unloads: AtomicU64,
}

/// What a registry did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistryStats {
    /// Models that answer.
    pub loaded_count: usize,
    /// Models that were loaded since the start.
    pub load_count: u64,
    /// Loads that failed.
    pub failed_load_count: u64,
    /// Models that were unloaded.
    pub unload_count: u64,
    /// Device memory in use, as of the last request.
    pub memory_bytes: u64,
}

impl ModelRegistry {
    pub(crate) fn new(thread: Arc<DeviceThread>) -> Self {
        let model = |model_id| Arc::new(RegisteredModel { model_id, thread: thread.clone() });
        Self {
            models: ModelId::ALL.map(model),
            gates: std::array::from_fn(|_| Mutex::new(())),
            loads: AtomicU64::new(0),
            failed_loads: AtomicU64::new(0),
            unloads: AtomicU64::new(0),
            thread,
        }
    }

    /// The model, loaded if it is not. Any number of callers at once cause one load; after a
    /// load that failed the next caller tries again.
    ///
    /// # Errors
    /// As [`ModelRegistry::load_model`].
    pub async fn get_model(&self, model_id: ModelId) -> EmbeddingResult<Arc<dyn EmbeddingModel>> {
        if !self.is_loaded(model_id) {
            let _gate = self.gates[model_id.index()].lock().await;
            if !self.is_loaded(model_id) {
                self.load(model_id).await?;
            }
        }
        Ok(self.models[model_id.index()].clone())
    }

    /// The model of this name, loaded if it is not.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelNotFound`], and as [`ModelRegistry::load_model`].
    pub async fn get_model_named(&self, name: &str) -> EmbeddingResult<Arc<dyn EmbeddingModel>> {
        self.get_model(name.parse()?).await
    }

    /// Loads a model.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelAlreadyLoaded`]; [`EmbeddingError::ModelNotFound`] for a model that
    /// the pipeline is not configured for; [`EmbeddingError::ModelLoadError`] and its kin when
    /// its checkpoint cannot be opened.
    pub async fn load_model(&self, model_id: ModelId) -> EmbeddingResult<()> {
        let _gate = self.gates[model_id.index()].lock().await;
        self.load(model_id).await
    }

    /// Loads every model that the pipeline is configured for.
    ///
    /// # Errors
    /// That of the first model that cannot be loaded.
    pub async fn load_all(&self) -> EmbeddingResult<()> {
        for model_id in self.thread.models.iter().copied() {
            self.get_model(model_id).await?;
        }
        Ok(())
    }

    /// Unloads a model and gives its memory back. A trunk that serves several models stays until
    /// the last of them goes.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelNotLoaded`], and what the device says.
    pub async fn unload_model(&self, model_id: ModelId) -> EmbeddingResult<()> {
        let _gate = self.gates[model_id.index()].lock().await;
        self.thread.call(move |worker| worker.core()?.unload(model_id)).await?;
        self.unloads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the model answers.
    pub fn is_loaded(&self, model_id: ModelId) -> bool {
        self.thread.is_loaded(model_id)
    }

    /// Models that answer, in slot order.
    pub fn loaded_models(&self) -> Vec<Arc<dyn EmbeddingModel>> {
        let loaded = self.models.iter().filter(|it| it.is_initialized());
        loaded.map(|it| it.clone() as Arc<dyn EmbeddingModel>).collect()
    }

    /// Device memory of the pipeline, as of the last request: weights, arenas, boundaries.
    pub fn total_memory_usage(&self) -> u64 {
        self.thread.view.memory_bytes.load(Ordering::Relaxed)
    }

    /// What was done so far.
    pub fn stats(&self) -> RegistryStats {
        RegistryStats {
            loaded_count: self.models.iter().filter(|it| it.is_initialized()).count(),
            load_count: self.loads.load(Ordering::Relaxed),
            failed_load_count: self.failed_loads.load(Ordering::Relaxed),
            unload_count: self.unloads.load(Ordering::Relaxed),
            memory_bytes: self.total_memory_usage(),
        }
    }

    async fn load(&self, model_id: ModelId) -> EmbeddingResult<()> {
        let result = self.thread.call(move |worker| worker.core()?.load(model_id)).await;
        match &result {
            Ok(()) => self.loads.fetch_add(1, Ordering::Relaxed),
            Err(EmbeddingError::ModelAlreadyLoaded { .. }) => 0,
            Err(_) => self.failed_loads.fetch_add(1, Ordering::Relaxed),
        };
        result
    }
}

impl std::fmt::Debug for ModelRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelRegistry").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// A model of the pipeline. It stays valid when the model is unloaded, and then says so.
struct RegisteredModel {
    model_id: ModelId,
    thread: Arc<DeviceThread>,
}

impl EmbeddingModel for RegisteredModel {
    fn model_id(&self) -> ModelId {
        self.model_id
    }

    fn is_initialized(&self) -> bool {
        self.thread.is_loaded(self.model_id)
    }

    fn memory_usage_bytes(&self) -> u64 {
        self.thread.view.model_bytes[self.model_id.index()].load(Ordering::Relaxed)
    }

    fn supported_input_types(&self) -> &'static [InputKind] {
        self.thread.profile.input_kinds(self.model_id)
    }

    fn embed_batch<'a>(
        &'a self,
        inputs: &'a [ModelInput],
    ) -> BoxFuture<'a, EmbeddingResult<Vec<EmbeddingResult<ModelEmbedding>>>> {
        let model_id = self.model_id;
        let inputs = inputs.to_vec();
        Box::pin(self.thread.call(move |worker| worker.embed_model(model_id, &inputs)))
    }
}
