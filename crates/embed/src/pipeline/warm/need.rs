//! What a pipeline wants of its device's memory, checkpoint by checkpoint, before it is there.

use calor_runtime::{ChannelId, WantedMemory};

use super::{Bound, Place, Wanted, specs};
use crate::error::EmbeddingResult;
use crate::pipeline::PipelineCore;
use crate::placement::{FUSION_PART, PartBytes, PartNeed, PipelineNeed};
use crate::tower::device_error;

impl PipelineCore {
    /// What its programs want, all of them and part by part. They are planned, not built.
    ///
    /// # Errors
    /// [`crate::EmbeddingError::NotWarm`] for a pipeline that is sealed, and when a graph has no
    /// plan.
    pub fn need(mut self) -> EmbeddingResult<PipelineNeed> {
        let wanted = self.wanted(false).map_err(|it| it.source)?;
        let mut parts = Vec::new();
        for index in 0..self.neural.len() {
            let own: Vec<&Wanted> = wanted.iter().filter(|it| it.is_of(index)).collect();
            let WantedMemory { kept, loading_bytes, rounding_bytes } = self.memory_of(&own, &[])?;
            let model = &self.neural[index];
            let is_loaded = |it: &_| self.is_loaded(*it);
            parts.push(PartNeed {
                name: model.name(),
                model_ids: model.models().iter().copied().filter(is_loaded).collect(),
                bytes: PartBytes {
                    own_bytes: kept.weights_bytes + kept.state_bytes + rounding_bytes,
                    arena_bytes: kept.arena_bytes,
                    boundary_bytes: kept.boundary_bytes,
                    loading_bytes,
                },
            });
        }
        if self.fusion.is_some() {
            let is_own = |it: &&Wanted| matches!(it.place, Place::Apart { .. });
            let own: Vec<&Wanted> = wanted.iter().filter(is_own).collect();
            let WantedMemory { kept, loading_bytes, rounding_bytes } = self.memory_of(&own, &[])?;
            parts.push(PartNeed {
                name: FUSION_PART,
                model_ids: Vec::new(),
                // Its inputs and outputs are in a lane of their own.
                bytes: PartBytes {
                    own_bytes: kept.weights_bytes
                        + kept.state_bytes
                        + kept.boundary_bytes
                        + rounding_bytes,
                    arena_bytes: kept.arena_bytes,
                    boundary_bytes: 0,
                    loading_bytes,
                },
            });
        }
        let apart = parts.iter().fold(PartBytes::default(), |sum, it| sum.with(it.bytes));
        let whole_bytes = match self.runs_together() {
            false => apart.total_bytes(),
            true => {
                let before_bytes = self.programs.memory().total_bytes();
                let channels = self.open_channels()?;
                let channel_bytes = self.programs.memory().total_bytes() - before_bytes;
                let wanted = self.wanted(true).map_err(|it| it.source)?;
                let all: Vec<&Wanted> = wanted.iter().collect();
                let WantedMemory { kept, loading_bytes, rounding_bytes } =
                    self.memory_of(&all, &channels)?;
                channel_bytes + kept.total_bytes() + loading_bytes + rounding_bytes
            }
        };
        Ok(PipelineNeed { whole_bytes, parts })
    }

    fn memory_of(
        &mut self,
        wanted: &[&Wanted],
        channels: &[(String, ChannelId)],
    ) -> EmbeddingResult<WantedMemory> {
        let Self { programs, neural, fusion, .. } = self;
        let build = programs.to_build(|| "the pipeline".into())?;
        let bound = Bound::of(neural, channels);
        build.wanted(&specs(neural, fusion.as_ref(), wanted, &bound)).map_err(device_error)
    }
}
