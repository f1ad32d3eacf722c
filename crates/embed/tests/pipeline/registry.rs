//! Loading on first use, one load for many callers, and memory that comes back.

use calor_embed::profile::TRUNK;
use calor_embed::{
    EmbeddingError, EmbeddingModel, EmbeddingPipeline, ModelId, ModelInput, PipelineCore, Profile,
};
use tempfile::TempDir;

use crate::fixture::{
    ARITHMETIC, block_on, clock, join_all, null_build, options, write_checkpoint,
};

fn pipeline(profile: Profile, models: &[ModelId]) -> EmbeddingPipeline {
    let core = PipelineCore::unloaded(null_build(), options(profile, models)).unwrap();
    EmbeddingPipeline::start(core, clock()).unwrap()
}

fn text() -> ModelInput {
    ModelInput::text("a text").unwrap()
}

#[test]
fn many_callers_cause_one_load() {
    let pipeline = pipeline(Profile::Random, &[ModelId::Graph]);
    let registry = pipeline.registry();
    assert!(registry.loaded_models().is_empty());
    let gets = (0..100).map(|_| registry.get_model(ModelId::Graph)).collect();
    for model in block_on(join_all(gets)) {
        let model = model.unwrap();
        assert_eq!(model.model_id(), ModelId::Graph);
        assert!(model.is_initialized());
    }
    let stats = registry.stats();
    assert_eq!((stats.load_count, stats.failed_load_count, stats.loaded_count), (1, 0, 1));
}

#[test]
fn a_load_that_failed_can_be_tried_again() {
    let dir = TempDir::new().unwrap();
    let name = "paraphrase-MiniLM-L6-v2";
    let mut options = options(Profile::Random, &[ModelId::Graph, ModelId::Code]);
    options.checkpoints = [(name.into(), dir.path().join(name))].into();
    let core = PipelineCore::unloaded(null_build(), options).unwrap();
    let pipeline = EmbeddingPipeline::start(core, clock()).unwrap();
    let registry = pipeline.registry();
    for _ in 0..2 {
        let failed = block_on(registry.get_model(ModelId::Graph)).err().unwrap();
        assert!(
            matches!(failed, EmbeddingError::ModelLoadError { model_id: Some(ModelId::Graph), .. }),
            "{failed:?}"
        );
    }
    write_checkpoint(name, dir.path());
    block_on(registry.get_model(ModelId::Graph)).unwrap();
    let nowhere = block_on(registry.load_model(ModelId::Code)).err().unwrap();
    assert!(
        matches!(nowhere, EmbeddingError::ConfigError { field: "checkpoints", .. }),
        "{nowhere:?}"
    );
    let stats = registry.stats();
    assert_eq!((stats.load_count, stats.failed_load_count), (1, 3));
}

#[test]
fn unknown_models_are_refused_by_type() {
    let pipeline = pipeline(Profile::Random, &ARITHMETIC);
    let registry = pipeline.registry();
    let by_name = block_on(registry.get_model_named("e99")).err().unwrap();
    assert!(matches!(by_name, EmbeddingError::ModelNotFound { name } if name == "e99"));
    let other = block_on(registry.get_model(ModelId::Code)).err().unwrap();
    assert!(matches!(other, EmbeddingError::ModelNotFound { name } if name == "code"));
    let hdc = block_on(registry.get_model_named(ModelId::Hdc.as_str())).unwrap();
    assert_eq!(hdc.model_id(), ModelId::Hdc);
}

#[test]
fn a_second_load_and_a_second_unload_are_refused() {
    let pipeline = pipeline(Profile::Random, &ARITHMETIC);
    let registry = pipeline.registry();
    let model_id = ModelId::Hdc;
    block_on(registry.load_model(model_id)).unwrap();
    let second = block_on(registry.load_model(model_id));
    assert!(matches!(second, Err(EmbeddingError::ModelAlreadyLoaded { model_id: ModelId::Hdc })));
    let model = block_on(registry.get_model(model_id)).unwrap();
    block_on(registry.unload_model(model_id)).unwrap();
    let second = block_on(registry.unload_model(model_id));
    assert!(matches!(second, Err(EmbeddingError::ModelNotLoaded { model_id: ModelId::Hdc })));
    assert!(!model.is_initialized());
    let gone = block_on(model.embed(&text()));
    assert!(matches!(gone, Err(EmbeddingError::ModelNotLoaded { model_id: ModelId::Hdc })));
    block_on(registry.load_model(model_id)).unwrap();
    block_on(model.embed(&text())).unwrap();
}

#[test]
fn unloading_gives_memory_back() {
    let pipeline = pipeline(Profile::Random, &[ModelId::Graph, ModelId::Multimodal]);
    let registry = pipeline.registry();
    let graph = block_on(registry.get_model(ModelId::Graph)).unwrap();
    assert_eq!(graph.memory_usage_bytes(), 0);
    block_on(graph.embed(&text())).unwrap();
    let one_bytes = registry.total_memory_usage();
    assert!(0 < graph.memory_usage_bytes() && graph.memory_usage_bytes() < one_bytes);

    let image = block_on(registry.get_model(ModelId::Multimodal)).unwrap();
    let png = include_bytes!("../data/big.png").to_vec();
    let png = ModelInput::image(png, calor_embed::input::ImageFormat::Png).unwrap();
    block_on(image.embed(&text())).unwrap();
    block_on(image.embed(&png)).unwrap();
    let both_bytes = registry.total_memory_usage();
    let image_bytes = image.memory_usage_bytes();
    assert!(one_bytes + image_bytes <= both_bytes);

    block_on(registry.unload_model(ModelId::Multimodal)).unwrap();
    assert!(registry.total_memory_usage() <= both_bytes - image_bytes);
    assert_eq!(image.memory_usage_bytes(), 0);
    block_on(graph.embed(&text())).unwrap();
    block_on(registry.unload_model(ModelId::Graph)).unwrap();
    assert_eq!(registry.total_memory_usage(), 0);
    assert_eq!(registry.stats().unload_count, 2);
}

#[test]
fn a_trunk_stays_until_the_last_model_that_it_serves() {
    let models = [ModelId::Semantic, ModelId::Sparse, ModelId::LateInteraction];
    let pipeline = pipeline(Profile::Mini, &models);
    assert!(models.iter().all(|it| TRUNK.models.contains(it)));
    let registry = pipeline.registry();
    block_on(registry.load_all()).unwrap();
    let output = block_on(pipeline.embed("a text")).unwrap();
    assert_eq!(output.embeddings.filled_count(), 3);
    let bytes = registry.total_memory_usage();
    assert!(0 < bytes);

    block_on(registry.unload_model(ModelId::Semantic)).unwrap();
    block_on(registry.unload_model(ModelId::Sparse)).unwrap();
    assert_eq!(registry.total_memory_usage(), bytes);
    let output = block_on(pipeline.embed("a text")).unwrap();
    assert_eq!(output.embeddings.filled_count(), 1);
    assert!(output.sparse.is_none() && output.tokens.is_some());

    block_on(registry.unload_model(ModelId::LateInteraction)).unwrap();
    assert_eq!(registry.total_memory_usage(), 0);
    block_on(registry.load_all()).unwrap();
    assert_eq!(block_on(pipeline.embed("a text")).unwrap().embeddings.filled_count(), 3);
    assert_eq!(registry.total_memory_usage(), bytes);
}

#[test]
fn loaded_models_come_in_slot_order_with_their_properties() {
    let pipeline = pipeline(Profile::Random, &ARITHMETIC);
    let registry = pipeline.registry();
    block_on(registry.load_all()).unwrap();
    let ids: Vec<ModelId> = registry.loaded_models().iter().map(|it| it.model_id()).collect();
    assert_eq!(ids, ARITHMETIC);
    assert!(ids.iter().all(|it| registry.is_loaded(*it)));
    let models = registry.loaded_models();
    let hdc: &dyn EmbeddingModel = models[3].as_ref();
    assert_eq!(hdc.projected_dimension(), ModelId::Hdc.slot_dimension());
    assert!(!hdc.is_pretrained());
}
