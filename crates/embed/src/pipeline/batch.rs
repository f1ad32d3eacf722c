//! Inputs on their way to the device.

use std::collections::BTreeMap;

use crate::embedding::ResultFlags;
use crate::error::EmbeddingResult;
use crate::input::AdmittedInput;
use crate::model_id::ModelId;
use crate::slots::{Prepared, SlotVector};

/// A batch that is ready for the device.
#[derive(Debug)]
pub struct PreparedBatch(pub(super) Vec<EmbeddingResult<Item>>);

impl PreparedBatch {
    /// Tokens of the whole batch for each tower; empty where models run one after another.
    pub fn token_counts(&self) -> Vec<usize> {
        let mut sums: Vec<usize> = Vec::new();
        for item in self.0.iter().flatten() {
            sums.resize(item.tokens.len().max(sums.len()), 0);
            for (sum, tokens) in sums.iter_mut().zip(&item.tokens) {
                *sum += tokens.ids.len();
            }
        }
        sums
    }
}

/// An input and, where all models run together, its tokens for each.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) draft: Draft,
    pub(super) tokens: Vec<Prepared>,
}

/// An input on its way.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) admitted: AdmittedInput,
    pub(super) content_hash: u64,
    pub(super) slots: BTreeMap<ModelId, (SlotVector, u64)>,
    pub(super) flags: ResultFlags,
}
