//! Some of a pipeline's models without the others.

use std::collections::BTreeSet;

use super::{PipelineCore, PipelineOutput, embedding};
use crate::embedding::ModelEmbedding;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::ModelInput;
use crate::model_id::ModelId;
use crate::tokenizer::{TextTokenizer, TokenLimit};

impl PipelineCore {
    /// Embeds inputs with one model. A bad item fails alone; the results are in the inputs'
    /// order.
    ///
    /// # Errors
    /// Of the whole call: [`EmbeddingError::ModelNotLoaded`], and what the device says.
    pub fn embed_model(
        &mut self,
        model_id: ModelId,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Vec<EmbeddingResult<ModelEmbedding>>> {
        if !self.is_loaded(model_id) {
            return Err(EmbeddingError::ModelNotLoaded { model_id });
        }
        let drafts = self.drafts(&BTreeSet::from([model_id]), inputs, now_s)?;
        let results = inputs.iter().zip(drafts).map(|(input, draft)| {
            input.require_support(model_id)?;
            let (slot, latency_us) = draft?
                .slots
                .remove(&model_id)
                .ok_or(EmbeddingError::UnsupportedModality { model_id, kind: input.kind() })?;
            Ok(embedding(model_id, slot.vector, latency_us))
        });
        Ok(results.collect())
    }

    /// Embeds inputs with some of the loaded models; nothing is fused. A bad item fails alone;
    /// the results are in the inputs' order.
    ///
    /// # Errors
    /// As [`PipelineCore::embed_model`].
    pub fn embed_models(
        &mut self,
        wanted: &BTreeSet<ModelId>,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>> {
        if let Some(model_id) = wanted.iter().copied().find(|it| !self.is_loaded(*it)) {
            return Err(EmbeddingError::ModelNotLoaded { model_id });
        }
        let drafts = self.drafts(wanted, inputs, now_s)?;
        Ok(drafts.into_iter().map(|draft| draft.and_then(|it| self.finish(it))).collect())
    }

    /// How a model's texts become ids, and how many it takes; none for arithmetic models.
    pub fn tokenizer(&self, model: ModelId) -> Option<(&TextTokenizer, TokenLimit)> {
        let neural = self.neural.iter().find(|it| it.models().contains(&model));
        neural.map(|it| (it.host().tokenizer(), it.host().limit()))
    }
}
