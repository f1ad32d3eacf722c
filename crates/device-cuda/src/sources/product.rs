//! Products of our own: plain f32 arithmetic, `mma.sync` and warpgroup products.
//!
//! Parameters: `n`, `k`, `dtype`, `activation`, `bias` (a flag), `residual` (0: none, 1: added
//! after the activation, 2: multiplied with) and `rows` (most rows). Words and buffers are those of
//! `Call::Gemm` without packing or workspace. Of codes of one byte `out` is the type of the result,
//! and scales follow the weights.

use calor_kernel::Source;

use super::{E4M3, INT8, NoKernel, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Axis, Extent, Geometry, KernelForm, MapForm};

const PLAIN: &str = include_str!("../text/gemm_plain.cu");
const MMA: &str = include_str!("../text/gemm_mma.cu");
const WGMMA: &str = include_str!("../text/gemm_wgmma.cu");

/// What a product computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) dtype: u32,
    /// Type of the result.
    out: u32,
    activation: u32,
    bias: u32,
    residual: u32,
    pub(super) rows: u32,
}

impl Shape {
    /// What a source asks for.
    pub(super) fn of(source: &Source) -> Result<Self, NoKernel> {
        let number = |name| param(source, name);
        let dtype = number("dtype")?;
        let shape = Self {
            n: number("n")?,
            k: number("k")?,
            dtype,
            out: if dtype < INT8 { dtype } else { number("out")? },
            activation: number("activation")?,
            bias: number("bias")?,
            residual: number("residual")?,
            rows: number("rows")?,
        };
        let zero = shape.n == 0 || shape.k == 0 || shape.rows == 0;
        let unknown = E4M3 < shape.dtype || 2 < shape.out || 6 < shape.activation;
        if zero || unknown || 1 < shape.bias || 2 < shape.residual {
            return Err(NoKernel::Wrong("a product of nothing".into()));
        }
        Ok(shape)
    }

    fn buffers(&self) -> u32 {
        3 + 2 * u32::from(self.is_scaled()) + self.bias + self.joins()
    }

    /// How many other rows the result meets.
    fn joins(&self) -> u32 {
        u32::from(self.residual != 0)
    }

    /// Whether rows and weights are codes of one byte.
    fn is_scaled(&self) -> bool {
        matches!(self.dtype, INT8 | E4M3)
    }

    /// Whether rows of A, W and C are whole pieces of 16 bytes.
    fn is_whole(&self) -> bool {
        self.n.is_multiple_of(8) && self.k.is_multiple_of(if self.is_scaled() { 16 } else { 8 })
    }

    /// The macros that all texts have.
    pub(super) fn macros(&self, dependent: bool) -> Vec<(&'static str, i64)> {
        vec![
            ("TYPE", self.dtype.into()),
            ("N", self.n.into()),
            ("K", self.k.into()),
            ("ACT", self.activation.into()),
            ("BIAS", self.bias.into()),
            ("RESIDUAL", self.residual.into()),
            ("PDL", dependent.into()),
        ]
    }
}

pub(super) fn write(source: &Source, arch: Arch, sm_count: u32) -> Result<Written, NoKernel> {
    let shape = Shape::of(source)?;
    let dependent = 9 <= arch.major;
    match source.name {
        "gemm_plain" if !shape.is_scaled() => Ok(plain(&shape, dependent)),
        "gemm_mma" => mma(&shape, arch, dependent),
        _ => wgmma(&shape, arch, sm_count.max(1), dependent),
    }
}

/// The text with its macros, and the form with the buffers of the shape.
pub(super) fn finished(
    text: &str,
    values: &[(&str, i64)],
    mut form: KernelForm,
    shape: &Shape,
) -> Written {
    form.buffer_count = shape.buffers();
    Written { text: [&defines(values), text].concat(), form }
}

fn plain(shape: &Shape, dependent: bool) -> Written {
    let (warps_m, warps_n) = if shape.rows <= 32 { (1, 2) } else { (4, 2) };
    let mut values = shape.macros(dependent);
    values.extend([("WARPS_M", i64::from(warps_m)), ("WARPS_N", warps_n.into()), ("BAND", 8)]);
    let across = shape.n.div_ceil(64 * warps_n);
    let x = Axis { word: Some(0), per: 32 * warps_m, times: across };
    let geometry = Geometry::Tiles([x, Axis::ONE, Axis::ONE]);
    let mut form = KernelForm::new("calor_gemm_plain", 32 * warps_m * warps_n, geometry, 4);
    form.dependent = dependent;
    finished(PLAIN, &values, form, shape)
}

fn mma(shape: &Shape, arch: Arch, dependent: bool) -> Result<Written, NoKernel> {
    if !shape.is_whole() {
        return Err(NoKernel::Wrong("a product that does not fit the tensor cores".into()));
    }
    if (arch.major < 8 && shape.dtype != 1) || (shape.dtype == E4M3 && !arch.has_fp8()) {
        return Err(NoKernel::Unsupported(format!("products of type {} on {arch}", shape.dtype)));
    }
    let stages = if arch.major < 8 { 2 } else { 3 };
    // Warps below and beside each other, and the part of one: smaller where there are few tiles.
    let tiles = |rows: u32, cols: u32| shape.rows.div_ceil(rows) * shape.n.div_ceil(cols);
    let (below, beside, part_rows, part_cols) =
        if tiles(128, 128) < 132 { (2, 2, 32, 32) } else { (2, 4, 64, 32) };
    let (rows, cols) = (below * part_rows, beside * part_cols);
    let mut values = shape.macros(dependent);
    values.extend([
        ("OUT", i64::from(shape.out)),
        ("WARPS_M", below.into()),
        ("WARPS_N", beside.into()),
        ("WARP_ROWS", part_rows.into()),
        ("WARP_COLUMNS", part_cols.into()),
        ("STAGES", stages.into()),
        ("BAND", 8),
    ]);
    let x = Axis { word: Some(0), per: rows, times: shape.n.div_ceil(cols) };
    let geometry = Geometry::Tiles([x, Axis::ONE, Axis::ONE]);
    let mut form = KernelForm::new("calor_gemm_mma", 32 * below * beside, geometry, 4);
    form.shared_bytes = stages * (rows + cols) * 128;
    form.dependent = dependent;
    form.align_bytes = 16;
    form.stride_words = vec![1, 2, 3];
    form.stride_align = 8;
    Ok(finished(MMA, &values, form, shape))
}

/// A tile of the warpgroup form; the macros of its text say what each number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    rows: u32,
    columns: u32,
    groups: u32,
    alternate: u32,
    stages: u32,
    cluster_m: u32,
    split: u32,
    band: u32,
}

/// The tile that measured best, by extents.
fn tile(shape: &Shape) -> Tile {
    let wide = Tile {
        rows: 128,
        columns: 128,
        groups: 2,
        alternate: 1,
        stages: 5,
        cluster_m: 1,
        split: 1,
        band: 4,
    };
    let small = Tile { rows: 64, columns: 64, groups: 1, alternate: 0, stages: 8, ..wide };
    let Shape { n, k, rows, .. } = *shape;
    if 2048 <= rows {
        // So few columns leave processors idle with wider tiles.
        if n <= 384 {
            return if k < 1024 { Tile { columns: 64, stages: 6, ..wide } } else { wide };
        }
        if n.is_multiple_of(192) && (4096 <= rows || 3072 <= n) {
            return Tile { columns: 192, stages: 4, ..wide };
        }
        if 8192 <= k {
            let two = Tile { rows: 64, columns: 256, alternate: 0, stages: 4, ..wide };
            return Tile { cluster_m: 2, band: 8, ..two };
        }
        return wide;
    }
    if 256 <= rows && 132 < rows.div_ceil(64) * n.div_ceil(64) {
        return wide;
    }
    small
}

fn wgmma(shape: &Shape, arch: Arch, sm_count: u32, dependent: bool) -> Result<Written, NoKernel> {
    if !arch.has_wgmma() {
        return Err(NoKernel::Unsupported(format!("warpgroup products on {arch}")));
    }
    if matches!(shape.dtype, 0 | INT8) || (shape.is_scaled() && shape.out != 2) || !shape.is_whole()
    {
        return Err(NoKernel::Wrong("a product that does not fit the copy engine".into()));
    }
    let tile = tile(shape);
    let outs = 2.min(tile.columns / 64).max(1 + shape.joins());
    let tile_rows = tile.rows * if tile.alternate != 0 { 1 } else { tile.groups };
    let mut values = shape.macros(dependent);
    values.extend([
        ("ROWS", i64::from(tile.rows)),
        ("COLUMNS", tile.columns.into()),
        ("GROUPS", tile.groups.into()),
        ("ALTERNATE", tile.alternate.into()),
        ("STAGES", tile.stages.into()),
        ("OUTS", outs.into()),
        ("CLUSTER_M", tile.cluster_m.into()),
        ("CLUSTER_N", 1),
        ("SPLIT", tile.split.into()),
        ("BAND", tile.band.into()),
    ]);
    // The kernel names its own cluster; the launch must only be a multiple of it.
    let each = tile.cluster_m * tile.split;
    let across = shape.n.div_ceil(tile.columns);
    let tiles = Axis { word: Some(0), per: tile_rows * tile.cluster_m, times: across };
    let geometry = Geometry::Walking { tiles, most: sm_count / each, each };
    let mut form = KernelForm::new("calor_gemm_wgmma", 128 * (tile.groups + 1), geometry, 4);
    form.shared_bytes = 1024
        + tile.stages * (tile_rows + tile.columns) * 128
        + tile.groups * outs * tile.rows * 128
        + (if tile.alternate != 0 { 4 } else { 2 }) * tile.columns * 2 * shape.bias
        + 16 * (tile.stages + 2 * outs);
    form.dependent = dependent;
    form.align_bytes = 16;
    form.stride_words = vec![1, 2, 3];
    form.stride_align = 8;
    let c_at = shape.buffers() - 1;
    let line = if shape.is_scaled() { 128 } else { 64 };
    let map = |buffer, cols, rows, stride, tile, promoted| MapForm {
        buffer,
        element: if buffer < 2 { shape.dtype } else { shape.out },
        cols,
        rows,
        stride,
        tile,
        promoted,
    };
    let (m, word) = (Extent::Word(0), Extent::Word);
    let fixed = Extent::Fixed;
    form.maps = vec![
        map(0, shape.k, m, word(1), [line, tile_rows], true),
        map(
            1,
            shape.k,
            fixed(shape.n),
            fixed(shape.k),
            [line, tile.columns / tile.cluster_m],
            true,
        ),
        map(c_at, shape.n, m, word(2), [64, tile.rows], false),
    ];
    if shape.residual != 0 {
        form.maps.push(map(c_at - 1, shape.n, m, word(3), [64, tile.rows], false));
    }
    Ok(finished(WGMMA, &values, form, shape))
}
