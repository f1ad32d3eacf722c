//! Tokenizers of real size, made from a short list of words and from syllables.
//!
//! Their files have the published form, special ids and vocabulary sizes; their pieces are not
//! the published ones. Common English words are one token, others fall into a few pieces.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

/// A tokenizer.json in the manner of uncased BERT with exactly `vocab_count` entries.
///
/// # Panics
/// When `vocab_count` does not hold the special tokens and the alphabet (about 800).
pub(super) fn wordpiece(vocab_count: usize) -> Value {
    let mut vocab = Vocab::default();
    vocab.push("[PAD]");
    (0..99).for_each(|i| vocab.push(&format!("[unused{i}]")));
    ["[UNK]", "[CLS]", "[SEP]", "[MASK]"].iter().for_each(|it| vocab.push(it));
    let alphabet: Vec<char> = ('!'..='~')
        .filter(|it| !it.is_ascii_uppercase())
        .chain("§°·–—‘’“”…€£×÷".chars())
        .chain('α'..='ω')
        .chain('а'..='я')
        .collect();
    alphabet.iter().for_each(|it| vocab.push(&it.to_string()));
    alphabet.iter().filter(|it| it.is_alphanumeric()).for_each(|it| vocab.push(&format!("##{it}")));
    assert!(vocab.names.len() <= vocab_count, "the alphabet alone is larger");
    for piece in pieces() {
        if vocab.names.len() == vocab_count {
            break;
        }
        if vocab.names.len() + 1 < vocab_count && piece.len() <= 5 {
            vocab.push(&format!("##{piece}"));
        }
        vocab.push(&piece);
    }
    assert_eq!(vocab.names.len(), vocab_count);

    let special = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocab.added(&special),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": vocab.template("[CLS]", &["[SEP]"], true),
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab.ids(),
        },
    })
}

/// Special tokens before and after the pieces of a byte-level tokenizer.
pub(super) struct ByteLevel {
    /// Tokens with the ids 0, 1, …
    pub(super) first: &'static [&'static str],
    /// How many `<extra_id_…>` come after the pieces.
    pub(super) extra_count: usize,
    /// The tokens with the last ids.
    pub(super) last: &'static [&'static str],
}

/// A tokenizer.json in the manner of RoBERTa with exactly `vocab_count` entries, whose texts
/// are `<s> … </s>`.
///
/// # Panics
/// When `vocab_count` does not hold the bytes and special tokens.
pub(super) fn byte_level(specials: &ByteLevel, vocab_count: usize) -> Value {
    let ByteLevel { first, extra_count, last } = specials;
    let mut vocab = Vocab::default();
    first.iter().for_each(|it| vocab.push(it));
    byte_alphabet().iter().for_each(|it| vocab.push(&it.to_string()));
    let merges = learn(
        &mut vocab,
        vocab_count - extra_count - last.len(),
        pieces().flat_map(|piece| [format!("Ġ{piece}"), piece]),
        |it| it.to_string(),
        |word| word.chars().map(|it| it.to_string()).collect(),
    );
    let extras: Vec<String> = (0..*extra_count).rev().map(|i| format!("<extra_id_{i}>")).collect();
    extras.iter().for_each(|it| vocab.push(it));
    last.iter().for_each(|it| vocab.push(it));
    assert_eq!(vocab.names.len(), vocab_count);

    let special: Vec<&str> = first
        .iter()
        .copied()
        .chain(extras.iter().map(String::as_str))
        .chain(last.iter().copied())
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocab.added(&special),
        "normalizer": null,
        "pre_tokenizer": byte_pre_tokenizer(),
        "post_processor": vocab.template("<s>", &["</s>", "</s>"], false),
        "decoder": byte_pre_tokenizer(),
        "model": bpe_model(&vocab, &merges, Value::Null, Value::Null),
    })
}

/// A tokenizer.json in the manner of CLIP: lower-case words that end in `</w>`, and texts
/// `<|startoftext|> … <|endoftext|>`, which have the last two ids.
///
/// # Panics
/// When `vocab_count` does not hold the bytes twice.
pub(super) fn clip(vocab_count: usize) -> Value {
    let mut vocab = Vocab::default();
    byte_alphabet().iter().for_each(|it| vocab.push(&it.to_string()));
    byte_alphabet().iter().for_each(|it| vocab.push(&format!("{it}</w>")));
    let split = |word: &str| {
        let mut parts: Vec<String> = word.chars().map(|it| it.to_string()).collect();
        if let Some(last) = parts.last_mut() {
            last.push_str("</w>");
        }
        parts
    };
    let merges = learn(&mut vocab, vocab_count - 2, pieces(), |it| it.to_string(), split);
    let special = ["<|startoftext|>", "<|endoftext|>"];
    special.iter().for_each(|it| vocab.push(it));
    assert_eq!(vocab.names.len(), vocab_count);

    let pattern = [
        r"<\|startoftext\|>|<\|endoftext\|>",
        "'s|'t|'re|'ve|'m|'ll|'d",
        r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    ]
    .join("|");
    let [begin, end] = special;
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocab.added(&special),
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Removed",
              "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
              "use_regex": true },
        ] },
        "post_processor": { "type": "RobertaProcessing", "sep": [end, vocab.id(end)],
            "cls": [begin, vocab.id(begin)], "trim_offsets": false, "add_prefix_space": false },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true },
        "model": bpe_model(&vocab, &merges, json!(end), json!("</w>")),
    })
}

fn bpe_model(vocab: &Vocab, merges: &[[String; 2]], unk: Value, suffix: Value) -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": null,
        "end_of_word_suffix": suffix, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": false, "vocab": vocab.ids(), "merges": merges,
    })
}

fn byte_pre_tokenizer() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true })
}

/// Names in order of their ids, each once.
#[derive(Default)]
struct Vocab {
    names: Vec<String>,
    known: HashMap<String, usize>,
}

impl Vocab {
    /// Adds `name` unless it is there.
    fn push(&mut self, name: &str) {
        if !self.known.contains_key(name) {
            self.known.insert(name.into(), self.names.len());
            self.names.push(name.into());
        }
    }

    fn id(&self, name: &str) -> usize {
        self.known[name]
    }

    fn ids(&self) -> Value {
        self.names.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect()
    }

    fn added(&self, special: &[&str]) -> Value {
        let mut sorted: Vec<&&str> = special.iter().collect();
        sorted.sort_by_key(|it| self.id(it));
        let row = |name: &&&str| {
            json!({ "id": self.id(name), "content": name, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true })
        };
        sorted.iter().map(row).collect()
    }

    /// `begin A middle[0]` and `begin A middle… B middle[0]`.
    fn template(&self, begin: &str, middle: &[&str], typed: bool) -> Value {
        let token =
            |name: &str, kind: u8| json!({ "SpecialToken": { "id": name, "type_id": kind } });
        let text = |name: &str, kind: u8| json!({ "Sequence": { "id": name, "type_id": kind } });
        let single = vec![token(begin, 0), text("A", 0), token(middle[0], 0)];
        let second = u8::from(typed);
        let mut pair = vec![token(begin, 0), text("A", 0)];
        pair.extend(middle.iter().map(|it| token(it, 0)));
        pair.extend([text("B", second), token(middle[0], second)]);
        let row = |name: &str| json!({ "id": name, "ids": [self.id(name)], "tokens": [name] });
        json!({
            "type": "TemplateProcessing", "single": single, "pair": pair,
            "special_tokens": { begin: row(begin), middle[0]: row(middle[0]) },
        })
    }
}

/// Adds merges until `vocab` has `vocab_count` names, so that each of `words` in turn becomes
/// one token; a later word never changes how an earlier one is cut.
fn learn(
    vocab: &mut Vocab,
    vocab_count: usize,
    words: impl Iterator<Item = String>,
    join: impl Fn(&str) -> String,
    split: impl Fn(&str) -> Vec<String>,
) -> Vec<[String; 2]> {
    assert!(vocab.names.len() <= vocab_count, "the alphabet alone is larger");
    let mut merges: Vec<[String; 2]> = Vec::new();
    let mut ranks: HashMap<(String, String), usize> = HashMap::new();
    for word in words {
        let mut parts = split(&word);
        loop {
            let pair = |i: usize| ranks.get(&(parts[i].clone(), parts[i + 1].clone())).copied();
            let best = (0..parts.len() - 1).filter_map(|i| Some((pair(i)?, i))).min();
            let at = match best {
                Some((_, at)) => at,
                None if parts.len() == 1 => break,
                None => {
                    if vocab.names.len() == vocab_count {
                        return merges;
                    }
                    vocab.push(&join(&format!("{}{}", parts[0], parts[1])));
                    ranks.insert((parts[0].clone(), parts[1].clone()), merges.len());
                    merges.push([parts[0].clone(), parts[1].clone()]);
                    0
                }
            };
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
    }
    unreachable!("there is no end of syllables")
}

/// The 256 bytes as byte-level tokenizers spell them: printable ones as themselves.
fn byte_alphabet() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let own = (0..256).filter(|it| printable(*it));
    let moved = (0..256).filter(|it| !printable(*it)).enumerate().map(|(i, _)| 256 + i as u32);
    own.chain(moved).filter_map(char::from_u32).collect()
}

/// Pieces of words, the most usual first: letter pairs, words, words with endings, syllables,
/// pairs of syllables. Each once; more of them than any vocabulary holds.
fn pieces() -> impl Iterator<Item = String> {
    // tidy: table
    const PAIRS: &str = "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng \
        se ha as ou io le ve co me de hi ri ro ic ne ea ra ce li ch ll be ma si om ur ca el ta la \
        ns di fo ho pe ec pr no ct us ac ot il tr ly nc et ut ss so rs un lo wa ge ie wh ee wi em";
    const ENDINGS: &str = "s ed ing er ly ion al ment ness able ity ive ous ful est ers ings less";
    const ONSETS: &str = "r t s n l c d p m b f g h v w st pr tr k ch br gr sh cl pl cr fl th dr \
        j bl fr gl sp sc sw y z qu str";
    const CORES: &str = "e a i o u ea ou ai ee io ie oo y au oi";
    const CODAS: &str = "|n|r|s|t|l|d|m|nt|nd|st|ng|c|p|ck|ll|ss|rs|ct|g|b|rt|sh|th|x";
    let words: Vec<&str> = include_str!("words.txt").split_whitespace().collect();
    let syllables = ordered_triples(
        &ONSETS.split_whitespace().collect::<Vec<_>>(),
        &CORES.split_whitespace().collect::<Vec<_>>(),
        &CODAS.split('|').collect::<Vec<_>>(),
    );
    let with_endings: Vec<String> = ENDINGS
        .split_whitespace()
        .flat_map(|ending| {
            words.iter().filter(|it| it.len() > 2).map(move |it| format!("{it}{ending}"))
        })
        .collect();
    let short = syllables[..1000].to_vec();
    let doubled = (0..2 * short.len() - 1).flat_map(move |sum| {
        let short = short.clone();
        let from = sum.saturating_sub(short.len() - 1);
        let to = sum.min(short.len() - 1);
        (from..=to).map(move |i| format!("{}{}", short[i], short[sum - i])).collect::<Vec<_>>()
    });
    let mut seen = HashSet::new();
    PAIRS
        .split_whitespace()
        .map(str::to_owned)
        .chain(words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
        .chain(ENDINGS.split_whitespace().map(str::to_owned))
        .chain(syllables[..600].to_vec())
        .chain(with_endings)
        .chain(syllables[600..].to_vec())
        .chain(doubled)
        .filter(move |it| seen.insert(it.clone()))
}

/// All of `a × b × c` joined, the sum of their places ascending.
fn ordered_triples(a: &[&str], b: &[&str], c: &[&str]) -> Vec<String> {
    let mut out: Vec<(usize, String)> = Vec::with_capacity(a.len() * b.len() * c.len());
    for (i, a) in a.iter().enumerate() {
        for (j, b) in b.iter().enumerate() {
            for (k, c) in c.iter().enumerate() {
                out.push((i + 2 * j + k, format!("{a}{b}{c}")));
            }
        }
    }
    out.sort();
    out.into_iter().map(|it| it.1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::Tokenizer;

    const TEXT: &str = "The planner decides once where every buffer lives, because allocating \
        memory on the hot path would make the first request slow; a graph is captured last.";

    /// Size, ids at the ends, and how finely English is cut.
    #[track_caller]
    fn check(value: &Value, vocab_count: usize, first: &str, last: &str) -> Tokenizer {
        let tokenizer = Tokenizer::from_bytes(value.to_string()).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), vocab_count);
        let encoding = tokenizer.encode(TEXT, true).unwrap();
        let tokens = encoding.get_tokens();
        assert_eq!((tokens[0].as_str(), tokens[tokens.len() - 1].as_str()), (first, last));
        let word_count = TEXT.split_whitespace().count();
        let per_word = tokens.len() as f64 / word_count as f64;
        assert!((1.1..2.2).contains(&per_word), "{per_word} {tokens:?}");
        tokenizer
    }

    #[test]
    fn full_tokenizers_have_the_published_ids() {
        let it = check(&wordpiece(30_522), 30_522, "[CLS]", "[SEP]");
        for (name, id) in [
            ("[PAD]", 0),
            ("[unused0]", 1),
            ("[unused1]", 2),
            ("[UNK]", 100),
            ("[CLS]", 101),
            ("[SEP]", 102),
            ("[MASK]", 103),
        ] {
            assert_eq!(it.token_to_id(name), Some(id), "{name}");
        }
        let roberta = ByteLevel {
            first: &["<s>", "<pad>", "</s>", "<unk>"],
            extra_count: 0,
            last: &["<mask>"],
        };
        let it = check(&byte_level(&roberta, 50_265), 50_265, "<s>", "</s>");
        assert_eq!(it.token_to_id("<mask>"), Some(50_264));
        let text = "Émile — naïvely: x == 3\n    深度";
        let ids = it.encode(text, false).unwrap();
        assert_eq!(it.decode(ids.get_ids(), true).unwrap(), text);
        let it = check(&clip(49_408), 49_408, "<|startoftext|>", "<|endoftext|>");
        assert_eq!(it.token_to_id("<|startoftext|>"), Some(49_406));
        assert_eq!(it.token_to_id("<|endoftext|>"), Some(49_407));
        let upper = it.encode("THE  WORLD", true).unwrap();
        assert_eq!(upper.get_tokens()[1..3], ["the</w>", "world</w>"]);
    }

    #[test]
    fn there_are_pieces_enough() {
        assert!(pieces().take(200_000).count() == 200_000);
    }
}
