//! Which models have to be warm before anything is served.

use crate::error::{EmbeddingError, EmbeddingResult};
use crate::model_id::ModelId;
use crate::pipeline::LostModel;

/// What counts as ready when models fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReadyPolicy {
    /// Every configured model is warm.
    #[default]
    All,
    /// Enough of them are, and the mandatory ones.
    Enough {
        /// Fewest models that must be warm.
        models_min: usize,
        /// Models that must be. One that is not configured is nobody's to miss.
        mandatory: Vec<ModelId>,
    },
}

impl ReadyPolicy {
    /// Whether a model that fails may leave the others served.
    pub fn allows_loss(&self) -> bool {
        matches!(self, Self::Enough { .. })
    }

    /// Whether these of the configured models are enough.
    pub fn holds(&self, configured: &[ModelId], warm: &[ModelId]) -> bool {
        let is_missed = |it: &ModelId| configured.contains(it) && !warm.contains(it);
        match self {
            _ if !configured.iter().any(is_missed) => true,
            Self::All => false,
            Self::Enough { models_min, mandatory } => {
                *models_min <= warm.len() && !mandatory.iter().any(is_missed)
            }
        }
    }

    /// Refuses what is left of the configured models where it is not enough.
    ///
    /// # Errors
    /// [`EmbeddingError::TooFewModels`].
    pub fn check(&self, configured: &[ModelId], lost: &[LostModel]) -> EmbeddingResult<()> {
        let is_warm = |it: &&ModelId| !lost.iter().any(|lost| lost.model_id == **it);
        let warm: Vec<ModelId> = configured.iter().filter(is_warm).copied().collect();
        if self.holds(configured, &warm) {
            return Ok(());
        }
        let (models_min, mandatory) = match self {
            Self::All => (configured.len(), Vec::new()),
            Self::Enough { models_min, mandatory } => (*models_min, mandatory.clone()),
        };
        Err(EmbeddingError::TooFewModels {
            warm_count: warm.len(),
            models_min,
            mandatory,
            lost: lost.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(policy: &ReadyPolicy, lost: &[ModelId], want: Option<&str>) {
        let row = |it: &ModelId| LostModel { model_id: *it, why: "no file".into() };
        let lost: Vec<LostModel> = lost.iter().map(row).collect();
        let configured =
            [ModelId::Semantic, ModelId::TemporalRecent, ModelId::Causal, ModelId::Sparse];
        let words = policy.check(&configured, &lost).err().map(|it| it.to_string());
        assert_eq!(words.as_deref(), want);
    }

    #[test]
    fn enough_models_with_the_mandatory_ones_are_ready() {
        use ModelId::{Causal, Semantic, TemporalRecent};
        check(&ReadyPolicy::All, &[], None);
        let want = "3 models are warm, 4 must be; lost: causal (no file)";
        check(&ReadyPolicy::All, &[Causal], Some(want));
        let some = ReadyPolicy::Enough { models_min: 3, mandatory: vec![Semantic, Causal] };
        check(&some, &[TemporalRecent], None);
        let want = "3 models are warm, 3 must be, among them semantic, causal; lost: \
                    semantic (no file)";
        check(&some, &[Semantic], Some(want));
        let want = "2 models are warm, 3 must be, among them semantic, causal; lost: \
                    temporal_recent (no file), causal (no file)";
        check(&some, &[TemporalRecent, Causal], Some(want));
        // A mandatory model that is not configured is nobody's to miss.
        let other = ReadyPolicy::Enough { models_min: 3, mandatory: vec![ModelId::Entity] };
        check(&other, &[Causal], None);
        // More than there are is all of them.
        check(&ReadyPolicy::Enough { models_min: 9, mandatory: Vec::new() }, &[], None);
    }
}
