//! Weights that a device reads out of their files by itself, and what it then says of them.
//!
//! Nobody on the host sees their bytes, so the device takes their digests where they arrived: of
//! the same parts that readers take them of, which the source compares with its record.

use calor_device::{CodeId, Memory, Span, Step, Word};
use calor_kernel::{Digest, Source, Unit};

use crate::source::{PART_LEN, Stored, WeightSource};

/// Bytes of a part's digest.
pub(super) const DIGEST_BYTES: u64 = 32;

/// The kernel that takes them.
pub(super) fn unit() -> Unit {
    let params = vec![("part_bytes", 4 * PART_LEN as i64)];
    Unit::Source(Source { name: "digest_parts", params })
}

/// Where a weight of so many elements lies, if the device reads it better by itself.
pub(super) fn stored<'a>(
    memory: &dyn Memory,
    source: &'a dyn WeightSource,
    name: &str,
    count: usize,
) -> Option<Stored<'a>> {
    // A part that is the whole has another digest, and is read before a file is opened for it.
    if count <= PART_LEN {
        return None;
    }
    let stored = source.stored(name)?;
    memory.reads_file(stored.file, stored.at, 4 * count as u64).then_some(stored)
}

/// Bytes of the digests of a weight.
pub(super) fn digests_bytes(count: usize) -> u64 {
    count.div_ceil(PART_LEN) as u64 * DIGEST_BYTES
}

/// Digests of a weight in `span`, to `digests`.
pub(super) fn step(code: CodeId, count: usize, span: Span, digests: Span) -> Step {
    let words = [count.div_ceil(PART_LEN) as i64, 4 * count as i64];
    let words = words.map(Word::Fixed).to_vec();
    Step::Launch { code, words, args: vec![span, digests] }
}

/// Digests out of the bytes that the device wrote.
pub(super) fn digests(bytes: &[u8]) -> Vec<Digest> {
    bytes.as_chunks().0.iter().map(|it| Digest(*it)).collect()
}
