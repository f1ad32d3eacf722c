//! How token rows become the vector of a sequence, and what a checkpoint wants by itself.

use calor_weights::{EncoderConfig, Head};

/// How token rows become the vector of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean of all rows.
    Mean,
    /// The first row.
    First,
    /// The last row.
    Last,
    /// The row of the first end-of-text token, else the last row.
    Eos {
        /// The token.
        id: u32,
    },
    /// The row of the first of the largest ids: where CLIP's published configuration names a
    /// legacy end of text (2), its text ends at the largest id, 49407.
    LargestId,
    /// The largest value of each column.
    Max,
    /// Term weights over the vocabulary, from the masked-language-model head.
    Splade,
    /// No pooling: the rows themselves.
    None,
}

/// The pooling that a checkpoint asks for when nobody says otherwise.
pub fn default_pooling(head: Head, config: &EncoderConfig) -> Pooling {
    match head {
        Head::TokenProjection { .. } => Pooling::None,
        Head::FirstTokenProjection { .. } => Pooling::First,
        Head::SharedProjection { .. } => end_of_text(config),
        Head::None | Head::MaskedLm if config.causal => Pooling::Last,
        Head::None | Head::MaskedLm => Pooling::Mean,
    }
}

/// Where a text ends: at the configuration's end-of-text id, or at the largest id where that is
/// the legacy value 2 (Radford et al. 2021; the published tokenizer ends texts with its largest).
pub fn end_of_text(config: &EncoderConfig) -> Pooling {
    const LEGACY: u32 = 2;
    match config.special.eos {
        Some(LEGACY) | None => Pooling::LargestId,
        Some(id) => Pooling::Eos { id },
    }
}
