//! Every cache that there is, as `docs/caches.md` shows it.

use calor_telemetry::Cache;

use super::bundle::BUNDLE_BYTES_MAX;
use super::store::{DISK_BYTES_MAX, MEMORY_BYTES_MAX};
use crate::engine::UNUSED_CODE_BYTES_MAX;
use crate::pool::GpuMemoryPool;

/// What a cache is.
#[derive(Clone, Copy, Debug)]
pub struct CacheRow {
    /// Which one, by the name that counters and events use.
    pub cache: Cache,
    /// The file that owns it; none for a cache that is planned.
    pub owner: Option<&'static str>,
    /// The decision against it, for one that is not kept.
    pub rejected: Option<&'static str>,
    /// Where its entries are.
    pub lives: &'static str,
    /// What an entry is found by.
    pub key: &'static str,
    /// What it may hold, with the limits that there are.
    pub bound: (&'static str, &'static [u64]),
    /// When an entry stops being given.
    pub invalidation: &'static str,
    /// Counters that it keeps.
    pub counters: &'static [&'static str],
}

/// One row for each cache, in the order of [`Cache::ALL`].
pub static CACHES: &[CacheRow] = &[
    CacheRow {
        cache: Cache::KernelStructural,
        owner: Some("crates/runtime/src/engine/codes.rs"),
        rejected: None,
        lives: "memory of one build or session",
        key: "digest of the loop program, source or call, with its choices",
        bound: ("code that a program uses stays; of the rest {}", &[UNUSED_CODE_BYTES_MAX]),
        invalidation: "it is released: equal keys have equal text",
        counters: &["hits", "misses", "inserts", "evictions", "usage"],
    },
    CacheRow {
        cache: Cache::KernelArtifact,
        owner: Some("crates/runtime/src/cache/store.rs"),
        rejected: None,
        lives: "memory, a private folder, read-only folders and bundles",
        key: "kind, target, producer with its version, digest of text, entry and options",
        bound: ("{} in the folder, {} in memory", &[DISK_BYTES_MAX, MEMORY_BYTES_MAX]),
        invalidation: "damaged, or refused by the device; then moved aside and made anew",
        counters: STORED,
    },
    CacheRow {
        cache: Cache::LibraryAlgorithm,
        owner: Some("crates/runtime/src/cache/store.rs"),
        rejected: None,
        lives: "as kernel_artifact, and in the same folder",
        key: "kind, the device's model, library with its version, digest of the call",
        bound: ("together with kernel_artifact", &[]),
        invalidation: "damaged, or refused by the device; then moved aside and measured anew",
        counters: STORED,
    },
    CacheRow {
        cache: Cache::ConvertedWeights,
        owner: None,
        rejected: Some("docs/decisions/0018-weights-are-read-not-kept-converted.md"),
        lives: "disk",
        key: "digest of the source, layout version, precision",
        bound: ("-", &[]),
        invalidation: "-",
        counters: &[],
    },
    CacheRow {
        cache: Cache::Program,
        owner: None,
        rejected: None,
        lives: "memory",
        key: "digests of graph and choices, bucket, precision, device",
        bound: ("-", &[]),
        invalidation: "-",
        counters: &[],
    },
    CacheRow {
        cache: Cache::Bundle,
        owner: Some("crates/runtime/src/cache/bundle.rs"),
        rejected: None,
        lives: "a file that moves between machines",
        key: "those of its entries",
        bound: ("{} a file", &[BUNDLE_BYTES_MAX]),
        invalidation: "damaged or of another format; then refused whole",
        counters: &[],
    },
    CacheRow {
        cache: Cache::BufferPool,
        owner: Some("crates/runtime/src/pool.rs"),
        rejected: None,
        lives: "device memory of one build or session",
        key: "size, rounded up to one of seven",
        bound: ("four buffers of each size, {} in all", &[GpuMemoryPool::KEPT_BYTES_MAX]),
        invalidation: "it is lent, or freed: when memory runs short, and with the last program",
        counters: &["hits", "misses", "inserts", "evictions", "usage"],
    },
    CacheRow {
        cache: Cache::EmbeddingResults,
        owner: Some("crates/embed/src/results.rs"),
        rejected: None,
        lives: "memory of one server, and the file of `--results-cache-file` between two",
        key: "digest of content, instruction, models wanted, revision of the models",
        bound: ("as `--results-cache-mib` says; nothing is kept if it is 0", &[]),
        invalidation: "other models are swapped in; results that depend on the time of day are \
                       never kept",
        counters: &["hits", "misses", "inserts", "evictions", "corrupt", "usage"],
    },
    CacheRow {
        cache: Cache::TokenizedWords,
        owner: Some("crates/embed/src/tokenizer/words.rs"),
        rejected: None,
        lives: "memory of one tokenizer",
        key: "a word with the spaces in front of it",
        bound: ("4 MiB for each tokenizer; words of up to 48 bytes", &[]),
        invalidation: "others are asked for more often; ids of a word never change",
        counters: &["hits", "misses", "inserts", "evictions", "usage"],
    },
];

/// What a cache with a place on the disk counts.
const STORED: &[&str] = &[
    "hits",
    "misses",
    "inserts",
    "evictions",
    "rejections",
    "corrupt",
    "stale",
    "foreign",
    "faults",
    "usage",
];

#[test]
fn every_cache_has_its_row() {
    let rows: Vec<Cache> = CACHES.iter().map(|it| it.cache).collect();
    assert_eq!(rows, Cache::ALL);
}
