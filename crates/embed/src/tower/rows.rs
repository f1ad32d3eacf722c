//! What goes into a bucket's program, and where it and what leaves lie.

use calor_ir::CheckedGraph;
use calor_runtime::Plan;

use crate::error::{EmbeddingError, EmbeddingResult};
use crate::packing::{Bucket, PackBuffers, PackForm, PackItem, pack};

/// Where the inputs and outputs of a bucket's plan are.
pub(crate) struct TextSlots {
    bucket: Bucket,
    /// Slot of each input, where the graph has it.
    pub(super) inputs: [Option<usize>; INPUT_NAMES.len()],
    pub(crate) outputs: Vec<OutputSlot>,
}

/// Inputs of text graphs, in the order of [`Scratch::rows`].
pub(super) const INPUT_NAMES: [&str; 9] =
    ["ids", "positions", "types", "segment", "lo", "hi", "keep", "seg_lo", "seg_hi"];

/// One output of a plan.
pub(crate) struct OutputSlot {
    pub(crate) name: String,
    pub(crate) slot: usize,
    pub(crate) row_len: usize,
    pub(crate) by_token: bool,
}

impl TextSlots {
    pub(crate) fn of(graph: &CheckedGraph, plan: &Plan, bucket: Bucket) -> EmbeddingResult<Self> {
        let mut outputs = Vec::new();
        for output in graph.graph().outputs() {
            let shape = graph.graph().shape(output.value);
            let slot = plan.output_index(&output.name).ok_or_else(|| {
                EmbeddingError::InternalError { place: "plan outputs", source: None }
            })?;
            outputs.push(OutputSlot {
                name: output.name.clone(),
                slot,
                row_len: shape.last(),
                by_token: shape.sizes()[0] == bucket.token_count
                    && plan.buffers[slot].live != Some(crate::encoder::LIVE_SEQUENCES),
            });
        }
        let inputs = INPUT_NAMES.map(|name| plan.input_index(name));
        Ok(Self { bucket, inputs, outputs })
    }

    pub(crate) fn bucket(&self) -> Bucket {
        self.bucket
    }

    /// The output called `name`.
    pub(crate) fn output(&self, name: &str) -> Option<&OutputSlot> {
        self.outputs.iter().find(|it| it.name == name)
    }
}

/// Memory that items are packed into; it grows with the largest bucket.
#[derive(Default)]
pub(super) struct Scratch {
    ids: Vec<i32>,
    positions: Vec<i32>,
    types: Vec<i32>,
    lo: Vec<i32>,
    hi: Vec<i32>,
    extra: Vec<i32>,
    segment: Vec<i32>,
    bounds: Vec<i32>,
    keep: Vec<f32>,
    pub(super) read: Vec<f32>,
}

impl Scratch {
    /// What was packed for a bucket, in the order of [`INPUT_NAMES`].
    pub(super) fn rows(&self, bucket: Bucket) -> [&[u8]; INPUT_NAMES.len()] {
        fn words(it: &[i32]) -> &[u8] {
            bytemuck::cast_slice(it)
        }
        let count = bucket.sequence_count;
        [
            words(&self.ids),
            words(&self.positions),
            words(&self.types),
            words(&self.segment),
            words(&self.lo),
            words(&self.hi),
            bytemuck::cast_slice(&self.keep),
            words(&self.bounds[..count]),
            words(&self.bounds[1..=count]),
        ]
    }

    pub(super) fn pack(
        &mut self,
        items: &[PackItem<'_>],
        bucket: Bucket,
        form: &PackForm,
    ) -> EmbeddingResult<()> {
        let Bucket { token_count, sequence_count } = bucket;
        for buffer in [
            &mut self.ids,
            &mut self.positions,
            &mut self.types,
            &mut self.lo,
            &mut self.hi,
            &mut self.extra,
            &mut self.segment,
        ] {
            buffer.resize(token_count, 0);
        }
        self.bounds.resize(sequence_count + 1, 0);
        self.keep.resize(token_count, 0.0);
        pack(
            items,
            bucket,
            form,
            &mut PackBuffers {
                ids: &mut self.ids,
                positions: &mut self.positions,
                types: &mut self.types,
                lo: &mut self.lo,
                hi: &mut self.hi,
                extra: &mut self.extra,
                bounds: &mut self.bounds,
                keep: &mut self.keep,
            },
        )?;
        self.segment.fill(0);
        let mut start = 0;
        for (number, item) in items.iter().enumerate() {
            self.segment[start..start + item.ids.len()].fill(number as i32);
            start += item.ids.len();
        }
        Ok(())
    }
}
