//! What a caller hands in, and the limits it has to pass.
//!
//! A [`ModelInput`] is what was said; an [`AdmittedInput`] is the proof that it passed the
//! limits, with its directives parsed. Decoding images and tokenising is not done here.

use std::fmt;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{EmbeddingError, EmbeddingResult, LengthUnit, TextFault};
use crate::model_id::ModelId;

/// Something to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelInput {
    /// Prose.
    Text {
        /// The text.
        content: String,
        /// Directives such as `query; timestamp:2024-05-01T12:00:00Z`.
        instruction: Option<String>,
    },
    /// A piece of a program.
    Code {
        /// The source.
        content: String,
        /// Its language, as the caller calls it.
        language: String,
    },
    /// A picture, still encoded.
    Image {
        /// The file's bytes.
        bytes: Vec<u8>,
        /// What they claim to be.
        format: ImageFormat,
    },
    /// Sound. No model takes it; it can be named so that it can be refused by type.
    Audio {
        /// The file's bytes.
        bytes: Vec<u8>,
        /// Samples per second.
        sample_rate: u32,
        /// Channels.
        channels: u16,
    },
}

impl ModelInput {
    /// A text without instruction.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyInput`]; [`EmbeddingError::InvalidText`] at a NUL.
    pub fn text(content: impl Into<String>) -> EmbeddingResult<Self> {
        Self::text_with_instruction(content, None)
    }

    /// A text with directives.
    ///
    /// # Errors
    /// As [`ModelInput::text`], and [`EmbeddingError::ConfigError`] for a malformed directive.
    pub fn text_with_instruction(
        content: impl Into<String>,
        instruction: Option<String>,
    ) -> EmbeddingResult<Self> {
        let content = content.into();
        refuse_empty_or_nul(&content, "text")?;
        if let Some(it) = &instruction {
            Directives::parse(it)?;
        }
        Ok(Self::Text { content, instruction })
    }

    /// A text from bytes of unknown origin.
    ///
    /// # Errors
    /// As [`ModelInput::text`], and [`EmbeddingError::InvalidText`] with the first byte that is
    /// not UTF-8.
    pub fn text_from_bytes(bytes: &[u8]) -> EmbeddingResult<Self> {
        match std::str::from_utf8(bytes) {
            Ok(it) => Self::text(it),
            Err(err) => Err(EmbeddingError::InvalidText {
                byte_index: err.valid_up_to(),
                fault: TextFault::NotUtf8,
            }),
        }
    }

    /// A piece of a program.
    ///
    /// # Errors
    /// As [`ModelInput::text`].
    pub fn code(content: impl Into<String>, language: impl Into<String>) -> EmbeddingResult<Self> {
        let content = content.into();
        refuse_empty_or_nul(&content, "code")?;
        Ok(Self::Code { content, language: language.into() })
    }

    /// An encoded picture. Its bytes are looked at when it is decoded.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyInput`].
    pub fn image(bytes: Vec<u8>, format: ImageFormat) -> EmbeddingResult<Self> {
        refuse_no_bytes(&bytes, "image")?;
        Ok(Self::Image { bytes, format })
    }

    /// Encoded sound.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyInput`]; [`EmbeddingError::ConfigError`] for a rate or a channel
    /// count of zero.
    pub fn audio(bytes: Vec<u8>, sample_rate: u32, channels: u16) -> EmbeddingResult<Self> {
        refuse_no_bytes(&bytes, "audio")?;
        for (field, value) in
            [("sample_rate", u64::from(sample_rate)), ("channels", u64::from(channels))]
        {
            if value == 0 {
                let want = "it must be at least 1";
                return Err(EmbeddingError::ConfigError { field, value: "0".into(), want });
            }
        }
        Ok(Self::Audio { bytes, sample_rate, channels })
    }

    /// Which of the four this is.
    pub fn kind(&self) -> InputKind {
        match self {
            Self::Text { .. } => InputKind::Text,
            Self::Code { .. } => InputKind::Code,
            Self::Image { .. } => InputKind::Image,
            Self::Audio { .. } => InputKind::Audio,
        }
    }

    /// What is embedded, without instruction, language or format.
    pub fn content_bytes(&self) -> &[u8] {
        match self {
            Self::Text { content, .. } | Self::Code { content, .. } => content.as_bytes(),
            Self::Image { bytes, .. } | Self::Audio { bytes, .. } => bytes,
        }
    }

    /// xxh64 (seed 0) of [`ModelInput::content_bytes`]: identifies the input, not the request.
    pub fn content_hash(&self) -> u64 {
        xxhash_rust::xxh64::xxh64(self.content_bytes(), 0)
    }

    /// Refuses models that do not take this kind.
    ///
    /// # Errors
    /// [`EmbeddingError::UnsupportedModality`].
    pub fn require_support(&self, model_id: ModelId) -> EmbeddingResult<()> {
        let kind = self.kind();
        if model_id.supports(kind) {
            Ok(())
        } else {
            Err(EmbeddingError::UnsupportedModality { model_id, kind })
        }
    }
}

/// The four kinds of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// Prose.
    Text,
    /// A program.
    Code,
    /// A picture.
    Image,
    /// Sound.
    Audio,
}

impl fmt::Display for InputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Code => "code",
            Self::Image => "image",
            Self::Audio => "audio",
        })
    }
}

/// Encodings of pictures that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    WebP,
    /// GIF; the first frame.
    Gif,
}

/// What may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLimits {
    /// Most bytes of a text or program after NULs are gone.
    pub text_bytes_max: usize,
    /// Most bytes of an encoded image or sound.
    pub media_bytes_max: usize,
    /// What happens to a longer text.
    pub long_text: LongText,
    /// What happens to a NUL.
    pub nul: NulByte,
}

impl InputLimits {
    /// 64 KiB of text, 32 MiB of media, long texts are cut, NULs refused.
    pub const STANDARD: Self = Self {
        text_bytes_max: 64 << 10,
        media_bytes_max: 32 << 20,
        long_text: LongText::Truncate,
        nul: NulByte::Refuse,
    };
}

/// What happens to a text over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongText {
    /// Cut at a character boundary; the result is flagged.
    Truncate,
    /// [`EmbeddingError::InputTooLong`].
    Refuse,
}

/// What happens to a NUL in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NulByte {
    /// [`EmbeddingError::InvalidText`] with its place.
    Refuse,
    /// Left out.
    Strip,
}

/// An input that passed the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedInput {
    input: ModelInput,
    directives: Directives,
    truncated: bool,
}

impl AdmittedInput {
    /// Checks `input` against `limits` and parses its directives.
    ///
    /// Inputs built field by field pass here too, so nothing is assumed of them.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyInput`], [`EmbeddingError::InvalidText`],
    /// [`EmbeddingError::InputTooLong`]; [`EmbeddingError::ConfigError`] for a malformed
    /// directive.
    pub fn new(mut input: ModelInput, limits: &InputLimits) -> EmbeddingResult<Self> {
        let mut directives = Directives::NONE;
        let mut truncated = false;
        match &mut input {
            ModelInput::Text { content, instruction } => {
                truncated = admit_text(content, limits, "text")?;
                if let Some(it) = instruction {
                    directives = Directives::parse(it)?;
                }
            }
            ModelInput::Code { content, .. } => truncated = admit_text(content, limits, "code")?,
            ModelInput::Image { bytes, .. } => admit_media(bytes, limits, "image")?,
            ModelInput::Audio { bytes, .. } => admit_media(bytes, limits, "audio")?,
        }
        Ok(Self { input, directives, truncated })
    }

    /// The input, cut and cleaned as the limits said.
    pub fn input(&self) -> &ModelInput {
        &self.input
    }

    /// What its instruction asks for.
    pub fn directives(&self) -> Directives {
        self.directives
    }

    /// Whether text was cut off.
    pub fn truncated(&self) -> bool {
        self.truncated
    }
}

/// Whether a text is searched for or searched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A text to be found.
    Passage,
    /// A text to find with.
    Query,
}

/// What an instruction asks for. Parts are separated by `;`.
///
/// `timestamp:<RFC 3339>` and `epoch:<seconds>` give the time; `role:query` and `role:passage`
/// the role. A part without a key that contains the word "query" makes a query too; other prose
/// is of no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directives {
    /// Seconds since the Unix epoch, where the instruction names a time.
    pub epoch_s: Option<i64>,
    /// Query or passage.
    pub role: Role,
}

impl Directives {
    /// No time, a passage.
    pub const NONE: Self = Self { epoch_s: None, role: Role::Passage };

    /// Parses an instruction.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] for a malformed time, an unknown role, and for a second
    /// time or role that contradicts the first.
    pub fn parse(instruction: &str) -> EmbeddingResult<Self> {
        let mut epoch_s = None;
        let mut role = None;
        let mut prose_query = false;
        for part in instruction.split(';').map(str::trim) {
            if let Some(text) = after_key(part, "timestamp:") {
                set_once(&mut epoch_s, parse_rfc3339(text)?, "timestamp", text)?;
            } else if let Some(text) = after_key(part, "epoch:") {
                set_once(&mut epoch_s, parse_epoch(text)?, "epoch", text)?;
            } else if let Some(text) = after_key(part, "role:") {
                set_once(&mut role, parse_role(text)?, "role", text)?;
            } else {
                prose_query |= part.to_ascii_lowercase().contains("query");
            }
        }
        let prose_role = if prose_query { Role::Query } else { Role::Passage };
        Ok(Self { epoch_s, role: role.unwrap_or(prose_role) })
    }

    /// The time to embed: the one that was named, or `now_s`, which the caller reads once a
    /// batch and never an item.
    pub fn time(self, now_s: i64) -> InputTime {
        match self.epoch_s {
            Some(epoch_s) => InputTime { epoch_s, defaulted: false },
            None => InputTime { epoch_s: now_s, defaulted: true },
        }
    }
}

/// The time of one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputTime {
    /// Seconds since the Unix epoch.
    pub epoch_s: i64,
    /// Whether nobody named it: the flag `timestamp_defaulted`.
    pub defaulted: bool,
}

fn after_key<'a>(part: &'a str, key: &str) -> Option<&'a str> {
    let head = part.get(..key.len())?;
    head.eq_ignore_ascii_case(key).then(|| part[key.len()..].trim())
}

fn parse_rfc3339(text: &str) -> EmbeddingResult<i64> {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(it) => Ok(it.unix_timestamp()),
        Err(_) => Err(config("timestamp", text, "a time such as 2024-05-01T12:00:00Z is needed")),
    }
}

fn parse_epoch(text: &str) -> EmbeddingResult<i64> {
    text.parse().map_err(|_| config("epoch", text, "whole seconds since 1970 are needed"))
}

fn parse_role(text: &str) -> EmbeddingResult<Role> {
    if text.eq_ignore_ascii_case("query") {
        Ok(Role::Query)
    } else if text.eq_ignore_ascii_case("passage") {
        Ok(Role::Passage)
    } else {
        Err(config("role", text, "it must be `query` or `passage`"))
    }
}

fn set_once<T: PartialEq>(
    slot: &mut Option<T>,
    value: T,
    field: &'static str,
    text: &str,
) -> EmbeddingResult<()> {
    match slot {
        Some(before) if *before != value => {
            Err(config(field, text, "it contradicts an earlier directive"))
        }
        Some(_) => Ok(()),
        None => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn config(field: &'static str, value: &str, want: &'static str) -> EmbeddingError {
    EmbeddingError::ConfigError { field, value: value.to_owned(), want }
}

fn admit_text(
    content: &mut String,
    limits: &InputLimits,
    what: &'static str,
) -> EmbeddingResult<bool> {
    match (content.bytes().position(|it| it == 0), limits.nul) {
        (None, _) => {}
        (Some(byte_index), NulByte::Refuse) => {
            return Err(EmbeddingError::InvalidText { byte_index, fault: TextFault::Nul });
        }
        (Some(_), NulByte::Strip) => content.retain(|it| it != '\0'),
    }
    if content.is_empty() {
        return Err(EmbeddingError::EmptyInput { what });
    }
    if content.len() <= limits.text_bytes_max {
        return Ok(false);
    }
    let too_long = EmbeddingError::InputTooLong {
        got_len: content.len(),
        limit_max: limits.text_bytes_max,
        unit: LengthUnit::Bytes,
    };
    match limits.long_text {
        LongText::Refuse => Err(too_long),
        LongText::Truncate => {
            content.truncate(content.floor_char_boundary(limits.text_bytes_max));
            if content.is_empty() { Err(too_long) } else { Ok(true) }
        }
    }
}

fn admit_media(bytes: &[u8], limits: &InputLimits, what: &'static str) -> EmbeddingResult<()> {
    refuse_no_bytes(bytes, what)?;
    if bytes.len() <= limits.media_bytes_max {
        return Ok(());
    }
    Err(EmbeddingError::InputTooLong {
        got_len: bytes.len(),
        limit_max: limits.media_bytes_max,
        unit: LengthUnit::Bytes,
    })
}

fn refuse_empty_or_nul(content: &str, what: &'static str) -> EmbeddingResult<()> {
    refuse_no_bytes(content.as_bytes(), what)?;
    match content.bytes().position(|it| it == 0) {
        None => Ok(()),
        Some(byte_index) => Err(EmbeddingError::InvalidText { byte_index, fault: TextFault::Nul }),
    }
}

fn refuse_no_bytes(bytes: &[u8], what: &'static str) -> EmbeddingResult<()> {
    if bytes.is_empty() { Err(EmbeddingError::EmptyInput { what }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(instruction: &str, epoch_s: Option<i64>, role: Role) {
        let got = Directives::parse(instruction).unwrap();
        assert_eq!(got, Directives { epoch_s, role }, "for `{instruction}`");
    }

    #[track_caller]
    fn check_refused(instruction: &str, field: &str) {
        match Directives::parse(instruction) {
            Err(EmbeddingError::ConfigError { field: got, .. }) => assert_eq!(got, field),
            other => panic!("`{instruction}` gives {other:?}"),
        }
    }

    #[test]
    fn directives_give_time_and_role() {
        check("", None, Role::Passage);
        check("timestamp:1970-01-02T00:00:00Z", Some(86_400), Role::Passage);
        check("timestamp:1970-01-01T02:00:00+02:00", Some(0), Role::Passage);
        check("epoch:-5", Some(-5), Role::Passage);
        check("query; epoch:1714564800", Some(1_714_564_800), Role::Query);
        check("role:query;Timestamp: 2024-05-01T12:00:00Z ;", Some(1_714_564_800), Role::Query);
        check("search with this Query please", None, Role::Query);
        check("role:passage; not a query", None, Role::Passage);
        check("epoch:7; timestamp:1970-01-01T00:00:07Z", Some(7), Role::Passage);
        check("ééé", None, Role::Passage);
    }

    #[test]
    fn malformed_directives_are_refused_and_not_now() {
        check_refused("timestamp:yesterday", "timestamp");
        check_refused("timestamp:", "timestamp");
        check_refused("timestamp:2024-05-01", "timestamp");
        check_refused("epoch:1.5", "epoch");
        check_refused("epoch:99999999999999999999", "epoch");
        check_refused("role:author", "role");
        check_refused("epoch:1; epoch:2", "epoch");
        check_refused("role:query; role:passage", "role");
    }

    #[test]
    fn a_missing_time_is_the_batch_time_and_flagged() {
        let named = Directives { epoch_s: Some(5), role: Role::Passage };
        assert_eq!(named.time(9), InputTime { epoch_s: 5, defaulted: false });
        assert_eq!(Directives::NONE.time(9), InputTime { epoch_s: 9, defaulted: true });
    }

    fn limits(text_bytes_max: usize, long_text: LongText, nul: NulByte) -> InputLimits {
        InputLimits { text_bytes_max, media_bytes_max: 4, long_text, nul }
    }

    #[track_caller]
    fn check_admitted(raw: &str, limits: InputLimits, want: Result<(&str, bool), &str>) {
        let input = ModelInput::Text { content: raw.into(), instruction: None };
        let got = AdmittedInput::new(input, &limits)
            .map(|it| {
                (String::from_utf8(it.input().content_bytes().to_vec()).unwrap(), it.truncated())
            })
            .map_err(|it| it.to_string());
        let want = want.map(|(text, cut)| (text.to_owned(), cut)).map_err(str::to_owned);
        assert_eq!(got, want, "for `{raw}`");
    }

    #[test]
    fn limits_cut_at_characters_or_refuse() {
        use LongText::{Refuse, Truncate};
        let nul = NulByte::Refuse;
        check_admitted("abc", limits(3, Refuse, nul), Ok(("abc", false)));
        check_admitted("abcd", limits(3, Truncate, nul), Ok(("abc", true)));
        check_admitted("aéé", limits(4, Truncate, nul), Ok(("aé", true)));
        let too_long = "the input has 4 bytes, the limit is 3";
        check_admitted("abcd", limits(3, Refuse, nul), Err(too_long));
        check_admitted("", limits(3, Truncate, nul), Err("the text is empty"));
        check_admitted("a\0b", limits(3, Truncate, nul), Err("byte 1 of the text is NUL"));
        check_admitted("a\0b", limits(2, Refuse, NulByte::Strip), Ok(("ab", false)));
        check_admitted("\0", limits(2, Refuse, NulByte::Strip), Err("the text is empty"));
    }

    #[test]
    fn constructors_refuse_what_is_no_input() {
        let nul = ModelInput::code("x\0", "c").unwrap_err();
        assert!(matches!(
            nul,
            EmbeddingError::InvalidText { byte_index: 1, fault: TextFault::Nul }
        ));
        let utf8 = ModelInput::text_from_bytes(b"ab\xff").unwrap_err();
        assert!(matches!(
            utf8,
            EmbeddingError::InvalidText { byte_index: 2, fault: TextFault::NotUtf8 }
        ));
        assert!(ModelInput::image(Vec::new(), ImageFormat::Png).is_err());
        assert!(ModelInput::audio(vec![1], 0, 1).is_err());
        let wide = ModelInput::image(vec![0; 5], ImageFormat::Png).unwrap();
        let small = limits(1, LongText::Truncate, NulByte::Refuse);
        assert!(AdmittedInput::new(wide, &small).is_err());
    }

    #[test]
    fn audio_is_refused_by_type() {
        let audio = ModelInput::audio(vec![1], 16_000, 1).unwrap();
        for model_id in ModelId::iter() {
            assert!(matches!(
                audio.require_support(model_id),
                Err(EmbeddingError::UnsupportedModality { kind: InputKind::Audio, .. })
            ));
        }
    }

    #[test]
    fn the_content_hash_is_of_the_content_alone() {
        let plain = ModelInput::text("abc").unwrap();
        let asked = ModelInput::text_with_instruction("abc", Some("query".into())).unwrap();
        assert_eq!(plain.content_hash(), asked.content_hash());
        assert_eq!(plain.content_hash(), 0x44BC_2CF5_AD77_0999);
    }
}
