//! Hand-written kernels by name: their text and how they are launched.

use calor_ir::DType;
use calor_kernel::{Activation, Source};

use crate::arch::Arch;
use crate::form::{Axis, Geometry, KernelForm};

const PRELUDE: &str = include_str!("text/prelude.cu");
const FINISH: &str = include_str!("text/finish.cu");

/// Text, and the form that lacks only its machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) text: String,
    pub(crate) form: KernelForm,
}

/// Why there is no kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoKernel {
    /// Nothing here is called so, or not on this architecture.
    Unsupported(String),
    /// The parameters make no sense: a bug of whoever made the source.
    Wrong(String),
}

/// Number that stands for a type in kernel text.
pub(crate) fn type_number(dtype: DType) -> Option<u32> {
    match dtype {
        DType::F32 => Some(0),
        DType::F16 => Some(1),
        DType::BF16 => Some(2),
        _ => None,
    }
}

fn activation_number(activation: Activation) -> u32 {
    match activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::Gelu => 2,
        Activation::GeluTanh => 3,
        Activation::QuickGelu => 4,
        Activation::Silu => 5,
        Activation::Tanh => 6,
    }
}

/// Definitions in front of a text.
fn defines(rows: &[(&str, i64)]) -> String {
    rows.iter().map(|(name, value)| format!("#define CALOR_{name} {value}\n")).collect()
}

/// The kernel of a source.
pub(crate) fn write(source: &Source, _arch: Arch) -> Result<Written, NoKernel> {
    Err(NoKernel::Unsupported(format!("the source `{}`", source.name)))
}

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
    let form = KernelForm {
        entry: "calor_finish".into(),
        block: [256, 1, 1],
        // Each block strides over what is left.
        geometry: Geometry::Tiles([
            Axis { word: Some(0), per: 1, times: n.div_ceil(1024).max(1) },
            Axis::ONE,
            Axis::ONE,
        ]),
        shared_bytes: 0,
        cluster: 1,
        dependent: false,
        buffer_count: 1 + u32::from(residual),
        word_count: 3,
        live_words: vec![0, 1, 2],
        image: Vec::new(),
    };
    Ok(Written { text: [&defines(&rows), PRELUDE, FINISH].concat(), form })
}
