//! Norms of rows.
//!
//! Parameters of `norm`: `k` (length of a row), `in`, `out` and `gain` (types of the rows, of the
//! result, of gain and bias), `centred` and `bias` (flags), `eps`, `terms` (rows that are added),
//! `tables` (a bit for each term that is a row of a table), `sum` (whether the sum is written),
//! `early` (whether gain and bias are weights) and `few` (whether rows are at most [`ROWS_FEW`]).

use calor_kernel::Source;

use super::{NoKernel, PRELUDE, ROWS, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Axis, Geometry, KernelForm};

const TEXT: &str = include_str!("../text/norm.cu");

/// Most rows that are worth a block each.
pub(crate) const ROWS_FEW: usize = 1024;

/// Most rows that are added up in front of a norm.
pub(crate) const TERMS_MAX: usize = 3;

/// Elements of a row that a thread's registers should hold at most, when rows are of 16 bits.
const HELD_MAX: u32 = 32;
const THREADS_MAX: u32 = 1024;

/// Threads of a block where rows are many.
const THREADS_USUAL: u32 = 256;

/// Blocks for each multiprocessor, which walk: gain and bias are loaded once.
const RESIDENT: u32 = 2;

/// Whether rows of this length fit the registers of a block.
pub(crate) fn is_len(k: u32) -> bool {
    (1..=HELD_MAX * THREADS_MAX).contains(&k)
}

/// How rows are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Elements side by side.
    width: u32,
    /// Those in a thread.
    pieces: u32,
    /// Threads of a row.
    lanes: u32,
    /// Rows of a block.
    rows: u32,
}

/// A warp a row where rows are many, so that nobody waits at a barrier; all that help where they
/// are few, so that each thread waits for memory once. `words` is the size of what is added up for
/// an element, in units of 16 bits.
fn tile(k: u32, words: u32, few: bool) -> Tile {
    let width = if k.is_multiple_of(8) { 8 } else { 1 };
    let all = k.div_ceil(width);
    let held = match few {
        true => 1,
        false => (HELD_MAX / width / words).max(1),
    };
    let lanes = all.div_ceil(held).next_multiple_of(32).min(THREADS_MAX);
    let rows = if few { 1 } else { (THREADS_USUAL / lanes).max(1) };
    Tile { width, pieces: all.div_ceil(lanes), lanes, rows }
}

pub(super) fn write(source: &Source, arch: Arch, sm_count: u32) -> Result<Written, NoKernel> {
    let number = |name| param(source, name);
    let (k, terms, tables) = (number("k")?, number("terms")?, number("tables")?);
    let (bias, sum, few) = (number("bias")?, number("sum")?, number("few")? != 0);
    let eps = source.param_f64("eps").filter(|it| it.is_finite());
    let eps = eps.ok_or_else(|| NoKernel::Wrong("`norm` needs an epsilon".into()))?;
    if !is_len(k) || terms == 0 || TERMS_MAX < terms as usize || 1 << terms <= tables {
        return Err(NoKernel::Wrong("a norm of nothing, or of too much".into()));
    }
    let dependent = 9 <= arch.major;
    let from = number("in")?;
    let tile = tile(k, terms * if from == 0 { 2 } else { 1 }, few);
    let values = [
        ("WORDS", i64::from(1 + terms)),
        ("IN", from.into()),
        ("OUT", number("out")?.into()),
        ("GAIN", number("gain")?.into()),
        ("K", k.into()),
        ("CENTRED", number("centred")?.into()),
        ("BIAS", bias.into()),
        ("TERMS", terms.into()),
        ("TABLES", tables.into()),
        ("SUM", sum.into()),
        ("WIDTH", tile.width.into()),
        ("PIECES", tile.pieces.into()),
        ("LANES", tile.lanes.into()),
        ("ROWS", tile.rows.into()),
        // More than one piece is not worth the registers.
        ("EARLY", i64::from(number("early")? != 0 && tile.pieces == 1)),
        ("PDL", dependent.into()),
    ];
    let threads = tile.lanes * tile.rows;
    let tiles = Axis::of(0, tile.rows);
    let geometry = Geometry::Walking { tiles, most: sm_count.max(1) * RESIDENT, each: 1 };
    let mut form = KernelForm::new("calor_norm", threads, geometry, 1 + terms);
    form.dependent = dependent;
    form.buffer_count = terms + tables.count_ones() + 1 + bias + 1 + sum;
    if tile.width == 8 {
        form.align_bytes = 16;
    }
    let eps = format!("#define CALOR_EPS {eps:?}f\n");
    Ok(Written { text: [&defines(&values), &eps, PRELUDE, ROWS, TEXT].concat(), form })
}

#[test]
fn rows_are_shared_out_by_how_many_they_are() {
    let few = tile(1024, 1, true);
    assert_eq!(few, Tile { width: 8, pieces: 1, lanes: 128, rows: 1 });
    let many = tile(1024, 1, false);
    assert_eq!(many, Tile { width: 8, pieces: 4, lanes: 32, rows: 8 });
    let odd = tile(77, 1, false);
    assert_eq!(odd, Tile { width: 1, pieces: 3, lanes: 32, rows: 8 });
    for k in [1, 7, 32, 1000, 4096, HELD_MAX * THREADS_MAX] {
        for (few, words) in [(true, 1), (false, 1), (false, 6)] {
            let tile = tile(k, words, few);
            assert!(k <= tile.width * tile.pieces * tile.lanes, "{k} {tile:?}");
            assert!(tile.width * tile.pieces <= HELD_MAX, "{k} {tile:?}");
            assert!(tile.lanes * tile.rows <= THREADS_MAX, "{k} {tile:?}");
        }
    }
}
