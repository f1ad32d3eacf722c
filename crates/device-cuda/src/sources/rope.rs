//! Rotary positions.
//!
//! Parameters: `d` (elements of a head), `dtype` and `interleaved` (a flag). Theta and the
//! direction are launch words, so one kernel serves every theta, forward and back. Words and
//! buffers are in `text/rope.cu`.

use calor_kernel::Source;

use super::{NoKernel, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Geometry, KernelForm};

const PRELUDE: &str = include_str!("../text/prelude.cu");
const TEXT: &str = include_str!("../text/rope.cu");

pub(super) fn write(source: &Source, arch: Arch) -> Result<Written, NoKernel> {
    let number = |name| param(source, name);
    let (d, dtype, interleaved) = (number("d")?, number("dtype")?, number("interleaved")?);
    if d == 0 || d % 2 != 0 || 2 < dtype || 1 < interleaved {
        return Err(NoKernel::Wrong("the heads of `rope` do not fit".into()));
    }
    let dependent = 9 <= arch.major;
    let values = [
        ("TYPE", i64::from(dtype)),
        ("WORDS", 5),
        ("D", d.into()),
        ("INTERLEAVED", interleaved.into()),
        ("PDL", dependent.into()),
    ];
    let geometry = Geometry::Points {
        extent_count: 2,
        items_per_point: d / 2,
        items_per_group: 256,
        groups_max: 2048,
    };
    let mut form = KernelForm::new("calor_rope", 256, geometry, 5);
    form.buffer_count = 3;
    form.dependent = dependent;
    Ok(Written { text: [&defines(&values), PRELUDE, TEXT].concat(), form })
}
