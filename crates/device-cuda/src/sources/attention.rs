//! Interval attention: one row by one where they are few, on tensor cores where types, head size
//! and strides allow, else in f32 arithmetic.
//!
//! Parameters: those of the CPU's source of the same name, then `dtype`, `rows` (most query rows)
//! and `cores` (whether the claim has seen that tensor cores can be used).

use calor_kernel::Source;

use super::{NoKernel, PRELUDE, ROWS, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Axis, Geometry, KernelForm};

const PLAIN: &str = include_str!("../text/attention_plain.cu");
const MMA: &str = include_str!("../text/attention_mma.cu");
const FEW: &str = include_str!("../text/attention_rows.cu");

/// Head sizes of the form on tensor cores.
pub(crate) const CORE_SIZES: [u32; 5] = [32, 64, 80, 96, 128];

/// Largest head size of the plain form.
pub(crate) const SIZE_MAX: u32 = 256;

/// Most query rows of the form that takes one by one: what a grid has room for.
pub(crate) const FEW_ROWS_MAX: u32 = 65_535;

/// Largest table that is kept in shared memory.
const TABLE_ROWS_STAGED: u32 = 8192;

/// Tiles of the form on tensor cores; the macros of its text say what each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    wgmma: u32,
    warps: u32,
    m_tiles: u32,
    keys: u32,
    stages: u32,
    q_regs: u32,
    late: u32,
    blocks: u32,
}

const fn tile(numbers: [u32; 8]) -> Tile {
    let [wgmma, warps, m_tiles, keys, stages, q_regs, late, blocks] = numbers;
    Tile { wgmma, warps, m_tiles, keys, stages, q_regs, late, blocks }
}

/// The tile that measured best, by architecture, head size and how much there is to do.
fn choose(arch: Arch, d: u32, heads: u32, rows: u32, extra: bool) -> Tile {
    if arch.has_wgmma() {
        if rows <= 64 {
            return tile([0, 2, 1, 32, 2, 1, 0, 4]);
        }
        if rows.div_ceil(128).saturating_mul(heads) < 264 {
            return tile([1, 4, 1, 64, 2, 0, 0, 4]);
        }
        if d <= 64 && !extra {
            return tile([1, 8, 1, 64, 3, 0, 1, 2]);
        }
        return tile([1, 8, 1, 64, 2, 0, 0, 2]);
    }
    match (arch.major, d) {
        (7, _) => tile([0, 4, 1, 32, 2, u32::from(d <= 64), 0, 2]),
        (_, ..=64) => tile([0, 4, 2, 64, 2, 1, 0, 2]),
        (_, ..=96) => tile([0, 4, 2, 64, 2, 0, 0, 2]),
        (_, _) => tile([0, 4, 2, 32, 2, 0, 0, 2]),
    }
}

pub(super) fn write(source: &Source, arch: Arch) -> Result<Written, NoKernel> {
    let number = |name| param(source, name);
    let (heads, kv_heads, d) = (number("heads")?, number("kv_heads")?, number("d")?);
    let (extra, bias, lse) = (number("extra")?, number("bias")?, number("lse")?);
    let (reach, dtype, rows) = (number("reach")?, number("dtype")?, number("rows")?);
    let cores = number("cores")? != 0;
    let scale = source.param_f64("scale").filter(|it| it.is_finite());
    let scale = scale.ok_or_else(|| NoKernel::Wrong("`attention` needs a scale".into()))?;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || d == 0 || SIZE_MAX < d {
        return Err(NoKernel::Wrong("the heads of `attention` do not fit".into()));
    }
    let dependent = 9 <= arch.major;
    let mut values = vec![
        ("TYPE", i64::from(dtype)),
        ("HEADS", heads.into()),
        ("KV_HEADS", kv_heads.into()),
        ("D", d.into()),
        ("EXTRA", extra.into()),
        ("BIAS", bias.into()),
        ("LSE", lse.into()),
        ("REACH", reach.into()),
        ("PDL", dependent.into()),
    ];
    let (entry, text, threads, block_rows, shared_bytes) = match cores {
        false => ("calor_attention_plain", PLAIN, 128, if d <= 128 { 32 } else { 8 }, 0),
        true => {
            if !CORE_SIZES.contains(&d) || dtype == 0 || (dtype == 2 && arch.major < 8) {
                return Err(NoKernel::Wrong("`attention` does not fit the tensor cores".into()));
            }
            let tile = choose(arch, d, heads, rows, extra != 0);
            values.extend([
                ("WGMMA", i64::from(tile.wgmma)),
                ("WARPS", tile.warps.into()),
                ("MTILES", tile.m_tiles.into()),
                ("BN", tile.keys.into()),
                ("STAGES", tile.stages.into()),
                ("Q_REGS", tile.q_regs.into()),
                ("LATE", tile.late.into()),
                ("BLOCKS", tile.blocks.into()),
            ]);
            let block_rows = 16 * tile.m_tiles * tile.warps;
            let table_rows = 2 * reach + 1;
            let staged = bias != 0 && table_rows <= TABLE_ROWS_STAGED;
            let shared_bytes = 4 * tile.stages * tile.keys * d
                + 2 * block_rows * d
                + 12 * block_rows
                + 256
                + if staged { 4 * table_rows } else { 0 };
            ("calor_attention_mma", MMA, 32 * tile.warps, block_rows, shared_bytes)
        }
    };
    let grid = [Axis::fixed(heads), Axis::of(0, block_rows), Axis::ONE];
    let mut form = KernelForm::new(entry, threads, Geometry::Tiles(grid), 5);
    form.shared_bytes = shared_bytes;
    form.dependent = dependent;
    form.buffer_count = 6 + extra + bias + lse;
    if cores {
        form.stride_words = vec![2, 3, 4];
        form.stride_align = 8;
    }
    let scale = format!("#define CALOR_SCALE {scale:?}f\n");
    Ok(Written { text: [&defines(&values), &scale, text].concat(), form })
}

/// Attention of few query rows. Parameters: `heads`, `kv_heads`, `d`, `scale` and `dtype`.
pub(super) fn few(source: &Source, arch: Arch) -> Result<Written, NoKernel> {
    let number = |name| param(source, name);
    let (heads, kv_heads, d) = (number("heads")?, number("kv_heads")?, number("d")?);
    let scale = source.param_f64("scale").filter(|it| it.is_finite());
    let scale = scale.ok_or_else(|| NoKernel::Wrong("`attention_rows` needs a scale".into()))?;
    let whole = d != 0 && d.is_multiple_of(8) && d <= SIZE_MAX;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || !whole {
        return Err(NoKernel::Wrong("the heads of `attention_rows` do not fit".into()));
    }
    let dependent = 9 <= arch.major;
    let values = [
        ("WORDS", 5),
        ("TYPE", i64::from(number("dtype")?)),
        ("HEADS", heads.into()),
        ("KV_HEADS", kv_heads.into()),
        ("D", d.into()),
        ("PDL", dependent.into()),
    ];
    let grid = [Axis::fixed(heads), Axis::of(0, 1), Axis::ONE];
    let mut form = KernelForm::new("calor_attention_rows", 128, Geometry::Tiles(grid), 5);
    form.dependent = dependent;
    form.buffer_count = 6;
    form.align_bytes = 16;
    form.stride_words = vec![2, 3, 4];
    form.stride_align = 8;
    let scale = format!("#define CALOR_SCALE {scale:?}f\n");
    Ok(Written { text: [&defines(&values), &scale, PRELUDE, ROWS, FEW].concat(), form })
}
