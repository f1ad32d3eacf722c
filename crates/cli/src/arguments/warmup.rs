//! Flags of `calor warmup`.

use std::path::PathBuf;

use calor_embed::ModelId;
use calor_embed::pipeline::PrecisionRule;
use clap::Args;

use super::RunArguments;

/// `calor warmup`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  calor warmup
  calor warmup --profile full --device cuda --export warm.calor
  calor warmup --json --seconds 10

What is compiled is kept (see `calor cache`), so that the next start finds it; `--export` writes it
to one file, with which `calor cache import` makes a second machine of the same kind warm.")]
pub(crate) struct WarmupArguments {
    /// Batch sizes that are run.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1, 4, 16, 32],
        help_heading = "Warm-up")]
    pub(crate) batch_sizes: Vec<usize>,
    /// Runs of each model at each batch size; the first always, the others while there is time.
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Warm-up")]
    pub(crate) samples: usize,
    /// Longest that all of it may take.
    #[arg(long, value_name = "N", default_value_t = 30, help_heading = "Warm-up")]
    pub(crate) seconds: u64,
    /// Longest that one model may take.
    #[arg(long, value_name = "N", default_value_t = 60, help_heading = "Warm-up")]
    pub(crate) model_seconds: u64,
    /// Serve with the others when a model fails.
    #[arg(long, help_heading = "Warm-up")]
    pub(crate) skip_on_failure: bool,
    /// With `--skip-on-failure`: fewest models that must be warm.
    #[arg(long, value_name = "N", default_value_t = 7, help_heading = "Warm-up")]
    pub(crate) min_models: usize,
    /// With `--skip-on-failure`: models that must be warm, by number or name.
    #[arg(long, value_name = "LIST", value_parser = super::embed::model, value_delimiter = ',',
        default_value = "semantic", help_heading = "Warm-up")]
    pub(crate) mandatory_models: Vec<ModelId>,
    /// What happens to a model whose vectors in `--precision` are too far from those in f32.
    #[arg(long, value_enum, default_value = "narrow", help_heading = "Warm-up")]
    pub(crate) precision_rule: PrecisionRuleWord,
    /// Write what was compiled to this file, for another machine of the same kind.
    #[arg(long, value_name = "FILE", help_heading = "Warm-up")]
    pub(crate) export: Option<PathBuf>,
    /// Answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// What happens to a model that is too far from f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PrecisionRuleWord {
    /// Nothing is compared.
    Unchecked,
    /// The pipeline is not ready, where the precision is fp8 or int8; others are not compared.
    Narrow,
    /// The pipeline is not ready.
    Refuse,
    /// It runs in the next wider precision that is close enough, f32 at last.
    Widen,
}

impl From<PrecisionRuleWord> for PrecisionRule {
    fn from(word: PrecisionRuleWord) -> Self {
        match word {
            PrecisionRuleWord::Unchecked => Self::Unchecked,
            PrecisionRuleWord::Narrow => Self::Narrow,
            PrecisionRuleWord::Refuse => Self::Refuse,
            PrecisionRuleWord::Widen => Self::Widen,
        }
    }
}
