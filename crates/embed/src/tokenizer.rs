//! Texts as ids: what a `tokenizer.json` says, with our own truncation, and the forms that
//! single models want around it.
//!
//! The file's own padding and truncation are switched off. Long texts are cut before they are
//! tokenised, at a place where that cannot change the ids that are kept.

mod cut;
mod pieces;
mod words;

use std::io::BufWriter;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use calor_telemetry::Counters;
use tokenizers::{ModelWrapper, PreTokenizerWrapper, Tokenizer};

use crate::error::{Cause, EmbeddingError, EmbeddingResult, LengthUnit};
use crate::input::Role;
use crate::packing::PackItem;
pub use cut::TokenCut;
pub use pieces::TokenPiece;
pub use words::WORDS_BYTES_MAX;
use words::Words;

/// A tokenizer file of this size or less is read; the largest published one is a tenth of it.
pub const TOKENIZER_FILE_BYTES_MAX: u64 = 64 << 20;

/// The end-of-text id of the published CLIP vocabulary.
pub const CLIP_END_OF_TEXT_ID: u32 = 49_407;

/// A loaded `tokenizer.json`.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    opening: Vec<u32>,
    closing: Vec<u32>,
    splits_at_spaces: bool,
    digest: blake3::Hash,
    /// What is known of words, shared by clones.
    words: Option<Arc<Words>>,
}

/// Ids of a text without those that are put around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentIds {
    ids: Vec<u32>,
    /// Ids that were found: more than are here where the text has more.
    found_count: usize,
}

/// How many tokens a text may have, special tokens included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLimit {
    /// Most tokens.
    pub token_count_max: usize,
    /// What happens to a longer text.
    pub long_text: LongTokens,
}

/// What happens to a text over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongTokens {
    /// Its end is cut off; the closing special tokens stay.
    Truncate,
    /// [`EmbeddingError::InputTooLong`].
    Refuse,
}

/// A text's ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedText {
    /// Special tokens included.
    pub ids: Vec<u32>,
    /// What was cut off, if anything was.
    pub cut: Option<TokenCut>,
    content: std::ops::Range<usize>,
}

impl TokenizedText {
    /// The ids without those that the tokenizer put around the text.
    pub fn content_ids(&self) -> &[u32] {
        &self.ids[self.content.clone()]
    }
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`EmbeddingError::IoError`]; [`EmbeddingError::InputTooLong`] for a file over
    /// [`TOKENIZER_FILE_BYTES_MAX`]; [`EmbeddingError::ModelLoadError`] as
    /// [`TextTokenizer::from_bytes`].
    pub fn from_file(path: &Path) -> EmbeddingResult<Self> {
        let io_error = |source| EmbeddingError::IoError { path: path.to_owned(), source };
        let file_bytes = std::fs::metadata(path).map_err(io_error)?.len();
        check_file_size(file_bytes)?;
        Self::from_bytes(&std::fs::read(path).map_err(io_error)?)
    }

    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelLoadError`] for bytes that are none, and for a post-processor that
    /// does more than put special tokens around the text.
    pub fn from_bytes(bytes: &[u8]) -> EmbeddingResult<Self> {
        check_file_size(bytes.len() as u64)?;
        let mut inner = Tokenizer::from_bytes(bytes).map_err(bad_tokenizer)?;
        inner.with_truncation(None).map_err(bad_tokenizer)?;
        inner.with_padding(None);
        let splits_at_spaces = inner.get_pre_tokenizer().is_some();
        let digest = content_digest(&inner).map_err(bad_tokenizer)?;
        let words = Words::of(&inner).map(Arc::new);
        let (opening, closing) = (Vec::new(), Vec::new());
        let mut out = Self { inner, opening, closing, splits_at_spaces, digest, words };
        (out.opening, out.closing) = out.special_frame()?;
        Ok(out)
    }

    /// The ids of `text` between the special tokens.
    ///
    /// # Errors
    /// [`EmbeddingError::InputTooLong`] where the limit refuses; [`EmbeddingError::ConfigError`]
    /// for a limit that the special tokens fill; [`EmbeddingError::TokenizationError`].
    pub fn encode(&self, text: &str, limit: TokenLimit) -> EmbeddingResult<TokenizedText> {
        self.framed(&self.content(text, self.budget(limit, 0))?, &[], limit)
    }

    /// [`TextTokenizer::encode`] of each text on up to `thread_count` threads. Results are in
    /// input order; one text's error is its own.
    pub fn encode_batch(
        &self,
        texts: &[&str],
        limit: TokenLimit,
        thread_count: NonZeroUsize,
    ) -> Vec<EmbeddingResult<TokenizedText>> {
        let thread_count = thread_count.get().min(texts.len());
        if thread_count <= 1 {
            return texts.iter().map(|it| self.encode(it, limit)).collect();
        }
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some((index, text)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                texts.get(index).map(|text| (index, text))
            } {
                done.push((index, self.encode(text, limit)));
            }
            done
        };
        let mut out: Vec<EmbeddingResult<TokenizedText>> =
            texts.iter().map(|_| Err(lost_thread())).collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..thread_count).map(|_| scope.spawn(work)).collect();
            for (index, result) in threads.into_iter().filter_map(|it| it.join().ok()).flatten() {
                out[index] = result;
            }
        });
        out
    }

    /// Counts what is known of words in `counters` from here on, for all clones.
    pub fn count_in(&self, counters: &Arc<Counters>) {
        if let Some(words) = &self.words {
            words.count_in(counters);
        }
    }

    /// The id of a token of the vocabulary.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids are below this, where the vocabulary has no holes.
    pub fn vocabulary_len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The ids put before a text.
    pub fn opening(&self) -> &[u32] {
        &self.opening
    }

    /// The ids put after a text.
    pub fn closing(&self) -> &[u32] {
        &self.closing
    }

    /// Equal for tokenizers that make the same ids of every text, whatever they put around them.
    pub(crate) fn digest(&self) -> blake3::Hash {
        self.digest
    }

    /// Whether ids of a text in front of a space are the same whatever follows: words are cut out
    /// before they are looked up, and no space becomes part of one.
    pub(crate) fn cuts_words(&self) -> bool {
        matches!(self.inner.get_model(), ModelWrapper::WordPiece(_))
            && matches!(
                self.inner.get_pre_tokenizer(),
                Some(PreTokenizerWrapper::BertPreTokenizer(_))
            )
    }

    /// The first `budget` ids of `text`, or all of them.
    pub(crate) fn content(&self, text: &str, budget: Option<usize>) -> EmbeddingResult<ContentIds> {
        if let Some(budget) = budget {
            return self.first_ids(text, budget);
        }
        let ids = self.raw_ids(text)?;
        Ok(ContentIds { found_count: ids.len(), ids })
    }

    /// Most ids of a text that go between the special tokens and `extra_count` others; all where a
    /// longer text is refused.
    pub(crate) fn budget(&self, limit: TokenLimit, extra_count: usize) -> Option<usize> {
        let frame = self.opening.len() + extra_count + self.closing.len();
        match limit.long_text {
            LongTokens::Truncate => Some(limit.token_count_max.saturating_sub(frame)),
            LongTokens::Refuse => None,
        }
    }

    /// `prefix` goes between the opening tokens and the text.
    pub(crate) fn framed(
        &self,
        content: &ContentIds,
        prefix: &[u32],
        limit: TokenLimit,
    ) -> EmbeddingResult<TokenizedText> {
        let frame = self.opening.len() + prefix.len() + self.closing.len();
        if limit.token_count_max <= frame {
            return Err(EmbeddingError::ConfigError {
                field: "token_count_max",
                value: limit.token_count_max.to_string(),
                want: "it must leave room between the special tokens",
            });
        }
        let budget = limit.token_count_max - frame;
        let is_cut = budget < content.found_count;
        if is_cut && limit.long_text == LongTokens::Refuse {
            return Err(EmbeddingError::InputTooLong {
                got_len: content.ids.len() + frame,
                limit_max: limit.token_count_max,
                unit: LengthUnit::Tokens,
            });
        }
        let kept = &content.ids[..budget.min(content.ids.len())];
        let mut ids = Vec::with_capacity(frame + kept.len());
        ids.extend(&self.opening);
        ids.extend(prefix);
        let start = ids.len();
        ids.extend(kept);
        let range = start..ids.len();
        ids.extend(&self.closing);
        let (token_count, kept_token_count) = (content.found_count + frame, ids.len());
        let cut = is_cut.then_some(TokenCut { token_count, kept_token_count });
        Ok(TokenizedText { ids, cut, content: range })
    }

    /// The first `budget` ids of `text`, and how many were found.
    ///
    /// Growing beginnings of the text are tokenised until one holds enough. A beginning ends
    /// before a space that follows another character, where every pre-tokeniser splits; some
    /// ids more than needed are asked for, so that a token of the added vocabulary that spans
    /// the cut is not among those kept. Work: linear in what is needed, not in the text.
    fn first_ids(&self, text: &str, budget: usize) -> EmbeddingResult<ContentIds> {
        const BYTES_PER_TOKEN: usize = 8;
        const SPARE_TOKENS: usize = 16;
        let mut want_bytes = (budget + SPARE_TOKENS).saturating_mul(BYTES_PER_TOKEN);
        loop {
            let end = match self.splits_at_spaces {
                true => word_end(text, want_bytes),
                false => text.len(),
            };
            let mut ids = self.raw_ids(&text[..end])?;
            let whole = end == text.len();
            if whole || budget + SPARE_TOKENS <= ids.len() {
                let found_count = ids.len();
                ids.truncate(budget);
                return Ok(ContentIds { ids, found_count });
            }
            want_bytes = end.max(want_bytes).saturating_mul(2);
        }
    }

    pub(crate) fn raw_ids(&self, text: &str) -> EmbeddingResult<Vec<u32>> {
        match &self.words {
            Some(words) => words.ids(text, |it| self.whole_ids(it)),
            None => self.whole_ids(text),
        }
    }

    /// The ids of a text that is looked at as a whole.
    fn whole_ids(&self, text: &str) -> EmbeddingResult<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|source| EmbeddingError::TokenizationError { source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What the post-processor puts before and after a text, seen on an example.
    fn special_frame(&self) -> EmbeddingResult<(Vec<u32>, Vec<u32>)> {
        const EXAMPLE: &str = "an example";
        let bare = self.raw_ids(EXAMPLE)?;
        let framed = self.inner.encode_fast(EXAMPLE, true).map_err(bad_tokenizer)?;
        let framed = framed.get_ids();
        let place = framed.windows(bare.len().max(1)).position(|it| it == bare);
        match place {
            Some(start) => Ok((framed[..start].to_vec(), framed[start + bare.len()..].to_vec())),
            None => Err(bad_tokenizer("the post-processor changes the text's ids".into())),
        }
    }
}

/// Of everything that ids of a text depend on.
fn content_digest(inner: &Tokenizer) -> Result<blake3::Hash, Cause> {
    let mut hasher = blake3::Hasher::new();
    let parts = (inner.get_normalizer(), inner.get_pre_tokenizer(), inner.get_model());
    serde_json::to_writer(BufWriter::new(&mut hasher), &(parts, inner.get_added_vocabulary()))?;
    Ok(hasher.finalize())
}

/// Where the text is cut: at or after `from`, before a space or line end that follows a
/// character which is none; the text's end where there is no such place.
fn word_end(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    (from.max(1)..text.len())
        .find(|place| {
            matches!(bytes[*place], b' ' | b'\n')
                && text[..*place].chars().next_back().is_some_and(|it| !it.is_whitespace())
        })
        .unwrap_or(text.len())
}

/// What E1 puts before a text of this role. It counts toward the token limit.
pub fn e5_prefix(role: Role) -> &'static str {
    match role {
        Role::Passage => "passage: ",
        Role::Query => "query: ",
    }
}

/// Where a CLIP text is pooled: its first end-of-text token, which is
/// [`CLIP_END_OF_TEXT_ID`] where that occurs and `config_eos_id` otherwise. (The published
/// configuration names an id that is an ordinary token there.)
pub fn clip_end_of_text(ids: &[u32], config_eos_id: u32) -> Option<usize> {
    let first = |id| ids.iter().position(|it| *it == id);
    first(CLIP_END_OF_TEXT_ID).or_else(|| first(config_eos_id))
}

/// How ColBERT's texts are formed. The reference's values are [`ColbertOptions::REFERENCE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColbertOptions {
    /// Exact ids of a query.
    pub query_len: usize,
    /// Most ids of a document.
    pub document_len_max: usize,
    /// Whether `[MASK]` rows of a query are keys for the others.
    pub attend_to_mask_tokens: bool,
    /// Whether punctuation of a document is left out of its matrix.
    pub mask_punctuation: bool,
    /// How a long query is cut.
    pub query_cut: QueryCut,
}

impl ColbertOptions {
    /// 32, 220, false, true, closing token kept.
    pub const REFERENCE: Self = Self {
        query_len: 32,
        document_len_max: 220,
        attend_to_mask_tokens: false,
        mask_punctuation: true,
        query_cut: QueryCut::KeepClosing,
    };
}

/// How a long query is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryCut {
    /// The closing token stays the last id.
    KeepClosing,
    /// After `query_len` ids, whatever they are.
    Plain,
}

/// A BERT tokenizer with ColBERT's markers.
#[derive(Clone, Debug)]
pub struct ColbertTokenizer {
    plain: TextTokenizer,
    options: ColbertOptions,
    query_marker: u32,
    document_marker: u32,
    mask_id: u32,
    punctuation: Vec<u32>,
}

/// A text's rows for a late-interaction model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColbertTokens {
    /// Special tokens and markers included.
    pub ids: Vec<u32>,
    /// Keys end here.
    pub attended_len: usize,
    /// Which rows belong to the matrix; as long as `ids`.
    pub keep: Vec<bool>,
    /// What was cut off, if anything was.
    pub cut: Option<TokenCut>,
}

impl ColbertTokens {
    /// For the packer.
    pub fn pack_item(&self) -> PackItem<'_> {
        PackItem { ids: &self.ids, attended_len: self.attended_len, keep: Some(&self.keep) }
    }
}

impl ColbertTokenizer {
    /// Finds the markers `[unused0]` (query), `[unused1]` (document) and `[MASK]`, and the ids
    /// of the 32 ASCII punctuation characters.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelLoadError`] with the missing token; [`EmbeddingError::ConfigError`]
    /// for lengths without room for a text.
    pub fn new(plain: TextTokenizer, options: ColbertOptions) -> EmbeddingResult<Self> {
        let frame = plain.opening.len() + 1 + plain.closing.len();
        for (field, value) in
            [("query_len", options.query_len), ("document_len_max", options.document_len_max)]
        {
            if value <= frame {
                return Err(EmbeddingError::ConfigError {
                    field,
                    value: value.to_string(),
                    want: "it must leave room between the special tokens",
                });
            }
        }
        let special = |token: &str| {
            plain.id_of(token).ok_or_else(|| bad_tokenizer(format!("no token `{token}`").into()))
        };
        let (query_marker, document_marker) = (special("[unused0]")?, special("[unused1]")?);
        let mask_id = special("[MASK]")?;
        let unknown = plain.id_of("[UNK]");
        let mut punctuation = Vec::new();
        for symbol in (0_u8..128).filter(u8::is_ascii_punctuation) {
            let ids = plain.raw_ids(&char::from(symbol).to_string())?;
            punctuation.extend(ids.first().copied().filter(|it| Some(*it) != unknown));
        }
        punctuation.sort_unstable();
        Ok(Self { plain, options, query_marker, document_marker, mask_id, punctuation })
    }

    /// The tokenizer without the markers.
    pub fn plain(&self) -> &TextTokenizer {
        &self.plain
    }

    /// The options.
    pub fn options(&self) -> &ColbertOptions {
        &self.options
    }

    /// `[CLS] [D] text [SEP]`, cut to `document_len_max` with the closing token kept.
    ///
    /// # Errors
    /// [`EmbeddingError::TokenizationError`].
    pub fn document(&self, text: &str) -> EmbeddingResult<ColbertTokens> {
        self.framed(&self.plain.content(text, Some(self.budget()))?, Role::Passage)
    }

    /// `[CLS] [Q] text [SEP] [MASK] …`, exactly `query_len` ids.
    ///
    /// # Errors
    /// [`EmbeddingError::TokenizationError`].
    pub fn query(&self, text: &str) -> EmbeddingResult<ColbertTokens> {
        self.framed(&self.plain.content(text, Some(self.budget()))?, Role::Query)
    }

    /// Most ids of a text that a document or a query takes.
    pub(crate) fn budget(&self) -> usize {
        let most = self.options.document_len_max.max(self.options.query_len);
        most.saturating_sub(self.plain.opening.len() + 1)
    }

    /// What a text becomes in this role.
    pub(crate) fn framed(
        &self,
        content: &ContentIds,
        role: Role,
    ) -> EmbeddingResult<ColbertTokens> {
        match role {
            Role::Passage => self.framed_document(content),
            Role::Query => self.framed_query(content),
        }
    }

    fn framed_document(&self, content: &ContentIds) -> EmbeddingResult<ColbertTokens> {
        let limit = truncate_to(self.options.document_len_max);
        let TokenizedText { ids, cut, .. } =
            self.plain.framed(content, &[self.document_marker], limit)?;
        let dropped =
            |id: &u32| self.options.mask_punctuation && self.punctuation.binary_search(id).is_ok();
        let keep = ids.iter().map(|it| !dropped(it)).collect();
        Ok(ColbertTokens { attended_len: ids.len(), ids, keep, cut })
    }

    fn framed_query(&self, content: &ContentIds) -> EmbeddingResult<ColbertTokens> {
        let query_len = self.options.query_len;
        let room = match self.options.query_cut {
            QueryCut::KeepClosing => query_len,
            QueryCut::Plain => query_len + self.plain.closing.len(),
        };
        let TokenizedText { mut ids, cut, .. } =
            self.plain.framed(content, &[self.query_marker], truncate_to(room))?;
        let text_len = ids.len().min(query_len);
        ids.resize(query_len, self.mask_id);
        let attended_len = if self.options.attend_to_mask_tokens { query_len } else { text_len };
        Ok(ColbertTokens { ids, attended_len, keep: vec![true; query_len], cut })
    }
}

fn truncate_to(token_count_max: usize) -> TokenLimit {
    TokenLimit { token_count_max, long_text: LongTokens::Truncate }
}

fn check_file_size(file_bytes: u64) -> EmbeddingResult<()> {
    if file_bytes <= TOKENIZER_FILE_BYTES_MAX {
        return Ok(());
    }
    Err(EmbeddingError::InputTooLong {
        got_len: usize::try_from(file_bytes).unwrap_or(usize::MAX),
        limit_max: TOKENIZER_FILE_BYTES_MAX as usize,
        unit: LengthUnit::Bytes,
    })
}

fn bad_tokenizer(source: Cause) -> EmbeddingError {
    EmbeddingError::ModelLoadError { model_id: None, part: "tokenizer.json".to_owned(), source }
}

fn lost_thread() -> EmbeddingError {
    EmbeddingError::InternalError { place: "a tokenizer thread", source: None }
}

#[cfg(test)]
mod tests {
    use calor_weights::{Dtype, SYNTH_MODELS, SynthModel, SynthOptions, SynthProfile, synth};

    use super::*;

    struct Golden {
        tokenizer: TextTokenizer,
        case: serde_json::Value,
    }

    impl Golden {
        fn load(name: &str) -> Self {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(name);
            let case = std::fs::read(directory.join("case.json")).unwrap();
            Self {
                tokenizer: TextTokenizer::from_file(&directory.join("tokenizer.json")).unwrap(),
                case: serde_json::from_slice(&case).unwrap(),
            }
        }

        fn texts(&self) -> Vec<&str> {
            self.case["texts"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect()
        }

        fn ids(&self, field: &str) -> Vec<Vec<u32>> {
            let rows = self.case[field].as_array().unwrap();
            let ids = |row: &serde_json::Value| {
                row.as_array().unwrap().iter().map(|it| it.as_u64().unwrap() as u32).collect()
            };
            rows.iter().map(ids).collect()
        }
    }

    #[track_caller]
    fn check_golden(name: &str, token_count_max: usize) {
        let golden = Golden::load(name);
        let limit = truncate_to(token_count_max);
        for (text, want) in golden.texts().iter().zip(golden.ids("input_ids")) {
            let got = golden.tokenizer.encode(text, limit).unwrap();
            assert_eq!(got.ids, want, "{name}: `{text}`");
            let alone = golden.tokenizer.raw_ids(text).unwrap();
            assert_eq!(got.cut.is_some(), got.content_ids().len() < alone.len());
            assert_eq!(got.content_ids(), &alone[..got.content_ids().len()]);
        }
        for thread_count in [1, 3, 64] {
            let thread_count = NonZeroUsize::new(thread_count).unwrap();
            let got = golden.tokenizer.encode_batch(&golden.texts(), limit, thread_count);
            let got: Vec<Vec<u32>> = got.into_iter().map(|it| it.unwrap().ids).collect();
            assert_eq!(got, golden.ids("input_ids"), "{name} on {thread_count} threads");
        }
    }

    #[test]
    fn ids_are_the_golden_ones() {
        check_golden("bert", 64);
        check_golden("splade", 64);
        check_golden("colbert", 62);
        check_golden("clip", 77);
        check_golden("codet5p", 512);
        check_golden("longformer", 512);
    }

    /// Texts of pieces that are awkward beside each other.
    fn awkward_texts(count: u64) -> impl Iterator<Item = String> {
        const PIECES: [&str; 32] = [
            " ",
            " ",
            " ",
            "  ",
            "\n",
            "\t ",
            " \r\n",
            "\u{a0}",
            "\u{3000}",
            "word",
            "Words",
            "in",
            "go",
            "don't",
            "'s",
            "1234",
            ".",
            "?!",
            "-",
            "é",
            "e\u{301}",
            "\u{301}",
            "ΟΔΟΣ",
            "İ",
            "ß",
            "中文",
            "🙂",
            "[MASK]",
            "<mask>",
            "[SEP]",
            "<|endoftext|>",
            "\u{0}",
        ];
        (0..count).map(|seed| {
            let mut state = seed;
            let pieces = (0..seed % 23).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                PIECES[(state >> 40) as usize % PIECES.len()]
            });
            pieces.collect()
        })
    }

    #[track_caller]
    fn check_words(tokenizer: &TextTokenizer, name: &str) {
        assert!(tokenizer.words.is_some(), "{name} is tokenized word by word");
        for _ in 0..2 {
            for text in awkward_texts(1_500) {
                let got = tokenizer.raw_ids(&text).unwrap();
                assert_eq!(got, tokenizer.whole_ids(&text).unwrap(), "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn ids_of_words_are_ids_of_the_text() {
        for name in ["bert", "splade", "codet5p", "longformer"] {
            check_words(&Golden::load(name).tokenizer, name);
        }
        let dir = tempfile::tempdir().unwrap();
        let models: Vec<&SynthModel> =
            SYNTH_MODELS.iter().filter(|it| it.name.starts_with("clip")).collect();
        let profile = SynthProfile::Tiny;
        let options = SynthOptions { profile, seed: 1, dtype: Dtype::F32, models: &models };
        for made in synth(&options, dir.path(), &mut ()).unwrap() {
            let file = made.join("tokenizer.json");
            check_words(&TextTokenizer::from_file(&file).unwrap(), "clip");
        }
    }

    #[test]
    fn a_tokenizer_that_may_look_across_spaces_sees_the_whole_text() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/bert/tokenizer.json");
        let plain: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let words = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut file = plain.clone();
            change(&mut file);
            TextTokenizer::from_bytes(file.to_string().as_bytes()).unwrap().words.is_some()
        };
        assert!(words(&|_| ()));
        assert!(!words(&|it| it["added_tokens"][3]["rstrip"] = true.into()));
        assert!(!words(&|it| it["pre_tokenizer"] = serde_json::Value::Null));
        let spaces = serde_json::json!({
            "type": "Replace", "pattern": { "String": "o i" }, "content": "oi"
        });
        assert!(!words(&|it| it["normalizer"] = spaces.clone()));
    }

    #[test]
    fn tokenizers_are_alike_whatever_they_put_around_a_text() {
        let [bert, splade, clip] = ["bert", "splade", "clip"].map(|it| Golden::load(it).tokenizer);
        assert_ne!(bert.digest(), clip.digest());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/bert/tokenizer.json");
        let mut file: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let of = |file: &serde_json::Value| {
            TextTokenizer::from_bytes(file.to_string().as_bytes()).unwrap().digest()
        };
        assert_eq!(of(&file), bert.digest());
        file["truncation"] = serde_json::json!({
            "direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0
        });
        assert_eq!(of(&file), bert.digest());
        file["normalizer"]["lowercase"] = false.into();
        assert_ne!(of(&file), bert.digest());
        assert!(splade.cuts_words() && !clip.cuts_words());
    }

    #[test]
    fn colbert_forms_are_the_golden_ones() {
        let golden = Golden::load("colbert");
        let options = ColbertOptions {
            query_len: 32,
            document_len_max: 63,
            attend_to_mask_tokens: true,
            mask_punctuation: false,
            query_cut: QueryCut::Plain,
        };
        let colbert = ColbertTokenizer::new(golden.tokenizer.clone(), options).unwrap();
        let (documents, queries) = (golden.ids("doc_ids"), golden.ids("query_ids"));
        for (index, text) in golden.texts().iter().enumerate() {
            let document = colbert.document(text).unwrap();
            assert_eq!(document.ids, documents[index], "document `{text}`");
            assert!(document.keep.iter().all(|it| *it));
            assert_eq!(document.attended_len, document.ids.len());
            let query = colbert.query(text).unwrap();
            assert_eq!(query.ids, queries[index], "query `{text}`");
            assert_eq!(query.attended_len, 32);
        }
    }

    #[test]
    fn colbert_reference_options_mask_and_keep_the_closing_token() {
        let golden = Golden::load("colbert");
        let plain = golden.tokenizer.clone();
        let colbert = ColbertTokenizer::new(plain, ColbertOptions::REFERENCE).unwrap();
        let closing = colbert.plain().closing()[0];
        let mask = colbert.plain().id_of("[MASK]").unwrap();
        let short = colbert.query("a").unwrap();
        assert_eq!((short.ids.len(), short.attended_len, short.cut.is_some()), (32, 4, false));
        assert_eq!(short.ids[3..5], [closing, mask]);
        let long = colbert.query(golden.texts()[7]).unwrap();
        assert_eq!((long.ids[31], long.attended_len, long.cut.is_some()), (closing, 32, true));
        let document = colbert.document("go in. go, in").unwrap();
        let dropped: Vec<Option<u32>> = [".", ","].map(|it| colbert.plain().id_of(it)).to_vec();
        for (id, keep) in document.ids.iter().zip(&document.keep) {
            assert_eq!(*keep, !dropped.contains(&Some(*id)), "{document:?}");
        }
        assert_eq!(document.keep.iter().filter(|it| !**it).count(), 2);
        let narrow = ColbertOptions { query_len: 3, ..ColbertOptions::REFERENCE };
        assert!(ColbertTokenizer::new(golden.tokenizer, narrow).is_err());
        let clip = Golden::load("clip").tokenizer;
        assert!(ColbertTokenizer::new(clip, ColbertOptions::REFERENCE).is_err());
    }

    /// Long texts, cut early, give the beginning of what the whole text gives.
    #[track_caller]
    fn check_long(name: &str, text: &str) {
        let tokenizer = Golden::load(name).tokenizer;
        let whole = tokenizer.raw_ids(text).unwrap();
        for token_count_max in [3, 32, 77, 512, 4_096] {
            let got = tokenizer.encode(text, truncate_to(token_count_max)).unwrap();
            let budget = token_count_max - 2;
            let head: String = text.chars().take(20).collect();
            assert_eq!(got.cut.is_some(), budget < whole.len(), "{name}, `{head}`");
            let kept = &whole[..budget.min(whole.len())];
            assert_eq!(got.content_ids(), kept, "{name} at {token_count_max}, `{head}`");
            assert_eq!(got.ids.last(), tokenizer.closing().last());
        }
    }

    #[test]
    fn cutting_early_changes_no_kept_id() {
        let golden = Golden::load("bert");
        let mixed = golden.texts().join(" \n  ").repeat(40);
        let spaced = format!("{}x {}", " ".repeat(30_000), "word  \u{3000} other\n\n".repeat(900));
        let accents = "e\u{301} \u{301}x cafe\u{301} [MASK] <mask> </s> ".repeat(700);
        let unbroken = "abcdefghij".repeat(2_000);
        let chinese = "深度学习".repeat(3_000);
        let code = "    if x == 1:\n\t\treturn  'a\u{a0} b'\r\n".repeat(600);
        for name in ["bert", "clip", "longformer"] {
            for text in [&mixed, &spaced, &accents, &unbroken, &chinese, &code] {
                check_long(name, text);
            }
        }
    }

    #[test]
    fn only_a_beginning_of_a_long_text_is_tokenised() {
        let text = "a word ".repeat(100_000);
        assert_eq!(word_end(&text, 1_000), 1_000 + text[1_000..].find(' ').unwrap());
        assert_eq!(word_end("ab cd", 2), 2);
        assert_eq!(word_end("ab  cd", 3), 6);
        assert_eq!(word_end("ab\u{3000} cd", 5), 8);
        assert_eq!(word_end("", 0), 0);
        assert_eq!(word_end("é é", 0), 2);
    }

    #[test]
    fn limits_and_files_are_checked() {
        let tokenizer = Golden::load("bert").tokenizer;
        let refuse =
            |token_count_max| TokenLimit { token_count_max, long_text: LongTokens::Refuse };
        assert!(matches!(
            tokenizer.encode("go in go in", refuse(4)),
            Err(EmbeddingError::InputTooLong { limit_max: 4, unit: LengthUnit::Tokens, .. })
        ));
        assert!(tokenizer.encode("a", refuse(3)).is_ok());
        assert!(matches!(
            tokenizer.encode("a", refuse(2)),
            Err(EmbeddingError::ConfigError { field: "token_count_max", .. })
        ));
        assert!(matches!(
            TextTokenizer::from_bytes(b"{}"),
            Err(EmbeddingError::ModelLoadError { model_id: None, .. })
        ));
        assert!(matches!(
            TextTokenizer::from_file(Path::new("nowhere.json")),
            Err(EmbeddingError::IoError { .. })
        ));
        let empty = tokenizer.encode("", truncate_to(8)).unwrap();
        assert_eq!((empty.ids.len(), empty.cut.is_some()), (2, false));
    }

    #[test]
    fn clip_is_pooled_at_the_first_end_of_text() {
        for (ids, want) in [
            (&[49_406, 2, 5, 49_407, 49_407][..], Some(3)),
            (&[0, 7, 2, 9, 2], Some(2)),
            (&[0, 7], None),
        ] {
            assert_eq!(clip_end_of_text(ids, 2), want, "{ids:?}");
        }
        let golden = Golden::load("clip");
        for ids in golden.ids("input_ids") {
            assert_eq!(clip_end_of_text(&ids, 2), Some(ids.len() - 1));
        }
    }

    #[test]
    fn roles_have_prefixes() {
        assert_eq!(e5_prefix(Role::Passage), "passage: ");
        assert_eq!(e5_prefix(Role::Query), "query: ");
    }
}
