//! Warm-up of the pipeline: every program that can be asked for is built, prepared and run once,
//! and the right to build is given up.

use calor_ir::CheckedGraph;
use calor_runtime::{Build, BuildTimes, ChannelId, JoinedSpec, LaneId, PartSpec, ProgramId};
use calor_telemetry::clock::Stopwatch;

use super::PipelineCore;
use super::forms::{Forms, Fusion, ROOMS, Room, Together};
use crate::embedding::cosine;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fuser::{BATCH_SIZES, FuseMoE, SlotFusion};
use crate::image_tower::ImageTower;
use crate::input::{ModelInput, Role};
use crate::packing::{Bucket, PackItem};
use crate::programs::Programs;
use crate::slots::{NeuralModel, NeuralText};
use crate::tower::{TextSlots, TextTower, TowerOutput, device_error};

/// What every bucket is run with: what it says does not matter.
pub(crate) const CHECK_TEXTS: [&str; 2] =
    ["The river froze over before the first boats could leave the harbour.", "A short note."];

/// What becoming ready took, step by step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyReport {
    /// Programs that are ready.
    pub program_count: usize,
    /// Steps of all of them.
    pub step_count: usize,
    /// Making graphs.
    pub graphs_ns: u64,
    /// Plans, code, memory, weights and preparing.
    pub build: BuildTimes,
    /// Running every program once and comparing buckets.
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

impl PipelineCore {
    /// Builds every program of every loaded model, runs each once, compares buckets with each
    /// other, and gives up the right to build.
    ///
    /// # Errors
    /// [`EmbeddingError::GpuError`] with the bytes wanted and left when it does not fit; nothing
    /// was allocated then. [`EmbeddingError::WarmupMismatch`] for a bucket that computes something
    /// else than the smallest. What the device says.
    pub fn warm(mut self) -> EmbeddingResult<(Self, ReadyReport)> {
        let watch = Stopwatch::start();
        let together = self.options.device_slots && self.loaded().count() == 12;
        let together = together && self.fusion.is_some();
        let channels = if together { self.open_channels()? } else { Vec::new() };
        let graphs = Stopwatch::start();
        let wanted = self.wanted(together)?;
        let graphs_ns = graphs.elapsed_ns();
        let ids = self.build_all(&wanted, &channels)?;
        self.take_over(&wanted, &ids)?;
        let step_count = |(wanted, id): (&Wanted, &ProgramId)| {
            let parts = 0..wanted.parts.len();
            parts.map(|part| self.programs.part_plan(*id, part).steps.len()).sum::<usize>()
        };
        let step_count = wanted.iter().zip(&ids).map(step_count).sum();
        let Self { programs, .. } = self;
        self = Self { programs: programs.seal()?, ..self };
        let check = Stopwatch::start();
        self.check()?;
        let report = ReadyReport {
            program_count: ids.len(),
            step_count,
            graphs_ns,
            build: self.programs.times(),
            check_ns: check.elapsed_ns(),
            wall_ns: watch.elapsed_ns(),
        };
        Ok((self, report))
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
    fn wanted(&mut self, together: bool) -> EmbeddingResult<Vec<Wanted>> {
        let (lane, at_once) = {
            let build = self.programs.to_build(|| "the pipeline".into())?;
            (build.lane_beside(self.lane), build.lane())
        };
        let own = self.lane;
        let of_models: Vec<EmbeddingResult<Vec<Wanted>>> = std::thread::scope(|scope| {
            let made = |(index, model)| scope.spawn(move || wanted_of(index, model, own));
            let threads: Vec<_> = self.neural.iter().enumerate().map(made).collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.map(|it| it.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut wanted = Vec::new();
        for of_model in of_models {
            wanted.extend(of_model?);
        }
        let Some(fusion) = &self.fusion else { return Ok(wanted) };
        for item_count in BATCH_SIZES {
            let (place, graph) = match together {
                true => (Place::Fusion { item_count }, fusion.slot_graph(item_count)?),
                false => (Place::Apart { item_count }, fusion.graph(item_count)?),
            };
            let bucket = Bucket { token_count: item_count, sequence_count: item_count };
            let parts = vec![WantedPart { model: None, bucket, graph }];
            wanted.push(Wanted { place, lane, parts });
        }
        for room in ROOMS.into_iter().filter(|_| together) {
            if let Some(parts) = together_parts(&self.neural, fusion, room)? {
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
    fn check(&mut self) -> EmbeddingResult<()> {
        let want = self.options.precision.cosine_min();
        let Self { programs, neural, .. } = self;
        for model in neural {
            let texts = CHECK_TEXTS.map(|text| NeuralText { text, role: Role::Passage });
            let prepared = texts.iter().map(|it| model.host().prepare(it));
            let prepared = prepared.collect::<EmbeddingResult<Vec<_>>>()?;
            let items: Vec<PackItem<'_>> = prepared.iter().map(|it| it.item()).collect();
            check_buckets(model.tower_mut(), programs, &items)?;
        }
        self.check_images()?;
        self.check_forms(want)
    }

    fn check_images(&mut self) -> EmbeddingResult<()> {
        let Self { programs, neural, .. } = self;
        let mut images = neural.iter_mut().filter_map(NeuralModel::image_mut);
        images.try_for_each(|it| it.check(programs))
    }

    /// A text through every program of all models gives what the towers one by one give.
    fn check_forms(&mut self, want: f64) -> EmbeddingResult<()> {
        let Some(mut forms) = self.forms.take() else { return Ok(()) };
        let together = std::mem::take(&mut forms.together);
        let inputs = CHECK_TEXTS.map(ModelInput::text);
        let inputs = inputs.into_iter().collect::<EmbeddingResult<Vec<_>>>()?;
        let mut fused: Option<Vec<f32>> = None;
        // First without, then with each of the programs that hold all models alone.
        let mut left = vec![None];
        left.extend(together.into_iter().map(Some));
        let mut kept = Vec::new();
        for form in left {
            let token_count = form.as_ref().map_or(0, |it| it.room.token_count);
            forms.together = form.into_iter().collect();
            self.forms = Some(forms);
            let outputs = self.embed_batch(&inputs, 0);
            let lost = || EmbeddingError::InternalError { place: "forms", source: None };
            forms = self.forms.take().ok_or_else(lost)?;
            kept.append(&mut forms.together);
            let mut got = Vec::new();
            for output in outputs? {
                let output = output?;
                got.extend_from_slice(output.embeddings.as_slice().unwrap_or_default());
            }
            let Some(wanted) = &fused else {
                fused = Some(got);
                continue;
            };
            let cosine = cosine(&got, wanted);
            if cosine < want {
                let model = "all models".to_owned();
                return Err(EmbeddingError::WarmupMismatch { model, token_count, cosine, want });
            }
        }
        forms.together = kept;
        self.forms = Some(forms);
        Ok(())
    }
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

/// Runs items in every bucket of a tower that holds them; each must give what the smallest gives.
pub(crate) fn check_buckets(
    tower: &mut TextTower,
    programs: &mut Programs,
    items: &[PackItem<'_>],
) -> EmbeddingResult<()> {
    let want = tower.spec().precision.cosine_min();
    let token_count: usize = items.iter().map(|it| it.ids.len()).sum();
    let mut smallest: Option<Vec<TowerOutput>> = None;
    for bucket in tower.ladder().to_vec() {
        if bucket.token_count < token_count || bucket.sequence_count < items.len() {
            continue;
        }
        let got = tower.run_in(programs, bucket, items)?;
        match &smallest {
            None => smallest = Some(got),
            Some(wanted) => same(&tower.spec().label, bucket, &got, wanted, want)?,
        }
    }
    Ok(())
}

fn same(
    model: &str,
    bucket: Bucket,
    got: &[TowerOutput],
    wanted: &[TowerOutput],
    want: f64,
) -> EmbeddingResult<()> {
    for (got, wanted) in got.iter().zip(wanted) {
        for (got, wanted) in got.items.iter().zip(&wanted.items) {
            let cosine = cosine(got, wanted);
            if cosine < want || !got.iter().all(|it| it.is_finite()) {
                let (model, token_count) = (model.to_owned(), bucket.token_count);
                return Err(EmbeddingError::WarmupMismatch { model, token_count, cosine, want });
            }
        }
    }
    Ok(())
}
