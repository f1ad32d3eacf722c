//! The encoder that several scenarios measure, and the ids that they give it.

use std::path::Path;
use std::sync::Arc;

use calor_embed::InferencePrecision;
use calor_embed::embedder::{CheckpointEmbedder, EmbedItem, EmbedOutput, EmbedderOptions};
use calor_embed::input::Role;
use calor_embed::tokenizer::LongTokens;
use calor_telemetry::Counters;
use calor_telemetry::counter::Plain;

use crate::error::BenchError;
use crate::scenario::{Context, Done};

/// An encoder with the counters of its programs.
pub(crate) struct Counted {
    pub(crate) embedder: CheckpointEmbedder,
    counters: Arc<Counters>,
}

impl Counted {
    pub(crate) fn open(context: &Context<'_>, dir: &Path) -> Result<Self, BenchError> {
        let (build, counters) = context.build()?;
        let options = EmbedderOptions {
            pooling: None,
            normalize: Some(true),
            sequence_tokens_max: None,
            long_text: LongTokens::Refuse,
            batch_tokens_max: context.batch_tokens_max,
            thread_count: context.thread_count,
            role: Role::Passage,
            precision: InferencePrecision::FP32,
        };
        Ok(Self { embedder: CheckpointEmbedder::open(build, dir, options)?, counters })
    }

    /// Embeds, and says what the programs counted.
    pub(crate) fn embed(&mut self, items: &[EmbedItem]) -> Result<Done, BenchError> {
        let scope = self.counters.scope();
        let results = self.embedder.embed(items)?;
        let token_count = scope.change().get(Plain::Tokens).unsigned_abs();
        let mut values = Vec::new();
        let mut item_count = 0;
        for result in results {
            match result?.output {
                EmbedOutput::Vector(vector) => values.extend(vector.into_iter().map(f64::from)),
                EmbedOutput::Tokens(rows) => {
                    values.extend(rows.as_slice().iter().map(|it| f64::from(*it)));
                }
            }
            item_count += 1;
        }
        executed("items", items.len() as u64, item_count)?;
        Ok(Done { item_count, token_count, values })
    }
}

/// Refuses a run that computed less or more than was asked for.
pub(crate) fn executed(what: &'static str, want: u64, got: u64) -> Result<(), BenchError> {
    if want == got { Ok(()) } else { Err(BenchError::Executed { what, want, got }) }
}

/// Texts of exactly so many ids below `vocab_count`, always the same.
pub(crate) fn made_items(
    text_count: usize,
    token_count: usize,
    vocab_count: usize,
) -> Vec<EmbedItem> {
    let mut state = 1_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab_count as u64) as u32
    };
    let mut text = || EmbedItem::Ids((0..token_count).map(|_| next()).collect());
    (0..text_count).map(|_| text()).collect()
}

/// Entries of the encoder's vocabulary.
pub(crate) fn vocab_count(embedder: &CheckpointEmbedder) -> usize {
    embedder.text_tower().map_or(1, |it| it.spec().config.vocab_count)
}
