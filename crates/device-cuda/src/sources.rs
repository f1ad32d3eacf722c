//! Hand-written kernels by name: their text, the tiles that a rule chooses, how they are launched.

mod attention;
mod digest;
mod experts;
mod few_rows;
mod finish;
mod gate;
#[cfg(test)]
mod keys;
mod nf4;
mod norm;
mod pool;
mod product;
mod quantize;
mod rope;
mod splade;

use calor_ir::DType;
use calor_kernel::{Activation, Source};

use crate::arch::Arch;
use crate::form::KernelForm;

pub(crate) use attention::{
    CORE_SIZES as ATTENTION_CORE_SIZES, FEW_ROWS_MAX as ATTENTION_FEW_ROWS_MAX,
    SIZE_MAX as ATTENTION_SIZE_MAX,
};
pub(crate) use experts::EXPERT_COUNT_MAX;
pub(crate) use few_rows::{ROWS_MAX as SKINNY_ROWS_MAX, folded_bytes};
pub(crate) use finish::finish;
pub(crate) use gate::LANE_COUNT;
pub(crate) use nf4::NF4_SKINNY_ROWS_MAX;
pub(crate) use norm::is_len as is_norm_len;
pub(crate) use norm::{ROWS_FEW as NORM_ROWS_FEW, TERMS_MAX as NORM_TERMS_MAX};
pub(crate) use pool::{KINDS as POOL_KINDS, LEN_MAX as POOL_LEN_MAX};
pub(crate) use quantize::QUANTIZED_LEN_MAX;
pub(crate) use splade::splade_parts_bytes;

const PRELUDE: &str = include_str!("text/prelude.cu");
const ROWS: &str = include_str!("text/rows.cu");

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
        "attention_rows" => attention::few(source, arch),
        "fold_norm" => few_rows::fold_norm(source),
        "gemm_skinny" => few_rows::write(source, arch, sm_count),
        "norm" => norm::write(source, arch, sm_count),
        "pool" => pool::write(source, arch),
        "gemm_plain" | "gemm_mma" | "gemm_wgmma" => product::write(source, arch, sm_count),
        "quantize_rows" => quantize::write(source, arch),
        "experts" => experts::write(source, arch, sm_count),
        "splade" => splade::write(source, arch, sm_count),
        "gate" => gate::gate(source, arch),
        "top_k" => gate::top_k(source, arch),
        "nf4_plain" | "nf4_mma" | "nf4_skinny" => nf4::write(source, arch, sm_count),
        "rope" => rope::write(source, arch),
        "digest_parts" => digest::write(source),
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

    fn product(name: &'static str, [rows, n, k]: [i64; 3], dtype: i64, rest: [i64; 3]) -> Source {
        let [activation, bias, residual] = rest;
        let mut params = vec![
            ("n", n),
            ("k", k),
            ("dtype", dtype),
            ("activation", activation),
            ("bias", bias),
            ("residual", residual),
            ("rows", rows),
        ];
        if name == "gemm_skinny" {
            params.extend([("norm", 0), ("eps", 0), ("normed", 0)]);
        }
        Source { name, params }
    }

    /// A product for few rows with its norm folded in.
    fn folded(extents: [i64; 3], activation: i64, [norm, normed]: [i64; 2]) -> Source {
        let mut source = product("gemm_skinny", extents, 2, [activation, 0, 0]);
        for (name, value) in &mut source.params {
            match *name {
                "norm" => *value = norm,
                "normed" => *value = normed,
                _ => {}
            }
        }
        source
    }

    fn fold_norm([n, k]: [i64; 2], dtype: i64, [shift, bias]: [i64; 2]) -> Source {
        let params = vec![("n", n), ("k", k), ("dtype", dtype), ("shift", shift), ("bias", bias)];
        Source { name: "fold_norm", params }
    }

    fn norm(
        [few, k]: [i64; 2],
        types: [i64; 3],
        flags: [i64; 3],
        [terms, tables]: [i64; 2],
    ) -> Source {
        let ([from, to, gain], [centred, bias, sum]) = (types, flags);
        let params = vec![
            ("k", k),
            ("in", from),
            ("out", to),
            ("gain", gain),
            ("centred", centred),
            ("bias", bias),
            ("eps", 1e-12_f64.to_bits().cast_signed()),
            ("terms", terms),
            ("tables", tables),
            ("sum", sum),
            ("early", 1),
            ("few", few),
        ];
        Source { name: "norm", params }
    }

    fn pool(d: i64, kind: i64, [from, to]: [i64; 2], unit: i64) -> Source {
        let eps = 1e-12_f64.to_bits().cast_signed();
        let params =
            vec![("d", d), ("kind", kind), ("in", from), ("out", to), ("unit", unit), ("eps", eps)];
        Source { name: "pool", params }
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

    fn attention_rows([heads, kv_heads, d]: [i64; 3], dtype: i64) -> Source {
        let params = vec![
            ("heads", heads),
            ("kv_heads", kv_heads),
            ("d", d),
            ("scale", 0.125_f64.to_bits().cast_signed()),
            ("dtype", dtype),
        ];
        Source { name: "attention_rows", params }
    }

    fn experts([rows, e, d, h, o]: [i64; 5], dtype: i64) -> Source {
        let params = vec![("e", e), ("d", d), ("h", h), ("o", o), ("dtype", dtype), ("rows", rows)];
        Source { name: "experts", params }
    }

    fn splade([rows, v, k]: [i64; 3], dtype: i64) -> Source {
        let params = vec![("v", v), ("k", k), ("dtype", dtype), ("rows", rows)];
        Source { name: "splade", params }
    }

    fn gate() -> Source {
        let bits = |it: f64| it.to_bits().cast_signed();
        let params =
            vec![("d", 8320), ("e", 8), ("temperature", bits(0.5)), ("smoothing", bits(0.01))];
        Source { name: "gate", params }
    }

    fn nf4(
        name: &'static str,
        [n, k]: [i64; 2],
        of: [i64; 3],
        more: &[(&'static str, i64)],
    ) -> Source {
        let [dtype, form, transposed] = of;
        let mut params =
            vec![("n", n), ("k", k), ("dtype", dtype), ("form", form), ("transposed", transposed)];
        params.extend(more);
        Source { name, params }
    }

    fn tiles([rows, columns, warpgroups, split]: [i64; 4]) -> [(&'static str, i64); 4] {
        [("row_tile", rows), ("column_tile", columns), ("warpgroups", warpgroups), ("split", split)]
    }

    fn rope(d: i64, dtype: i64, interleaved: i64) -> Source {
        let params = vec![("d", d), ("dtype", dtype), ("interleaved", interleaved)];
        Source { name: "rope", params }
    }

    /// One of each kind, with the forms that models have.
    pub(super) fn samples() -> Vec<Source> {
        vec![
            product("gemm_plain", [300, 77, 35], 0, [2, 1, 1]),
            product("gemm_mma", [512, 3072, 768], 1, [2, 1, 0]),
            product("gemm_mma", [64, 768, 3072], 2, [0, 1, 1]),
            product("gemm_wgmma", [4096, 2304, 768], 2, [0, 1, 0]),
            product("gemm_wgmma", [512, 3072, 768], 2, [2, 1, 0]),
            product("gemm_wgmma", [256, 768, 3072], 1, [0, 1, 1]),
            product("gemm_skinny", [32, 3072, 768], 2, [2, 1, 0]),
            product("gemm_skinny", [8, 768, 3072], 1, [0, 1, 1]),
            folded([32, 4096, 1024], 2, [1, 2]),
            folded([64, 1152, 384], 0, [2, 1]),
            folded([8, 3072, 768], 0, [1, 0]),
            fold_norm([3072, 768], 2, [1, 1]),
            fold_norm([384, 1536], 1, [0, 0]),
            norm([1, 1024], [2, 2, 0], [1, 1, 0], [1, 0]),
            norm([0, 768], [0, 1, 0], [1, 1, 0], [3, 7]),
            norm([1, 77], [1, 1, 1], [0, 0, 1], [2, 0]),
            pool(1024, 1, [1, 0], 1),
            pool(77, 2, [0, 0], 0),
            pool(384, 5, [1, 1], 1),
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
            attention_rows([12, 12, 64], 2),
            attention_rows([4, 2, 80], 1),
            attention_rows([2, 1, 8], 0),
            experts([1, 8, 8320, 4096, 1536], 0),
            experts([64, 8, 8320, 4096, 1536], 0),
            experts([300, 32, 72, 40, 8], 0),
            experts([16, 8, 8320, 4096, 1536], 1),
            experts([32, 8, 8320, 4096, 1536], 2),
            splade([32, 30522, 768], 2),
            splade([4096, 30522, 768], 2),
            splade([64, 30522, 768], 1),
            splade([32, 77, 40], 0),
            splade([4096, 30522, 768], 0),
            gate(),
            Source { name: "top_k", params: vec![("e", 8), ("k", 4)] },
            nf4("nf4_plain", [77, 35], [0, 2, 0], &[("lane_rows", 4)]),
            nf4("nf4_plain", [77, 35], [1, 0, 1], &[("lane_rows", 1)]),
            nf4("nf4_mma", [256, 1536], [2, 2, 0], &tiles([64, 64, 0, 1])),
            nf4("nf4_mma", [8960, 1536], [1, 1, 0], &tiles([128, 128, 0, 1])),
            nf4("nf4_mma", [1536, 8960], [1, 0, 1], &tiles([128, 64, 0, 1])),
            nf4("nf4_mma", [8960, 1536], [2, 1, 0], &tiles([256, 128, 2, 1])),
            nf4("nf4_mma", [1536, 8960], [1, 0, 1], &tiles([128, 128, 2, 8])),
            nf4("nf4_mma", [1536, 8960], [1, 0, 1], &tiles([64, 64, 0, 4])),
            nf4("nf4_skinny", [1536, 8960], [2, 0, 0], &[("row_tiles", 1), ("early", 1)]),
            nf4("nf4_skinny", [8960, 1536], [2, 1, 0], &[("row_tiles", 4), ("early", 1)]),
            nf4("nf4_skinny", [256, 1536], [1, 2, 0], &[("row_tiles", 8), ("early", 0)]),
            rope(128, 2, 0),
            rope(6, 0, 1),
            Source { name: "digest_parts", params: vec![("part_bytes", 1 << 20)] },
        ]
    }

    /// Whether an architecture has what the source asks for: a claim would not offer it else.
    fn is_offered(source: &Source, arch: Arch) -> bool {
        let number = |name| source.param(name).and_then(|it| u32::try_from(it).ok());
        let bf16 = ["dtype", "in", "out"].iter().any(|it| number(it) == Some(2));
        match source.name {
            "gemm_mma" if number("dtype") == Some(E4M3) => arch.has_fp8(),
            "gemm_mma" if number("dtype") != Some(1) => 8 <= arch.major,
            "quantize_rows" if number("codes") == Some(E4M3) => arch.has_fp8(),
            "gemm_wgmma" | "splade" => arch.has_wgmma(),
            "nf4_mma" if number("split") != Some(1) => arch.has_wgmma(),
            "nf4_mma" if number("warpgroups") == Some(2) => arch.has_wgmma(),
            "gemm_skinny" | "nf4_skinny" | "experts" => 8 <= arch.major,
            _ => !bf16 || 8 <= arch.major,
        }
    }

    #[test]
    fn every_source_compiles_for_every_architecture() {
        let Some(nvrtc) = crate::nvrtc::of_tests() else {
            let line = "SKIPPED device-cuda::sources: CALOR_NVRTC is not set";
            return calor_testkit::skip(line);
        };
        let check = |arch: Arch| {
            for source in samples().iter().filter(|it| is_offered(it, arch)) {
                let written = write(source, arch, 132).unwrap_or_else(|err| panic!("{err:?}"));
                let image = nvrtc.compile(&written.text, arch);
                let image = image.unwrap_or_else(|log| panic!("{source:?} for {arch}: {}", log.0));
                assert!(written.form.shared_bytes <= 227 << 10, "{source:?}");
                let form = KernelForm { image, ..written.form };
                let again = KernelForm::from_bytes(&form.to_bytes());
                assert_eq!(again.unwrap_or_else(|err| panic!("{err}")), form);
            }
        };
        // Every architecture on a thread of its own; a panic in one is the test's.
        std::thread::scope(|scope| {
            for arch in Arch::ALL {
                let check = &check;
                scope.spawn(move || check(arch));
            }
        });
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
        let across = nf4("nf4_mma", [64, 72], [2, 0, 0], &tiles([64, 64, 0, 1]));
        assert!(matches!(write(&across, arch, 108), Err(NoKernel::Wrong(_))));
        let unknown = Source { name: "tea", params: vec![] };
        assert!(matches!(write(&unknown, arch, 108), Err(NoKernel::Unsupported(_))));
    }
}
