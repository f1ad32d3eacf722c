//! How a pipeline is warmed up, and what counts as ready.

use serde::{Deserialize, Serialize};

use super::ReadyPolicy;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::model_id::ModelId;
use crate::pipeline::PrecisionRule;

/// Warm-up configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmupConfig {
    /// Runs of each model at each batch size; the first of each always, the others while there is
    /// time.
    pub samples_per_model: usize,
    /// Batch sizes that are run.
    pub batch_sizes: Vec<usize>,
    /// Whether code of all models is made at once. Models are timed one after another either way.
    pub parallel: bool,
    /// Longest that one model may take, within what is left of the total.
    pub model_timeout_secs: u64,
    /// Whether the others serve when a model fails; the pipeline is degraded then.
    pub skip_on_failure: bool,
    /// Whether progress is told while it happens.
    pub verbose: bool,
    /// Longest that all of it may take.
    pub total_timeout_secs: u64,
    /// What the inputs are made from.
    pub seed: u64,
    /// With `skip_on_failure`: fewest models that must be warm.
    pub models_min: usize,
    /// With `skip_on_failure`: models, by name, that must be.
    pub mandatory_models: Vec<String>,
    /// What happens to a model whose vectors in its precision are too far from those in f32.
    pub precision_rule: PrecisionRule,
    /// The least cosine to f32, where it is not to be what the precision promises.
    pub precision_cosine_min: Option<f64>,
}

impl Default for WarmupConfig {
    fn default() -> Self {
        Self {
            samples_per_model: 8,
            batch_sizes: vec![1, 4, 16, 32],
            parallel: true,
            model_timeout_secs: 60,
            skip_on_failure: false,
            verbose: true,
            total_timeout_secs: 30,
            seed: 42,
            models_min: 7,
            mandatory_models: vec![ModelId::Semantic.as_str().into()],
            precision_rule: PrecisionRule::Narrow,
            precision_cosine_min: None,
        }
    }
}

impl WarmupConfig {
    /// Refuses settings under which nothing would be run, and names that no model has.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] with the field, [`EmbeddingError::ModelNotFound`].
    pub fn check(&self) -> EmbeddingResult<()> {
        let refused =
            |field, value: String, want| Err(EmbeddingError::ConfigError { field, value, want });
        if self.samples_per_model == 0 {
            return refused("samples_per_model", "0".into(), "it must be at least 1");
        }
        if self.batch_sizes.is_empty() || self.batch_sizes.contains(&0) {
            let value = format!("{:?}", self.batch_sizes);
            return refused("batch_sizes", value, "at least one, each at least 1");
        }
        for (field, value) in [
            ("model_timeout_secs", self.model_timeout_secs),
            ("total_timeout_secs", self.total_timeout_secs),
        ] {
            if value == 0 {
                return refused(field, "0".into(), "it must be at least 1");
            }
        }
        self.mandatory().map(|_| ())
    }

    /// What counts as ready when models fail.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelNotFound`].
    pub fn policy(&self) -> EmbeddingResult<ReadyPolicy> {
        let (models_min, mandatory) = (self.models_min, self.mandatory()?);
        Ok(match self.skip_on_failure {
            true => ReadyPolicy::Enough { models_min, mandatory },
            false => ReadyPolicy::All,
        })
    }

    /// The mandatory models.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelNotFound`].
    pub fn mandatory(&self) -> EmbeddingResult<Vec<ModelId>> {
        self.mandatory_models.iter().map(|it| it.parse()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_specification() {
        let config = WarmupConfig::default();
        assert_eq!((config.samples_per_model, config.model_timeout_secs), (8, 60));
        assert_eq!(config.batch_sizes, [1, 4, 16, 32]);
        assert!(config.parallel && config.verbose && !config.skip_on_failure);
        assert_eq!(config.total_timeout_secs, 30);
        config.check().unwrap();
    }

    #[test]
    fn it_is_read_and_written_with_defaults_for_what_is_left_out() {
        let text = serde_json::to_string(&WarmupConfig::default()).unwrap();
        assert_eq!(serde_json::from_str::<WarmupConfig>(&text).unwrap(), WarmupConfig::default());
        let some: WarmupConfig = serde_json::from_str(r#"{"batch_sizes": [2]}"#).unwrap();
        assert_eq!(some, WarmupConfig { batch_sizes: vec![2], ..WarmupConfig::default() });
        assert!(serde_json::from_str::<WarmupConfig>(r#"{"batch_size": [2]}"#).is_err());
    }

    #[test]
    fn settings_that_warm_nothing_are_refused() {
        let with = |change: fn(&mut WarmupConfig)| {
            let mut config = WarmupConfig::default();
            change(&mut config);
            config.check()
        };
        assert!(with(|it| it.samples_per_model = 0).is_err());
        assert!(with(|it| it.batch_sizes = vec![]).is_err());
        assert!(with(|it| it.batch_sizes = vec![1, 0]).is_err());
        assert!(with(|it| it.model_timeout_secs = 0).is_err());
        assert!(with(|it| it.total_timeout_secs = 0).is_err());
        assert!(with(|it| it.mandatory_models = vec!["e13".into()]).is_err());
    }
}
