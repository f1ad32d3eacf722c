//! The pipeline of twelve models over one trunk, from text to fused vector.

use std::collections::HashMap;

use calor_embed::embedding::MissingModels;
use calor_embed::input::{InputLimits, ModelInput};
use calor_embed::profile::TRUNK;
use calor_embed::tokenizer::LongTokens;
use calor_embed::{InferencePrecision, ModelId, PipelineCore, PipelineOptions, Profile};
use calor_telemetry::counter::Plain;

use crate::embedder::executed;
use crate::error::BenchError;
use crate::scenario::{Calls, Context, Done, Measured, timed};

const NAME: &str = "pipeline.mini.texts";
/// The present, as the temporal models see it: the same in every run.
const NOW_S: i64 = 1_700_000_000;

pub(super) fn measure(context: &Context<'_>) -> Result<Measured, BenchError> {
    let dir = context.checkpoint(NAME)?;
    let (build, counters) = context.build()?;
    let options = PipelineOptions {
        profile: Profile::Mini,
        models: ModelId::iter().collect(),
        checkpoints: HashMap::from([(TRUNK.name.to_owned(), dir.to_owned())]),
        absent: HashMap::new(),
        fusion_file: context.scratch.join("fusion.safetensors"),
        projection_file: None,
        missing: MissingModels::Refuse,
        limits: InputLimits::STANDARD,
        long_text: LongTokens::Truncate,
        batch_tokens_max: context.batch_tokens_max,
        reference_s: Some(NOW_S),
        precision: InferencePrecision::FP32,
        device_slots: false,
        own_forms: true,
    };
    let mut pipeline = PipelineCore::open(build, options)?;
    let inputs = inputs(context.size.pick(2, 32))?;
    let calls =
        Calls { warm_count: context.size.pick(0, 2), sample_count: context.size.pick(1, 10) };
    let measure = timed(context, NAME, calls, || {
        let scope = counters.scope();
        let results = pipeline.embed_batch(&inputs, NOW_S)?;
        let token_count = scope.change().get(Plain::Tokens).unsigned_abs();
        let mut values = Vec::new();
        let mut item_count = 0;
        for result in results {
            if let Some(fused) = result?.fused {
                values.extend(fused.vector.iter().map(|it| f64::from(*it)));
                item_count += 1;
            }
        }
        executed("fused vectors", inputs.len() as u64, item_count)?;
        Ok(Done { item_count, token_count, values })
    })?;
    Ok(vec![measure].into())
}

/// Texts of different lengths, always the same.
pub(crate) fn inputs(count: usize) -> Result<Vec<ModelInput>, BenchError> {
    let sentences = [
        "The river froze over before the first boats could leave the harbour.",
        "fn main() { println!(\"{}\", 6 * 7); }",
        "A short note.",
        "Because the valve had been left open, the tank was empty by the morning, and nobody \
         noticed until the pumps began to run dry.",
    ];
    let text = |index: usize| format!("{} ({index})", sentences[index % sentences.len()]);
    (0..count).map(|index| Ok(ModelInput::text(text(index))?)).collect()
}
