//! Pooling of segments.
//!
//! Parameters: `d` (length of a row), `kind` (index in [`KINDS`]), `in` and `out` (types), `unit`
//! (whether the result is divided by its length) and `eps` (the least length).

use calor_kernel::Source;

use super::{NoKernel, PRELUDE, ROWS, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Axis, Geometry, KernelForm};

const TEXT: &str = include_str!("../text/pool.cu");

/// The kinds in the order of the text's numbers.
pub(crate) const KINDS: [&str; 6] = ["sum", "mean", "max", "min", "first", "last"];

/// Longest row: that of the shared memory that needs no asking.
pub(crate) const LEN_MAX: u32 = 8192;

const THREADS: u32 = 256;

pub(super) fn write(source: &Source, arch: Arch) -> Result<Written, NoKernel> {
    let number = |name| param(source, name);
    let (d, kind) = (number("d")?, number("kind")?);
    let eps = source.param_f64("eps").filter(|it| it.is_finite());
    let eps = eps.ok_or_else(|| NoKernel::Wrong("`pool` needs an epsilon".into()))?;
    if d == 0 || LEN_MAX < d || KINDS.len() <= kind as usize {
        return Err(NoKernel::Wrong("`pool` of no kind or length".into()));
    }
    let dependent = 9 <= arch.major;
    let folds = kind < 4;
    let split = if dependent && folds { 8 } else { 1 };
    let width = if d.is_multiple_of(8) { 8 } else { 1 };
    let values = [
        ("WORDS", 2),
        ("IN", i64::from(number("in")?)),
        ("OUT", number("out")?.into()),
        ("D", d.into()),
        ("KIND", kind.into()),
        ("UNIT", number("unit")?.into()),
        ("SPLIT", split.into()),
        ("THREADS", THREADS.into()),
        ("WIDTH", width.into()),
        ("PDL", dependent.into()),
    ];
    // The kernel names its own cluster; the launch must only be a multiple of it.
    let x = Axis { word: Some(0), per: 1, times: split };
    let geometry = Geometry::Tiles([x, Axis::ONE, Axis::ONE]);
    let mut form = KernelForm::new("calor_pool", THREADS, geometry, 2);
    form.shared_bytes = 4 * d * (THREADS / (d / width).min(THREADS));
    form.dependent = dependent;
    form.buffer_count = 4;
    if width == 8 {
        form.align_bytes = 16;
    }
    let eps = format!("#define CALOR_EPS {eps:?}f\n");
    Ok(Written { text: [&defines(&values), &eps, PRELUDE, ROWS, TEXT].concat(), form })
}
