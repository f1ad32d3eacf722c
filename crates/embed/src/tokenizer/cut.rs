//! What cutting a text did.

/// A text that was cut to a model's length. Special tokens count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCut {
    /// Tokens of the text as far as it was read: a long one is not read to its end.
    pub token_count: usize,
    /// Tokens that the model gets.
    pub kept_token_count: usize,
}

impl TokenCut {
    /// The cut that keeps less.
    #[must_use]
    pub fn deeper(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.into_iter().chain(other).min_by_key(|it| it.kept_token_count)
    }
}

#[test]
fn the_deeper_cut_keeps_less() {
    let cut = |kept_token_count| Some(TokenCut { token_count: 9, kept_token_count });
    assert_eq!(TokenCut::deeper(cut(3), cut(2)), cut(2));
    assert_eq!(TokenCut::deeper(cut(2), cut(3)), cut(2));
    assert_eq!(TokenCut::deeper(None, cut(3)), cut(3));
    assert_eq!(TokenCut::deeper(None, None), None);
}
