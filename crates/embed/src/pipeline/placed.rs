//! A pipeline whose checkpoints lie on several devices.
//!
//! Every device runs its models at once with the others, each on a thread; slots are gathered on
//! the host, and one device fuses them. A device that fails fails the whole: nothing is answered by
//! a part of the models that was not told to be lost.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use calor_runtime::Build;
use calor_telemetry::clock::Stopwatch;

use super::batch::Draft;
use super::load::fuses;
use super::ready::Part;
use super::{
    LostModel, LostModels, PIECE_LEN, PipelineCore, PipelineFront, PipelineOptions, PipelineOutput,
    PrecisionRule, Ready, ReadyReport, Told,
};
use crate::embedding::MissingModels;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::ModelInput;
use crate::model_id::ModelId;
use crate::placement::Layout;
use crate::tokenizer::{TextTokenizer, TokenLimit};
use crate::warmup::ReadyPolicy;

/// Results of a batch, one for each input.
type Outputs = Vec<EmbeddingResult<PipelineOutput>>;

/// A pipeline on several devices, warm.
#[derive(Debug)]
pub struct PlacedPipeline {
    /// What each device holds; the one that fuses first.
    parts: Vec<PipelineCore>,
    /// Of all models.
    front: Arc<PipelineFront>,
    loaded: BTreeSet<ModelId>,
    missing: MissingModels,
}

/// A warm pipeline on several devices.
#[derive(Debug)]
pub struct PlacedReady {
    /// The pipeline.
    pub placed: PlacedPipeline,
    /// What becoming ready took: programs of all devices, times of the slowest.
    pub report: ReadyReport,
    /// Models that failed on the way; none where all must be there.
    pub lost: Vec<LostModel>,
}

/// What is told, from several threads.
type Telling<'a> = Mutex<&'a mut (dyn FnMut(Told<'_>) + Send)>;

impl PlacedPipeline {
    /// Opens and warms the parts of a layout, all devices at once. `devices` are in the layout's
    /// order; the options of each name every model of the pipeline. Where the policy allows it,
    /// models that fail are lost, all of a device's if it fails.
    ///
    /// # Errors
    /// As [`PipelineCore::ready`].
    ///
    /// # Panics
    /// For another number of devices than the layout has.
    pub fn ready(
        devices: Vec<(Build, PipelineOptions)>,
        layout: &Layout,
        policy: &ReadyPolicy,
        rule: PrecisionRule,
        told: &mut (dyn FnMut(Told<'_>) + Send),
    ) -> EmbeddingResult<PlacedReady> {
        assert_eq!(devices.len(), layout.devices.len(), "a device for each of the layout");
        let lead = layout.lead();
        let configured = devices[lead].1.models.clone();
        let telling: Telling<'_> = Mutex::new(told);
        let mut parts = Vec::new();
        for (at, (build, options)) in devices.into_iter().enumerate() {
            let is_lead = at == lead;
            let own = &layout.devices[at].model_ids;
            let is_placed =
                |it: &ModelId| layout.devices.iter().any(|at| at.model_ids.contains(it));
            // The one that fuses has the models without weights, and misses what nobody has.
            let is_own = |it: &ModelId| own.contains(it) || is_lead && !is_placed(it);
            let models: Vec<ModelId> = options.models.iter().copied().filter(is_own).collect();
            if !models.is_empty() || is_lead {
                let fuses = is_lead && fuses(&options);
                let options = PipelineOptions { models, ..options };
                parts.push((is_lead, build, Part { options, fuses, is_part: true }));
            }
        }
        // The one that fuses comes first; the others keep their order.
        parts.sort_by_key(|it| !it.0);
        let loses = policy.allows_loss();
        let opened: Vec<EmbeddingResult<Result<Ready, Vec<LostModel>>>> =
            std::thread::scope(|scope| {
                let open = |(is_lead, build, part): (bool, Build, Part)| {
                    let telling = &telling;
                    scope.spawn(move || {
                        open_part(part, build, loses && !is_lead, loses, rule, telling)
                    })
                };
                let threads: Vec<_> = parts.into_iter().map(open).collect();
                let lost =
                    || EmbeddingError::InternalError { place: "opening a part", source: None };
                threads.into_iter().map(|it| it.join().unwrap_or_else(|_| Err(lost()))).collect()
            });
        let (mut parts, mut lost, mut report) = (Vec::new(), Vec::new(), ReadyReport::default());
        for ready in opened {
            match ready? {
                Ok(Ready { core, report: own, lost: more }) => {
                    report = beside(report, own);
                    lost.extend(more);
                    parts.push(core);
                }
                Err(gone) => lost.extend(gone),
            }
        }
        lost.sort_by_key(|it| it.model_id);
        policy.check(&configured, &lost)?;
        let loaded = parts.iter().flat_map(PipelineCore::loaded).collect();
        let placed = Self::of(parts, loaded)?;
        Ok(PlacedReady { placed, report, lost })
    }

    fn of(parts: Vec<PipelineCore>, loaded: BTreeSet<ModelId>) -> EmbeddingResult<Self> {
        let none = EmbeddingError::NotInitialized { what: "a pipeline without devices" };
        let lead = parts.first().ok_or(none)?;
        let options = lead.options();
        let hosts = parts.iter().flat_map(|it| &it.neural).map(|it| it.host().clone()).collect();
        let front = PipelineFront {
            hosts,
            loaded: loaded.clone(),
            ..PipelineFront::of(options, lead.front.hdc.clone())
        };
        let missing = options.missing;
        Ok(Self { parts, front: Arc::new(front), loaded, missing })
    }

    /// What each device holds; the one that fuses first.
    pub fn parts(&self) -> &[PipelineCore] {
        &self.parts
    }

    /// Models that answer, in slot order.
    pub fn loaded(&self) -> impl Iterator<Item = ModelId> {
        self.loaded.iter().copied()
    }

    /// Whether there is a fused vector.
    pub fn fuses(&self) -> bool {
        let there = self.missing.allows(|it| self.loaded.contains(&it));
        there && self.parts[0].fusion.is_some()
    }

    /// How a model's texts become ids, and how many it takes; none for arithmetic models.
    pub fn tokenizer(&self, model: ModelId) -> Option<(&TextTokenizer, TokenLimit)> {
        self.parts.iter().find_map(|it| it.tokenizer(model))
    }

    /// What its results depend on besides inputs, if it was all opened together.
    pub fn revision(&self) -> Option<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        for part in &self.parts {
            hasher.update(&part.revision()?);
        }
        Some(*hasher.finalize().as_bytes())
    }

    /// From now on E6 and E12 are handed out in their own forms as well, or not.
    pub fn set_own_forms(&mut self, own_forms: bool) {
        self.parts[0].set_own_forms(own_forms);
    }

    /// As [`PipelineCore::embed_batch`].
    ///
    /// # Errors
    /// As there, of any device.
    pub fn embed_batch(&mut self, inputs: &[ModelInput], now_s: i64) -> EmbeddingResult<Outputs> {
        let wanted = self.loaded.clone();
        let mut all = Vec::with_capacity(inputs.len());
        for piece in inputs.chunks(PIECE_LEN) {
            let watch = Stopwatch::start();
            let mut outputs = self.outputs(&wanted, piece, now_s)?;
            self.parts[0].fuse(&mut outputs, watch)?;
            all.extend(outputs);
        }
        Ok(all)
    }

    /// As [`PipelineCore::embed_models`].
    ///
    /// # Errors
    /// As there, of any device.
    pub fn embed_models(
        &mut self,
        wanted: &BTreeSet<ModelId>,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Outputs> {
        if let Some(model_id) = wanted.iter().copied().find(|it| !self.loaded.contains(it)) {
            return Err(EmbeddingError::ModelNotLoaded { model_id });
        }
        self.outputs(wanted, inputs, now_s)
    }

    /// Slots of the wanted models, not fused.
    fn outputs(
        &mut self,
        wanted: &BTreeSet<ModelId>,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Outputs> {
        let mut drafts: Vec<EmbeddingResult<Draft>> =
            inputs.iter().map(|it| self.front.admit(wanted, it, now_s)).collect();
        let good: Vec<usize> = (0..drafts.len()).filter(|at| drafts[*at].is_ok()).collect();
        for made in self.run_parts(wanted, &drafts)? {
            for (at, made) in good.iter().zip(made) {
                match (&mut drafts[*at], made) {
                    (Ok(draft), Ok(made)) => draft.slots.extend(made.slots),
                    (Ok(_), Err(err)) => drafts[*at] = Err(err),
                    (Err(_), _) => {}
                }
            }
        }
        let lead = &self.parts[0];
        Ok(drafts.into_iter().map(|draft| draft.and_then(|it| lead.finish(it))).collect())
    }

    /// What each device that has a wanted model makes of the good inputs.
    fn run_parts(
        &mut self,
        wanted: &BTreeSet<ModelId>,
        drafts: &[EmbeddingResult<Draft>],
    ) -> EmbeddingResult<Vec<Vec<EmbeddingResult<Draft>>>> {
        std::thread::scope(|scope| {
            let mut threads = Vec::with_capacity(self.parts.len());
            for part in &mut self.parts {
                let own: BTreeSet<ModelId> = part.loaded.intersection(wanted).copied().collect();
                if !own.iter().any(|it| it.is_pretrained()) {
                    continue;
                }
                let good = drafts.iter().flatten();
                let mut bare: Vec<EmbeddingResult<Draft>> = good.map(|it| Ok(it.bare())).collect();
                threads.push(scope.spawn(move || part.run_apart(&own, &mut bare).map(|()| bare)));
            }
            let join = |it: std::thread::ScopedJoinHandle<'_, _>| match it.join() {
                Ok(made) => made,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().map(join).collect()
        })
    }
}

/// Opens what one device holds. All its models are lost where it fails and may.
fn open_part(
    part: Part,
    build: Build,
    may_go: bool,
    allows_loss: bool,
    rule: PrecisionRule,
    telling: &Telling<'_>,
) -> EmbeddingResult<Result<Ready, Vec<LostModel>>> {
    let mut model_ids = part.options.models.clone();
    let mut gone: Vec<LostModel> = Vec::new();
    let mut tell = |it: Told<'_>| {
        if let Told::Lost { lost, .. } = &it {
            gone.extend(lost.each());
        }
        telling.lock().unwrap_or_else(PoisonError::into_inner)(it);
    };
    match part.ready(build, allows_loss, rule, &mut tell) {
        Err(source) if may_go => {
            model_ids.retain(|it| !gone.iter().any(|gone| gone.model_id == *it));
            let lost = LostModels { model_ids, source };
            gone.extend(lost.each());
            let told = Told::Lost { lost: &lost, again: &[] };
            telling.lock().unwrap_or_else(PoisonError::into_inner)(told);
            Ok(Err(gone))
        }
        ready => ready.map(Ok),
    }
}

/// Programs of both, and the longer of their times.
fn beside(one: ReadyReport, other: ReadyReport) -> ReadyReport {
    let slower = if one.wall_ns < other.wall_ns { other } else { one };
    ReadyReport {
        program_count: one.program_count + other.program_count,
        step_count: one.step_count + other.step_count,
        ..slower
    }
}
