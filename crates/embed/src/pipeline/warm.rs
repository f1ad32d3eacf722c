//! Warm-up of the pipeline: every program that can be asked for is built, prepared and run once,
//! and the right to build is given up.

use std::panic::{AssertUnwindSafe, catch_unwind};

use calor_ir::CheckedGraph;
use calor_runtime::{Build, BuildTimes, ChannelId, JoinedSpec, LaneId, PartSpec, ProgramId};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::{Event, Label, WarmupStep};

use super::check::check_model;
use super::forms::{Forms, Fusion, ROOMS, Room, Together};
use super::{PipelineCore, revision};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fuser::{BATCH_SIZES, FuseMoE, SlotFusion};
use crate::image_tower::ImageTower;
use crate::model_id::ModelId;
use crate::packing::Bucket;
use crate::slots::NeuralModel;
use crate::tower::{TextSlots, device_error};

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

/// A program that is to be, with the graphs that it is made of.
struct Wanted {
    place: Place,
    lane: LaneId,
    parts: Vec<WantedPart>,
}

struct WantedPart {
    model: Option<usize>,
    bucket: Bucket,
    graph: CheckedGraph,
}

/// Whose program it is.
#[derive(Clone, Copy)]
enum Place {
    Text {
        model: usize,
        bucket: Bucket,
    },
    Image {
        model: usize,
        count: usize,
    },
    Fusion {
        item_count: usize,
    },
    Together(Room),
    /// The fusion of rows that come from the host.
    Apart {
        item_count: usize,
    },
}

impl Wanted {
    /// Whether it is of this model alone.
    fn is_of(&self, index: usize) -> bool {
        match self.place {
            Place::Text { model, .. } | Place::Image { model, .. } => model == index,
            Place::Fusion { .. } | Place::Together(_) | Place::Apart { .. } => false,
        }
    }
}

/// Models of a checkpoint that failed while it was warmed, and are not there any more.
#[derive(Debug)]
pub struct LostModels {
    /// Which.
    pub model_ids: Vec<ModelId>,
    /// What their checkpoint failed with.
    pub source: EmbeddingError,
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
    pub fn warm_each(mut self) -> EmbeddingResult<(Self, ReadyReport, Vec<LostModels>)> {
        let watch = Stopwatch::start();
        let mut lost = Vec::new();
        loop {
            let mut taken = Taken::default();
            let failed = match self.build_and_check(&mut taken, &mut |_, _| ()) {
                Ok(report) => {
                    let (core, report) = self.sealed(report, watch)?;
                    return Ok((core, report, lost));
                }
                Err(failed) => failed,
            };
            let Failed { model, source } = failed;
            let Some(index) = model else { return Err(source) };
            self.withdraw(taken)?;
            let models = self.neural[index].models().to_vec();
            let model_ids: Vec<ModelId> =
                models.into_iter().filter(|it| self.is_loaded(*it)).collect();
            for model_id in &model_ids {
                self.unload(*model_id)?;
            }
            if self.loaded.is_empty() {
                return Err(source);
            }
            lost.push(LostModels { model_ids, source });
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
        let together = self.options.device_slots && self.loaded().count() == 12;
        let together = together && self.fusion.is_some();
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

    /// Every program that can be asked for.
    fn wanted(&mut self, together: bool) -> Result<Vec<Wanted>, Failed> {
        let (lane, at_once) = {
            let build = self.programs.to_build(|| "the pipeline".into()).map_err(Failed::whole)?;
            (build.lane_beside(self.lane), build.lane())
        };
        let own = self.lane;
        let of_models: Vec<EmbeddingResult<Vec<Wanted>>> = std::thread::scope(|scope| {
            let made = |(index, model)| scope.spawn(move || wanted_of(index, model, own));
            let threads: Vec<_> = self.neural.iter().enumerate().map(made).collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.map(|it| it.unwrap_or_else(|_| Err(panicked("a model's graphs")))).collect()
        });
        let mut wanted = Vec::new();
        for (index, of_model) in of_models.into_iter().enumerate() {
            wanted.extend(of_model.map_err(|source| Failed { model: Some(index), source })?);
        }
        let Some(fusion) = &self.fusion else { return Ok(wanted) };
        for item_count in BATCH_SIZES {
            let (place, graph) = match together {
                true => (Place::Fusion { item_count }, fusion.slot_graph(item_count)),
                false => (Place::Apart { item_count }, fusion.graph(item_count)),
            };
            let graph = graph.map_err(Failed::whole)?;
            let bucket = Bucket { token_count: item_count, sequence_count: item_count };
            let parts = vec![WantedPart { model: None, bucket, graph }];
            wanted.push(Wanted { place, lane, parts });
        }
        for room in ROOMS.into_iter().filter(|_| together) {
            let parts = together_parts(&self.neural, fusion, room).map_err(Failed::whole)?;
            if let Some(parts) = parts {
                let place = Place::Together(room);
                wanted.push(Wanted { place, lane: at_once, parts });
            }
        }
        Ok(wanted)
    }

    fn build_all(
        &mut self,
        wanted: &[Wanted],
        channels: &[(String, ChannelId)],
    ) -> EmbeddingResult<Vec<ProgramId>> {
        let Self { programs, neural, fusion, .. } = self;
        let build = programs.to_build(|| "the pipeline".into())?;
        let all: Vec<(&str, ChannelId)> =
            channels.iter().map(|(name, id)| (name.as_str(), *id)).collect();
        let of_models: Vec<Vec<(&str, ChannelId)>> =
            neural.iter().map(|it| it.tower().channels()).collect();
        let longest = longest(neural);
        let mut specs = Vec::with_capacity(wanted.len());
        for one in wanted {
            let mut parts = Vec::with_capacity(one.parts.len());
            for (index, part) in one.parts.iter().enumerate() {
                let WantedPart { model, bucket, graph } = part;
                let spec = match (model.map(|it| (it, &neural[it])), one.place, &fusion) {
                    (Some((_, model)), Place::Image { count, .. }, _) => {
                        model.image().map(|it| it.program_spec(count, graph))
                    }
                    (Some((at, model)), _, _) => {
                        let of_model = of_models[at].as_slice();
                        Some(model.tower().program_spec(*bucket, one.lane, graph, of_model))
                    }
                    (None, place, Some(fusion)) => {
                        let bound =
                            if matches!(place, Place::Apart { .. }) { &[][..] } else { &all };
                        Some(fusion.program_spec(bucket.token_count, one.lane, graph, bound))
                    }
                    (None, _, None) => None,
                };
                // The fusion follows the longest tower, on that tower's branch.
                let branch = if model.is_some() { index } else { longest };
                parts.extend(spec.map(|spec| PartSpec { branch, spec }));
            }
            let label = parts.first().map_or("", |it| it.spec.label);
            let label = if 1 < parts.len() { "all models" } else { label };
            specs.push(JoinedSpec { label, parts });
        }
        build.all_joined(&specs).map_err(device_error)
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

/// Every program of one model alone.
fn wanted_of(index: usize, model: &NeuralModel, own: LaneId) -> EmbeddingResult<Vec<Wanted>> {
    let tower = model.tower();
    let mut wanted = Vec::new();
    for bucket in tower.ladder().iter().copied() {
        let part = WantedPart { model: Some(index), bucket, graph: tower.graph(bucket)? };
        let place = Place::Text { model: index, bucket };
        wanted.push(Wanted { place, lane: tower.lane(), parts: vec![part] });
    }
    let Some(image) = model.image() else { return Ok(wanted) };
    for count in ImageTower::counts() {
        let bucket = Bucket { token_count: count, sequence_count: count };
        let part = WantedPart { model: Some(index), bucket, graph: image.graph(count)? };
        let place = Place::Image { model: index, count };
        wanted.push(Wanted { place, lane: own, parts: vec![part] });
    }
    Ok(wanted)
}

/// The towers in small buckets and the fusion behind them; nothing where a tower has no room.
fn together_parts(
    neural: &[NeuralModel],
    fusion: &FuseMoE,
    Room { token_count, item_count: sequence_count }: Room,
) -> EmbeddingResult<Option<Vec<WantedPart>>> {
    let mut parts = Vec::with_capacity(neural.len() + 1);
    for (index, model) in neural.iter().enumerate() {
        let tower = model.tower();
        if tower.ladder().last().is_none_or(|it| it.token_count < token_count) {
            return Ok(None);
        }
        let bucket = Bucket { token_count, sequence_count };
        parts.push(WantedPart { model: Some(index), bucket, graph: tower.graph(bucket)? });
    }
    let bucket = Bucket { token_count: sequence_count, sequence_count };
    parts.push(WantedPart { model: None, bucket, graph: fusion.slot_graph(sequence_count)? });
    Ok(Some(parts))
}

/// The tower whose layers have the most weights.
fn longest(neural: &[NeuralModel]) -> usize {
    let weights = |it: &NeuralModel| {
        let config = &it.tower().spec().config;
        config.layer_count * config.hidden_len * config.hidden_len
    };
    (0..neural.len()).max_by_key(|it| weights(&neural[*it])).unwrap_or(0)
}
