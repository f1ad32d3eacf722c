//! Opening a checkpoint for the slots that it serves.

use std::path::Path;
use std::sync::Arc;

use calor_runtime::LaneId;
use calor_weights::{Checkpoint, EncoderConfig, Head, ModelConfig, Weights};

use super::{HostSide, MAP_SEED, NeuralModel, Prefix, Tokens, slot_name};
use crate::checkpoint_source::CheckpointSource;
use crate::encoder::{Pooling, SlotKind, SlotMap, TextOutputs};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fuser::BATCH_SIZES;
use crate::image_tower::ImageTower;
use crate::input::Role;
use crate::model_id::ModelId;
use crate::packing::Bucket;
use crate::pipeline::PipelineOptions;
use crate::pooling::end_of_text;
use crate::profile::{Need, Profile};
use crate::projection::{GaussianRows, OrthonormalMap, ROWS_NAME, SparseProjection};
use crate::tokenizer::{ColbertOptions, ColbertTokenizer, TextTokenizer, TokenLimit, e5_prefix};
use crate::tower::{TextTower, TextTowerSpec};

/// Rows of the sparse projection that are kept in memory.
const SPARSE_ROWS_MAX: usize = 4096;

/// More texts never meet in the fusion.
const MEETING_MAX: usize = BATCH_SIZES[BATCH_SIZES.len() - 1];

impl NeuralModel {
    /// Opens the checkpoint of a need for the models that the options name.
    pub(crate) fn open(
        lane: LaneId,
        need: Need,
        options: &PipelineOptions,
    ) -> EmbeddingResult<Self> {
        let models: Vec<ModelId> =
            need.models.iter().copied().filter(|it| options.models.contains(it)).collect();
        let model_id = models.first().copied();
        let Opened { weights, config, tokenizer, max_tokens } =
            read(directory(need, options)?, model_id)?;
        let (head, trunk) = (weights.head(), options.profile == Profile::Mini);
        let folder = options.fusion_file.parent().unwrap_or(Path::new("."));
        let mut source = CheckpointSource::new(Arc::new(weights));
        let encoder = text_encoder(&config, need)?;
        let mut outputs = match trunk {
            true => trunk_outputs(&models),
            false => model_outputs(model_id, head, &config),
        };
        let native = native_len(&outputs, head, &encoder);
        if options.device_slots {
            leave_slots(&mut outputs, model_id, native, trunk);
        }
        source = with_maps(source, folder, &models, &outputs, native)?;
        let rows = models.contains(&ModelId::Sparse).then(|| projection_rows(encoder.vocab_count));
        let rows = rows.transpose()?;
        if let (Some(rows), true) = (&rows, options.device_slots && !trunk) {
            source = with_projection(source, rows, options.projection_file.as_deref())?;
        }
        let source = Arc::new(source);
        let sequence_tokens_max = tokens_max(&models, [encoder.max_tokens, max_tokens]);
        let limit =
            TokenLimit { token_count_max: sequence_tokens_max, long_text: options.long_text };
        // What the device does is not done here.
        let sparse = rows.filter(|_| trunk || !options.device_slots);
        let sparse = sparse.map(|it| sparse_projection(it, options.projection_file.as_deref()));
        let sparse = sparse.transpose()?;
        let map = if trunk { None } else { host_map(model_id, native)? };
        let image = image_tower(need.name, &config, head, options, &source, lane)?;
        let prefix = prefix_of(&tokenizer, models == [ModelId::Semantic] && !trunk)?;
        let tokens = tokens_of(tokenizer, head, sequence_tokens_max)?;
        let spec = TextTowerSpec {
            label: need.name.into(),
            config: encoder,
            head,
            prefix: if config.vision.is_some() { "text." } else { "" },
            outputs,
            source,
            batch_tokens_max: options.batch_tokens_max,
            batch_sequences_max: MEETING_MAX,
            sequence_tokens_max,
            precision: options.precision,
        };
        let tower = TextTower::new(lane, spec)?;
        let host = Arc::new(HostSide {
            need,
            models,
            has_images: image.is_some(),
            tokens,
            prefix,
            limit,
            sparse,
            map,
            trunk,
            device_slots: options.device_slots,
        });
        Ok(Self { host, tower, image })
    }
}

fn text_encoder(config: &ModelConfig, need: Need) -> EmbeddingResult<EncoderConfig> {
    config.text.clone().ok_or(EmbeddingError::ConfigError {
        field: "checkpoint",
        value: need.name.into(),
        want: "it has no text encoder",
    })
}

/// Most tokens of a text: what the models were published with, or less if their checkpoint says so.
fn tokens_max(models: &[ModelId], own: [Option<usize>; 2]) -> usize {
    let published = models.iter().filter_map(|it| it.max_tokens()).max();
    let least = own.into_iter().flatten().chain(published).min();
    least.unwrap_or(512).min(Bucket::TOKENS_MAX)
}

fn image_tower(
    name: &str,
    config: &ModelConfig,
    head: Head,
    options: &PipelineOptions,
    source: &Arc<CheckpointSource>,
    lane: LaneId,
) -> EmbeddingResult<Option<ImageTower>> {
    let (Some(vision), Head::SharedProjection { out_len }) = (&config.vision, head) else {
        return Ok(None);
    };
    let (vision, precision, source) = (vision.clone(), options.precision, source.clone());
    ImageTower::new(name, vision, Some(out_len), true, precision, source, lane).map(Some)
}

fn directory(need: Need, options: &PipelineOptions) -> EmbeddingResult<&Path> {
    match (options.checkpoints.get(need.name), options.absent.get(need.name)) {
        (Some(dir), _) => Ok(dir),
        (None, Some(why)) => Err(EmbeddingError::ModelLoadError {
            model_id: None,
            part: need.name.into(),
            source: why.as_str().into(),
        }),
        (None, None) => Err(EmbeddingError::ConfigError {
            field: "checkpoints",
            value: need.name.into(),
            want: "this checkpoint has no directory",
        }),
    }
}

/// What a checkpoint's directory holds.
struct Opened {
    weights: Weights,
    config: ModelConfig,
    tokenizer: TextTokenizer,
    /// What its sentence recipe cuts texts to, which may be less than the encoder can read.
    max_tokens: Option<usize>,
}

fn read(dir: &Path, model_id: Option<ModelId>) -> EmbeddingResult<Opened> {
    let failed = |part: String| {
        move |source: calor_weights::WeightsError| EmbeddingError::ModelLoadError {
            model_id,
            part,
            source: Box::new(source),
        }
    };
    let place = dir.display().to_string();
    let checkpoint = Checkpoint::open(dir).map_err(failed(place.clone()))?;
    let config = checkpoint.config().map_err(failed("config.json".into()))?;
    let recipe = checkpoint.sentence().map_err(failed("modules.json".into()))?;
    let tokenizer = TextTokenizer::from_file(&dir.join("tokenizer.json"))?;
    let weights = Weights::bind(checkpoint, &config).map_err(failed(place))?;
    Ok(Opened { weights, config, tokenizer, max_tokens: recipe.and_then(|it| it.max_tokens) })
}

/// The fixed maps of slots as weights of their graph, kept beside the fusion's weights.
fn with_maps(
    mut source: CheckpointSource,
    folder: &Path,
    models: &[ModelId],
    outputs: &TextOutputs,
    native_len: usize,
) -> EmbeddingResult<CheckpointSource> {
    let of_rows = outputs.pooling == Pooling::None;
    for slot in outputs.slots.iter().chain(&outputs.token_slot) {
        if slot.kind != SlotKind::Mapped {
            continue;
        }
        let model = models.iter().find(|it| slot_name(**it) == slot.name);
        // Rows of a late interaction have had the first stream from the start.
        let stream = model.filter(|_| !of_rows).map_or(0, |it| it.index() as u64);
        let map = OrthonormalMap::kept(folder, MAP_SEED + stream, native_len, slot.out_len)?;
        let name = format!("project.{}", slot.name);
        source = source.with(&name, Arc::new(map.matrix().to_vec()));
    }
    Ok(source)
}

/// Makes the tower leave the slot itself.
fn leave_slots(outputs: &mut TextOutputs, model: Option<ModelId>, native: usize, trunk: bool) {
    let late = ModelId::LateInteraction;
    if outputs.token_slot.is_some() || model == Some(late) {
        outputs.token_mean = Some(slot_name(late));
    }
    let Some(model) = model.filter(|_| !trunk) else { return };
    let (name, out_len) = (slot_name(model), model.slot_dimension());
    let kind = match model {
        ModelId::Sparse => SlotKind::MappedByRows,
        _ if native == out_len => SlotKind::Same,
        ModelId::Code if native == model.native_dimension() => SlotKind::Padded,
        _ => SlotKind::Mapped,
    };
    let slot = SlotMap { name, out_len, kind };
    match (model == late, kind) {
        (true, SlotKind::Same) => {}
        (true, _) => outputs.token_slot = Some(slot),
        (false, _) => outputs.slots.push(slot),
    }
}

fn projection_rows(vocab_count: usize) -> EmbeddingResult<GaussianRows> {
    let out_len = ModelId::Sparse.slot_dimension();
    GaussianRows::new(crate::projection::PROJECTION_SEED_DEFAULT, vocab_count, out_len)
}

/// The rows of E6's projection as a weight, from their file where one is named; it is written
/// where it is not there.
fn with_projection(
    source: CheckpointSource,
    rows: &GaussianRows,
    file: Option<&Path>,
) -> EmbeddingResult<CheckpointSource> {
    let name = format!("project.{}", slot_name(ModelId::Sparse));
    let Some(path) = file else {
        let mut matrix = vec![0.0; rows.in_len() * rows.out_len()];
        for (index, row) in matrix.chunks_exact_mut(rows.out_len()).enumerate() {
            rows.row_into(index as u32, row);
        }
        return Ok(source.with(&name, Arc::new(matrix)));
    };
    if !path.is_file() {
        rows.save(path)?;
    }
    source.with_file(&name, rows.open(path)?, ROWS_NAME)
}

/// The map of a native vector whose size is neither its slot's nor the published one.
fn host_map(model: Option<ModelId>, native: usize) -> EmbeddingResult<Option<OrthonormalMap>> {
    match model {
        Some(ModelId::Sparse | ModelId::LateInteraction) | None => Ok(None),
        Some(model) if native == model.slot_dimension() => Ok(None),
        Some(ModelId::Code) if native == ModelId::Code.native_dimension() => Ok(None),
        Some(model) => {
            let seed = MAP_SEED + model.index() as u64;
            OrthonormalMap::new(seed, native, model.slot_dimension()).map(Some)
        }
    }
}

/// What goes before a text, for E5 or another.
fn prefix_of(tokenizer: &TextTokenizer, is_e5: bool) -> EmbeddingResult<Prefix> {
    match (is_e5, tokenizer.cuts_words()) {
        (false, _) => return Ok(Prefix::None),
        (true, false) => return Ok(Prefix::Words),
        (true, true) => {}
    }
    let ids = |role| tokenizer.raw_ids(e5_prefix(role));
    Ok(Prefix::Ids { query: ids(Role::Query)?, passage: ids(Role::Passage)? })
}

fn tokens_of(tokenizer: TextTokenizer, head: Head, len_max: usize) -> EmbeddingResult<Tokens> {
    match head {
        Head::TokenProjection { .. } => {
            let reference = ColbertOptions::REFERENCE;
            let document_len_max = reference.document_len_max.min(len_max);
            let options = ColbertOptions { document_len_max, ..reference };
            Ok(Tokens::Colbert(ColbertTokenizer::new(tokenizer, options)?))
        }
        Head::None
        | Head::MaskedLm
        | Head::FirstTokenProjection { .. }
        | Head::SharedProjection { .. } => Ok(Tokens::Plain(tokenizer)),
    }
}

/// One run of the trunk serves every slot that is a map of its mean, and E12's rows.
fn trunk_outputs(models: &[ModelId]) -> TextOutputs {
    let map = |model: &ModelId| SlotMap {
        name: slot_name(*model),
        out_len: model.slot_dimension(),
        kind: SlotKind::Mapped,
    };
    let mean = |it: &&ModelId| !matches!(it, ModelId::Sparse | ModelId::LateInteraction);
    TextOutputs {
        pooling: Pooling::Mean,
        project: false,
        normalize: true,
        slots: models.iter().filter(mean).map(map).collect(),
        token_slot: models.iter().find(|it| **it == ModelId::LateInteraction).map(map),
        token_mean: None,
    }
}

fn model_outputs(model: Option<ModelId>, head: Head, config: &ModelConfig) -> TextOutputs {
    let pooling = match (model, head) {
        (Some(ModelId::Sparse), _) => Pooling::Splade,
        (_, Head::TokenProjection { .. }) => Pooling::None,
        (_, Head::FirstTokenProjection { .. }) => Pooling::First,
        (_, Head::SharedProjection { .. }) => {
            config.text.as_ref().map_or(Pooling::Last, end_of_text)
        }
        (_, Head::None | Head::MaskedLm) => Pooling::Mean,
    };
    let normalize = pooling != Pooling::Splade;
    let slots = Vec::new();
    TextOutputs { pooling, project: true, normalize, slots, token_slot: None, token_mean: None }
}

fn native_len(outputs: &TextOutputs, head: Head, encoder: &EncoderConfig) -> usize {
    match (outputs.pooling, head) {
        (Pooling::Splade, _) => encoder.vocab_count,
        (
            _,
            Head::TokenProjection { out_len }
            | Head::FirstTokenProjection { out_len }
            | Head::SharedProjection { out_len },
        ) => out_len,
        (_, Head::None | Head::MaskedLm) => encoder.hidden_len,
    }
}

fn sparse_projection(rows: GaussianRows, file: Option<&Path>) -> EmbeddingResult<SparseProjection> {
    match file {
        Some(file) if file.is_file() => SparseProjection::open(rows, file, SPARSE_ROWS_MAX),
        Some(_) | None => Ok(SparseProjection::generated(rows, SPARSE_ROWS_MAX)),
    }
}
