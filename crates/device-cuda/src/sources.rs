//! Hand-written kernels by name: their text, the tiles that a rule chooses, how they are launched.

mod attention;
mod finish;
mod product;
mod quantize;

use calor_ir::DType;
use calor_kernel::{Activation, Source};

use crate::arch::Arch;
use crate::form::KernelForm;

pub(crate) use attention::{CORE_SIZES as ATTENTION_CORE_SIZES, SIZE_MAX as ATTENTION_SIZE_MAX};
pub(crate) use finish::finish;
pub(crate) use product::SKINNY_ROWS_MAX;
pub(crate) use quantize::QUANTIZED_LEN_MAX;

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

/// Number of codes in int8, as [`type_number`].
pub(crate) const INT8: u32 = 3;

/// Number of codes in fp8, as [`type_number`].
pub(crate) const E4M3: u32 = 4;

/// Number that stands for an activation in kernel text.
pub(crate) fn activation_number(activation: Activation) -> u32 {
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

/// The kernel of a source on a device of this architecture with so many multiprocessors.
pub(crate) fn write(source: &Source, arch: Arch, sm_count: u32) -> Result<Written, NoKernel> {
    match source.name {
        "attention" => attention::write(source, arch),
        "gemm_plain" | "gemm_mma" | "gemm_wgmma" | "gemm_skinny" => {
            product::write(source, arch, sm_count)
        }
        "quantize_rows" => quantize::write(source, arch),
        name => Err(NoKernel::Unsupported(format!("the source `{name}`"))),
    }
}

/// A parameter that is not negative.
fn param(source: &Source, name: &'static str) -> Result<u32, NoKernel> {
    let value = source.param(name).and_then(|it| u32::try_from(it).ok());
    value.ok_or_else(|| NoKernel::Wrong(format!("`{}` needs `{name}`", source.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::{Libraries, LibraryName, SearchPath};
    use crate::nvrtc::Nvrtc;

    #[expect(clippy::disallowed_methods, reason = "a test is told here where NVRTC is")]
    fn compiler() -> Option<Nvrtc> {
        let folder = std::env::var("CALOR_NVRTC").ok();
        let folder = folder.and_then(|it| std::path::Path::new(&it).parent().map(Into::into));
        let path = SearchPath { folders: folder.into_iter().collect() };
        Nvrtc::find(&Libraries::find(&[LibraryName::Nvrtc], &path)).ok()
    }

    fn product(name: &'static str, [rows, n, k]: [i64; 3], dtype: i64, rest: [i64; 3]) -> Source {
        let [activation, bias, residual] = rest;
        let params = vec![
            ("n", n),
            ("k", k),
            ("dtype", dtype),
            ("activation", activation),
            ("bias", bias),
            ("residual", residual),
            ("rows", rows),
        ];
        Source { name, params }
    }

    /// A product of codes of one byte with a result in bf16.
    fn scaled(name: &'static str, sizes: [i64; 3], codes: u32, rest: [i64; 3]) -> Source {
        let mut source = product(name, sizes, codes.into(), rest);
        source.params.push(("out", 2));
        source
    }

    fn quantize(k: i64, dtype: i64, codes: u32) -> Source {
        let params = vec![("k", k), ("dtype", dtype), ("codes", codes.into())];
        Source { name: "quantize_rows", params }
    }

    fn attention([rows, heads, kv_heads, d]: [i64; 4], dtype: i64, flags: [i64; 4]) -> Source {
        let [extra, bias, lse, cores] = flags;
        let params = vec![
            ("heads", heads),
            ("kv_heads", kv_heads),
            ("d", d),
            ("scale", 0.125_f64.to_bits().cast_signed()),
            ("extra", extra),
            ("bias", bias),
            ("lse", lse),
            ("reach", 128 * bias),
            ("dtype", dtype),
            ("rows", rows),
            ("cores", cores),
        ];
        Source { name: "attention", params }
    }

    /// One of each kind, with the forms that models have.
    fn samples() -> Vec<Source> {
        vec![
            product("gemm_plain", [300, 77, 35], 0, [2, 1, 1]),
            product("gemm_mma", [512, 3072, 768], 1, [2, 1, 0]),
            product("gemm_mma", [64, 768, 3072], 2, [0, 1, 1]),
            product("gemm_wgmma", [4096, 2304, 768], 2, [0, 1, 0]),
            product("gemm_wgmma", [512, 3072, 768], 2, [2, 1, 0]),
            product("gemm_wgmma", [256, 768, 3072], 1, [0, 1, 1]),
            product("gemm_skinny", [32, 3072, 768], 2, [2, 1, 0]),
            product("gemm_skinny", [8, 768, 3072], 1, [0, 1, 1]),
            product("gemm_mma", [512, 3072, 768], 0, [2, 1, 1]),
            scaled("gemm_mma", [512, 3072, 768], INT8, [2, 1, 0]),
            scaled("gemm_mma", [64, 768, 3072], E4M3, [0, 1, 1]),
            scaled("gemm_wgmma", [4096, 2304, 768], E4M3, [0, 1, 0]),
            scaled("gemm_wgmma", [256, 768, 3072], E4M3, [2, 1, 1]),
            quantize(1024, 2, E4M3),
            quantize(3080, 1, INT8),
            attention([300, 4, 2, 72], 0, [1, 1, 1, 0]),
            attention([32, 12, 12, 64], 2, [0, 0, 0, 1]),
            attention([2048, 12, 12, 64], 1, [0, 0, 0, 1]),
            attention([16384, 12, 12, 64], 2, [1, 0, 0, 1]),
            attention([16384, 12, 2, 128], 2, [0, 1, 1, 1]),
        ]
    }

    /// Whether an architecture has what the source asks for: a claim would not offer it else.
    fn is_offered(source: &Source, arch: Arch) -> bool {
        let number = |name| source.param(name).and_then(|it| u32::try_from(it).ok());
        let bf16 = number("dtype") == Some(2);
        match source.name {
            "gemm_mma" if number("dtype") == Some(E4M3) => arch.has_fp8(),
            "gemm_mma" if number("dtype") != Some(1) => 8 <= arch.major,
            "quantize_rows" if number("codes") == Some(E4M3) => arch.has_fp8(),
            "gemm_wgmma" => arch.has_wgmma(),
            "gemm_skinny" => 8 <= arch.major,
            _ => !bf16 || 8 <= arch.major,
        }
    }

    #[test]
    fn every_source_compiles_for_every_architecture() {
        let Some(nvrtc) = compiler() else {
            let line = "SKIPPED device-cuda::sources: CALOR_NVRTC is not set";
            return calor_testkit::skip(line);
        };
        for arch in Arch::ALL {
            for source in samples().iter().filter(|it| is_offered(it, arch)) {
                let written = write(source, arch, 132).unwrap_or_else(|err| panic!("{err:?}"));
                let image = nvrtc.compile(&written.text, arch);
                let image = image.unwrap_or_else(|log| panic!("{source:?} for {arch}: {}", log.0));
                assert!(written.form.shared_bytes <= 227 << 10, "{source:?}");
                let form = KernelForm { image, ..written.form };
                let again = KernelForm::from_bytes(&form.to_bytes());
                assert_eq!(again.unwrap_or_else(|err| panic!("{err}")), form);
            }
        }
    }

    #[test]
    fn what_a_claim_would_not_offer_is_refused() {
        let arch = Arch::of_device(8, 0);
        let wide = product("gemm_wgmma", [4096, 2304, 768], 2, [0, 1, 0]);
        assert!(matches!(write(&wide, arch, 108), Err(NoKernel::Unsupported(_))));
        let many = product("gemm_skinny", [65, 2304, 768], 2, [0, 1, 0]);
        assert!(matches!(write(&many, arch, 108), Err(NoKernel::Wrong(_))));
        let odd = attention([8, 3, 2, 64], 2, [0, 0, 0, 1]);
        assert!(matches!(write(&odd, arch, 108), Err(NoKernel::Wrong(_))));
        let unknown = Source { name: "tea", params: vec![] };
        assert!(matches!(write(&unknown, arch, 108), Err(NoKernel::Unsupported(_))));
    }
}
