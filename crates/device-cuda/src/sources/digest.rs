//! BLAKE3 of parts, each as a subtree of the digest of all bytes: what a device says of bytes that
//! no host has seen.
//!
//! Parameter: `part_bytes`. Words and buffers are in `text/digest_parts.cu`.

use calor_kernel::Source;

use super::{NoKernel, Written, defines, param};
use crate::form::{Axis, Geometry, KernelForm};

const PRELUDE: &str = include_str!("../text/prelude.cu");
const TEXT: &str = include_str!("../text/digest_parts.cu");

/// Chunks of BLAKE3, of 1 KiB each, whose values a block holds.
const CHUNKS_MAX: u32 = 1024;

/// Threads of a block.
const THREADS: u32 = 256;

pub(super) fn write(source: &Source) -> Result<Written, NoKernel> {
    let part_bytes = param(source, "part_bytes")?;
    let chunks = part_bytes / 1024;
    if !part_bytes.is_power_of_two() || !(1..=CHUNKS_MAX).contains(&chunks) {
        return Err(NoKernel::Wrong("a part of `digest_parts` is no subtree".into()));
    }
    let values = [("WORDS", 2), ("CHUNKS", chunks.into()), ("THREADS", THREADS.into())];
    let geometry = Geometry::Tiles([Axis::of(0, 1), Axis::ONE, Axis::ONE]);
    let mut form = KernelForm::new("calor_digest_parts", THREADS, geometry, 2);
    form.buffer_count = 2;
    form.align_bytes = 16;
    Ok(Written { text: [&defines(&values), PRELUDE, TEXT].concat(), form })
}
