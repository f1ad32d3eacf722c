//! Rows as codes of one byte with a scale each: one pass over the rows.
//!
//! Parameters: `k`, `dtype` (of the rows: f16 or bf16) and `codes`, the number of a product's type.

use calor_kernel::Source;

use super::{E4M3, INT8, NoKernel, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Axis, Geometry, KernelForm};

const PRELUDE: &str = include_str!("../text/prelude.cu");
const TEXT: &str = include_str!("../text/quantize_rows.cu");

/// Longest rows: a block of 1024 threads with four parts of eight numbers each.
pub(crate) const QUANTIZED_LEN_MAX: u32 = 32 << 10;

pub(super) fn write(source: &Source, arch: Arch) -> Result<Written, NoKernel> {
    let number = |name| param(source, name);
    let (k, dtype, codes) = (number("k")?, number("dtype")?, number("codes")?);
    let narrow = matches!(dtype, 1 | 2) && matches!(codes, INT8 | E4M3);
    if !narrow || k == 0 || !k.is_multiple_of(8) || QUANTIZED_LEN_MAX < k {
        return Err(NoKernel::Wrong("rows that are not quantized".into()));
    }
    if codes == E4M3 && !arch.has_fp8() {
        return Err(NoKernel::Unsupported(format!("fp8 on {arch}")));
    }
    let team = (k / 8).div_ceil(4).next_power_of_two().max(32);
    let rows = (256 / team).max(1);
    let dependent = 9 <= arch.major;
    let values = [
        ("TYPE", i64::from(dtype)),
        ("WORDS", 1),
        ("K", k.into()),
        ("CODES", codes.into()),
        ("TEAM", team.into()),
        ("ROWS", rows.into()),
        ("PDL", dependent.into()),
    ];
    let geometry = Geometry::Tiles([Axis::of(0, rows), Axis::ONE, Axis::ONE]);
    let mut form = KernelForm::new("calor_quantize_rows", team * rows, geometry, 1);
    form.buffer_count = 3;
    form.dependent = dependent;
    form.align_bytes = 16;
    Ok(Written { text: [&defines(&values), PRELUDE, TEXT].concat(), form })
}
