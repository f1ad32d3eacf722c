//! A mixture of experts, whose weights are read once for up to 64 rows.
//!
//! Parameters: `e`, `d`, `h`, `o` (experts, lengths of rows of x, hidden and y), `dtype` and `rows`
//! (most rows).

use calor_kernel::Source;

use super::{NoKernel, PRELUDE, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Axis, Geometry, KernelForm, NextForm};

const TEXT: &str = include_str!("../text/experts.cu");

/// Most experts: their shares of 64 rows lie in shared memory.
pub(crate) const EXPERT_COUNT_MAX: u32 = 32;

/// Rows that share one reading of the weights.
const CHUNK_ROWS: u32 = 64;
const THREADS: u32 = 256;

/// What a block has: columns by 16, blocks beside it, shared memory for weights on their way.
struct Tile {
    m_tiles: u32,
    blocks: u32,
    queue_bytes: u32,
}

/// The tile that measured best. Rows of f32 take more work to prepare, so many of them are shared
/// by more columns.
fn tile(arch: Arch, exact: bool, row_tiles: u32) -> Tile {
    let tile = |m_tiles, blocks, kilobytes: u32| {
        let queue_bytes = kilobytes << 10;
        Tile { m_tiles, blocks, queue_bytes }
    };
    match (arch.has_wgmma(), exact, row_tiles) {
        (true, true, 1) => tile(2, 2, 96),
        (true, true, _) => tile(4, 1, 192),
        (true, false, 1 | 2) => tile(2, 3, 64),
        (true, false, 4) => tile(2, 2, 80),
        (true, false, _) => tile(4, 1, 192),
        (false, ..) => tile(2, 1, 64),
    }
}

pub(super) fn write(source: &Source, arch: Arch, sm_count: u32) -> Result<Written, NoKernel> {
    let number = |name| param(source, name);
    let (e, d, h, o) = (number("e")?, number("d")?, number("h")?, number("o")?);
    let (dtype, rows) = (number("dtype")?, number("rows")?);
    let whole = [d, h, o].iter().all(|it| *it != 0 && it.is_multiple_of(8));
    if !whole || e == 0 || EXPERT_COUNT_MAX < e || rows == 0 || 2 < dtype {
        return Err(NoKernel::Wrong("experts that do not fit the tensor cores".into()));
    }
    if arch.major < 8 {
        return Err(NoKernel::Unsupported(format!("experts on {arch}")));
    }
    let dependent = 9 <= arch.major;
    let row_tiles = rows.min(CHUNK_ROWS).div_ceil(8).next_power_of_two();
    let Tile { m_tiles, blocks, queue_bytes } = tile(arch, dtype == 0, row_tiles);
    let columns = 16 * m_tiles;
    let step_bytes = m_tiles * THREADS * if dtype == 0 { 64 } else { 32 };
    let stages = queue_bytes / step_bytes;
    let across = o.div_ceil(columns);
    // As many clusters as are at work at once; larger ones measured slower.
    let split = match arch.has_wgmma() {
        true => 1 << (blocks * sm_count / across).clamp(1, 4).ilog2(),
        false => 1,
    };
    let values = [
        ("WORDS", 1),
        ("TYPE", i64::from(dtype)),
        ("D", d.into()),
        ("H", h.into()),
        ("O", o.into()),
        ("E", e.into()),
        ("ROWS", rows.into()),
        ("M_TILES", m_tiles.into()),
        ("ROW_TILES", row_tiles.into()),
        ("STAGES", stages.into()),
        ("SPLIT", split.into()),
        ("BLOCKS", blocks.into()),
        ("PDL", dependent.into()),
    ];
    let shared_bytes = (stages * step_bytes).max(4096 * m_tiles * row_tiles);
    let geometry =
        |across| Geometry::Tiles([Axis::fixed(across), Axis::of(0, CHUNK_ROWS), Axis::ONE]);
    let up = geometry(e * h.div_ceil(columns));
    let mut form = KernelForm::new("calor_experts_up", THREADS, up, 1);
    form.shared_bytes = shared_bytes;
    form.dependent = dependent;
    form.align_bytes = 16;
    form.buffer_count = 8;
    form.next = vec![NextForm {
        entry: "calor_experts_down".into(),
        threads: THREADS,
        // The kernel names its own cluster; the launch must only be a multiple of it.
        geometry: geometry(split * across),
        shared_bytes,
    }];
    Ok(Written { text: [&defines(&values), PRELUDE, TEXT].concat(), form })
}
