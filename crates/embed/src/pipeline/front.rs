//! The half of a pipeline that needs no device: checks, models that are arithmetic, and tokens on
//! the way in; results on the way out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calor_telemetry::clock::Stopwatch;

use super::batch::{BehindDevice, ComputedBatch, Draft, Half, Item, PreparedBatch, PreparedInput};
use super::forms::Row;
use super::times::TemporalModels;
use super::{PipelineOptions, PipelineOutput, embedding, text_of};
use crate::embedding::{ConcatenatedEmbedding, MissingModels, ResultFlags, SlotRule};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fuser::FusedRows;
use crate::hdc::HdcEncoder;
use crate::input::{AdmittedInput, InputKind, InputLimits, ModelInput};
use crate::model_id::ModelId;
use crate::pieces::{in_pieces, thread_count};
use crate::slots::{HostSide, NeuralText, SlotVector};
use crate::tokenizer::{ContentIds, TokenCut};

/// Inputs that a thread prepares, at least: fewer take less time than starting one.
const PREPARED_EACH_MIN: usize = 2;
/// Tokenizers of one long text that a thread asks at least.
const KINS_EACH_MIN: usize = 1;
/// A text of which each tokenizer has more to do than starting a thread takes.
const LONG_BYTES: usize = 1024;
/// Results that a thread makes, at least: fewer take less time than starting one.
const OUTPUT_EACH_MIN: usize = 8;

/// What a pipeline needs no device for. Any number of threads use it while one computes.
#[derive(Debug)]
pub struct PipelineFront {
    pub(super) limits: InputLimits,
    pub(super) missing: MissingModels,
    pub(super) loaded: BTreeSet<ModelId>,
    /// In the order of the towers.
    pub(super) hosts: Vec<Arc<HostSide>>,
    pub(super) kins: Kins,
    /// As the pipeline's: fronts of equal ones prepare alike.
    pub(super) revision: Option<[u8; 32]>,
    /// Whether all models run together, so that tokens are made in front.
    pub(super) together: bool,
    pub(super) fusion: Option<FusedRows>,
    pub(super) temporal: TemporalModels,
    pub(super) hdc: Arc<HdcEncoder>,
}

/// Checkpoints whose tokenizers read a text alike: it is read once for all of them.
#[derive(Debug)]
struct Kin {
    hosts: Vec<usize>,
    /// Most ids that one of them takes; all where one refuses longer texts.
    budget: Option<usize>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Kins {
    kins: Vec<Kin>,
    /// For each checkpoint.
    of_hosts: Vec<usize>,
}

impl Kin {
    fn content(
        &self,
        hosts: &[Arc<HostSide>],
        text: &NeuralText<'_>,
    ) -> EmbeddingResult<ContentIds> {
        hosts[self.hosts[0]].content(text, self.budget)
    }
}

impl Kins {
    pub(super) fn of(hosts: &[Arc<HostSide>]) -> Self {
        let mut out = Self::default();
        for (index, host) in hosts.iter().enumerate() {
            let found = out.kins.iter().position(|it| hosts[it.hosts[0]].kin() == host.kin());
            let kin = found.unwrap_or_else(|| {
                out.kins.push(Kin { hosts: Vec::new(), budget: Some(0) });
                out.kins.len() - 1
            });
            let Kin { hosts, budget } = &mut out.kins[kin];
            hosts.push(index);
            *budget = budget.zip(host.budget()).map(|(a, b)| a.max(b));
            out.of_hosts.push(kin);
        }
        out
    }
}

impl PipelineFront {
    /// Of a pipeline without models.
    pub(super) fn of(options: &PipelineOptions, hdc: Arc<HdcEncoder>) -> Self {
        Self {
            limits: options.limits,
            missing: options.missing,
            loaded: BTreeSet::new(),
            hosts: Vec::new(),
            kins: Kins::default(),
            revision: None,
            together: false,
            fusion: None,
            temporal: TemporalModels::new(options.reference_s),
            hdc,
        }
    }

    /// The part of [`crate::PipelineCore::embed_batch`] that needs no device: checks, models that
    /// are arithmetic, and tokens.
    pub fn prepare_batch(self: &Arc<Self>, inputs: &[ModelInput], now_s: i64) -> PreparedBatch {
        PreparedBatch { items: self.prepare_items(inputs, now_s), front: self.clone() }
    }

    /// As [`PipelineFront::prepare_batch`], one by one: for batches that are put together later.
    pub fn prepare_each(
        self: &Arc<Self>,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> Vec<EmbeddingResult<PreparedInput>> {
        let items = self.prepare_items(inputs, now_s).into_iter();
        let owned = |item| PreparedInput { item: Box::new(item), front: self.clone() };
        items.map(|it| it.map(owned)).collect()
    }

    /// A batch of inputs of which some are prepared. What was prepared for other models is
    /// prepared again.
    pub fn gather(
        self: &Arc<Self>,
        inputs: &[ModelInput],
        prepared: Vec<Option<PreparedInput>>,
        now_s: i64,
    ) -> PreparedBatch {
        let mut prepared = prepared.into_iter();
        let ready = inputs.iter().map(|_| {
            let it = prepared.next().flatten()?;
            it.front.is_alike(self).then_some(*it.item)
        });
        let ready: Vec<Option<Item>> = ready.collect();
        let rest: Vec<ModelInput> =
            inputs.iter().zip(&ready).filter(|it| it.1.is_none()).map(|it| it.0.clone()).collect();
        let mut rest = self.prepare_items(&rest, now_s).into_iter();
        let lost = || EmbeddingError::InternalError { place: "a prepared input", source: None };
        let item = |it: Option<Item>| match it {
            Some(item) => Ok(item),
            None => rest.next().unwrap_or_else(|| Err(lost())),
        };
        let items = ready.into_iter().map(item).collect();
        PreparedBatch { items, front: self.clone() }
    }

    /// Whether what the other prepares is what this one prepares.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.revision.is_some()
                && self.revision == other.revision
                && self.loaded == other.loaded
                && self.together == other.together)
    }

    fn prepare_items(&self, inputs: &[ModelInput], now_s: i64) -> Vec<EmbeddingResult<Item>> {
        // Tokenizers of one long text do not wait for each other; those of many have enough to do,
        // and those of a short one are done before a thread has started.
        let is_long = |it: &ModelInput| text_of(it).is_some_and(|it| LONG_BYTES <= it.len());
        let kins_min = match inputs {
            [input] if is_long(input) => KINS_EACH_MIN,
            _ => self.hosts.len(),
        };
        in_pieces(inputs, PREPARED_EACH_MIN, |input| self.prepare(input, now_s, kins_min))
    }

    /// Where it is one of few inputs, tokenizers of `kins_min` or more are asked at once.
    fn prepare(&self, input: &ModelInput, now_s: i64, kins_min: usize) -> EmbeddingResult<Item> {
        let draft = self.admit(&self.loaded, input, now_s)?;
        let Some(text) = text_of(draft.admitted.input()).filter(|_| self.together) else {
            return Ok(Item { tokens: Vec::new(), sparse: None, draft });
        };
        let text = NeuralText { text, role: draft.admitted.directives().role };
        let mut tokens = Vec::with_capacity(self.hosts.len());
        let mut sparse = None;
        let contents = in_pieces(&self.kins.kins, kins_min, |it| it.content(&self.hosts, &text));
        let contents = contents.into_iter().collect::<EmbeddingResult<Vec<ContentIds>>>()?;
        for (host, kin) in self.hosts.iter().zip(&self.kins.of_hosts) {
            let prepared = host.framed(&contents[*kin], text.role)?;
            if host.models().contains(&ModelId::Sparse) && !host.is_on_device(ModelId::Sparse) {
                sparse = Some(host.host_sparse(&prepared.ids)?);
            }
            tokens.push(prepared);
        }
        Ok(Item { draft, tokens, sparse })
    }

    /// Checks an input and computes the models that are arithmetic.
    pub(super) fn admit(
        &self,
        wanted: &BTreeSet<ModelId>,
        input: &ModelInput,
        now_s: i64,
    ) -> EmbeddingResult<Draft> {
        let admitted = AdmittedInput::new(input.clone(), &self.limits)?;
        let takes_images = |it: &&Arc<HostSide>| {
            it.takes_images() && it.models().iter().any(|it| wanted.contains(it))
        };
        let wanted = |model: ModelId| wanted.contains(&model);
        let kind = admitted.input().kind();
        let mut slots = BTreeMap::new();
        let mut flags = ResultFlags { truncated: admitted.truncated(), ..ResultFlags::default() };
        let mut set = |model: ModelId, watch: Stopwatch, vector: &[f32]| {
            let vector = vector.to_vec();
            let slot = SlotVector { vector, sparse: None, tokens: None, cut: None };
            slots.insert(model, (slot, watch.elapsed_ns() / 1000));
        };
        match kind {
            InputKind::Text | InputKind::Code => {
                let time = admitted.directives().time(now_s);
                let models = TemporalModels::MODELS;
                let any = models.into_iter().any(wanted);
                flags.timestamp_defaulted = time.defaulted && any;
                if any {
                    let watch = Stopwatch::start();
                    let vectors = self.temporal.encode(time.epoch_s, now_s);
                    for (model, vector) in models.into_iter().zip(&*vectors) {
                        if wanted(model) {
                            set(model, watch, vector);
                        }
                    }
                }
                if wanted(ModelId::Hdc) {
                    let watch = Stopwatch::start();
                    let vector = self.hdc.embed(text_of(admitted.input()).unwrap_or_default())?;
                    set(ModelId::Hdc, watch, &vector);
                }
            }
            InputKind::Image => {
                if !self.hosts.iter().any(|it| takes_images(&it)) {
                    return Err(EmbeddingError::UnsupportedModality {
                        model_id: ModelId::Multimodal,
                        kind,
                    });
                }
            }
            InputKind::Audio => {
                return Err(EmbeddingError::UnsupportedModality {
                    model_id: ModelId::Multimodal,
                    kind,
                });
            }
        }
        let content_hash = input.content_hash();
        Ok(Draft { admitted, content_hash, slots, flags })
    }

    /// Results of a batch, in its order.
    pub fn finish_batch(&self, computed: ComputedBatch) -> Vec<EmbeddingResult<PipelineOutput>> {
        let mut work = computed.0;
        let each = work.len().div_ceil(thread_count()).max(OUTPUT_EACH_MIN);
        let make =
            |work: Vec<Half>| -> Vec<_> { work.into_iter().map(|it| self.done(it)).collect() };
        if work.len() <= each {
            return make(work);
        }
        let make = &make;
        std::thread::scope(|scope| {
            let mut others = Vec::new();
            while each < work.len() {
                let piece = work.split_off(work.len() - each);
                others.push(scope.spawn(move || make(piece)));
            }
            let mut made: Vec<EmbeddingResult<PipelineOutput>> = make(work);
            for other in others.into_iter().rev() {
                match other.join() {
                    Ok(more) => made.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            made
        })
    }

    fn done(&self, half: Half) -> EmbeddingResult<PipelineOutput> {
        match half {
            Half::Done(output) => *output,
            Half::Row(it) => {
                let BehindDevice { item, row, latency_us } = *it;
                self.output(item, row, latency_us)
            }
        }
    }

    /// An item's row as its result.
    fn output(
        &self,
        item: Item,
        row: EmbeddingResult<Row>,
        latency_us: u64,
    ) -> EmbeddingResult<PipelineOutput> {
        let lost = || EmbeddingError::InternalError { place: "fusion of a group", source: None };
        let Row { numbers, sparse, tokens } = row?;
        let (slots, fused) = self.fusion.as_ref().ok_or_else(lost)?.split(&numbers)?;
        let Item { draft, tokens: prepared, .. } = item;
        let mut flags = draft.flags;
        let cut = prepared.iter().fold(None, |cut, it| TokenCut::deeper(cut, it.cut));
        flags.truncated |= cut.is_some();
        let mut embeddings = ConcatenatedEmbedding::new(draft.content_hash);
        for model in ModelId::iter() {
            let own_us = draft.slots.get(&model).map(|it| it.1);
            let model_us = own_us.unwrap_or(latency_us);
            flags.latency_exceeded |= model.latency_budget_ms() * 1000 < model_us;
            embeddings.set(embedding(model, slots[model.slot_range()].to_vec(), model_us))?;
        }
        embeddings.concatenate(&SlotRule::UNIT, self.missing)?;
        let fused = fused.into_embedding(draft.content_hash, latency_us, flags);
        Ok(PipelineOutput { embeddings, fused: Some(fused), sparse, tokens, cut, flags })
    }
}
