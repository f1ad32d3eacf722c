//! Planning by itself: BERT-large for 512 tokens, no weights read, nothing compiled.

use std::path::Path;

use calor_embed::InferencePrecision;
use calor_embed::encoder::{Pooling, TextOutputs, text_graph};
use calor_embed::error::EmbeddingError;
use calor_embed::packing::Bucket;
use calor_runtime::{Capabilities, Choices};
use calor_weights::{Head, ModelConfig};
use serde_json::json;

use crate::error::BenchError;
use crate::scenario::{Calls, Context, Done, Measured, timed};

const NAME: &str = "plan.bert_large.512";

pub(super) fn measure(context: &Context<'_>) -> Result<Measured, BenchError> {
    let text = json!({
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": 16,
        "num_hidden_layers": context.size.pick(2, 24),
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": 30522,
    });
    let config = ModelConfig::from_json(Path::new("config.json"), &text.to_string())?;
    let what = "a text encoder";
    let encoder = config.text.as_ref().ok_or(BenchError::Needs { scenario: NAME, what })?;
    let outputs = TextOutputs {
        pooling: Pooling::Mean,
        project: false,
        normalize: true,
        slots: Vec::new(),
        token_slot: None,
        token_mean: None,
    };
    let bucket = Bucket::of_tokens(512);
    let source_error = |source| EmbeddingError::InternalError {
        place: "graph of a benchmark",
        source: Some(Box::new(source)),
    };
    let precision = InferencePrecision::FP32;
    let graph =
        text_graph(encoder, Head::None, "", bucket, &outputs, precision).map_err(source_error)?;
    let device = context.open()?;
    let capabilities =
        Capabilities { claims: device.claims, parallel_count: device.signature.parallel_count };
    let calls =
        Calls { warm_count: context.size.pick(0, 2), sample_count: context.size.pick(1, 20) };
    let measure = timed(context, NAME, calls, || {
        let plan = calor_runtime::plan(&graph, &capabilities, &Choices::default())?;
        let (moved_bytes, flops) = plan.cost();
        let sizes = [
            plan.steps.len() as u64,
            plan.units.len() as u64,
            plan.arena_bytes,
            moved_bytes,
            flops,
        ];
        let values = sizes.into_iter().map(|it| it as f64).collect();
        Ok(Done { item_count: plan.steps.len() as u64, token_count: 0, values })
    })?;
    Ok(vec![measure].into())
}
