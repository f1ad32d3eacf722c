//! Warm-up of the pipeline: every program that can be asked for is built, prepared and run once,
//! and the right to build is given up.

mod need;
mod wanted;

use std::panic::{AssertUnwindSafe, catch_unwind};

use calor_runtime::{Build, BuildTimes, ChannelId, ProgramId};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::{Event, Label, WarmupStep};

use super::check::check_model;
use super::forms::{Forms, Fusion, Together};
use super::{PipelineCore, revision};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fuser::{BATCH_SIZES, SlotFusion};
use crate::model_id::ModelId;
use crate::tower::{TextSlots, device_error};
use wanted::{Bound, Place, Wanted, WantedPart, specs};

/// What becoming ready took, step by step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyReport {
    /// Programs that are ready.
    pub program_count: usize,
    /// Steps of all of them.
    pub step_count: usize,
    /// Making graphs.
    pub graphs_ns: u64,
    /// Plans, code, memory and weights; preparing, which happens in the checks.
    pub build: BuildTimes,
    /// Preparing and running every program once, and comparing buckets.
    pub check_ns: u64,
    /// All of it.
    pub wall_ns: u64,
}

/// Models of a checkpoint that failed while it was opened or warmed, and are not there any more.
#[derive(Debug)]
pub struct LostModels {
    /// Which.
    pub model_ids: Vec<ModelId>,
    /// What their checkpoint failed with.
    pub source: EmbeddingError,
}

/// One model that is not there any more, and why in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostModel {
    /// Which.
    pub model_id: ModelId,
    /// What its checkpoint failed with, and what caused that.
    pub why: String,
}

impl LostModels {
    /// One by one.
    pub fn each(&self) -> impl Iterator<Item = LostModel> {
        let why = crate::warmup::words(&self.source);
        self.model_ids.iter().map(move |it| LostModel { model_id: *it, why: why.clone() })
    }
}

impl std::fmt::Display for LostModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.model_id, self.why)
    }
}

/// What is told while models become warm.
#[derive(Debug)]
pub enum Told<'a> {
    /// Every program of a checkpoint ran and agreed.
    Warm {
        /// Its models.
        model_ids: &'a [ModelId],
        /// What that took.
        check_ns: u64,
    },
    /// A checkpoint failed.
    Lost {
        /// Its models.
        lost: &'a LostModels,
        /// Models that are built and checked anew without it.
        again: &'a [ModelId],
    },
}

/// Why warming failed, and the place of the model whose fault it was.
struct Failed {
    model: Option<usize>,
    source: EmbeddingError,
}

impl Failed {
    fn whole(source: EmbeddingError) -> Self {
        Self { model: None, source }
    }
}

/// What a build that fails has to give back beside its programs.
#[derive(Default)]
struct Taken {
    channels: Vec<(String, ChannelId)>,
}

impl PipelineCore {
    /// Builds every program of every loaded model, runs each once, compares buckets with each
    /// other, and gives up the right to build.
    ///
    /// # Errors
    /// [`EmbeddingError::GpuError`] with the bytes wanted and left when it does not fit; nothing
    /// was allocated then. [`EmbeddingError::WarmupMismatch`] for a bucket that computes something
    /// else than the smallest. What the device says.
    pub fn warm(self) -> EmbeddingResult<(Self, ReadyReport)> {
        self.warm_telling(&mut |_, _| ())
    }

    /// As [`PipelineCore::warm`]; `told` hears the models of each checkpoint whose programs all ran
    /// and agreed, and the nanoseconds that this took.
    ///
    /// # Errors
    /// As there.
    pub fn warm_telling(
        mut self,
        told: &mut dyn FnMut(&[ModelId], u64),
    ) -> EmbeddingResult<(Self, ReadyReport)> {
        let watch = Stopwatch::start();
        let report = self.build_and_check(&mut Taken::default(), told).map_err(|it| it.source)?;
        self.sealed(report, watch)
    }

    /// As [`PipelineCore::warm`], but a checkpoint that fails or panics is unloaded, and the others
    /// are warmed without it.
    ///
    /// # Errors
    /// What is no single checkpoint's fault, and the last one's fault when none is left.
    pub fn warm_each(self) -> EmbeddingResult<(Self, ReadyReport, Vec<LostModels>)> {
        self.warm_each_telling(&mut |_| ())
    }

    /// As [`PipelineCore::warm_each`]; `told` hears of each checkpoint.
    ///
    /// # Errors
    /// As there.
    pub fn warm_each_telling(
        mut self,
        told: &mut dyn FnMut(Told<'_>),
    ) -> EmbeddingResult<(Self, ReadyReport, Vec<LostModels>)> {
        let watch = Stopwatch::start();
        let mut lost = Vec::new();
        loop {
            let mut taken = Taken::default();
            let mut warm = |model_ids: &[ModelId], check_ns| {
                told(Told::Warm { model_ids, check_ns });
            };
            let failed = match self.build_and_check(&mut taken, &mut warm) {
                Ok(report) => {
                    let (core, report) = self.sealed(report, watch)?;
                    return Ok((core, report, lost));
                }
                Err(failed) => failed,
            };
            let Failed { model, source } = failed;
            let Some(index) = model else { return Err(source) };
            self.withdraw(taken)?;
            let model_ids = self.unload_checkpoint(index)?;
            if self.loaded.is_empty() {
                return Err(source);
            }
            let own = LostModels { model_ids, source };
            let again: Vec<ModelId> = self.loaded().collect();
            told(Told::Lost { lost: &own, again: &again });
            lost.push(own);
        }
    }

    fn sealed(self, report: ReadyReport, watch: Stopwatch) -> EmbeddingResult<(Self, ReadyReport)> {
        // Files that changed while they were read are nobody's.
        let now = revision::of(&self.options, self.programs.signature());
        let revision = self.revision.filter(|it| now == Some(*it));
        let Self { programs, .. } = self;
        let mut core = Self { programs: programs.seal()?, revision, ..self };
        core.renew_front();
        let (build, wall_ns) = (core.programs.times(), watch.elapsed_ns());
        Ok((core, ReadyReport { build, wall_ns, ..report }))
    }

    /// Everything up to the seal.
    fn build_and_check(
        &mut self,
        taken: &mut Taken,
        told: &mut dyn FnMut(&[ModelId], u64),
    ) -> Result<ReadyReport, Failed> {
        let together = self.runs_together();
        if together {
            taken.channels = self.open_channels().map_err(Failed::whole)?;
        }
        let graphs = Stopwatch::start();
        let wanted = self.wanted(together)?;
        let graphs_ns = graphs.elapsed_ns();
        let ids = match self.build_all(&wanted, &taken.channels) {
            Ok(ids) => ids,
            Err(source) => return Err(Failed { model: self.culprit(&wanted), source }),
        };
        self.take_over(&wanted, &ids).map_err(Failed::whole)?;
        let step_count = |(wanted, id): (&Wanted, &ProgramId)| {
            let parts = 0..wanted.parts.len();
            parts.map(|part| self.programs.part_plan(*id, part).steps.len()).sum::<usize>()
        };
        let step_count = wanted.iter().zip(&ids).map(step_count).sum();
        let (check, before) = (Stopwatch::start(), self.programs.times());
        let checked = self.check(told);
        // Programs are prepared at their first run, which is told apart.
        let prepare_ns = self.programs.times().prepare_ns - before.prepare_ns;
        let check_ns = check.elapsed_ns().saturating_sub(prepare_ns);
        self.programs.recorder().record(Event::WarmupStepDone {
            step: WarmupStep::Check,
            model: Label::fixed("all"),
            success: checked.is_ok(),
            device_bytes: 0,
            wall_ns: check_ns,
        });
        checked?;
        let program_count = ids.len();
        Ok(ReadyReport { program_count, step_count, graphs_ns, check_ns, ..ReadyReport::default() })
    }

    /// Whether all models run with one launch.
    fn runs_together(&self) -> bool {
        let all = self.options.device_slots && self.loaded().count() == 12;
        all && self.fusion.is_some() && !self.is_part
    }

    /// The first model whose programs cannot be built without the others' either.
    fn culprit(&mut self, wanted: &[Wanted]) -> Option<usize> {
        (0..self.neural.len()).find(|index| {
            let own: Vec<&Wanted> = wanted.iter().filter(|it| it.is_of(*index)).collect();
            let alone = catch_unwind(AssertUnwindSafe(|| self.build_alone(*index, &own)));
            !matches!(alone, Ok(Ok(())))
        })
    }

    /// Builds programs of one model and takes them away again.
    fn build_alone(&mut self, index: usize, wanted: &[&Wanted]) -> EmbeddingResult<()> {
        let Self { programs, neural, .. } = self;
        let build = programs.to_build(|| "the pipeline".into())?;
        let model = &neural[index];
        let channels = model.tower().channels();
        for one in wanted {
            let WantedPart { bucket, graph, .. } = &one.parts[0];
            let spec = match (one.place, model.image()) {
                (Place::Image { count, .. }, Some(image)) => image.program_spec(count, graph),
                _ => model.tower().program_spec(*bucket, one.lane, graph, &channels),
            };
            let id = build.program(&spec).map_err(device_error)?;
            build.remove(id).map_err(device_error)?;
        }
        Ok(())
    }

    /// Gives back what a build that failed had taken.
    fn withdraw(&mut self, taken: Taken) -> EmbeddingResult<()> {
        let Self { programs, neural, fusion, forms, lane, .. } = self;
        for model in neural.iter_mut() {
            model.release(programs)?;
            model.tower_mut().leave_in(*lane, Vec::new());
        }
        if let Some(fusion) = fusion {
            fusion.release(programs)?;
        }
        let build = programs.to_build(|| "the pipeline".into())?;
        if let Some(Forms { together, fusions }) = forms.take() {
            let mut ids = together.iter().map(|it| it.id).chain(fusions.iter().map(|it| it.id));
            ids.try_for_each(|id| build.remove(id).map_err(device_error))?;
        }
        for (_, channel) in taken.channels {
            build.remove_channel(channel).map_err(device_error)?;
        }
        self.renew_front();
        Ok(())
    }

    /// A channel for each slot that a tower leaves, in the order of the towers.
    fn open_channels(&mut self) -> EmbeddingResult<Vec<(String, ChannelId)>> {
        let Self { programs, neural, lane, .. } = self;
        let build = programs.to_build(|| "the pipeline".into())?;
        let mut all = Vec::new();
        for model in neural {
            let most = model.tower().ladder().iter().map(|it| it.sequence_count).max();
            let most = most.unwrap_or(1).max(BATCH_SIZES[BATCH_SIZES.len() - 1]);
            let mut own = Vec::new();
            for (model_id, name) in model.host().device_slots() {
                let bytes = 4 * most * model_id.slot_dimension();
                let channel = build.channel(bytes as u64).map_err(device_error)?;
                own.push((name, channel));
            }
            all.extend(own.iter().cloned());
            let lane = build.lane_beside(*lane);
            model.tower_mut().leave_in(lane, own);
        }
        Ok(all)
    }

    fn build_all(
        &mut self,
        wanted: &[Wanted],
        channels: &[(String, ChannelId)],
    ) -> EmbeddingResult<Vec<ProgramId>> {
        let Self { programs, neural, fusion, .. } = self;
        let build = programs.to_build(|| "the pipeline".into())?;
        let wanted: Vec<&Wanted> = wanted.iter().collect();
        let bound = Bound::of(neural, channels);
        build.all_joined(&specs(neural, fusion.as_ref(), &wanted, &bound)).map_err(device_error)
    }

    /// Gives every program to whom it belongs.
    fn take_over(&mut self, wanted: &[Wanted], ids: &[ProgramId]) -> EmbeddingResult<()> {
        let Self { programs, neural, fusion, .. } = self;
        let build: &Build = programs.to_build(|| "the pipeline".into())?;
        let (mut together, mut fusions) = (Vec::new(), Vec::new());
        for (Wanted { place, parts, .. }, id) in wanted.iter().zip(ids.iter().copied()) {
            match *place {
                Place::Text { model, bucket } => {
                    neural[model].tower_mut().add(build, &parts[0].graph, bucket, id)?;
                }
                Place::Image { model, count } => {
                    if let Some(image) = neural[model].image_mut() {
                        image.add(build, count, id)?;
                    }
                }
                Place::Apart { item_count } => {
                    if let Some(fusion) = fusion {
                        fusion.add(build, item_count, id)?;
                    }
                }
                Place::Fusion { item_count } => {
                    let slots = SlotFusion::of(build.plan(id))?;
                    fusions.push(Fusion { item_count, id, slots });
                }
                Place::Together(room) => {
                    let (last, of_towers) = (parts.len() - 1, &parts[..parts.len() - 1]);
                    let towers = of_towers.iter().enumerate().map(|(part, it)| {
                        TextSlots::of(&it.graph, build.part_plan(id, part), it.bucket)
                    });
                    let towers = towers.collect::<EmbeddingResult<_>>()?;
                    let fusion = SlotFusion::of(build.part_plan(id, last))?;
                    together.push(Together { room, id, towers, fusion });
                }
            }
        }
        if !fusions.is_empty() {
            self.forms = Some(Forms { together, fusions });
        }
        self.renew_front();
        Ok(())
    }

    /// Runs every program once: each bucket with the same texts, which must give the same.
    fn check(&mut self, told: &mut dyn FnMut(&[ModelId], u64)) -> Result<(), Failed> {
        let want = self.options.precision.cosine_min();
        let Self { programs, neural, .. } = self;
        for (index, model) in neural.iter_mut().enumerate() {
            let watch = Stopwatch::start();
            let checked = catch_unwind(AssertUnwindSafe(|| check_model(model, programs)));
            let checked = checked.unwrap_or_else(|_| Err(panicked("a model's check")));
            checked.map_err(|source| Failed { model: Some(index), source })?;
            told(model.models(), watch.elapsed_ns());
        }
        self.check_forms(want).map_err(Failed::whole)
    }
}

fn panicked(place: &'static str) -> EmbeddingError {
    EmbeddingError::InternalError { place, source: Some("it panicked".into()) }
}
