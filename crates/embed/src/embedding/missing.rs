//! What becomes of a fused vector when models give none of theirs.

use super::ConcatenatedEmbedding;
use crate::model_id::ModelId;

/// What happens when models gave no vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingModels {
    /// An error that names them.
    Refuse,
    /// Zero slots, listed; E1 and at least six others must be there.
    AllowPartial,
}

impl MissingModels {
    /// Whether there is a fused vector of the models that are there.
    pub fn allows(self, is_there: impl Fn(ModelId) -> bool) -> bool {
        let count = ModelId::iter().filter(|it| is_there(*it)).count();
        match self {
            Self::Refuse => count == ModelId::ALL.len(),
            Self::AllowPartial => {
                is_there(ModelId::Semantic) && ConcatenatedEmbedding::PARTIAL_OTHERS_MIN < count
            }
        }
    }
}
