//! BLAKE3 of bytes that are read in parts, by several threads and in any order.
//!
//! A part that is as long as a power of two and begins at a multiple of its length is a subtree of
//! the digest. Knows bytes only.

use std::sync::atomic::{AtomicU64, Ordering};

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Bytes of a part where this file reads.
const PART_BYTES: u64 = 1 << 20;
/// Most threads that read at once.
const THREADS_MAX: usize = 8;

/// The digest of a part or of several that follow each other.
type Subtree = [u8; 32];

/// The digest of a part that is being read.
#[derive(Debug)]
pub(crate) struct PartHasher {
    hasher: Hasher,
    is_whole: bool,
}

impl PartHasher {
    /// For a part that begins at `first_byte`; `is_whole` where nothing else follows it.
    pub(crate) fn new(first_byte: u64, is_whole: bool) -> Self {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(first_byte);
        Self { hasher, is_whole: is_whole && first_byte == 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// For [`whole`].
    pub(crate) fn finish(self) -> Subtree {
        match self.is_whole {
            true => *self.hasher.finalize().as_bytes(),
            false => self.hasher.finalize_non_root(),
        }
    }
}

/// The digest of everything out of the digests of its parts, in order. All parts but the last are
/// of one length.
///
/// # Panics
/// Without a part.
pub(crate) fn whole(parts: &[Subtree]) -> [u8; 32] {
    assert!(!parts.is_empty(), "even nothing is one part");
    match split(parts) {
        Some((left, right)) => {
            *merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
        }
        None => parts[0],
    }
}

fn subtree(parts: &[Subtree]) -> Subtree {
    match split(parts) {
        Some((left, right)) => merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash),
        None => parts[0],
    }
}

/// Where the tree is split: the left side is the largest power of two that leaves something.
fn split(parts: &[Subtree]) -> Option<(&[Subtree], &[Subtree])> {
    (1 < parts.len()).then(|| parts.split_at(parts.len().next_power_of_two() / 2))
}

/// BLAKE3 of `len_bytes` bytes that `read` gives from any offset on, by as many threads as pay.
///
/// # Errors
/// The first failure of `read`.
pub fn digest_of<E: Send>(
    len_bytes: u64,
    read: impl Fn(u64, &mut [u8]) -> Result<(), E> + Sync,
) -> Result<[u8; 32], E> {
    let part_count = len_bytes.div_ceil(PART_BYTES).max(1);
    let next = AtomicU64::new(0);
    let run = || {
        let mut buffer = vec![0; PART_BYTES.min(len_bytes) as usize];
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if part_count <= number {
                return Ok(done);
            }
            let first = number * PART_BYTES;
            let bytes = &mut buffer[..PART_BYTES.min(len_bytes - first) as usize];
            read(first, bytes)?;
            let mut hasher = PartHasher::new(first, part_count == 1);
            hasher.update(bytes);
            done.push((number, hasher.finish()));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // A short file is read before a thread has started.
    let others = processors.min(THREADS_MAX).min((part_count / 4) as usize).saturating_sub(1);
    let found: Result<Vec<_>, E> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..others).map(|_| scope.spawn(run)).collect();
        let mut found = vec![run()];
        found.extend(threads.into_iter().map(|it| it.join().expect("no panic")));
        found.into_iter().collect()
    });
    let mut parts: Vec<(u64, Subtree)> = found?.into_iter().flatten().collect();
    parts.sort_unstable_by_key(|it| it.0);
    Ok(whole(&parts.into_iter().map(|it| it.1).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..(17 << 20) + 321_u32).map(|it| (it * 7 / 3) as u8).collect();
        for len in [0, 1, 1024, 1 << 20, (1 << 20) + 1, 3 << 20, (16 << 20) - 1, bytes.len()] {
            let read = |first: u64, out: &mut [u8]| {
                out.copy_from_slice(&bytes[first as usize..][..out.len()]);
                Ok::<(), ()>(())
            };
            let want = *blake3::hash(&bytes[..len]).as_bytes();
            assert_eq!(digest_of(len as u64, read), Ok(want), "{len} bytes");
        }
        for part_bytes in [1 << 10, 1 << 16] {
            let part = |(at, bytes): (usize, &[u8])| {
                let mut hasher = PartHasher::new((at * part_bytes) as u64, false);
                bytes.chunks(100).for_each(|it| hasher.update(it));
                hasher.finish()
            };
            let parts: Vec<[u8; 32]> =
                bytes[..999_999].chunks(part_bytes).enumerate().map(part).collect();
            assert_eq!(whole(&parts), *blake3::hash(&bytes[..999_999]).as_bytes());
        }
    }

    #[test]
    fn the_first_failure_comes_back() {
        let read = |first: u64, _: &mut [u8]| if first == 5 << 20 { Err(first) } else { Ok(()) };
        assert_eq!(digest_of(40 << 20, read), Err(5 << 20));
    }
}
