//! Every expert of the fusion run once, whatever its gate would choose.
//!
//! An expert is not named but made the best: the slots that the host computes point where its gate
//! looks. So it runs on the road that requests take.

use super::PipelineCore;
use crate::embedding::{EXPERT_COUNT, normalize_l2};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::ModelInput;
use crate::model_id::ModelId;

impl PipelineCore {
    /// Runs one text for each expert, with slots that the gate gives that expert the most for, and
    /// says which experts were mixed in. Nothing runs where nothing is fused.
    ///
    /// # Errors
    /// When the gate's weights cannot be read, and as [`PipelineCore::embed_batch`].
    pub fn force_experts(&mut self) -> EmbeddingResult<[bool; EXPERT_COUNT]> {
        let mut seen = [false; EXPERT_COUNT];
        let Some(fusion) = &self.fusion else { return Ok(seen) };
        let looks: Vec<Vec<f32>> =
            (0..EXPERT_COUNT).map(|it| fusion.gate_row(it)).collect::<EmbeddingResult<_>>()?;
        let probe = ModelInput::text("every expert in its turn")?;
        for look in looks {
            let mut prepared = self.prepare_batch(std::slice::from_ref(&probe), 0);
            for item in prepared.items.iter_mut().flatten() {
                for model in ModelId::iter().filter(|it| !it.is_pretrained()) {
                    let Some((slot, _)) = item.draft.slots.get_mut(&model) else { continue };
                    slot.vector.copy_from_slice(&look[model.slot_range()]);
                    normalize_l2(&mut slot.vector);
                }
            }
            let lost = || EmbeddingError::InternalError { place: "a forced expert", source: None };
            let output = self.run_batch(prepared)?.pop().ok_or_else(lost)??;
            for expert in output.fused.iter().flat_map(|it| &it.selected_experts) {
                seen[usize::from(*expert)] = true;
            }
        }
        Ok(seen)
    }
}
