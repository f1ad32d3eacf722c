//! Products with weights of four bits: plain f32 arithmetic, `mma.sync` or warpgroup products on
//! tiles that are unpacked on the way, and the form for few rows that reads weights once.
//!
//! Parameters: `n` and `k` (extents of a weight), `dtype`, `form` (0 one product, 1 two weights
//! under SwiGLU, 2 two products) and `transposed` (a flag). Then, for `nf4_plain`, `lane_rows`; for
//! `nf4_mma`, `row_tile`, `column_tile`, `warpgroups` (0 is `mma.sync`) and `split` (blocks that
//! share the sum of a tile); for `nf4_skinny`, `row_tiles` of 8 and `early` (whether the weights
//! are there before the program begins). The number of rows is not among them. Words and buffers
//! are in `text/nf4.cu`.

use calor_ir::composite::nf4::CODEBOOK;
use calor_kernel::Source;

use super::{NoKernel, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Axis, Geometry, KernelForm};

const PRELUDE: &str = include_str!("../text/prelude.cu");
const COMMON: &str = include_str!("../text/nf4.cu");
const PLAIN: &str = include_str!("../text/nf4_plain.cu");
const MMA: &str = include_str!("../text/nf4_mma.cu");
const SKINNY: &str = include_str!("../text/nf4_skinny.cu");

/// Most rows of the form for few rows.
pub(crate) const NF4_SKINNY_ROWS_MAX: u32 = 64;

/// Dynamic shared memory that a queue of codes may take, so that two blocks fit.
const QUEUE_BYTES_MAX: u32 = 96 << 10;

/// What a product computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    n: u32,
    k: u32,
    dtype: u32,
    form: u32,
    transposed: u32,
}

impl Shape {
    fn of(source: &Source) -> Result<Self, NoKernel> {
        let number = |name| param(source, name);
        let shape = Self {
            n: number("n")?,
            k: number("k")?,
            dtype: number("dtype")?,
            form: number("form")?,
            transposed: number("transposed")?,
        };
        let Self { n, k, dtype, form, transposed } = shape;
        let count = n.checked_mul(k).is_some_and(|it| 0 < it && it <= i32::MAX as u32);
        if !count || 2 < dtype || 2 < form || 1 < transposed || form != 0 && transposed != 0 {
            return Err(NoKernel::Wrong("a product of nothing".into()));
        }
        Ok(shape)
    }

    /// Weights that are read.
    fn parts(&self) -> u32 {
        if self.form == 0 { 1 } else { 2 }
    }

    /// Columns of a result.
    fn columns(&self) -> u32 {
        if self.transposed == 0 { self.n } else { self.k }
    }

    fn fits_cores(&self) -> bool {
        self.dtype != 0 && self.n.is_multiple_of(8) && self.k.is_multiple_of(64)
    }
}

pub(super) fn write(source: &Source, arch: Arch, sm_count: u32) -> Result<Written, NoKernel> {
    let shape = Shape::of(source)?;
    let number = |name| param(source, name);
    let (values, form, text) = match source.name {
        "nf4_plain" => plain(&shape, number("lane_rows")?)?,
        "nf4_mma" => {
            let tile = [number("row_tile")?, number("column_tile")?, number("warpgroups")?];
            mma(&shape, arch, tile, number("split")?)?
        }
        _ => skinny(&shape, arch, sm_count.max(1), number("row_tiles")?, number("early")?)?,
    };
    Ok(finished(&shape, arch, values, form, text))
}

/// What a kind of product adds: its macros, its form and its text.
type Kind = (Vec<(&'static str, i64)>, KernelForm, &'static str);

fn finished(
    shape: &Shape,
    arch: Arch,
    mut values: Vec<(&'static str, i64)>,
    mut form: KernelForm,
    text: &str,
) -> Written {
    let dependent = 9 <= arch.major;
    values.extend([
        ("TYPE", shape.dtype.into()),
        ("WORDS", 4),
        ("N", shape.n.into()),
        ("K", shape.k.into()),
        ("FORM", shape.form.into()),
        ("TRANSPOSED", shape.transposed.into()),
        ("PDL", dependent.into()),
    ]);
    form.dependent = dependent;
    form.buffer_count = 1 + 2 * shape.parts() + if shape.form == 2 { 2 } else { 1 };
    let book: Vec<String> = CODEBOOK.iter().map(|it| format!("{it:?}f")).collect();
    let book = format!("#define CALOR_BOOK {}\n", book.join(", "));
    Written { text: [&defines(&values), &book, PRELUDE, COMMON, text].concat(), form }
}

fn plain(shape: &Shape, lane_rows: u32) -> Result<Kind, NoKernel> {
    if !matches!(lane_rows, 1 | 4) {
        return Err(NoKernel::Wrong("rows of a thread are 1 or 4".into()));
    }
    let across = Axis::fixed(shape.columns().div_ceil(64));
    let geometry = Geometry::Tiles([across, Axis::of(0, 16 * lane_rows), Axis::ONE]);
    let form = KernelForm::new("calor_nf4_plain", 256, geometry, 4);
    Ok((vec![("LANE_ROWS", lane_rows.into())], form, PLAIN))
}

fn mma(shape: &Shape, arch: Arch, tile: [u32; 3], split: u32) -> Result<Kind, NoKernel> {
    let [rows, columns, warpgroups] = tile;
    // Warps below and beside each other, the part of one, stages, tiles of weights.
    let (below, beside, part_rows, part_columns, stages, tiles) = match tile {
        [64 | 128, 64 | 128, 0] => (2, columns / 32, rows / 2, 32, 3, 2),
        [128 | 256, 128, 2] => (8, 1, rows / 8, 128, 4, 3),
        _ => return Err(NoKernel::Wrong("there are no such tiles".into())),
    };
    let steps = if shape.transposed == 0 { shape.k } else { shape.n }.div_ceil(64);
    if !shape.fits_cores() || !matches!(split, 1 | 2 | 4 | 8) || steps < split {
        return Err(NoKernel::Wrong("a product that does not fit the tensor cores".into()));
    }
    if arch.major < 9 && 1 < split {
        return Err(NoKernel::Unsupported(format!("clusters on {arch}")));
    }
    if arch.major < 8 && shape.dtype != 1 || warpgroups != 0 && !arch.has_wgmma() {
        return Err(NoKernel::Unsupported(format!("such products of weights on {arch}")));
    }
    let stages = if arch.major < 8 { 2 } else { stages };
    let values = vec![
        ("WARPGROUPS", i64::from(warpgroups)),
        ("WARPS_M", below.into()),
        ("WARPS_N", beside.into()),
        ("WARP_ROWS", part_rows.into()),
        ("WARP_COLUMNS", part_columns.into()),
        ("STAGES", stages.into()),
        ("BAND", 8),
        ("SPLIT", split.into()),
    ];
    let times = split * (shape.parts() * shape.columns()).div_ceil(columns);
    let x = Axis { word: Some(0), per: rows, times };
    let geometry = Geometry::Tiles([x, Axis::ONE, Axis::ONE]);
    let mut form = KernelForm::new("calor_nf4_mma", 32 * below * beside, geometry, 4);
    let atom = if warpgroups == 0 { 0 } else { 1024 };
    form.shared_bytes = (stages * rows + tiles * columns) * 128 + atom;
    form.align_bytes = 16;
    form.stride_words = vec![1, 2, 3];
    form.stride_align = 8;
    Ok((values, form, MMA))
}

fn skinny(
    shape: &Shape,
    arch: Arch,
    sm_count: u32,
    row_tiles: u32,
    early: u32,
) -> Result<Kind, NoKernel> {
    let rows_fit = (1..=NF4_SKINNY_ROWS_MAX / 8).contains(&row_tiles);
    if !shape.fits_cores() || shape.transposed != 0 || !rows_fit || 1 < early {
        return Err(NoKernel::Wrong("a product that is not for few rows".into()));
    }
    if arch.major < 8 {
        return Err(NoKernel::Unsupported(format!("products for few rows on {arch}")));
    }
    // As few idle warps at the end of the sum as may be.
    let chunks = shape.k.div_ceil(128);
    let waste = |warps: u32| chunks.div_ceil(warps) * warps;
    let warps = [8, 7, 6, 5].into_iter().min_by_key(|it| waste(*it)).unwrap_or(8);
    // One block for each multiprocessor, as far as the sums fit into registers. Where they do not,
    // blocks of few rows are small, so that all end together; others are large, since each of them
    // reads all of x.
    let (most, else_columns) = match row_tiles {
        1 => (96, 16),
        2 => (80, 16),
        3 | 4 => (80, 80 / shape.parts() / 16 * 16),
        _ => (32, 32 / shape.parts()),
    };
    let share = shape.n.div_ceil(sm_count).next_multiple_of(16);
    let columns = if shape.parts() * share <= most { share } else { else_columns };
    let groups = shape.parts() * columns / 8;
    let steps = chunks.div_ceil(warps);
    let step_bytes = groups * warps * 640;
    let stages = steps.min(QUEUE_BYTES_MAX / step_bytes).max(1);
    let values = vec![
        ("ROW_TILES", i64::from(row_tiles)),
        ("N_TILE", columns.into()),
        ("WARPS", warps.into()),
        ("STAGES", stages.into()),
        ("EARLY", early.into()),
    ];
    let blocks = Geometry::Fixed([shape.n.div_ceil(columns), 1, 1]);
    let mut form = KernelForm::new("calor_nf4_skinny", 32 * warps, blocks, 4);
    form.shared_bytes = (stages * step_bytes).max(warps * row_tiles * groups * 256);
    form.align_bytes = 16;
    form.stride_words = vec![1, 2, 3];
    form.stride_align = 8;
    Ok((values, form, SKINNY))
}
