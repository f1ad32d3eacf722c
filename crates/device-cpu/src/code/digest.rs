//! The source `digest_parts`: BLAKE3 of parts, each as a subtree of the digest of all bytes.
//!
//! Parameter: `part_bytes`, a power of two of at least 1024.
//! Words: parts, bytes of all parts together.
//! Arguments: the bytes, digests of 32 bytes each.

use blake3::Hasher;
use blake3::hazmat::HasherExt;
use calor_kernel::Source;

use super::{Code, Launch, Machine, NoCode, SourceRow, param, size, slice, slice_mut};
use crate::threads::TaskPanicked;
use crate::vm::Buffer;

/// Bytes of a digest.
const DIGEST_BYTES: usize = 32;

/// Bytes of the shortest subtree.
const CHUNK_BYTES: usize = 1024;

pub(super) const SOURCE: SourceRow =
    SourceRow { name: "digest_parts", params: &["part_bytes"], make };

#[derive(Debug)]
struct DigestCode {
    part_bytes: usize,
}

fn make(source: &Source) -> Result<Box<dyn Code>, NoCode> {
    let part_bytes = param(source, "part_bytes")?;
    if !part_bytes.is_power_of_two() || part_bytes < CHUNK_BYTES {
        return Err(NoCode::Wrong("a part of no power of two is no subtree".into()));
    }
    Ok(Box::new(DigestCode { part_bytes }))
}

impl Code for DigestCode {
    fn check(&self, words: &[i64], buffers: &[Buffer]) -> Result<(), &'static str> {
        let ([bytes, out], 2) = (buffers, words.len()) else {
            return Err("digests take two sizes and two arguments");
        };
        let [parts, len] = [0, 1].map(|it| size(words, it));
        let is_there = len <= bytes.len_bytes && parts * DIGEST_BYTES <= out.len_bytes;
        if parts != len.div_ceil(self.part_bytes) || !is_there {
            return Err("an argument of digests is too short");
        }
        Ok(())
    }

    fn scratch_bytes(&self, _machine: Machine, _words: &[i64]) -> usize {
        0
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), TaskPanicked> {
        let [bytes, out] = launch.buffers else { return Ok(()) };
        let [parts, len] = [0, 1].map(|it| size(launch.words, it));
        // SAFETY: `check` has seen that the bytes are there.
        let bytes: &[u8] = unsafe { slice(bytes, len) };
        // SAFETY: `check` has seen that there is room, and nobody else uses it.
        let out: &mut [u8] = unsafe { slice_mut(out, parts * DIGEST_BYTES) };
        let parts = bytes.chunks(self.part_bytes).zip(out.chunks_exact_mut(DIGEST_BYTES));
        for (index, (part, digest)) in parts.enumerate() {
            let mut hasher = Hasher::new();
            hasher.set_input_offset((index * self.part_bytes) as u64).update(part);
            digest.copy_from_slice(&hasher.finalize_non_root());
        }
        Ok(())
    }
}
