//! The half of a pipeline that needs no device: checks, models that are arithmetic, and tokens on
//! the way in; results on the way out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calor_telemetry::clock::Stopwatch;

use super::batch::{BehindDevice, ComputedBatch, Draft, Half, Item, PreparedBatch};
use super::forms::Row;
use super::{PipelineOptions, PipelineOutput, embedding, text_of};
use crate::embedding::{ConcatenatedEmbedding, MissingModels, ResultFlags, SlotRule};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fuser::FusedRows;
use crate::hdc::HdcEncoder;
use crate::input::{AdmittedInput, InputKind, InputLimits, ModelInput};
use crate::model_id::ModelId;
use crate::pieces::in_pieces;
use crate::slots::{HostSide, NeuralText, SlotVector};
use crate::temporal::{TemporalPeriodic, TemporalPositional, TemporalRecent};

/// Inputs that a thread prepares, at least: fewer take less time than starting one.
const PREPARED_EACH_MIN: usize = 2;
/// Tokenizers of one text that a thread asks at least: as long as starting it takes.
const HOSTS_EACH_MIN: usize = 3;
/// Results that a thread makes, at least: fewer take less time than starting one.
const OUTPUT_EACH_MIN: usize = 8;

/// What a pipeline needs no device for. Any number of threads use it while one computes.
#[derive(Debug)]
pub struct PipelineFront {
    pub(super) limits: InputLimits,
    pub(super) missing: MissingModels,
    pub(super) reference_s: Option<i64>,
    pub(super) loaded: BTreeSet<ModelId>,
    /// In the order of the towers.
    pub(super) hosts: Vec<Arc<HostSide>>,
    /// Whether all models run together, so that tokens are made in front.
    pub(super) together: bool,
    pub(super) fusion: Option<FusedRows>,
    pub(super) positional: TemporalPositional,
    pub(super) hdc: Arc<HdcEncoder>,
}

impl PipelineFront {
    /// Of a pipeline without models.
    pub(super) fn of(options: &PipelineOptions, hdc: Arc<HdcEncoder>) -> Self {
        Self {
            limits: options.limits,
            missing: options.missing,
            reference_s: options.reference_s,
            loaded: BTreeSet::new(),
            hosts: Vec::new(),
            together: false,
            fusion: None,
            positional: TemporalPositional::new(),
            hdc,
        }
    }

    /// The part of [`PipelineCore::embed_batch`] that needs no device: checks, models that are
    /// arithmetic, and tokens.
    pub fn prepare_batch(self: &Arc<Self>, inputs: &[ModelInput], now_s: i64) -> PreparedBatch {
        // Tokenizers of one text do not wait for each other; those of many have enough to do.
        let hosts_min = if inputs.len() == 1 { HOSTS_EACH_MIN } else { self.hosts.len() };
        let prepare = |input: &ModelInput| self.prepare(input, now_s, hosts_min);
        let items = in_pieces(inputs, PREPARED_EACH_MIN, prepare);
        PreparedBatch { items, front: self.clone() }
    }

    /// Where it is one of few inputs, hosts of `hosts_min` or more are asked at once.
    fn prepare(&self, input: &ModelInput, now_s: i64, hosts_min: usize) -> EmbeddingResult<Item> {
        let draft = self.admit(&self.loaded, input, now_s)?;
        let Some(text) = text_of(draft.admitted.input()).filter(|_| self.together) else {
            return Ok(Item { tokens: Vec::new(), sparse: None, draft });
        };
        let text = NeuralText { text, role: draft.admitted.directives().role };
        let mut tokens = Vec::with_capacity(self.hosts.len());
        let mut sparse = None;
        let of_hosts = in_pieces(&self.hosts, hosts_min, |host| host.prepare(&text));
        for (host, prepared) in self.hosts.iter().zip(of_hosts) {
            let prepared = prepared?;
            let on_device = |wanted: ModelId| host.device_slots().iter().any(|it| it.0 == wanted);
            if host.models().contains(&ModelId::Sparse) && !on_device(ModelId::Sparse) {
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
            let slot = SlotVector { vector, sparse: None, tokens: None, truncated: false };
            slots.insert(model, (slot, watch.elapsed_ns() / 1000));
        };
        match kind {
            InputKind::Text | InputKind::Code => {
                let time = admitted.directives().time(now_s);
                let times = [
                    ModelId::TemporalRecent,
                    ModelId::TemporalPeriodic,
                    ModelId::TemporalPositional,
                ];
                flags.timestamp_defaulted = time.defaulted && times.into_iter().any(wanted);
                let recent = TemporalRecent { reference_s: self.reference_s };
                for model in times.into_iter().filter(|it| wanted(*it)) {
                    let watch = Stopwatch::start();
                    let vector = match model {
                        ModelId::TemporalRecent => recent.encode(time.epoch_s, now_s),
                        ModelId::TemporalPeriodic => TemporalPeriodic.encode(time.epoch_s),
                        _ => self.positional.encode(time.epoch_s),
                    };
                    set(model, watch, &vector);
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
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let each = work.len().div_ceil(threads).max(OUTPUT_EACH_MIN);
        let make =
            |work: Vec<Half>| -> Vec<_> { work.into_iter().map(|it| self.done(it)).collect() };
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
        flags.truncated |= prepared.iter().any(|it| it.truncated);
        let mut embeddings = ConcatenatedEmbedding::new(draft.content_hash);
        for model in ModelId::iter() {
            let own_us = draft.slots.get(&model).map(|it| it.1);
            let model_us = own_us.unwrap_or(latency_us);
            flags.latency_exceeded |= model.latency_budget_ms() * 1000 < model_us;
            embeddings.set(embedding(model, slots[model.slot_range()].to_vec(), model_us))?;
        }
        embeddings.concatenate(&SlotRule::UNIT, self.missing)?;
        let fused = fused.into_embedding(draft.content_hash, latency_us, flags);
        Ok(PipelineOutput { embeddings, fused: Some(fused), sparse, tokens, flags })
    }
}
