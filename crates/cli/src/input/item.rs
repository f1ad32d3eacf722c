//! One item: what it is, where it stood, and whether it was cut.

use std::{fmt, sync::Arc};

use calor_embed::input::{ImageFormat, LongText};

use super::{ItemFault, ReadLimits};

/// Something to embed, or why it cannot be.
#[derive(Clone, Debug, PartialEq)]
pub struct InputItem {
    /// Where it stood.
    pub place: Place,
    /// What its source calls it.
    pub id: Option<String>,
    /// The thing itself.
    pub content: Result<Content, ItemFault>,
    /// Whether text was cut off.
    pub truncated: bool,
}

/// What can be embedded.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Prose.
    Text {
        /// The text.
        text: String,
        /// Directives such as `role:query`.
        instruction: Option<String>,
    },
    /// A piece of a program.
    Code {
        /// The source.
        text: String,
        /// Its language.
        language: String,
    },
    /// Token ids, used as they are.
    Ids(Vec<u32>),
    /// An image, still encoded.
    Image {
        /// The file's bytes.
        bytes: Vec<u8>,
        /// Its format.
        format: ImageFormat,
    },
}

impl InputItem {
    /// An item without name, not cut.
    pub fn new(place: Place, content: Result<Content, ItemFault>) -> Self {
        Self { place, id: None, content, truncated: false }
    }

    /// Makes the item the text `bytes`. `cut` says that its source went on.
    pub fn set_text(&mut self, bytes: Vec<u8>, cut: bool, limits: &ReadLimits) {
        match admit(bytes, cut, limits) {
            Ok((text, truncated)) => {
                self.content = Ok(Content::Text { text, instruction: None });
                self.truncated = truncated;
            }
            Err(fault) => self.content = Err(fault),
        }
    }
}

/// Bytes as a text within the limits, and whether it was cut.
///
/// # Errors
/// [`ItemFault::NotUtf8`], [`ItemFault::Nul`], [`ItemFault::Empty`]; [`ItemFault::TooLong`]
/// where long texts are refused.
pub(super) fn admit(
    mut bytes: Vec<u8>,
    cut: bool,
    limits: &ReadLimits,
) -> Result<(String, bool), ItemFault> {
    let too_long = cut || limits.text_bytes_max < bytes.len();
    if too_long && limits.long_text == LongText::Refuse {
        return Err(ItemFault::TooLong { limit_bytes: limits.text_bytes_max });
    }
    bytes.truncate(limits.text_bytes_max);
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(err) => {
            let fault = err.utf8_error();
            // A character that the cut went through is no fault of the text.
            if !too_long || fault.error_len().is_some() {
                return Err(ItemFault::NotUtf8 { byte_index: fault.valid_up_to() });
            }
            let mut bytes = err.into_bytes();
            bytes.truncate(fault.valid_up_to());
            String::from_utf8(bytes).expect("valid up to there")
        }
    };
    match text.bytes().position(|it| it == 0) {
        Some(byte_index) => Err(ItemFault::Nul { byte_index }),
        None if text.is_empty() => Err(ItemFault::Empty),
        None => Ok((text, too_long)),
    }
}

/// Where an item stood: a file and a line or row in it, counted from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    source: Arc<str>,
    number: Option<u64>,
    word: &'static str,
}

impl Place {
    /// A whole source.
    pub fn whole(source: &str) -> Self {
        Self { source: source.into(), number: None, word: "" }
    }

    /// A line of a file.
    pub fn line(source: &Arc<str>, number: u64) -> Self {
        Self { source: source.clone(), number: Some(number), word: ":" }
    }

    /// A row of a table.
    pub fn row(source: &Arc<str>, number: u64) -> Self {
        Self { source: source.clone(), number: Some(number), word: " row " }
    }

    /// The nth thing of its kind.
    pub fn numbered(source: &str, number: u64) -> Self {
        Self { source: source.into(), number: Some(number), word: " " }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{}{}{number}", self.source, self.word),
            None => f.write_str(&self.source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        bytes: &[u8],
        text_bytes_max: usize,
        long_text: LongText,
        want: Result<(&str, bool), ItemFault>,
    ) {
        let limits = ReadLimits { text_bytes_max, long_text, ..ReadLimits::STANDARD };
        let found = admit(bytes.to_vec(), false, &limits);
        assert_eq!(found, want.map(|(text, cut)| (text.to_owned(), cut)), "for {bytes:?}");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        check("aßc".as_bytes(), 4, LongText::Truncate, Ok(("aßc", false)));
        check("aßc".as_bytes(), 3, LongText::Truncate, Ok(("aß", true)));
        check("aßc".as_bytes(), 2, LongText::Truncate, Ok(("a", true)));
        check(b"abc", 2, LongText::Refuse, Err(ItemFault::TooLong { limit_bytes: 2 }));
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_byte() {
        check(b"a\xffc", 9, LongText::Truncate, Err(ItemFault::NotUtf8 { byte_index: 1 }));
        check(b"ab\xc3", 9, LongText::Truncate, Err(ItemFault::NotUtf8 { byte_index: 2 }));
        check(b"a\xffcdef", 3, LongText::Truncate, Err(ItemFault::NotUtf8 { byte_index: 1 }));
        check(b"a\0c", 9, LongText::Truncate, Err(ItemFault::Nul { byte_index: 1 }));
        check(b"", 9, LongText::Truncate, Err(ItemFault::Empty));
        check("ß".as_bytes(), 1, LongText::Truncate, Err(ItemFault::Empty));
    }
}
