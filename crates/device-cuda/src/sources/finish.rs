//! What a product of the library leaves to do.

use calor_ir::DType;
use calor_kernel::Activation;

use super::{NoKernel, PRELUDE, Written, activation_number, defines, type_number};
use crate::form::{Axis, Geometry, KernelForm};

const TEXT: &str = include_str!("../text/finish.cu");

/// What ends a product that the library does not end itself.
pub(crate) fn finish(
    n: u32,
    dtype: DType,
    activation: Activation,
    residual: bool,
) -> Result<Written, NoKernel> {
    let Some(number) = type_number(dtype) else {
        return Err(NoKernel::Unsupported(format!("products of {}", dtype.name())));
    };
    let rows = [
        ("TYPE", i64::from(number)),
        ("WORDS", 3),
        ("N", i64::from(n)),
        ("ACTIVATION", i64::from(activation_number(activation))),
        ("RESIDUAL", i64::from(residual)),
    ];
    // Each block strides over what is left.
    let x = Axis { word: Some(0), per: 1, times: n.div_ceil(1024).max(1) };
    let geometry = Geometry::Tiles([x, Axis::ONE, Axis::ONE]);
    let mut form = KernelForm::new("calor_finish", 256, geometry, 3);
    form.buffer_count = 1 + u32::from(residual);
    Ok(Written { text: [&defines(&rows), PRELUDE, TEXT].concat(), form })
}
