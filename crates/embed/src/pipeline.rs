//! The pipeline of twelve models and their fusion, on one device, for one caller at a time.

mod batch;
mod check;
mod experts;
mod forms;
mod front;
mod load;
mod models;
mod parity;
mod placed;
mod ready;
mod revision;
mod times;
mod warm;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use calor_runtime::LaneId;
use calor_telemetry::clock::Stopwatch;

use crate::embedding::{
    ConcatenatedEmbedding, FusedEmbedding, MissingModels, ModelEmbedding, ResultFlags, SlotRule,
    SparseVector, TokenMatrix,
};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fuser::{BATCH_SIZES, FuseMoE};
use crate::image_input::{ImageLimits, ImagePreparation, decode};
use crate::input::{InputLimits, ModelInput};
use crate::model_id::ModelId;
use crate::precision::InferencePrecision;
use crate::profile::Profile;
use crate::programs::Programs;
use crate::slots::{NeuralModel, NeuralText, SlotVector};
use crate::streams::{OverlappedExecutor, StreamPool};
use crate::tokenizer::{LongTokens, TokenCut};
pub use batch::{ComputedBatch, PreparedBatch, PreparedInput};
use batch::{Draft, Half};
pub(crate) use check::{CHECK_TEXTS, check_buckets};
use forms::Forms;
pub use forms::GroupTimes;
pub use front::PipelineFront;
pub use parity::{PrecisionResult, PrecisionRule};
pub use placed::{PlacedPipeline, PlacedReady};
pub use ready::Ready;
pub use warm::{LostModel, LostModels, ReadyReport, Told};

/// Seed of the character and position vectors of E9.
pub const HDC_SEED_DEFAULT: u64 = 42;

/// Inputs that are computed while others are prepared and results are made of others: as many as
/// run together at most.
pub const PIECE_LEN: usize = BATCH_SIZES[BATCH_SIZES.len() - 1];

/// What a pipeline consists of.
#[derive(Clone, Debug)]
pub struct PipelineOptions {
    /// Which checkpoints serve the slots.
    pub profile: Profile,
    /// Models that run; all twelve for a fused vector.
    pub models: Vec<ModelId>,
    /// Directory of each checkpoint that the profile needs, by [`crate::profile::Need::name`].
    pub checkpoints: HashMap<String, PathBuf>,
    /// Why a checkpoint has no directory, by the same name, where that is known.
    pub absent: HashMap<String, String>,
    /// Weights of the fusion; made with the default seed when the file is not there.
    pub fusion_file: PathBuf,
    /// Rows of E6's projection, if they are kept in a file.
    pub projection_file: Option<PathBuf>,
    /// What happens when a model gives no vector.
    pub missing: MissingModels,
    /// Limits of inputs.
    pub limits: InputLimits,
    /// What happens to texts longer than a model takes.
    pub long_text: LongTokens,
    /// Most tokens in one program run, unless a single text is longer.
    pub batch_tokens_max: usize,
    /// What E2 measures ages against; the batch's own time where there is none.
    pub reference_s: Option<i64>,
    /// What the products of the models run in, and the experts of the fusion.
    pub precision: InferencePrecision,
    /// Whether slots are finished on the device, where they need not leave it before they are
    /// fused. On a processor the sparse slot alone is quicker without it.
    pub device_slots: bool,
    /// Whether E6 and E12 are handed out in their own forms as well.
    pub own_forms: bool,
}

/// What the pipeline makes of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineOutput {
    /// The slots.
    pub embeddings: ConcatenatedEmbedding,
    /// The fused vector; absent when models are missing and that was allowed.
    pub fused: Option<FusedEmbedding>,
    /// E6 in its own form, where [`PipelineOptions::own_forms`] wants it.
    pub sparse: Option<SparseVector>,
    /// E12 in its own form, where [`PipelineOptions::own_forms`] wants it.
    pub tokens: Option<TokenMatrix>,
    /// What was cut off the text, for the model that takes least of it. Not known of kept results.
    pub cut: Option<TokenCut>,
    /// What is special about the result.
    pub flags: ResultFlags,
}

/// The pipeline itself.
#[derive(Debug)]
pub struct PipelineCore {
    programs: Programs,
    lane: LaneId,
    options: PipelineOptions,
    neural: Vec<NeuralModel>,
    loaded: BTreeSet<ModelId>,
    fusion: Option<FuseMoE>,
    /// Whether its slots are gathered on the host, also where it holds all models.
    is_part: bool,
    /// How all twelve run together, once that was warmed up.
    forms: Option<Forms>,
    times: GroupTimes,
    /// What needs no device; made anew whenever models change.
    front: Arc<PipelineFront>,
    /// What its results depend on besides inputs, if it was all opened together.
    revision: Option<[u8; 32]>,
}

impl PipelineCore {
    /// The device's programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// How it was opened.
    pub fn options(&self) -> &PipelineOptions {
        &self.options
    }

    /// From now on E6 and E12 are handed out in their own forms as well, or not.
    pub fn set_own_forms(&mut self, own_forms: bool) {
        self.options.own_forms = own_forms;
    }

    /// What the last group took; nothing where the last batch had none.
    pub fn last_group(&self) -> GroupTimes {
        self.times
    }

    /// Checkpoints in use and the models that each serves.
    pub fn checkpoints(&self) -> impl Iterator<Item = (&'static str, &[ModelId])> {
        self.neural.iter().map(|it| (it.name(), it.models()))
    }

    /// The tower that serves a model.
    pub fn tower(&self, model: ModelId) -> Option<&crate::tower::TextTower> {
        self.neural.iter().find(|it| it.models().contains(&model)).map(NeuralModel::tower)
    }

    /// Embeds inputs with every model and fuses them. `now_s` is read once by the caller. A bad
    /// item fails alone; the results are in the inputs' order.
    ///
    /// # Errors
    /// Of the whole call: what the device says.
    pub fn embed_batch(
        &mut self,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>> {
        if inputs.len() <= PIECE_LEN {
            let prepared = self.prepare_batch(inputs, now_s);
            return self.run_batch(prepared);
        }
        let front = self.front.clone();
        let executor = OverlappedExecutor::new(Arc::new(StreamPool::new(1)?));
        let pieces = executor.execute_overlapped(
            inputs.chunks(PIECE_LEN),
            &mut [self],
            |piece| front.prepare_batch(piece, now_s),
            |core, prepared| core.compute_batch(prepared),
            |computed| front.finish_batch(computed),
        )?;
        Ok(pieces.into_iter().flatten().collect())
    }

    /// What needs no device, for threads that prepare batches and make results while this one
    /// computes.
    pub fn front(&self) -> &Arc<PipelineFront> {
        &self.front
    }

    /// As [`PipelineFront::prepare_batch`].
    pub fn prepare_batch(&self, inputs: &[ModelInput], now_s: i64) -> PreparedBatch {
        self.front.prepare_batch(inputs, now_s)
    }

    /// The rest of [`PipelineCore::embed_batch`]: [`PipelineCore::compute_batch`] and
    /// [`PipelineFront::finish_batch`].
    ///
    /// # Errors
    /// As [`PipelineCore::compute_batch`].
    pub fn run_batch(
        &mut self,
        prepared: PreparedBatch,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>> {
        let computed = self.compute_batch(prepared)?;
        let watch = Stopwatch::start();
        let outputs = self.front.finish_batch(computed);
        self.times = GroupTimes { output_ns: watch.elapsed_ns(), ..self.times };
        Ok(outputs)
    }

    /// The part of [`PipelineCore::embed_batch`] that the device is needed for.
    ///
    /// # Errors
    /// [`EmbeddingError::InternalError`] for a batch that was prepared for other models than are
    /// loaded now, and what the device says.
    pub fn compute_batch(&mut self, prepared: PreparedBatch) -> EmbeddingResult<ComputedBatch> {
        if !prepared.front.is_alike(&self.front) {
            let place = "a batch that was prepared for other models";
            return Err(EmbeddingError::InternalError { place, source: None });
        }
        self.times = GroupTimes::default();
        let watch = Stopwatch::start();
        let mut halves: Vec<Option<Half>> = Vec::with_capacity(prepared.items.len());
        let mut together = Vec::new();
        let mut drafts: Vec<EmbeddingResult<Draft>> = Vec::new();
        let mut places = Vec::new();
        for (place, item) in prepared.items.into_iter().enumerate() {
            halves.push(None);
            match item {
                Err(err) => halves[place] = Some(Half::Done(Box::new(Err(err)))),
                Ok(item) if !item.tokens.is_empty() => together.push((place, item)),
                Ok(item) => {
                    places.push(place);
                    drafts.push(Ok(item.draft));
                }
            }
        }
        self.run_together(together, &mut halves)?;
        let wanted = self.loaded.clone();
        self.run_apart(&wanted, &mut drafts)?;
        let mut apart: Vec<EmbeddingResult<PipelineOutput>> =
            drafts.into_iter().map(|draft| draft.and_then(|it| self.finish(it))).collect();
        self.fuse(&mut apart, watch)?;
        for (place, output) in places.into_iter().zip(apart) {
            halves[place] = Some(Half::Done(Box::new(output)));
        }
        let lost = || EmbeddingError::InternalError { place: "pipeline outputs", source: None };
        let half = |it: Option<Half>| it.unwrap_or_else(|| Half::Done(Box::new(Err(lost()))));
        Ok(ComputedBatch(halves.into_iter().map(half).collect()))
    }

    /// Inputs with the slots of the wanted models.
    fn drafts(
        &mut self,
        wanted: &BTreeSet<ModelId>,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Vec<EmbeddingResult<Draft>>> {
        let mut drafts: Vec<EmbeddingResult<Draft>> =
            inputs.iter().map(|input| self.front.admit(wanted, input, now_s)).collect();
        self.run_apart(wanted, &mut drafts)?;
        Ok(drafts)
    }

    /// Runs the wanted models one after another.
    fn run_apart(
        &mut self,
        wanted: &BTreeSet<ModelId>,
        drafts: &mut [EmbeddingResult<Draft>],
    ) -> EmbeddingResult<()> {
        for index in 0..self.neural.len() {
            if self.neural[index].models().iter().any(|it| wanted.contains(it)) {
                self.run_texts(index, wanted, drafts)?;
                self.run_images(index, drafts)?;
            }
        }
        Ok(())
    }

    fn run_texts(
        &mut self,
        index: usize,
        wanted: &BTreeSet<ModelId>,
        drafts: &mut [EmbeddingResult<Draft>],
    ) -> EmbeddingResult<()> {
        let watch = Stopwatch::start();
        let mut at = Vec::new();
        let mut texts = Vec::new();
        for (place, draft) in drafts.iter().enumerate() {
            if let Ok(draft) = draft
                && let Some(text) = text_of(draft.admitted.input())
            {
                at.push(place);
                texts.push(NeuralText { text, role: draft.admitted.directives().role });
            }
        }
        if texts.is_empty() {
            return Ok(());
        }
        let results = self.neural[index].embed(&mut self.programs, &texts, wanted)?;
        let latency_us = watch.elapsed_ns() / 1000 / results.len() as u64;
        for (place, result) in at.into_iter().zip(results) {
            add(&mut drafts[place], result, latency_us);
        }
        Ok(())
    }

    fn run_images(
        &mut self,
        index: usize,
        drafts: &mut [EmbeddingResult<Draft>],
    ) -> EmbeddingResult<()> {
        let Some(side_len) = self.neural[index].image_side_len() else { return Ok(()) };
        let watch = Stopwatch::start();
        let mut at = Vec::new();
        let mut images = Vec::new();
        for (place, draft) in drafts.iter_mut().enumerate() {
            let Ok(done) = draft else { continue };
            let ModelInput::Image { bytes, format } = done.admitted.input() else { continue };
            match pixels(bytes, *format, side_len) {
                Ok(pixels) => {
                    at.push(place);
                    images.push(pixels);
                }
                Err(err) => *draft = Err(err),
            }
        }
        if images.is_empty() {
            return Ok(());
        }
        let views: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
        let vectors = self.neural[index].embed_images(&mut self.programs, &views)?;
        let latency_us = watch.elapsed_ns() / 1000 / vectors.len() as u64;
        for (place, vector) in at.into_iter().zip(vectors) {
            let slots = BTreeMap::from([(ModelId::Multimodal, vector)]);
            add(&mut drafts[place], Ok(slots), latency_us);
        }
        Ok(())
    }

    fn finish(&self, draft: Draft) -> EmbeddingResult<PipelineOutput> {
        let Draft { content_hash, slots, mut flags, .. } = draft;
        let mut embeddings = ConcatenatedEmbedding::new(content_hash);
        let (mut sparse, mut tokens, mut cut) = (None, None, None);
        for (model_id, (slot, latency_us)) in slots {
            cut = TokenCut::deeper(cut, slot.cut);
            flags.latency_exceeded |= model_id.latency_budget_ms() * 1000 < latency_us;
            if self.options.own_forms {
                sparse = slot.sparse.or(sparse);
                tokens = slot.tokens.or(tokens);
            }
            embeddings.set(embedding(model_id, slot.vector, latency_us))?;
        }
        flags.truncated |= cut.is_some();
        flags.partial = !embeddings.is_complete();
        Ok(PipelineOutput { embeddings, fused: None, sparse, tokens, cut, flags })
    }

    /// Fuses every item that has its slots.
    fn fuse(
        &mut self,
        outputs: &mut [EmbeddingResult<PipelineOutput>],
        watch: Stopwatch,
    ) -> EmbeddingResult<()> {
        let Some(fusion) = &mut self.fusion else { return Ok(()) };
        let mut ready = Vec::new();
        for (place, output) in outputs.iter_mut().enumerate() {
            let Ok(done) = output else { continue };
            let missing = self.options.missing;
            match done.embeddings.concatenate(&SlotRule::UNIT, missing) {
                Ok(()) => ready.push(place),
                // An image has one slot: there is nothing to fuse, and nothing wrong.
                Err(EmbeddingError::MissingModels { .. }) => {}
                Err(err) => *output = Err(err),
            }
        }
        let items: Vec<&[f32]> = ready
            .iter()
            .filter_map(|place| outputs[*place].as_ref().ok()?.embeddings.as_slice())
            .collect();
        if items.is_empty() {
            return Ok(());
        }
        let rows = fusion.fuse_batch(&mut self.programs, &items)?;
        let latency_us = watch.elapsed_ns() / 1000;
        for (place, row) in ready.into_iter().zip(rows) {
            if let Ok(output) = &mut outputs[place] {
                let hash = output.embeddings.content_hash();
                output.fused = Some(row.into_embedding(hash, latency_us, output.flags));
            }
        }
        Ok(())
    }
}

fn embedding(model_id: ModelId, vector: Vec<f32>, latency_us: u64) -> ModelEmbedding {
    let is_projected = model_id.slot_dimension() != model_id.native_dimension();
    ModelEmbedding { model_id, vector, latency_us, attention_weights: None, is_projected }
}

fn add(
    draft: &mut EmbeddingResult<Draft>,
    result: EmbeddingResult<BTreeMap<ModelId, SlotVector>>,
    latency_us: u64,
) {
    match (&mut *draft, result) {
        (Ok(done), Ok(slots)) => {
            done.slots.extend(slots.into_iter().map(|(model, slot)| (model, (slot, latency_us))));
        }
        (Ok(_), Err(err)) => *draft = Err(err),
        (Err(_), _) => {}
    }
}

/// Text of a text or of code: code is text to models that know nothing else.
fn text_of(input: &ModelInput) -> Option<&str> {
    match input {
        ModelInput::Text { content, .. } | ModelInput::Code { content, .. } => Some(content),
        ModelInput::Image { .. } | ModelInput::Audio { .. } => None,
    }
}

fn pixels(
    bytes: &[u8],
    format: crate::input::ImageFormat,
    side_len: usize,
) -> EmbeddingResult<Vec<f32>> {
    let preparation = ImagePreparation { side_len, ..ImagePreparation::CLIP };
    let image = decode(bytes, format, &ImageLimits::STANDARD)?;
    let cropped = image.resized_crop(side_len)?;
    let mut out = vec![0.0; preparation.element_count()];
    preparation.normalize_into(&cropped, &mut out);
    Ok(out)
}
