//! The twelve models: identity, sizes, place in the concatenation, limits.
//!
//! One table. It says what a model *is*, not how it is computed or where its weights are.

use std::fmt;

use crate::error::EmbeddingError;
use crate::input::InputKind;

/// Length of all twelve slots together, in elements.
pub const CONCATENATED_LEN: usize = 8320;

/// Length of a fused vector, in elements.
pub const FUSED_LEN: usize = 1536;

/// How many models there are.
pub const MODEL_COUNT: usize = 12;

/// One of the twelve models. The number is stable: it is stored in records and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ModelId {
    /// E1, general meaning.
    Semantic = 0,
    /// E2, age against a reference time.
    TemporalRecent = 1,
    /// E3, place in the hour, day, week, month and year.
    TemporalPeriodic = 2,
    /// E4, place on the time line.
    TemporalPositional = 3,
    /// E5, long texts.
    Causal = 4,
    /// E6, weighted vocabulary terms.
    Sparse = 5,
    /// E7, source code.
    Code = 6,
    /// E8, relations.
    Graph = 7,
    /// E9, characters as hypervectors.
    Hdc = 8,
    /// E10, text and images in one space.
    Multimodal = 9,
    /// E11, entities.
    Entity = 10,
    /// E12, one vector a token.
    LateInteraction = 11,
}

impl ModelId {
    /// All models in slot order.
    pub const ALL: [Self; MODEL_COUNT] = [
        Self::Semantic,
        Self::TemporalRecent,
        Self::TemporalPeriodic,
        Self::TemporalPositional,
        Self::Causal,
        Self::Sparse,
        Self::Code,
        Self::Graph,
        Self::Hdc,
        Self::Multimodal,
        Self::Entity,
        Self::LateInteraction,
    ];

    /// All models in slot order.
    pub fn iter() -> impl ExactSizeIterator<Item = Self> {
        Self::ALL.into_iter()
    }

    /// The stable number, 0 to 11.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The model with this number.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// The name in configuration, records and reports.
    pub fn as_str(self) -> &'static str {
        self.row().name
    }

    /// Elements of the model's own output. E9 counts bits, E12 the elements of one token.
    pub fn native_dimension(self) -> usize {
        self.row().native_len
    }

    /// Elements of the model's slot in the concatenation.
    pub fn slot_dimension(self) -> usize {
        self.row().slot_len
    }

    /// First element of the model's slot in the concatenation.
    pub fn slot_offset(self) -> usize {
        SLOT_OFFSETS[self.index()]
    }

    /// The model's slot in the concatenation.
    pub fn slot_range(self) -> std::ops::Range<usize> {
        self.slot_offset()..self.slot_offset() + self.slot_dimension()
    }

    /// Most tokens of one text, special tokens included. `None` where nothing is tokenised.
    pub fn max_tokens(self) -> Option<usize> {
        self.row().token_count_max
    }

    /// What one item may take, in milliseconds.
    pub fn latency_budget_ms(self) -> u64 {
        self.row().latency_budget_ms
    }

    /// What the model accepts.
    pub fn input_kinds(self) -> &'static [InputKind] {
        self.row().inputs
    }

    /// Whether the model accepts such an input.
    pub fn supports(self, kind: InputKind) -> bool {
        self.input_kinds().contains(&kind)
    }

    /// Whether the model has trained weights; the others are arithmetic.
    pub fn is_pretrained(self) -> bool {
        self.row().tokenizer.is_some()
    }

    /// How the model's texts become ids. `None` for arithmetic models.
    pub fn tokenizer_family(self) -> Option<TokenizerFamily> {
        self.row().tokenizer
    }

    /// Where the published weights live.
    pub fn repository(self) -> Option<&'static str> {
        self.row().repository
    }

    fn row(self) -> &'static Row {
        &ROWS[self.index()]
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ModelId {
    type Err = EmbeddingError;

    fn from_str(name: &str) -> Result<Self, EmbeddingError> {
        Self::iter()
            .find(|it| it.as_str() == name)
            .ok_or_else(|| EmbeddingError::ModelNotFound { name: name.to_owned() })
    }
}

/// How a text becomes ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerFamily {
    /// Lower-cased WordPiece, `[CLS]` … `[SEP]`.
    BertWordPiece,
    /// Byte-level BPE, `<s>` … `</s>`.
    ByteBpe,
    /// Lower-cased BPE with `</w>`.
    ClipBpe,
}

struct Row {
    name: &'static str,
    native_len: usize,
    slot_len: usize,
    token_count_max: Option<usize>,
    latency_budget_ms: u64,
    inputs: &'static [InputKind],
    tokenizer: Option<TokenizerFamily>,
    repository: Option<&'static str>,
}

const fn trained(
    name: &'static str,
    (native_len, slot_len): (usize, usize),
    (token_count_max, latency_budget_ms): (usize, u64),
    inputs: &'static [InputKind],
    tokenizer: TokenizerFamily,
    repository: &'static str,
) -> Row {
    Row {
        name,
        native_len,
        slot_len,
        token_count_max: Some(token_count_max),
        latency_budget_ms,
        inputs,
        tokenizer: Some(tokenizer),
        repository: Some(repository),
    }
}

const fn arithmetic(
    name: &'static str,
    (native_len, slot_len): (usize, usize),
    latency_budget_ms: u64,
    inputs: &'static [InputKind],
) -> Row {
    Row {
        name,
        native_len,
        slot_len,
        token_count_max: None,
        latency_budget_ms,
        inputs,
        tokenizer: None,
        repository: None,
    }
}

const TEXT: &[InputKind] = &[InputKind::Text];
const CODE_AND_TEXT: &[InputKind] = &[InputKind::Code, InputKind::Text];
const TEXT_AND_IMAGE: &[InputKind] = &[InputKind::Text, InputKind::Image];
const WORDPIECE: TokenizerFamily = TokenizerFamily::BertWordPiece;

// tidy: table
#[rustfmt::skip]
static ROWS: [Row; MODEL_COUNT] = [
    trained("semantic", (1024, 1024), (512, 5), TEXT, WORDPIECE, "intfloat/e5-large-v2"),
    arithmetic("temporal_recent", (512, 512), 2, TEXT),
    arithmetic("temporal_periodic", (512, 512), 2, TEXT),
    arithmetic("temporal_positional", (512, 512), 2, TEXT),
    trained("causal", (768, 768), (4096, 8), TEXT, TokenizerFamily::ByteBpe, "allenai/longformer-base-4096"),
    trained("sparse", (30522, 1536), (512, 3), TEXT, WORDPIECE, "naver/splade-cocondenser-ensembledistil"),
    trained("code", (256, 768), (512, 10), CODE_AND_TEXT, TokenizerFamily::ByteBpe, "Salesforce/codet5p-110m-embedding"),
    trained("graph", (384, 384), (512, 5), TEXT, WORDPIECE, "sentence-transformers/paraphrase-MiniLM-L6-v2"),
    arithmetic("hdc", (10240, 1024), 1, CODE_AND_TEXT),
    trained("multimodal", (768, 768), (77, 15), TEXT_AND_IMAGE, TokenizerFamily::ClipBpe, "openai/clip-vit-large-patch14"),
    trained("entity", (384, 384), (512, 2), TEXT, WORDPIECE, "sentence-transformers/all-MiniLM-L6-v2"),
    trained("late_interaction", (128, 128), (512, 8), TEXT, WORDPIECE, "colbert-ir/colbertv2.0"),
];

const SLOT_OFFSETS: [usize; MODEL_COUNT] =
    [0, 1024, 1536, 2048, 2560, 3328, 4864, 5632, 6016, 7040, 7808, 8192];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_tile_the_concatenation() {
        let mut offset = 0;
        for (index, id) in ModelId::iter().enumerate() {
            assert_eq!(id.index(), index);
            assert_eq!(ModelId::from_index(index), Some(id));
            assert_eq!(id.slot_offset(), offset, "{id}");
            offset += id.slot_dimension();
            assert_eq!(id.as_str().parse::<ModelId>().unwrap(), id);
            assert_eq!(id.is_pretrained(), id.max_tokens().is_some());
            assert!(!id.supports(InputKind::Audio), "audio is accepted by none");
        }
        assert_eq!(offset, CONCATENATED_LEN);
        assert_eq!(ModelId::from_index(12), None);
    }

    #[test]
    fn unknown_names_are_refused_with_the_name() {
        let err = "semantics".parse::<ModelId>().unwrap_err();
        assert!(matches!(err, EmbeddingError::ModelNotFound { name } if name == "semantics"));
    }
}
