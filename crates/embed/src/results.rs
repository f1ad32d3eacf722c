//! Results of inputs that come again: a cache bounded in bytes.
//!
//! A result is found by everything that decides it. What depends on the time of day has no key:
//! ages and places in the day would be those of an earlier request.

mod file;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calor_telemetry::{Cache, CacheCount, Counter, Counters};

use crate::embedding::{SparseVector, TokenMatrix};
use crate::input::{Directives, ModelInput};
use crate::model_id::ModelId;
use crate::pipeline::PipelineOutput;

/// Models whose vector depends on a time.
const TIMED: [ModelId; 3] =
    [ModelId::TemporalRecent, ModelId::TemporalPeriodic, ModelId::TemporalPositional];
/// What an entry costs beside its numbers.
const ENTRY_BYTES: u64 = 512;

/// Everything that decides a result, as a digest of canonical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultKey([u8; 32]);

/// What is asked of an input, for its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Models whose vectors are in the result.
    pub models: &'a BTreeSet<ModelId>,
    /// Whether they are fused.
    pub is_fused: bool,
    /// Whether E6 and E12 are there in their own forms.
    pub own_forms: bool,
    /// What the models are: a number or digest that changes with weights, precision and settings.
    pub revision: &'a [u8],
    /// What E2 measures ages against, where that is fixed.
    pub reference_s: Option<i64>,
}

impl ResultKey {
    /// Bump when these bytes change meaning.
    const FORMAT: u16 = 1;

    /// The key of an input's result; none where the result depends on the time of day, or the
    /// instruction cannot be read.
    pub fn new(input: &ModelInput, asked: &Asked<'_>) -> Option<Self> {
        let Asked { models, is_fused, own_forms, revision, reference_s } = asked;
        let instruction = match input {
            ModelInput::Text { instruction, .. } => instruction.as_deref(),
            ModelInput::Code { .. } | ModelInput::Image { .. } => None,
            ModelInput::Audio { .. } => return None,
        };
        let directives = match instruction {
            Some(it) => Directives::parse(it).ok()?,
            None => Directives::NONE,
        };
        let is_timed = TIMED.iter().any(|it| models.contains(it));
        let is_image = matches!(input, ModelInput::Image { .. });
        let ages = models.contains(&ModelId::TemporalRecent) && reference_s.is_none();
        if is_timed && !is_image && (directives.epoch_s.is_none() || ages) {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&Self::FORMAT.to_le_bytes());
        let bits = models.iter().fold(0_u16, |bits, it| bits | 1 << it.index());
        hasher.update(&bits.to_le_bytes());
        // What is of no effect is not in the key: a time where no wanted model has one.
        let epoch_s = directives.epoch_s.filter(|_| is_timed && !is_image);
        let reference_s = reference_s.filter(|_| is_timed && !is_image);
        hasher.update(&[u8::from(*is_fused), u8::from(*own_forms), directives.role as u8]);
        for time in [epoch_s, reference_s] {
            hasher.update(&[u8::from(time.is_some())]);
            hasher.update(&time.unwrap_or(0).to_le_bytes());
        }
        hasher.update(&(revision.len() as u64).to_le_bytes());
        hasher.update(revision);
        hasher.update(&[input.kind() as u8]);
        hasher.update(input.content_bytes());
        Some(Self(*hasher.finalize().as_bytes()))
    }
}

/// Results by their keys; the least recently used go first.
#[derive(Debug)]
pub struct ResultsCache {
    bytes_max: u64,
    counters: Arc<Counters>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    entries: HashMap<ResultKey, Entry>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, ResultKey>,
    turn: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    output: Arc<PipelineOutput>,
    bytes: u64,
    turn: u64,
}

impl ResultsCache {
    /// An empty cache that holds at most `bytes_max`, and counts in `counters`.
    pub fn new(bytes_max: u64, counters: Arc<Counters>) -> Self {
        Self { bytes_max, counters, held: Mutex::default() }
    }

    /// The result of a key, which is now the most recently used.
    pub fn get(&self, key: &ResultKey) -> Option<Arc<PipelineOutput>> {
        let mut held = self.lock();
        let Held { entries, order, turn, .. } = &mut *held;
        let found = entries.get_mut(key).map(|entry| {
            order.remove(&entry.turn);
            *turn += 1;
            entry.turn = *turn;
            order.insert(*turn, *key);
            entry.output.clone()
        });
        drop(held);
        self.counters.cache_asked(Cache::EmbeddingResults, found.is_some());
        found
    }

    /// Whether there is a result of a key; nobody has asked for it yet.
    pub fn has(&self, key: &ResultKey) -> bool {
        self.lock().entries.contains_key(key)
    }

    /// Keeps a result; others go where there is no room. One that is larger than the whole cache
    /// is not kept.
    pub fn insert(&self, key: ResultKey, output: Arc<PipelineOutput>) {
        let bytes = output_bytes(&output);
        if self.bytes_max < bytes {
            return;
        }
        let mut held = self.lock();
        let before = held.bytes;
        held.remove(&key);
        let mut evicted = 0;
        while self.bytes_max < held.bytes + bytes {
            let Some((_, oldest)) = held.order.first_key_value() else { break };
            let oldest = *oldest;
            held.remove(&oldest);
            evicted += 1;
        }
        held.turn += 1;
        let turn = held.turn;
        held.order.insert(turn, key);
        held.entries.insert(key, Entry { output, bytes, turn });
        held.bytes += bytes;
        self.count(CacheCount::Inserts, 1);
        self.count(CacheCount::Evictions, evicted);
        self.level(before, held.bytes);
    }

    /// Keys and results, the least recently used first.
    fn in_order(&self) -> Vec<(ResultKey, Arc<PipelineOutput>)> {
        let held = self.lock();
        let entry = |key: &ResultKey| Some((*key, held.entries.get(key)?.output.clone()));
        held.order.values().filter_map(entry).collect()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut held = self.lock();
        self.level(held.bytes, 0);
        *held = Held { turn: held.turn, ..Held::default() };
    }

    /// Results held.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, what: CacheCount, amount: u64) {
        self.counters.add(Counter::Cache(Cache::EmbeddingResults, what), amount);
    }

    fn level(&self, before: u64, after: u64) {
        let counter = Counter::Cache(Cache::EmbeddingResults, CacheCount::Bytes);
        match before <= after {
            true => self.counters.add(counter, after - before),
            false => self.counters.lower(counter, before - after),
        }
    }
}

impl Held {
    fn remove(&mut self, key: &ResultKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.turn);
            self.bytes -= entry.bytes;
        }
    }
}

/// Bytes of a result, as it lies in memory.
fn output_bytes(output: &PipelineOutput) -> u64 {
    let PipelineOutput { embeddings, fused, sparse, tokens, flags: _, cut: _ } = output;
    let slots = ModelId::iter().filter_map(|it| embeddings.get(it)).map(|it| it.vector.len());
    let whole = embeddings.as_slice().map_or(0, <[f32]>::len);
    let fused = fused.as_ref().map_or(0, |it| it.vector.len() + it.expert_weights.len());
    let sparse = sparse.as_ref().map_or(0, |it: &SparseVector| 2 * it.values().len());
    let tokens = tokens.as_ref().map_or(0, |it: &TokenMatrix| it.rows().flatten().count());
    let numbers = slots.sum::<usize>() + whole + fused + sparse + tokens;
    ENTRY_BYTES + 4 * numbers as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::{ConcatenatedEmbedding, ModelEmbedding, ResultFlags};

    fn text(content: &str, instruction: Option<&str>) -> ModelInput {
        ModelInput::text_with_instruction(content, instruction.map(str::to_owned)).unwrap()
    }

    fn key(input: &ModelInput, models: &[ModelId], reference_s: Option<i64>) -> Option<ResultKey> {
        let models = models.iter().copied().collect();
        let asked = Asked {
            models: &models,
            is_fused: false,
            own_forms: false,
            revision: b"1",
            reference_s,
        };
        ResultKey::new(input, &asked)
    }

    const SEMANTIC: &[ModelId] = &[ModelId::Semantic];

    #[test]
    fn a_key_is_of_everything_that_decides_and_of_nothing_else() {
        let plain = key(&text("a", None), SEMANTIC, None).unwrap();
        assert_eq!(key(&text("a", None), SEMANTIC, None), Some(plain));
        assert_eq!(key(&text("a", Some("role:passage")), SEMANTIC, None), Some(plain));
        assert_eq!(key(&text("a", Some("epoch:5")), SEMANTIC, Some(9)), Some(plain));
        for other in [
            key(&text("b", None), SEMANTIC, None),
            key(&text("a", Some("role:query")), SEMANTIC, None),
            key(&text("a", None), &[ModelId::Entity], None),
            key(&text("a", None), &[ModelId::Semantic, ModelId::Entity], None),
            key(&ModelInput::code("a", "rust").unwrap(), SEMANTIC, None),
        ] {
            assert_ne!(other.unwrap(), plain);
        }
        let models = BTreeSet::from([ModelId::Semantic]);
        let asked = |is_fused, own_forms, revision| Asked {
            models: &models,
            is_fused,
            own_forms,
            revision,
            reference_s: None,
        };
        let input = text("a", None);
        let keys = [
            asked(false, false, b"1"),
            asked(true, false, b"1"),
            asked(false, true, b"1"),
            asked(false, false, b"2"),
            asked(false, false, b"11"),
        ]
        .map(|it| ResultKey::new(&input, &it).unwrap());
        let distinct: BTreeSet<ResultKey> = keys.into_iter().collect();
        assert_eq!((distinct.len(), keys[0]), (5, plain));
    }

    #[test]
    fn what_depends_on_the_time_of_day_has_no_key() {
        let periodic = &[ModelId::TemporalPeriodic];
        let recent = &[ModelId::TemporalRecent];
        let named = text("a", Some("epoch:5"));
        assert!(key(&text("a", None), periodic, Some(9)).is_none());
        assert!(key(&named, periodic, None).is_some());
        assert!(key(&named, recent, None).is_none(), "its age is measured against now");
        assert!(key(&named, recent, Some(9)).is_some());
        assert_ne!(key(&named, recent, Some(9)), key(&named, recent, Some(8)));
        assert_ne!(key(&named, periodic, None), key(&text("a", Some("epoch:6")), periodic, None));
    }

    #[test]
    fn the_canonical_bytes_are_pinned() {
        let key = key(&text("heat", Some("role:query; epoch:7")), &ModelId::ALL, Some(9)).unwrap();
        let digits: String = key.0[..8].iter().map(|it| format!("{it:02x}")).collect();
        assert_eq!(digits, "0e7f0bb3aa2e404c");
    }

    fn output(value: f32) -> Arc<PipelineOutput> {
        let mut embeddings = ConcatenatedEmbedding::new(0);
        let vector = vec![value; ModelId::LateInteraction.slot_dimension()];
        let vector = ModelEmbedding::projected(ModelId::LateInteraction, vector, 0).unwrap();
        embeddings.set(vector).unwrap();
        let flags = ResultFlags::default();
        Arc::new(PipelineOutput {
            embeddings,
            fused: None,
            sparse: None,
            tokens: None,
            cut: None,
            flags,
        })
    }

    fn numbered(number: usize) -> ResultKey {
        key(&text(&number.to_string(), None), SEMANTIC, None).unwrap()
    }

    #[test]
    fn it_stays_within_its_bytes_and_forgets_the_least_recently_used() {
        let counters = Arc::new(Counters::new());
        let bytes = output_bytes(&output(0.0));
        assert_eq!(bytes, ENTRY_BYTES + 4 * 128);
        let cache = ResultsCache::new(3 * bytes, counters.clone());
        for number in 0..3 {
            cache.insert(numbered(number), output(number as f32));
        }
        assert!(cache.get(&numbered(0)).is_some());
        cache.insert(numbered(3), output(3.0));
        assert!(cache.get(&numbered(1)).is_none(), "the least recently used");
        for number in [0, 2, 3] {
            assert_eq!(cache.get(&numbered(number)), Some(output(number as f32)));
        }
        let get = |what| counters.snapshot().get(Counter::Cache(Cache::EmbeddingResults, what));
        assert_eq!((get(CacheCount::Hits), get(CacheCount::Misses)), (4, 1));
        assert_eq!((get(CacheCount::Inserts), get(CacheCount::Evictions)), (4, 1));
        assert_eq!((get(CacheCount::Bytes), cache.bytes()), (3 * bytes, 3 * bytes));
        cache.insert(numbered(3), output(4.0));
        assert_eq!((cache.len(), cache.bytes()), (3, 3 * bytes));
        cache.clear();
        assert_eq!((get(CacheCount::Bytes), cache.len()), (0, 0));
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let cache = ResultsCache::new(100, Arc::new(Counters::new()));
        cache.insert(numbered(0), output(0.0));
        assert!(cache.is_empty());
    }

    #[test]
    fn it_is_bounded_under_many_threads() {
        let bytes = output_bytes(&output(0.0));
        let cache = ResultsCache::new(10 * bytes, Arc::new(Counters::new()));
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for step in 0..500 {
                        let number = (step * 7 + seed) % 25;
                        match cache.get(&numbered(number)) {
                            Some(it) => assert_eq!(it, output(number as f32)),
                            None => cache.insert(numbered(number), output(number as f32)),
                        }
                        assert!(cache.bytes() <= 10 * bytes);
                    }
                });
            }
        });
    }
}
