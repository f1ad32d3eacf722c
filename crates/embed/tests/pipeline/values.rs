//! What twelve tiny models and their fusion compute on the processor.

use std::sync::{Mutex, OnceLock, PoisonError};

use calor_embed::embedding::{UNIT_TOLERANCE, cosine, l2_norm};
use calor_embed::input::{ImageFormat, LongText};
use calor_embed::tokenizer::LongTokens;
use calor_embed::{
    CONCATENATED_LEN, EmbeddingError, EmbeddingPipeline, EmbeddingResult, FUSED_LEN,
    InferencePrecision, ModelId, ModelInput, PipelineCore, PipelineOptions, PipelineOutput,
    Profile,
};

use crate::fixture::{block_on, clock, cpu_build, options};

const TEXTS: [&str; 4] = [
    "The quick brown fox jumps over the lazy dog.",
    "Rain.",
    "Distributed systems face challenges with consistency, and so do the people who run them.",
    "Machine learning models require careful optimization.",
];
const TOLERANCE: f32 = 1e-5;

fn pipeline(change: impl FnOnce(&mut PipelineOptions)) -> EmbeddingPipeline {
    let mut options = options(Profile::Random, &ModelId::ALL);
    change(&mut options);
    let core = PipelineCore::open(cpu_build(), options).unwrap();
    EmbeddingPipeline::start(core, clock()).unwrap()
}

/// One pipeline for the tests that change nothing, one at a time.
fn with_pipeline<T>(work: impl FnOnce(&EmbeddingPipeline) -> T) -> T {
    static PIPELINE: OnceLock<Mutex<EmbeddingPipeline>> = OnceLock::new();
    let pipeline = PIPELINE.get_or_init(|| Mutex::new(pipeline(|_| {})));
    work(&pipeline.lock().unwrap_or_else(PoisonError::into_inner))
}

fn text(content: &str) -> ModelInput {
    ModelInput::Text { content: content.into(), instruction: None }
}

fn texts() -> Vec<ModelInput> {
    TEXTS.iter().map(|it| text(it)).collect()
}

fn batch(inputs: Vec<ModelInput>) -> Vec<EmbeddingResult<PipelineOutput>> {
    with_pipeline(|it| block_on(it.embed_batch(inputs))).unwrap()
}

#[track_caller]
fn agree(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= TOLERANCE, "{what} at {index}: {got} and {want}");
    }
}

#[track_caller]
fn agree_whole(got: &PipelineOutput, want: &PipelineOutput) {
    for model_id in ModelId::iter() {
        let vector = |it: &PipelineOutput| it.embeddings.get(model_id).unwrap().vector.clone();
        agree(&vector(got), &vector(want), model_id.as_str());
    }
    let (got, want) = (got.fused.as_ref().unwrap(), want.fused.as_ref().unwrap());
    agree(&got.vector, &want.vector, "fused");
    agree(&got.expert_weights, &want.expert_weights, "expert weights");
}

#[test]
fn twelve_unit_slots_and_a_finite_fusion() {
    let output = with_pipeline(|it| block_on(it.embed(TEXTS[0]))).unwrap();
    assert!(output.embeddings.is_complete());
    assert!(!output.flags.partial);
    let all = output.embeddings.as_slice().unwrap();
    assert_eq!(all.len(), CONCATENATED_LEN);
    for model_id in ModelId::iter() {
        let slot = output.embeddings.get_slice(model_id).unwrap();
        assert_eq!(slot.len(), model_id.slot_dimension());
        assert!((l2_norm(slot) - 1.0).abs() <= UNIT_TOLERANCE, "{model_id}: {}", l2_norm(slot));
        assert_eq!(slot, &all[model_id.slot_range()]);
    }
    let fused = output.fused.unwrap();
    assert_eq!(fused.vector.len(), FUSED_LEN);
    assert!(fused.vector.iter().all(|it| it.is_finite()));
    assert!(fused.vector.iter().any(|it| *it != 0.0));
    assert!((fused.expert_weights.iter().sum::<f32>() - 1.0).abs() <= 0.01);
    assert!(!fused.selected_experts.is_empty());
    assert!(output.sparse.is_some() && output.tokens.is_some());
}

#[test]
fn a_batch_is_its_items_in_their_order() {
    let whole = batch(texts());
    for (text, output) in texts().into_iter().zip(&whole) {
        let output = output.as_ref().unwrap();
        assert_eq!(output.embeddings.content_hash(), text.content_hash());
        let alone = with_pipeline(|it| block_on(it.embed_input(text))).unwrap();
        agree_whole(output, &alone);
    }
    let semantic = |it: &EmbeddingResult<PipelineOutput>| {
        it.as_ref().unwrap().embeddings.get(ModelId::Semantic).unwrap().vector.clone()
    };
    assert_ne!(semantic(&whole[0]), semantic(&whole[1]));
}

#[test]
fn a_bad_item_fails_alone() {
    let inputs = vec![text(TEXTS[0]), text(""), text(TEXTS[1])];
    let outputs = batch(inputs);
    assert!(matches!(outputs[1], Err(EmbeddingError::EmptyInput { .. })));
    let good = batch(vec![text(TEXTS[0]), text(TEXTS[1])]);
    agree_whole(outputs[0].as_ref().unwrap(), good[0].as_ref().unwrap());
    agree_whole(outputs[2].as_ref().unwrap(), good[1].as_ref().unwrap());
}

#[test]
fn too_long_a_text_fails_alone_or_is_cut() {
    let long = "word ".repeat(5000);
    let cut = batch(vec![text(&long)]).remove(0).unwrap();
    assert!(cut.flags.truncated && cut.fused.is_some());

    let strict = pipeline(|options| {
        options.models = vec![ModelId::Graph, ModelId::Hdc];
        options.limits.text_bytes_max = 2000;
        options.limits.long_text = LongText::Refuse;
        options.long_text = LongTokens::Refuse;
    });
    let many_tokens = "a ".repeat(600);
    let inputs = vec![text(&long), text(TEXTS[0]), text(&many_tokens)];
    let outputs = block_on(strict.embed_batch(inputs)).unwrap();
    assert!(matches!(outputs[0], Err(EmbeddingError::InputTooLong { limit_max: 2000, .. })));
    assert_eq!(outputs[1].as_ref().unwrap().embeddings.filled_count(), 2);
    let is_long = matches!(outputs[2], Err(EmbeddingError::InputTooLong { limit_max: 128, .. }));
    assert!(is_long, "{:?}", outputs[2].as_ref().err());
}

#[test]
fn code_is_embedded_like_text_and_an_image_has_one_slot() {
    let code = ModelInput::code("fn main() { println!(\"hello\"); }", "rust").unwrap();
    let png = include_bytes!("../data/big.png").to_vec();
    let image = ModelInput::image(png, ImageFormat::Png).unwrap();
    let broken = ModelInput::image(vec![1, 2, 3], ImageFormat::Png).unwrap();
    let sound = ModelInput::audio(vec![1], 8000, 1).unwrap();
    let mut outputs = batch(vec![image, code, broken, sound]).into_iter();
    let image = outputs.next().unwrap().unwrap();
    assert_eq!(image.embeddings.filled_count(), 1);
    let slot = image.embeddings.get(ModelId::Multimodal).unwrap();
    assert!((slot.l2_norm() - 1.0).abs() <= UNIT_TOLERANCE);
    assert!(image.fused.is_none() && image.flags.partial);
    let code = outputs.next().unwrap().unwrap();
    assert!(code.embeddings.is_complete() && code.fused.is_some());
    assert!(matches!(outputs.next(), Some(Err(EmbeddingError::InvalidImage { .. }))));
    assert!(matches!(outputs.next(), Some(Err(EmbeddingError::UnsupportedModality { .. }))));
}

#[test]
fn a_model_alone_gives_the_vector_of_its_slot() {
    let whole = batch(texts()).remove(2).unwrap();
    with_pipeline(|pipeline| {
        for model in pipeline.registry().loaded_models() {
            let vectors = block_on(model.embed_batch(&texts())).unwrap();
            let alone = vectors.into_iter().nth(2).unwrap().unwrap();
            let want = whole.embeddings.get(model.model_id()).unwrap();
            agree(&alone.vector, &want.vector, model.model_id().as_str());
            assert!(model.supports_input_type(calor_embed::InputKind::Text));
            model.validate_input(&text("x")).unwrap();
            assert_eq!(model.is_pretrained(), 0 < model.memory_usage_bytes());
        }
        let image = ModelInput::image(vec![1], ImageFormat::Png).unwrap();
        let semantic = block_on(pipeline.registry().get_model(ModelId::Semantic)).unwrap();
        let refused = block_on(semantic.embed(&image));
        assert!(matches!(
            refused,
            Err(EmbeddingError::UnsupportedModality { model_id: ModelId::Semantic, .. })
        ));
    });
}

#[test]
fn a_model_loaded_again_gives_the_same_vectors() {
    let pipeline = pipeline(|options| options.models = vec![ModelId::Graph]);
    let embed = || block_on(pipeline.embed(TEXTS[0])).unwrap().embeddings;
    let before = embed();
    block_on(pipeline.registry().unload_model(ModelId::Graph)).unwrap();
    assert_eq!(embed().filled_count(), 0);
    block_on(pipeline.registry().load_model(ModelId::Graph)).unwrap();
    let vector = |it: &calor_embed::ConcatenatedEmbedding| it.get(ModelId::Graph).unwrap().clone();
    agree(&vector(&embed()).vector, &vector(&before).vector, "graph");
}

#[test]
fn a_missing_checkpoint_is_named() {
    let mut options = options(Profile::Random, &ModelId::ALL);
    options.checkpoints.insert("colbertv2.0".into(), "/nowhere/colbert".into());
    let opened = PipelineCore::open(cpu_build(), options.clone());
    assert!(
        matches!(
            opened,
            Err(EmbeddingError::ModelLoadError { model_id: Some(ModelId::LateInteraction), .. })
        ),
        "{opened:?}"
    );
    options.checkpoints.remove("colbertv2.0");
    let opened = PipelineCore::open(cpu_build(), options);
    assert!(matches!(opened, Err(EmbeddingError::ConfigError { field: "checkpoints", .. })));
}

#[test]
fn a_pipeline_runs_in_bf16_and_refuses_what_would_overflow() {
    let narrow = pipeline(|it| it.precision = InferencePrecision::BF16);
    let got = block_on(narrow.embed_batch(vec![text(TEXTS[0])])).unwrap().remove(0).unwrap();
    let want = batch(vec![text(TEXTS[0])]).remove(0).unwrap();
    for model_id in ModelId::iter() {
        let vector = |it: &PipelineOutput| it.embeddings.get(model_id).unwrap().vector.clone();
        let cosine = cosine(&vector(&got), &vector(&want));
        assert!(0.999 <= cosine, "{model_id}: cosine {cosine}");
    }
    assert!(got.fused.is_some_and(|it| it.vector.iter().all(|it| it.is_finite())));

    let mut options = options(Profile::Random, &ModelId::ALL);
    options.precision = InferencePrecision::FP16;
    match PipelineCore::open(cpu_build(), options) {
        Err(EmbeddingError::PrecisionRefused { model, precision, .. }) => {
            assert_eq!((model.as_str(), precision.word()), ("codet5p-110m-embedding", "f16"));
        }
        other => panic!("{other:?}"),
    }
}
