//! Checkpoints as arms: one encoder with ids given, and the pipeline from texts to fused vectors.

use std::collections::HashMap;
use std::sync::Arc;

use calor_embed::embedder::{CheckpointEmbedder, EmbedItem, EmbedOutput, EmbedderOptions};
use calor_embed::embedding::MissingModels;
use calor_embed::input::{InputLimits, ModelInput, Role};
use calor_embed::profile::TRUNK;
use calor_embed::tokenizer::LongTokens;
use calor_embed::{InferencePrecision, ModelId, PipelineCore, PipelineOptions, Profile};
use calor_telemetry::Counters;
use calor_telemetry::counter::Plain;

use crate::arm::{ArmSizes, Call, Opening};
use crate::embedder::{made_items, vocab_count};
use crate::error::BenchError;
use crate::scenario::Done;
use crate::scenarios::pipeline_texts;

fn checkpoint(context: &ArmSizes) -> Result<&std::path::Path, BenchError> {
    let what = "the directory of a checkpoint";
    context.checkpoint.as_deref().ok_or(BenchError::Needs { scenario: "embed.checkpoint", what })
}

struct Encoder {
    embedder: CheckpointEmbedder,
    items: Vec<EmbedItem>,
    counters: Arc<Counters>,
}

pub(super) fn embed(opening: Opening<'_>) -> Result<Box<dyn Call>, BenchError> {
    let Opening { build, counters, context } = opening;
    let options = EmbedderOptions {
        pooling: None,
        normalize: Some(true),
        sequence_tokens_max: None,
        long_text: LongTokens::Refuse,
        batch_tokens_max: context.batch_tokens_max,
        thread_count: context.thread_count,
        role: Role::Passage,
        precision: InferencePrecision::FP32,
    };
    let embedder = CheckpointEmbedder::open(build, checkpoint(context)?, options)?;
    let items = made_items(context.size, context.text_tokens, vocab_count(&embedder));
    Ok(Box::new(Encoder { embedder, items, counters }))
}

impl Call for Encoder {
    fn call(&mut self) -> Result<Done, BenchError> {
        let scope = self.counters.scope();
        let results = self.embedder.embed(&self.items)?;
        let token_count = scope.change().get(Plain::Tokens).unsigned_abs();
        let (mut values, mut item_count) = (Vec::new(), 0);
        for result in results {
            if let EmbedOutput::Vector(vector) = result?.output {
                values.extend(vector.into_iter().map(f64::from));
                item_count += 1;
            }
        }
        Ok(Done { item_count, token_count, values })
    }

    fn cost(&self) -> Option<(u64, u64)> {
        None
    }

    fn device_bytes(&self) -> Option<u64> {
        let held = self.embedder.programs().memory();
        Some(held.weights_bytes + held.arena_bytes + held.boundary_bytes + held.state_bytes)
    }
}

struct Pipeline {
    pipeline: PipelineCore,
    inputs: Vec<ModelInput>,
    counters: Arc<Counters>,
    // Weights of the fusion lie here.
    _folder: tempfile::TempDir,
}

/// The present, as the temporal models see it: the same in every run.
const NOW_S: i64 = 1_700_000_000;

pub(super) fn pipeline(opening: Opening<'_>) -> Result<Box<dyn Call>, BenchError> {
    let Opening { build, counters, context } = opening;
    let folder = tempfile::tempdir().map_err(BenchError::io("make a temporary folder"))?;
    let options = PipelineOptions {
        profile: Profile::Mini,
        models: ModelId::iter().collect(),
        checkpoints: HashMap::from([(TRUNK.name.to_owned(), checkpoint(context)?.to_owned())]),
        absent: HashMap::new(),
        fusion_file: folder.path().join("fusion.safetensors"),
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
    let pipeline = PipelineCore::open(build, options)?;
    let inputs = pipeline_texts(context.size)?;
    Ok(Box::new(Pipeline { pipeline, inputs, counters, _folder: folder }))
}

impl Call for Pipeline {
    fn call(&mut self) -> Result<Done, BenchError> {
        let scope = self.counters.scope();
        let results = self.pipeline.embed_batch(&self.inputs, NOW_S)?;
        let token_count = scope.change().get(Plain::Tokens).unsigned_abs();
        let (mut values, mut item_count) = (Vec::new(), 0);
        for result in results {
            if let Some(fused) = result?.fused {
                values.extend(fused.vector.iter().map(|it| f64::from(*it)));
                item_count += 1;
            }
        }
        Ok(Done { item_count, token_count, values })
    }

    fn cost(&self) -> Option<(u64, u64)> {
        None
    }

    fn device_bytes(&self) -> Option<u64> {
        None
    }
}
