//! The head of SPLADE: products whose largest sums of each segment are all that is kept.
//!
//! Parameters: `v` (terms), `k` (length of a row), `dtype` and `rows` (most rows).

use calor_kernel::Source;

use super::{NoKernel, PRELUDE, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Axis, Extent, Geometry, KernelForm, MapForm, NextForm};

const TEXT: &str = include_str!("../text/splade.cu");

/// Terms of a block.
const TERMS: u32 = 128;
/// Numbers of k in a stage of the ring.
const STEP: u32 = 64;
const BF16: u32 = 2;

/// Shared memory that the ring may take.
const RING_BYTES_MAX: u32 = 200 << 10;

/// Bytes of f32 rows of length `k` in two parts.
pub(crate) fn splade_parts_bytes(rows: usize, k: usize) -> u64 {
    4 * (rows * k.next_multiple_of(STEP as usize)) as u64
}

pub(super) fn write(source: &Source, arch: Arch, sm_count: u32) -> Result<Written, NoKernel> {
    let number = |name| param(source, name);
    let (v, k, dtype, rows) = (number("v")?, number("k")?, number("dtype")?, number("rows")?);
    if v == 0 || k == 0 || !k.is_multiple_of(8) || rows == 0 || 2 < dtype {
        return Err(NoKernel::Wrong("terms that do not fit the copy engine".into()));
    }
    if !arch.has_wgmma() {
        return Err(NoKernel::Unsupported(format!("warpgroup products on {arch}")));
    }
    let exact = dtype == 0;
    let tokens = rows.next_power_of_two().clamp(32, if exact { 128 } else { 256 });
    let lines = if exact { 2 } else { 1 };
    let stage_bytes = lines * (TERMS + tokens) * 128;
    let stages = RING_BYTES_MAX / stage_bytes;
    let values = [
        ("WORDS", 2),
        ("TYPE", i64::from(dtype)),
        ("V", v.into()),
        ("K", k.into()),
        ("TOKENS", tokens.into()),
        ("STAGES", stages.into()),
        ("PDL", 1),
    ];
    let shared_bytes = 1024 + stages * (stage_bytes + 16);
    let geometry = Geometry::Fixed([v.div_ceil(TERMS).min(sm_count.max(1)), 1, 1]);
    let mut form = KernelForm::new("calor_splade", 384, geometry, 2);
    form.shared_bytes = shared_bytes;
    form.buffer_count = 6;
    // f32 in two parts; its terms are numbers of two bytes to the copy engine.
    let (buffer, cols) = if exact { (6, 2 * k.next_multiple_of(STEP)) } else { (0, k) };
    if exact {
        let next = NextForm { entry: form.entry, threads: 384, geometry, shared_bytes };
        let rows = Geometry::Tiles([Axis::of(0, 8), Axis::ONE, Axis::ONE]);
        form = KernelForm::new("calor_splade_split", 256, rows, 2);
        form.next = vec![next];
        form.buffer_count = 7;
    }
    form.dependent = true;
    form.align_bytes = 4;
    let element = if exact { BF16 } else { dtype };
    let map = |buffer, cols, rows, high| MapForm {
        buffer,
        element,
        cols,
        rows,
        stride: Extent::Fixed(cols),
        tile: [STEP, high],
        promoted: true,
    };
    form.maps = vec![
        map(buffer, cols, Extent::Word(0), tokens),
        map(1, lines * k, Extent::Fixed(v), TERMS),
    ];
    Ok(Written { text: [&defines(&values), PRELUDE, TEXT].concat(), form })
}
