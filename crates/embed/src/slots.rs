//! The neural slots of a profile: towers, their tokenizers, and what each model makes of a row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calor_runtime::{Build, LaneId};
use calor_weights::{Checkpoint, Head, ModelConfig, Weights};

use crate::checkpoint_source::CheckpointSource;
use crate::embedding::{SparseVector, TokenMatrix, normalize_l2};
use crate::encoder::{Pooling, SlotMap, TextOutputs};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::Role;
use crate::lexical::lexical_vector;
use crate::model_id::ModelId;
use crate::packing::{Bucket, PackItem};
use crate::profile::{Need, Profile};
use crate::projection::{GaussianRows, OrthonormalMap, SparseProjection, pad_with_zeros};
use crate::tokenizer::{
    ColbertOptions, ColbertTokenizer, LongTokens, TextTokenizer, TokenLimit, e5_prefix,
};
use crate::tower::{ImageTower, TextTower, TextTowerSpec, end_of_text};

/// Seed of the fixed orthonormal maps; each model has its own stream.
const MAP_SEED: u64 = 42;
/// Rows of the sparse projection that are kept in memory.
const SPARSE_ROWS_MAX: usize = 4096;

/// What a neural model makes of one input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SlotVector {
    /// The vector of its slot, normalised.
    pub(crate) vector: Vec<f32>,
    /// E6 in its own form.
    pub(crate) sparse: Option<SparseVector>,
    /// E12 in its own form.
    pub(crate) tokens: Option<TokenMatrix>,
    /// Whether the text was cut for this model.
    pub(crate) truncated: bool,
}

/// A text as a neural model sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeuralText<'a> {
    /// The text.
    pub(crate) text: &'a str,
    /// Query or passage.
    pub(crate) role: Role,
}

/// A checkpoint that serves one slot or, as a trunk, several.
#[derive(Debug)]
pub(crate) struct NeuralModel {
    need: Need,
    models: Vec<ModelId>,
    tower: TextTower,
    image: Option<ImageTower>,
    tokens: Tokens,
    limit: TokenLimit,
    sparse: Option<SparseProjection>,
    /// Host-side map of a native vector whose size is not its slot's.
    map: Option<OrthonormalMap>,
    trunk: bool,
}

#[derive(Debug)]
enum Tokens {
    Plain(TextTokenizer),
    Colbert(ColbertTokenizer),
}

/// A tokenized text with what is needed after the run.
struct Prepared {
    ids: Vec<u32>,
    attended_len: usize,
    keep: Option<Vec<bool>>,
    truncated: bool,
}

/// Limits that a pipeline gives its models.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotLimits {
    pub(crate) batch_tokens_max: usize,
    pub(crate) long_text: LongTokens,
}

impl NeuralModel {
    pub(crate) fn open(
        build: &mut Build,
        lane: LaneId,
        profile: Profile,
        need: Need,
        wanted: &[ModelId],
        dir: &Path,
        projection_file: Option<&PathBuf>,
        limits: SlotLimits,
    ) -> EmbeddingResult<Self> {
        let models: Vec<ModelId> =
            need.models.iter().copied().filter(|it| wanted.contains(it)).collect();
        let model_id = models.first().copied();
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
        let tokenizer = TextTokenizer::from_file(&dir.join("tokenizer.json"))?;
        let weights = Weights::bind(checkpoint, &config).map_err(failed(place))?;
        let head = weights.head();
        let trunk = profile == Profile::Mini;
        let mut source = CheckpointSource::new(Arc::new(weights));
        let Some(encoder) = config.text.clone() else {
            return Err(EmbeddingError::ConfigError {
                field: "checkpoint",
                value: need.name.into(),
                want: "it has no text encoder",
            });
        };
        let outputs = if trunk {
            let outputs = trunk_outputs(&models);
            for slot in outputs.slots.iter().chain(&outputs.token_slot) {
                let model = models.iter().find(|it| slot_name(**it) == slot.name);
                let seed = MAP_SEED + model.map_or(0, |it| it.index() as u64);
                let map = OrthonormalMap::new(seed, encoder.hidden_len, slot.out_len)?;
                let name = format!("project.{}", slot.name);
                source = source.with(&name, Arc::new(map.matrix().to_vec()));
            }
            outputs
        } else {
            model_outputs(model_id, head, &config)
        };
        let source = Arc::new(source);
        let own = [encoder.max_tokens, models.iter().filter_map(|it| it.max_tokens()).max()];
        let sequence_tokens_max =
            own.into_iter().flatten().min().unwrap_or(512).min(Bucket::TOKENS_MAX);
        let limit =
            TokenLimit { token_count_max: sequence_tokens_max, long_text: limits.long_text };
        let native = native_len(&outputs, head, &encoder);
        let sparse = models
            .contains(&ModelId::Sparse)
            .then(|| sparse_projection(encoder.vocab_count, projection_file))
            .transpose()?;
        let map = match model_id {
            Some(ModelId::Sparse | ModelId::LateInteraction) | None => None,
            Some(model) if trunk || native == model.slot_dimension() => {
                let _ = model;
                None
            }
            Some(ModelId::Code) if native == ModelId::Code.native_dimension() => None,
            Some(model) => {
                let seed = MAP_SEED + model.index() as u64;
                Some(OrthonormalMap::new(seed, native, model.slot_dimension())?)
            }
        };
        let image = match (&config.vision, head) {
            (Some(vision), Head::SharedProjection { out_len }) => {
                let source = source.clone();
                Some(ImageTower::new(need.name, vision.clone(), Some(out_len), true, source, lane))
            }
            _ => None,
        };
        let tokens = match head {
            Head::TokenProjection { .. } => {
                let reference = ColbertOptions::REFERENCE;
                let document_len_max = reference.document_len_max.min(sequence_tokens_max);
                let options = ColbertOptions { document_len_max, ..reference };
                Tokens::Colbert(ColbertTokenizer::new(tokenizer, options)?)
            }
            Head::None
            | Head::MaskedLm
            | Head::FirstTokenProjection { .. }
            | Head::SharedProjection { .. } => Tokens::Plain(tokenizer),
        };
        let spec = TextTowerSpec {
            label: need.name.into(),
            config: encoder,
            head,
            prefix: if config.vision.is_some() { "text." } else { "" },
            outputs,
            source,
            batch_tokens_max: limits.batch_tokens_max,
            sequence_tokens_max,
        };
        let tower = TextTower::new(build, lane, spec)?;
        Ok(Self { need, models, tower, image, tokens, limit, sparse, map, trunk })
    }

    pub(crate) fn models(&self) -> &[ModelId] {
        &self.models
    }

    pub(crate) fn name(&self) -> &'static str {
        self.need.name
    }

    pub(crate) fn tower(&self) -> &TextTower {
        &self.tower
    }

    pub(crate) fn takes_images(&self) -> bool {
        self.image.is_some()
    }

    /// What every model of the checkpoint makes of each text.
    pub(crate) fn embed(
        &mut self,
        build: &mut Build,
        texts: &[NeuralText<'_>],
    ) -> EmbeddingResult<Vec<EmbeddingResult<BTreeMap<ModelId, SlotVector>>>> {
        let prepared: Vec<EmbeddingResult<Prepared>> =
            texts.iter().map(|it| self.prepare(it)).collect();
        let good: Vec<&Prepared> = prepared.iter().filter_map(|it| it.as_ref().ok()).collect();
        let items: Vec<PackItem<'_>> = good
            .iter()
            .map(|it| PackItem { ids: &it.ids, attended_len: it.attended_len, keep: None })
            .collect();
        let outputs = if items.is_empty() { Vec::new() } else { self.tower.run(build, &items)? };
        let mut rows = (0..good.len()).map(|at| {
            let of = |name: &str| {
                let output = outputs.iter().find(|it| it.name == name)?;
                Some((output.items[at].as_slice(), output.row_len))
            };
            self.slots(good[at], &of)
        });
        let lost = || EmbeddingError::InternalError { place: "tower rows", source: None };
        let mut results = Vec::with_capacity(prepared.len());
        for item in &prepared {
            results.push(match item {
                Ok(_) => rows.next().unwrap_or_else(|| Err(lost())),
                Err(_) => Err(lost()),
            });
        }
        drop(rows);
        for (result, item) in results.iter_mut().zip(prepared) {
            if let Err(err) = item {
                *result = Err(err);
            }
        }
        Ok(results)
    }

    /// One vector for each image.
    pub(crate) fn embed_images(
        &mut self,
        build: &mut Build,
        images: &[&[f32]],
    ) -> EmbeddingResult<Vec<SlotVector>> {
        let Some(image) = &mut self.image else {
            return Err(EmbeddingError::InternalError { place: "image tower", source: None });
        };
        let vectors = image.run(build, images)?;
        vectors
            .into_iter()
            .map(|vector| {
                let vector = self.to_slot(ModelId::Multimodal, &vector)?;
                Ok(SlotVector { vector, sparse: None, tokens: None, truncated: false })
            })
            .collect()
    }

    /// Side of the images that the vision tower takes.
    pub(crate) fn image_side_len(&self) -> Option<usize> {
        self.image.as_ref().map(|it| it.config().image_len)
    }

    fn prepare(&self, text: &NeuralText<'_>) -> EmbeddingResult<Prepared> {
        let tokenizer = match &self.tokens {
            Tokens::Colbert(colbert) => {
                let tokens = match text.role {
                    Role::Query => colbert.query(text.text)?,
                    Role::Passage => colbert.document(text.text)?,
                };
                return Ok(Prepared {
                    attended_len: tokens.attended_len,
                    keep: Some(tokens.keep),
                    truncated: tokens.truncated,
                    ids: tokens.ids,
                });
            }
            Tokens::Plain(tokenizer) => tokenizer,
        };
        // E5 was trained with a word in front that tells queries from passages.
        let tokens = if self.models == [ModelId::Semantic] && !self.trunk {
            let prefixed = format!("{}{}", e5_prefix(text.role), text.text);
            tokenizer.encode(&prefixed, self.limit)?
        } else {
            tokenizer.encode(text.text, self.limit)?
        };
        Ok(Prepared {
            attended_len: tokens.ids.len(),
            keep: None,
            truncated: tokens.truncated,
            ids: tokens.ids,
        })
    }

    fn slots<'r>(
        &self,
        item: &Prepared,
        of: &dyn Fn(&str) -> Option<(&'r [f32], usize)>,
    ) -> EmbeddingResult<BTreeMap<ModelId, SlotVector>> {
        let lost = || EmbeddingError::InternalError { place: "tower outputs", source: None };
        let truncated = item.truncated;
        let mut out = BTreeMap::new();
        for model in self.models.iter().copied() {
            let mut made = SlotVector { vector: Vec::new(), sparse: None, tokens: None, truncated };
            match model {
                ModelId::Sparse => {
                    let sparse = if self.trunk {
                        self.lexical(&item.ids)?
                    } else {
                        SparseVector::from_dense(of("pooled").ok_or_else(lost)?.0)?
                    };
                    let projection = self.sparse.as_ref().ok_or_else(lost)?;
                    made.vector = projection.apply(&sparse)?;
                    normalize_l2(&mut made.vector);
                    made.sparse = Some(sparse);
                }
                ModelId::LateInteraction => {
                    let name = if self.trunk { slot_name(model) } else { "tokens".into() };
                    let (rows, row_len) = of(&name).ok_or_else(lost)?;
                    let rows = match &item.keep {
                        Some(keep) => kept(rows, row_len, keep),
                        None => rows.to_vec(),
                    };
                    let rows = self.token_rows(rows, row_len)?;
                    let matrix = TokenMatrix::new(rows, model.slot_dimension())?;
                    made.vector = matrix.mean_unit();
                    made.tokens = Some(matrix);
                }
                _ if self.trunk => {
                    made.vector = of(&slot_name(model)).ok_or_else(lost)?.0.to_vec();
                }
                _ => made.vector = self.to_slot(model, of("pooled").ok_or_else(lost)?.0)?,
            }
            out.insert(model, made);
        }
        Ok(out)
    }

    /// Token rows of a checkpoint whose projection has another width than the slot.
    fn token_rows(&self, rows: Vec<f32>, row_len: usize) -> EmbeddingResult<Vec<f32>> {
        let want = ModelId::LateInteraction.slot_dimension();
        if row_len == want {
            return Ok(rows);
        }
        let map = OrthonormalMap::new(MAP_SEED, row_len, want)?;
        let mut out = Vec::with_capacity(rows.len() / row_len * want);
        for row in rows.chunks_exact(row_len) {
            let mut mapped = map.apply(row)?;
            normalize_l2(&mut mapped);
            out.extend(mapped);
        }
        Ok(out)
    }

    fn to_slot(&self, model: ModelId, native: &[f32]) -> EmbeddingResult<Vec<f32>> {
        let mut vector = match &self.map {
            Some(map) => map.apply(native)?,
            None if native.len() < model.slot_dimension() => {
                pad_with_zeros(native, model.slot_dimension())?
            }
            None => native.to_vec(),
        };
        normalize_l2(&mut vector);
        Ok(vector)
    }

    fn lexical(&self, ids: &[u32]) -> EmbeddingResult<SparseVector> {
        let tokenizer = match &self.tokens {
            Tokens::Plain(tokenizer) => tokenizer,
            Tokens::Colbert(colbert) => colbert.plain(),
        };
        let special = [tokenizer.opening(), tokenizer.closing()].concat();
        lexical_vector(ids, &special)
    }
}

fn kept(rows: &[f32], row_len: usize, keep: &[bool]) -> Vec<f32> {
    let kept = rows.chunks_exact(row_len).zip(keep).filter(|(_, keep)| **keep);
    kept.flat_map(|(row, _)| row.iter().copied()).collect()
}

/// The output of a model's own map of the trunk.
fn slot_name(model: ModelId) -> String {
    format!("slot.{}", model.as_str())
}

/// One run of the trunk serves every slot that is a map of its mean, and E12's rows.
fn trunk_outputs(models: &[ModelId]) -> TextOutputs {
    let map =
        |model: &ModelId| SlotMap { name: slot_name(*model), out_len: model.slot_dimension() };
    let mean = |it: &&ModelId| !matches!(it, ModelId::Sparse | ModelId::LateInteraction);
    TextOutputs {
        pooling: Pooling::Mean,
        project: false,
        normalize: true,
        slots: models.iter().filter(mean).map(map).collect(),
        token_slot: models.iter().find(|it| **it == ModelId::LateInteraction).map(map),
    }
}

fn model_outputs(model: Option<ModelId>, head: Head, config: &ModelConfig) -> TextOutputs {
    let pooling = match (model, head) {
        (Some(ModelId::Sparse), _) => Pooling::Splade,
        (_, Head::TokenProjection { .. }) => Pooling::None,
        (_, Head::FirstTokenProjection { .. }) => Pooling::First,
        (_, Head::SharedProjection { .. }) => {
            Pooling::Eos { id: config.text.as_ref().map_or(0, end_of_text) }
        }
        (_, Head::None | Head::MaskedLm) => Pooling::Mean,
    };
    let normalize = pooling != Pooling::Splade;
    TextOutputs { pooling, project: true, normalize, slots: Vec::new(), token_slot: None }
}

fn native_len(outputs: &TextOutputs, head: Head, encoder: &calor_weights::EncoderConfig) -> usize {
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

fn sparse_projection(
    vocab_count: usize,
    file: Option<&PathBuf>,
) -> EmbeddingResult<SparseProjection> {
    let rows = GaussianRows::new(
        crate::projection::PROJECTION_SEED_DEFAULT,
        vocab_count,
        ModelId::Sparse.slot_dimension(),
    )?;
    match file {
        Some(file) if file.is_file() => SparseProjection::open(rows, file, SPARSE_ROWS_MAX),
        Some(_) | None => Ok(SparseProjection::generated(rows, SPARSE_ROWS_MAX)),
    }
}
