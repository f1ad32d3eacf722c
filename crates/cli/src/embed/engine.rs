//! What a run needs of whatever makes the vectors: one checkpoint, or twelve models.

use calor_embed::{EmbeddingResult, tokenizer::TokenCut};
use serde_json::{Map, Value as Json};

use super::table::Table;
use crate::{
    exit::Failure,
    input::Content,
    output::{Cell, Column},
};

/// Makes vectors.
pub(crate) trait Engine {
    /// What each item's cells are. Exact from the first result on.
    fn columns(&self) -> &[Column];

    /// Embeds items; one bad item fails alone.
    ///
    /// # Errors
    /// Of the whole run.
    fn embed(&mut self, items: &[&Content]) -> Result<Vec<EmbeddingResult<Made>>, Failure>;

    /// What ran, on what, and what of it is untrained.
    fn describe(&self) -> Map<String, Json>;
}

/// What was made of an item.
pub(crate) struct Made {
    /// Under the engine's columns.
    pub(crate) cells: Vec<Cell>,
    /// What else is known.
    pub(crate) details: Map<String, Json>,
    /// For people.
    pub(crate) table: Table,
    /// Whether text was cut for a model.
    pub(crate) truncated: bool,
    /// What was cut off the text, for the model that takes least of it.
    pub(crate) cut: Option<TokenCut>,
    /// Tokens that a model saw, where that is known.
    pub(crate) token_count: usize,
}
