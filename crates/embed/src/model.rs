//! One model as its users see it.

use std::pin::Pin;
use std::slice;

use crate::embedding::ModelEmbedding;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::{InputKind, ModelInput};
use crate::model_id::ModelId;

/// A future behind a pointer, so that traits with futures can be objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One of the twelve models. The batch is the primitive; one input is a batch of one.
pub trait EmbeddingModel: Send + Sync {
    /// Which model this is.
    fn model_id(&self) -> ModelId;

    /// Whether it answers now.
    fn is_initialized(&self) -> bool;

    /// Device memory of its weights. A trunk counts in full for each model that it serves.
    fn memory_usage_bytes(&self) -> u64;

    /// One result for each input, in their order. A bad input fails alone.
    ///
    /// # Errors
    /// Of the whole batch: [`EmbeddingError::ModelNotLoaded`], [`EmbeddingError::Overloaded`],
    /// and what the device says.
    fn embed_batch<'a>(
        &'a self,
        inputs: &'a [ModelInput],
    ) -> BoxFuture<'a, EmbeddingResult<Vec<EmbeddingResult<ModelEmbedding>>>>;

    /// The result of one input.
    ///
    /// # Errors
    /// As [`EmbeddingModel::embed_batch`], and what is wrong with the input.
    fn embed<'a>(
        &'a self,
        input: &'a ModelInput,
    ) -> BoxFuture<'a, EmbeddingResult<ModelEmbedding>> {
        Box::pin(async move {
            let mut results = self.embed_batch(slice::from_ref(input)).await?;
            let lost = || EmbeddingError::InternalError { place: "batch of one", source: None };
            results.pop().unwrap_or_else(|| Err(lost()))
        })
    }

    /// What it takes.
    fn supported_input_types(&self) -> &'static [InputKind] {
        self.model_id().input_kinds()
    }

    /// Whether it takes such an input.
    fn supports_input_type(&self, kind: InputKind) -> bool {
        self.supported_input_types().contains(&kind)
    }

    /// Elements of its own vector.
    fn dimension(&self) -> usize {
        self.model_id().native_dimension()
    }

    /// Elements of its slot.
    fn projected_dimension(&self) -> usize {
        self.model_id().slot_dimension()
    }

    /// What one input may take.
    fn latency_budget_ms(&self) -> u64 {
        self.model_id().latency_budget_ms()
    }

    /// Most tokens of a text, where it has any.
    fn max_tokens(&self) -> Option<usize> {
        self.model_id().max_tokens()
    }

    /// Whether it has weights; the others are arithmetic.
    fn is_pretrained(&self) -> bool {
        self.model_id().is_pretrained()
    }

    /// Refuses what can be seen to fail without running.
    ///
    /// # Errors
    /// [`EmbeddingError::UnsupportedModality`] and [`EmbeddingError::EmptyInput`].
    fn validate_input(&self, input: &ModelInput) -> EmbeddingResult<()> {
        let (model_id, kind) = (self.model_id(), input.kind());
        if !self.supports_input_type(kind) {
            return Err(EmbeddingError::UnsupportedModality { model_id, kind });
        }
        if input.content_bytes().is_empty() {
            return Err(EmbeddingError::EmptyInput { what: "input" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Answers with the length of each input, or not at all.
    struct Lengths;

    impl EmbeddingModel for Lengths {
        fn model_id(&self) -> ModelId {
            ModelId::Code
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
            let one = |input: &ModelInput| {
                self.validate_input(input)?;
                let vector = vec![input.content_bytes().len() as f32; self.projected_dimension()];
                ModelEmbedding::projected(self.model_id(), vector, 0)
            };
            Box::pin(std::future::ready(Ok(inputs.iter().map(one).collect())))
        }
    }

    #[test]
    fn one_input_is_a_batch_of_one() {
        let model: &dyn EmbeddingModel = &Lengths;
        let embed = |input: ModelInput| {
            let mut context = Context::from_waker(Waker::noop());
            match model.embed(&input).as_mut().poll(&mut context) {
                Poll::Ready(result) => result,
                Poll::Pending => panic!("nothing to wait for"),
            }
        };
        let code = embed(ModelInput::code("fn", "rust").unwrap()).unwrap();
        assert_eq!((code.vector[0], code.vector.len()), (2.0, ModelId::Code.slot_dimension()));
        let empty = ModelInput::Text { content: String::new(), instruction: None };
        assert!(matches!(embed(empty), Err(EmbeddingError::EmptyInput { .. })));
        let sound = ModelInput::audio(vec![1], 8000, 1).unwrap();
        assert!(matches!(embed(sound), Err(EmbeddingError::UnsupportedModality { .. })));
    }

    #[test]
    fn properties_come_from_the_table_of_models() {
        let model: &dyn EmbeddingModel = &Lengths;
        let id = model.model_id();
        assert_eq!(model.dimension(), id.native_dimension());
        assert_eq!(model.max_tokens(), id.max_tokens());
        assert_eq!(model.latency_budget_ms(), id.latency_budget_ms());
        assert_eq!(model.supported_input_types(), id.input_kinds());
        assert!(model.is_pretrained());
    }
}
