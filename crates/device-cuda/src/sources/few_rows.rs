//! Products for few rows, made for reading weights at full bandwidth, and what folds the norm in
//! front of one into its weights.
//!
//! Parameters of `gemm_skinny`: those of the other products, then `norm` (0: none, 1: the rows
//! stand for their layer norm, 2: for their root-mean-square norm), `eps`, and `normed` (0: the
//! norm has no other reader, 1: its rows are written, 2: so, and it has a bias).
//!
//! Parameters of `fold_norm`: `n`, `k`, `dtype`, `shift` (whether the norm has a bias) and `bias`
//! (whether the layer has one).

use calor_kernel::Source;

use super::product::{Shape, finished};
use super::{NoKernel, PRELUDE, ROWS, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Geometry, KernelForm};

const TEXT: &str = include_str!("../text/skinny_gemm.cu");
const FOLD_TEXT: &str = include_str!("../text/fold_norm.cu");

/// Most rows of a product.
pub(crate) const ROWS_MAX: u32 = 64;

/// Dynamic shared memory that a queue of weights may take, so that two blocks fit.
const QUEUE_BYTES_MAX: u32 = 96 << 10;

/// How a product is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Columns of a block.
    columns: u32,
    /// Blocks that share the sums.
    split: u32,
    /// Warps of a block.
    warps: u32,
}

/// The tile that measured best in whole encoders of few rows, where kernels overlap: small blocks,
/// so that the next kernel's find room beside them and fetch their weights early.
fn tile(n: u32, k: u32, sm_count: u32, has_clusters: bool) -> Tile {
    let (mut split, warps) = match (n, k) {
        _ if !has_clusters => (1, 8),
        (_, 3072..) => (4, 8),
        (..=1024, _) => (4, 4),
        _ => (2, 8),
    };
    // Nobody should be without a step.
    while 1 < split && k.div_ceil(32) < split * warps {
        split /= 2;
    }
    let for_each = if 4096 <= n || !has_clusters { 1 } else { 2 };
    let columns = (n * split).div_ceil(sm_count * for_each).next_multiple_of(8).clamp(8, 64);
    Tile { columns, split, warps }
}

pub(super) fn write(source: &Source, arch: Arch, sm_count: u32) -> Result<Written, NoKernel> {
    let shape = Shape::of(source)?;
    let (norm, normed) = (param(source, "norm")?, param(source, "normed")?);
    let eps = source.param_f64("eps").filter(|it| it.is_finite());
    let eps = eps.ok_or_else(|| NoKernel::Wrong("`gemm_skinny` needs an epsilon".into()))?;
    let Shape { n, k, rows, dtype, .. } = shape;
    let fits = n.is_multiple_of(8) && k.is_multiple_of(8) && matches!(dtype, 1 | 2);
    if ROWS_MAX < rows || !fits || 2 < norm || 2 < normed || (norm == 0 && normed != 0) {
        return Err(NoKernel::Wrong("a product that is not for few rows".into()));
    }
    if arch.major < 8 {
        return Err(NoKernel::Unsupported(format!("products for few rows on {arch}")));
    }
    let dependent = 9 <= arch.major;
    let Tile { columns, split, warps } = tile(n, k, sm_count.max(1), dependent);
    let m_tiles = rows.div_ceil(16);
    let steps = k.div_ceil(32).div_ceil(split * warps);
    let step_bytes = columns / 8 * warps * 512;
    let stages = steps.min(QUEUE_BYTES_MAX / step_bytes).max(1);
    let mut values = shape.macros(dependent);
    values.extend([
        ("M_TILES", i64::from(m_tiles)),
        ("N_TILE", columns.into()),
        ("SPLIT", split.into()),
        ("WARPS", warps.into()),
        ("STAGES", stages.into()),
        ("NORM", norm.into()),
        ("NORMED", normed.into()),
        ("LIVE_EARLY", 1),
    ]);
    let blocks = split * n.div_ceil(columns);
    let mut form =
        KernelForm::new("calor_skinny_gemm", 32 * warps, Geometry::Fixed([blocks, 1, 1]), 4);
    // Weights, in whose place the warps' sums meet; sums from the cluster; vectors, moments and
    // barriers.
    let sums = m_tiles * (columns / 8) * 32;
    let queue = stages * step_bytes;
    form.shared_bytes = queue.max(warps * (sums * 16 + m_tiles * 128))
        + if 1 < split { sums * 16 + split * m_tiles * 128 } else { 0 }
        + 8 * columns
        + 128 * m_tiles
        + 16;
    form.dependent = dependent;
    form.align_bytes = 16;
    form.stride_words = vec![1, 2, 3];
    form.stride_align = 8;
    let eps = format!("#define CALOR_EPS {eps:?}f\n");
    let mut written = finished(TEXT, &values, form, &shape);
    // The norm's gain and bias are read, and its rows written, only if others need them.
    written.form.buffer_count += if normed != 0 { 1 + normed } else { 0 };
    written.text.insert_str(0, &eps);
    Ok(written)
}

/// Bytes of weights with a norm folded in, and what belongs to them.
pub(crate) fn folded_bytes(n: u32, k: u32) -> u64 {
    u64::from(n) * (2 * u64::from(k) + 8)
}

pub(super) fn fold_norm(source: &Source) -> Result<Written, NoKernel> {
    let number = |name| param(source, name);
    let (n, k, dtype) = (number("n")?, number("k")?, number("dtype")?);
    let (shift, bias) = (number("shift")?, number("bias")?);
    if n == 0 || k == 0 || dtype == 0 {
        return Err(NoKernel::Wrong("a norm is folded into weights of 16 bits".into()));
    }
    let values = [
        ("WORDS", 1),
        ("TYPE", i64::from(dtype)),
        ("N", n.into()),
        ("K", k.into()),
        ("SHIFT", shift.into()),
        ("BIAS", bias.into()),
        ("PDL", 0),
    ];
    let geometry = Geometry::Fixed([n.div_ceil(8), 1, 1]);
    let mut form = KernelForm::new("calor_fold_norm", 256, geometry, 0);
    form.buffer_count = 3 + shift + bias;
    Ok(Written { text: [&defines(&values), PRELUDE, ROWS, FOLD_TEXT].concat(), form })
}

#[test]
fn tiles_are_those_that_measured_best() {
    let tile = |n, k| {
        let Tile { columns, split, warps } = tile(n, k, 132, true);
        [columns, split, warps]
    };
    // The four products of a layer of BERT-large.
    assert_eq!(tile(3072, 1024), [24, 2, 8]);
    assert_eq!(tile(1024, 1024), [16, 4, 4]);
    assert_eq!(tile(4096, 1024), [64, 2, 8]);
    assert_eq!(tile(1024, 4096), [16, 4, 8]);
    assert_eq!(tile(384, 384), [8, 2, 4]);
}
