//! Words that were tokenized before. A text is its words with the spaces in front of them, and
//! where a tokenizer cuts before such a space in any case, the ids of a text are those of its words
//! one after another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use calor_telemetry::{Cache, CacheCount, Counter, Counters};
use quick_cache::sync::Cache as Kept;
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};
use serde_json::Value as Json;
use tokenizers::Tokenizer;

/// Bytes that one tokenizer's words take at most.
pub const WORDS_BYTES_MAX: u64 = 4 << 20;
/// A longer word is not kept: it hardly comes again.
const WORD_BYTES_MAX: usize = 48;
/// An entry beside its bytes and ids.
const ENTRY_BYTES: usize = 64;
/// Bytes of an entry to begin with: how many entries the cache has room for.
const ENTRY_BYTES_LIKELY: u64 = 96;

/// What the published CLIP tokenizer splits by.
const CLIP_PATTERN: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Ids by words.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Made with the first word: of tokenizers that are alike only one is asked.
    kept: OnceLock<Map>,
    counters: OnceLock<Arc<Counters>>,
    /// Bytes that are counted as held.
    bytes: AtomicU64,
}

type Map = Kept<Box<str>, Arc<[u32]>, Bytes, DefaultHashBuilder, Evicted>;

#[derive(Clone, Debug)]
struct Bytes;

/// Counts what has to go.
#[derive(Clone, Debug)]
struct Evicted;

impl Weighter<Box<str>, Arc<[u32]>> for Bytes {
    fn weight(&self, word: &Box<str>, ids: &Arc<[u32]>) -> u64 {
        (word.len() + 4 * ids.len() + ENTRY_BYTES) as u64
    }
}

impl Lifecycle<Box<str>, Arc<[u32]>> for Evicted {
    type RequestState = u64;

    fn on_evict(&self, count: &mut u64, _: Box<str>, _: Arc<[u32]>) {
        *count += 1;
    }
}

impl Words {
    /// For a tokenizer that cuts before a space behind a word; none for another.
    pub(super) fn of(inner: &Tokenizer) -> Option<Self> {
        cuts_at_spaces(inner).then(Self::default)
    }

    /// Counts in `counters` from here on, unless it does already.
    pub(super) fn count_in(&self, counters: &Arc<Counters>) {
        // Clones of a tokenizer share this; the first to say so is right for all.
        let _ = self.counters.set(counters.clone());
    }

    /// The ids of a text; `encode` makes those of a word that is not known.
    pub(super) fn ids<E>(
        &self,
        text: &str,
        encode: impl Fn(&str) -> Result<Vec<u32>, E>,
    ) -> Result<Vec<u32>, E> {
        let kept = self.kept.get_or_init(|| {
            let entries = (WORDS_BYTES_MAX / ENTRY_BYTES_LIKELY) as usize;
            Kept::with(entries, WORDS_BYTES_MAX, Bytes, DefaultHashBuilder::default(), Evicted)
        });
        let mut out = Vec::with_capacity(text.len() / 4 + 4);
        let (mut hit_count, mut miss_count, mut evicted_count) = (0, 0, 0);
        for word in words(text) {
            if WORD_BYTES_MAX < word.len() {
                out.extend(encode(word)?);
                continue;
            }
            if let Some(ids) = kept.get(word) {
                hit_count += 1;
                out.extend_from_slice(&ids);
                continue;
            }
            let ids = encode(word)?;
            miss_count += 1;
            out.extend_from_slice(&ids);
            kept.insert_with_lifecycle(word.into(), ids.into(), &mut evicted_count);
        }
        if let Some(counters) = self.counters.get() {
            let count = |what, amount| {
                counters.add(Counter::Cache(Cache::TokenizedWords, what), amount);
            };
            count(CacheCount::Hits, hit_count);
            if miss_count != 0 {
                count(CacheCount::Misses, miss_count);
                count(CacheCount::Inserts, miss_count);
                count(CacheCount::Evictions, evicted_count);
                self.level(counters, kept.weight());
            }
        }
        Ok(out)
    }

    /// Tells what is held now.
    fn level(&self, counters: &Counters, after: u64) {
        let counter = Counter::Cache(Cache::TokenizedWords, CacheCount::Bytes);
        let before = self.bytes.swap(after, Ordering::Relaxed);
        match before <= after {
            true => counters.add(counter, after - before),
            false => counters.lower(counter, before - after),
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if let Some(counters) = self.counters.get() {
            self.level(counters, 0);
        }
    }
}

/// The pieces of a text: each ends before a space that follows another character.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut previous_is_space = true;
        let is_end = |(_, it): &(usize, char)| {
            let is_end = *it == ' ' && !previous_is_space;
            previous_is_space = it.is_whitespace();
            is_end
        };
        let end = rest.char_indices().find(is_end).map_or(rest.len(), |it| it.0);
        let (word, more) = rest.split_at(end);
        rest = more;
        Some(word)
    })
}

/// Whether ids of a text are those of its words: no step of the tokenizer looks, or makes a token,
/// across a space behind a word. Steps that are not known here may.
fn cuts_at_spaces(inner: &Tokenizer) -> bool {
    let normalizer = serde_json::to_value(inner.get_normalizer());
    let pre_tokenizer = serde_json::to_value(inner.get_pre_tokenizer());
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let is_own = added.values().all(|it| !it.rstrip && !it.content.contains(char::is_whitespace));
    is_own
        && normalizer.is_ok_and(|it| normalizes_words(&it))
        && pre_tokenizer.is_ok_and(|it| splits_words(&it))
}

fn normalizes_words(step: &Json) -> bool {
    let own = |name: &str| step["type"] == name;
    step.is_null()
        || ["BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"]
            .into_iter()
            .any(own)
        || (own("Replace") && step["pattern"]["Regex"] == r"\s+" && step["content"] == " ")
        || (own("Sequence")
            && step["normalizers"].as_array().is_some_and(|it| it.iter().all(normalizes_words)))
}

fn splits_words(step: &Json) -> bool {
    let is_bytes = |step: &Json| step["type"] == "ByteLevel" && step["use_regex"] == true;
    let is_clip = |step: &Json| {
        step["type"] == "Split"
            && step["pattern"]["Regex"] == CLIP_PATTERN
            && step["behavior"] == "Removed"
            && step["invert"] == true
    };
    match step["pretokenizers"].as_array().map(Vec::as_slice) {
        Some([first, second]) => is_clip(first) && is_bytes(second),
        Some(_) => false,
        None => step["type"] == "BertPreTokenizer" || is_bytes(step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &[&str]) {
        let got: Vec<&str> = words(text).collect();
        assert_eq!(got, want, "{text:?}");
    }

    #[test]
    fn words_keep_the_spaces_in_front_of_them() {
        check("", &[]);
        check("a", &["a"]);
        check("a b", &["a", " b"]);
        check("  a  b ", &["  a", "  b", " "]);
        check("a\nb c\u{a0} d", &["a\nb", " c\u{a0} d"]);
    }
}
