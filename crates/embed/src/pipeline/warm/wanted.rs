//! Programs that a pipeline is to have, with the graphs that they are made of.

use calor_ir::CheckedGraph;
use calor_runtime::{ChannelId, JoinedSpec, LaneId, PartSpec};

use super::{Failed, panicked};
use crate::error::EmbeddingResult;
use crate::fuser::{BATCH_SIZES, FuseMoE};
use crate::image_tower::ImageTower;
use crate::packing::Bucket;
use crate::pipeline::PipelineCore;
use crate::pipeline::forms::{ROOMS, Room};
use crate::slots::NeuralModel;

/// A program that is to be, with the graphs that it is made of.
pub(super) struct Wanted {
    pub(super) place: Place,
    pub(super) lane: LaneId,
    pub(super) parts: Vec<WantedPart>,
}

pub(super) struct WantedPart {
    pub(super) model: Option<usize>,
    pub(super) bucket: Bucket,
    pub(super) graph: CheckedGraph,
}

/// Whose program it is.
#[derive(Clone, Copy)]
pub(super) enum Place {
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
    pub(super) fn is_of(&self, index: usize) -> bool {
        match self.place {
            Place::Text { model, .. } | Place::Image { model, .. } => model == index,
            Place::Fusion { .. } | Place::Together(_) | Place::Apart { .. } => false,
        }
    }
}

impl PipelineCore {
    /// Every program that can be asked for.
    pub(super) fn wanted(&mut self, together: bool) -> Result<Vec<Wanted>, Failed> {
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
}

/// Which names lie in which channels.
pub(super) struct Bound<'a> {
    all: Vec<(&'a str, ChannelId)>,
    of_models: Vec<Vec<(&'a str, ChannelId)>>,
}

impl<'a> Bound<'a> {
    pub(super) fn of(neural: &'a [NeuralModel], channels: &'a [(String, ChannelId)]) -> Self {
        Self {
            all: channels.iter().map(|(name, id)| (name.as_str(), *id)).collect(),
            of_models: neural.iter().map(|it| it.tower().channels()).collect(),
        }
    }
}

/// Programs as a build takes them.
pub(super) fn specs<'a>(
    neural: &'a [NeuralModel],
    fusion: Option<&'a FuseMoE>,
    wanted: &[&'a Wanted],
    bound: &'a Bound<'_>,
) -> Vec<JoinedSpec<'a>> {
    let longest = longest(neural);
    let mut specs = Vec::with_capacity(wanted.len());
    for one in wanted {
        let mut parts = Vec::with_capacity(one.parts.len());
        for (index, part) in one.parts.iter().enumerate() {
            let WantedPart { model, bucket, graph } = part;
            let spec = match (model.map(|it| (it, &neural[it])), one.place, fusion) {
                (Some((_, model)), Place::Image { count, .. }, _) => {
                    model.image().map(|it| it.program_spec(count, graph))
                }
                (Some((at, model)), _, _) => {
                    let of_model = bound.of_models[at].as_slice();
                    Some(model.tower().program_spec(*bucket, one.lane, graph, of_model))
                }
                (None, place, Some(fusion)) => {
                    let is_apart = matches!(place, Place::Apart { .. });
                    let bound = if is_apart { &[][..] } else { &bound.all };
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
    specs
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
