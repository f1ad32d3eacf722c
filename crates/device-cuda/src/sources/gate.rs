//! The gate of a mixture of experts, and the choice of experts behind it.
//!
//! Parameters of `gate`: `d`, `e`, `temperature` and `smoothing`; of `top_k`: `e` and `k`.

use calor_kernel::Source;

use super::{NoKernel, PRELUDE, Written, defines, param};
use crate::arch::Arch;
use crate::form::{Axis, Geometry, KernelForm};

const GATE: &str = include_str!("../text/gate.cu");
const TOP_K: &str = include_str!("../text/top_k.cu");

/// Most experts: a lane for each.
pub(crate) const LANE_COUNT: u32 = 32;

/// What the layer norm of the gate adds to the variance.
const NORM_EPS: &str = "1e-5f";

pub(super) fn gate(source: &Source, arch: Arch) -> Result<Written, NoKernel> {
    let (d, e) = (param(source, "d")?, param(source, "e")?);
    let float = |name| {
        let value = source.param_f64(name).filter(|it| it.is_finite());
        value.ok_or_else(|| NoKernel::Wrong(format!("`gate` needs `{name}`")))
    };
    let (temperature, smoothing) = (float("temperature")?, float("smoothing")?);
    if d == 0 || !d.is_multiple_of(4) || e == 0 || LANE_COUNT < e || temperature <= 0.0 {
        return Err(NoKernel::Wrong("a gate that does not fit a warp".into()));
    }
    let values = [("D", i64::from(d)), ("E", e.into())];
    let floats = format!(
        "#define CALOR_COLD {:?}f\n#define CALOR_SMOOTHING {smoothing:?}f\n#define CALOR_EPS {}\n",
        1.0 / temperature,
        NORM_EPS
    );
    Ok(by_row("calor_gate", 1024, 1, 6, arch, &[&defines(&values), &floats], GATE))
}

pub(super) fn top_k(source: &Source, arch: Arch) -> Result<Written, NoKernel> {
    let (e, k) = (param(source, "e")?, param(source, "k")?);
    if LANE_COUNT < e || k == 0 || e < k {
        return Err(NoKernel::Wrong("a choice that does not fit a warp".into()));
    }
    let values = [("E", i64::from(e)), ("K", k.into())];
    Ok(by_row("calor_top_k", 256, 8, 3, arch, &[&defines(&values)], TOP_K))
}

/// A kernel whose blocks have so many rows each.
fn by_row(
    entry: &str,
    threads: u32,
    rows: u32,
    buffers: u32,
    arch: Arch,
    macros: &[&str],
    text: &str,
) -> Written {
    let dependent = 9 <= arch.major;
    let common = defines(&[("WORDS", 1), ("TYPE", 0), ("PDL", dependent.into())]);
    let geometry = Geometry::Tiles([Axis::of(0, rows), Axis::ONE, Axis::ONE]);
    let mut form = KernelForm::new(entry, threads, geometry, 1);
    form.dependent = dependent;
    form.align_bytes = 4;
    form.buffer_count = buffers;
    Written { text: [&common, &macros.concat(), PRELUDE, text].concat(), form }
}
