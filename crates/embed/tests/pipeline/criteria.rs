//! What the specification of the warm-up asks of a pipeline that is ready, one by one.

use std::sync::{Arc, LazyLock};

use calor_embed::{
    EmbeddingPipeline, FUSED_LEN, InferencePrecision, ModelId, PipelineCore, PipelineOptions,
    PipelineOutput, Profile, WarmupConfig,
};
use calor_telemetry::Stopwatch;

use crate::fixture::{block_on, clock, cpu_build, options};

/// All twelve models, tiny, warm.
static READY: LazyLock<Arc<EmbeddingPipeline>> = LazyLock::new(|| {
    let options = PipelineOptions {
        device_slots: true,
        batch_tokens_max: 128,
        ..options(Profile::Random, &ModelId::ALL)
    };
    let core = PipelineCore::unloaded(cpu_build(), options).unwrap();
    let pipeline = EmbeddingPipeline::start(core, clock()).unwrap();
    let config = WarmupConfig {
        samples_per_model: 1,
        batch_sizes: vec![1],
        total_timeout_secs: 120,
        ..WarmupConfig::default()
    };
    block_on(pipeline.initialize_with(config)).unwrap();
    Arc::new(pipeline)
});

fn embed(text: &str) -> PipelineOutput {
    block_on(READY.embed(text)).unwrap()
}

#[test]
fn all_twelve_models_give_valid_embeddings() {
    let output = embed("heat is energy in transit");
    for model in ModelId::ALL {
        let slot = output.embeddings.get(model).unwrap_or_else(|| panic!("{model}"));
        assert_eq!(slot.vector.len(), model.slot_dimension(), "{model}");
        assert!(slot.vector.iter().all(|it| it.is_finite()), "{model}");
        let norm = slot.l2_norm();
        assert!((norm - 1.0).abs() < 1e-3, "{model}: {norm}");
    }
}

#[test]
fn the_fusion_gives_1536_finite_values() {
    let fused = embed("a sentence").fused.unwrap();
    assert_eq!((fused.vector.len(), FUSED_LEN), (1536, 1536));
    assert!(fused.vector.iter().all(|it| it.is_finite()));
    assert!(fused.vector.windows(2).any(|it| it[0] != it[1]));
    let sum: f32 = fused.expert_weights.iter().sum();
    assert!((sum - 1.0).abs() < 0.01, "{sum}");
}

#[test]
fn a_single_embed_after_the_warm_up_takes_less_than_200_ms() {
    let mut walls_ns: Vec<u64> = (0..100)
        .map(|it| {
            let text = format!("request number {it}");
            let watch = Stopwatch::start();
            embed(&text);
            watch.elapsed_ns()
        })
        .collect();
    walls_ns.sort_unstable();
    assert!(walls_ns[94] < 200_000_000, "95 of 100 within {} ns", walls_ns[94]);
}

#[test]
fn all_weights_are_in_device_memory_when_it_is_ready() {
    let models = READY.registry().loaded_models();
    assert_eq!(models.len(), 12);
    for model in models.iter().filter(|it| it.model_id().is_pretrained()) {
        assert!(0 < model.memory_usage_bytes(), "{}", model.model_id());
    }
    let before_bytes = READY.memory_bytes();
    embed("the first request");
    assert_eq!(READY.memory_bytes(), before_bytes, "a request brings nothing more");
}

/// Bytes of the weights of everything, once a text has gone through it.
fn weights_bytes(precision: InferencePrecision) -> u64 {
    let options = PipelineOptions { precision, ..options(Profile::Random, &ModelId::ALL) };
    let mut core = PipelineCore::open(cpu_build(), options).unwrap();
    let text = calor_embed::input::ModelInput::text("heat is energy in transit").unwrap();
    let outputs = core.embed_batch(&[text], crate::fixture::NOW_S).unwrap();
    assert!(outputs.iter().all(Result::is_ok));
    core.programs().memory().weights_bytes
}

#[test]
fn weights_in_half_the_bits_take_half_the_bytes() {
    let whole = weights_bytes(InferencePrecision::FP32) as f64;
    let half = weights_bytes(InferencePrecision::BF16) as f64;
    assert!((half / whole - 0.5).abs() <= 0.05, "{half} of {whole}: {}", half / whole);
}
