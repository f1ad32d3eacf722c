//! Tokens as people look at them: with their text and place; and ids back to text.

use super::TextTokenizer;
use crate::error::{EmbeddingError, EmbeddingResult};

/// One token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPiece {
    /// Its id.
    pub id: u32,
    /// The part of the text that it stands for; its own name where it was added.
    pub text: String,
    /// Whether the tokenizer added it.
    pub special: bool,
    /// The part of the text in bytes; none where it was added.
    pub range: Option<std::ops::Range<usize>>,
}

impl TextTokenizer {
    /// Every token of `text`, however many there are.
    ///
    /// # Errors
    /// [`EmbeddingError::TokenizationError`].
    pub fn pieces(&self, text: &str, add_special_tokens: bool) -> EmbeddingResult<Vec<TokenPiece>> {
        let encoding = self
            .inner
            .encode(text, add_special_tokens)
            .map_err(|source| EmbeddingError::TokenizationError { source })?;
        let special = encoding.get_special_tokens_mask();
        let (ids, offsets) = (encoding.get_ids(), encoding.get_offsets());
        let pieces = ids.iter().zip(encoding.get_tokens()).zip(special.iter().zip(offsets));
        Ok(pieces
            .map(|((id, token), (special, (start, end)))| {
                let special = *special != 0;
                let range = (!special).then_some(*start..*end);
                let own = range.clone().and_then(|it| text.get(it)).filter(|it| !it.is_empty());
                TokenPiece { id: *id, text: own.unwrap_or(token).into(), special, range }
            })
            .collect())
    }

    /// The text of ids.
    ///
    /// # Errors
    /// [`EmbeddingError::TokenizationError`].
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> EmbeddingResult<String> {
        let decoded = self.inner.decode(ids, skip_special_tokens);
        decoded.map_err(|source| EmbeddingError::TokenizationError { source })
    }

    /// Tokens of `text` with those that are added, at most `token_count_max + 1`: more are not
    /// looked for, so that a long text costs no more than one that fills a model.
    ///
    /// # Errors
    /// [`EmbeddingError::TokenizationError`].
    pub fn count(&self, text: &str, token_count_max: usize) -> EmbeddingResult<usize> {
        let frame = self.opening.len() + self.closing.len();
        let budget = token_count_max.saturating_sub(frame);
        let content = self.first_ids(text, budget)?;
        Ok(content.found_count.min(budget + 1) + frame)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{LongTokens, TokenLimit};
    use super::*;

    fn tokenizer(name: &str) -> TextTokenizer {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
        TextTokenizer::from_file(&golden.join(name).join("tokenizer.json")).unwrap()
    }

    #[test]
    fn pieces_are_what_is_embedded_with_places() {
        let text = "heat, né é 東 in transit";
        for name in ["bert", "longformer", "clip", "codet5p"] {
            let tokenizer = tokenizer(name);
            let limit = TokenLimit { token_count_max: 512, long_text: LongTokens::Refuse };
            let encoded = tokenizer.encode(text, limit).unwrap();
            let pieces = tokenizer.pieces(text, true).unwrap();
            let ids: Vec<u32> = pieces.iter().map(|it| it.id).collect();
            assert_eq!(ids, encoded.ids, "{name}");
            assert_eq!(tokenizer.count(text, 512).unwrap(), ids.len(), "{name}");
            let bare = tokenizer.pieces(text, false).unwrap();
            assert_eq!(bare.len(), encoded.content_ids().len(), "{name}");
            assert!(bare.iter().all(|it| it.range.is_some()));
            for it in pieces.iter().filter(|it| !it.special) {
                assert!(it.range.as_ref().is_some_and(|it| it.end <= text.len()), "{name} {it:?}");
            }
            assert!(pieces[0].special && pieces[0].range.is_none());
        }
    }

    #[test]
    fn ids_become_text_again() {
        let tokenizer = tokenizer("bert");
        let ids: Vec<u32> =
            tokenizer.pieces("go in", true).unwrap().iter().map(|it| it.id).collect();
        let whole = tokenizer.decode(&ids, false).unwrap();
        let bare = tokenizer.decode(&ids, true).unwrap();
        assert!(bare.len() < whole.len() && whole.contains(&bare), "`{whole}` and `{bare}`");
        // Ids that no token has are left out, and nothing breaks.
        assert_eq!(tokenizer.decode(&[u32::MAX], true).unwrap(), "");
    }

    #[test]
    fn counting_ends_behind_the_limit() {
        let tokenizer = tokenizer("bert");
        let text = "go ".repeat(10_000);
        assert_eq!(tokenizer.count(&text, 32).unwrap(), 33);
        assert_eq!(tokenizer.count("", 32).unwrap(), 2);
    }
}
