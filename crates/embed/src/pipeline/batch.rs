//! Inputs on their way to the device, and rows on their way back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::forms::Row;
use super::{PipelineFront, PipelineOutput};
use crate::embedding::{ResultFlags, SparseVector};
use crate::error::EmbeddingResult;
use crate::input::AdmittedInput;
use crate::model_id::ModelId;
use crate::slots::{Prepared, SlotVector};

/// A batch that is ready for the device.
#[derive(Debug)]
pub struct PreparedBatch {
    pub(super) items: Vec<EmbeddingResult<Item>>,
    /// Whoever prepared it: tokens of other models are of no use.
    pub(super) front: Arc<PipelineFront>,
}

/// An input that is ready for a batch.
#[derive(Debug)]
pub struct PreparedInput {
    pub(super) item: Box<Item>,
    /// Whoever prepared it.
    pub(super) front: Arc<PipelineFront>,
}

impl PreparedInput {
    /// Its tokens for the first model that has some; none where models run one after another.
    pub fn token_count(&self) -> Option<usize> {
        self.item.tokens.first().map(|it| it.ids.len())
    }

    /// Whether a model takes less than all of it.
    pub fn is_truncated(&self) -> bool {
        self.item.draft.flags.truncated || self.item.tokens.iter().any(|it| it.cut.is_some())
    }
}

impl PreparedBatch {
    /// Tokens of the whole batch for each tower; empty where models run one after another.
    pub fn token_counts(&self) -> Vec<usize> {
        let mut sums: Vec<usize> = Vec::new();
        for item in self.items.iter().flatten() {
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
    /// E6's own form and slot where they are made on the host.
    pub(super) sparse: Option<(SparseVector, Vec<f32>)>,
}

/// A batch that the device is done with.
#[derive(Debug)]
pub struct ComputedBatch(pub(super) Vec<Half>);

/// An input behind the device.
#[derive(Debug)]
pub(super) enum Half {
    /// There is nothing more to do.
    Done(Box<EmbeddingResult<PipelineOutput>>),
    /// Numbers of which a result is made.
    Row(Box<BehindDevice>),
}

/// An input and its row.
#[derive(Debug)]
pub(super) struct BehindDevice {
    pub(super) item: Item,
    pub(super) row: EmbeddingResult<Row>,
    pub(super) latency_us: u64,
}

/// An input on its way.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) admitted: AdmittedInput,
    pub(super) content_hash: u64,
    pub(super) slots: BTreeMap<ModelId, (SlotVector, u64)>,
    pub(super) flags: ResultFlags,
}

impl Draft {
    /// The same input without what was made of it so far.
    pub(super) fn bare(&self) -> Self {
        let Self { admitted, content_hash, flags, .. } = self;
        let (admitted, slots) = (admitted.clone(), BTreeMap::new());
        Self { admitted, content_hash: *content_hash, slots, flags: *flags }
    }
}
