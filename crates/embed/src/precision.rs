//! Which precision a model's products run in, and which models and devices refuse which.
//!
//! A policy by role: linear layers run in the precision, attention and the rows between layers in
//! its type of rows, with weights that are converted once, when they are loaded. Embeddings, gains
//! of norms, sums, pooling, maps of pooled vectors, the fusion and everything that leaves stay f32.

mod convert;

use std::fmt;

use calor_device::{Claim, Signature};
use calor_ir::composite::{scaled_linear, tf32_linear};
use calor_ir::{Composite, DType};
use calor_runtime::Build;
use calor_weights::Family;

use crate::error::{EmbeddingError, EmbeddingResult};
pub use convert::PrecisionConvert;

/// Precision modes for inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InferencePrecision {
    /// 32-bit floats throughout.
    FP32,
    /// 32-bit floats whose layers multiply with eleven digits.
    TF32,
    /// 16-bit floats: eleven digits, numbers up to 65,504.
    FP16,
    /// Brain floats: eight digits, the range of 32-bit floats.
    BF16,
    /// Layers multiply floats of one byte: four digits, a scale for each row and each column of
    /// the product. Rows between them are brain floats.
    FP8,
    /// Layers multiply whole numbers of one byte, with scales and rows as FP8.
    INT8,
}

impl InferencePrecision {
    /// Every precision, in declaration order.
    pub const ALL: [Self; 6] =
        [Self::FP32, Self::TF32, Self::FP16, Self::BF16, Self::FP8, Self::INT8];

    /// What the device's products are made for: BF16 on an NVIDIA GPU from compute capability
    /// 8.0, FP16 from 7.0, else FP32. The others are never chosen for anyone.
    pub fn detect_optimal(device: &Signature) -> Self {
        let number = device.arch.strip_prefix("sm_").filter(|_| device.kind == "cuda");
        let number: Option<u32> =
            number.and_then(|it| it.trim_end_matches(char::is_alphabetic).parse().ok());
        match number {
            Some(80..) => Self::BF16,
            Some(70..) => Self::FP16,
            Some(_) | None => Self::FP32,
        }
    }

    /// Bytes of a weight of a layer as a share of those in FP32.
    pub fn memory_factor(&self) -> f32 {
        match self {
            Self::FP32 | Self::TF32 => 1.0,
            Self::FP16 | Self::BF16 => 0.5,
            Self::FP8 | Self::INT8 => 0.25,
        }
    }

    /// Whether products take numbers of one byte: what that costs depends on the model.
    pub fn is_narrow(self) -> bool {
        matches!(self, Self::FP8 | Self::INT8)
    }

    /// The least cosine that a vector may have to the one in FP32, and a program of one size to one
    /// of another: the fewer digits products have, the more of a difference rounding makes.
    pub const fn cosine_min(self) -> f64 {
        match self {
            Self::FP32 => 0.99999,
            Self::TF32 => 0.9999,
            Self::FP16 | Self::BF16 => 0.999,
            Self::FP8 | Self::INT8 => 0.99,
        }
    }

    /// As users and reports write it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::FP32 => "f32",
            Self::TF32 => "tf32",
            Self::FP16 => "f16",
            Self::BF16 => "bf16",
            Self::FP8 => "fp8",
            Self::INT8 => "int8",
        }
    }

    /// The type of the rows between a model's layers, in which attention runs.
    pub const fn rows(self) -> DType {
        match self {
            Self::FP32 | Self::TF32 => DType::F32,
            Self::FP16 => DType::F16,
            Self::BF16 | Self::FP8 | Self::INT8 => DType::BF16,
        }
    }

    /// The product that only some devices have code for, in the precisions that have one.
    fn special(self) -> Option<&'static Composite> {
        match self {
            Self::FP32 | Self::FP16 | Self::BF16 => None,
            Self::TF32 => Some(&tf32_linear::TF32_LINEAR),
            Self::FP8 => Some(&scaled_linear::FP8_LINEAR),
            Self::INT8 => Some(&scaled_linear::INT8_LINEAR),
        }
    }

    /// Whether products are those of the type of the rows.
    pub(crate) fn is_plain(self) -> bool {
        self.special().is_none()
    }

    /// Whether a device with these claims has code of its own for the precision's products.
    /// Without any they would be computed by their definition, which is exact and slow.
    pub fn runs_with(self, claims: &[Claim]) -> bool {
        self.special().is_none_or(|product| claims.iter().any(|it| it.composite.is(product)))
    }

    /// Whether the device runs in the precision.
    ///
    /// # Errors
    /// [`EmbeddingError::PrecisionRefused`] in the device's name.
    pub fn check_device(self, build: &Build) -> EmbeddingResult<()> {
        match self.runs_with(build.claims()) {
            true => Ok(()),
            false => Err(EmbeddingError::PrecisionRefused {
                model: build.signature().model.clone(),
                precision: self,
                why: "the device has no such products; use bf16, f16 or f32",
            }),
        }
    }

    /// Whether a model's numbers fit the precision.
    ///
    /// # Errors
    /// [`EmbeddingError::PrecisionRefused`] in the model's name: for FP16 of T5.
    pub fn check_model(self, model: &str, family: Family) -> EmbeddingResult<()> {
        let refused = |why| {
            Err(EmbeddingError::PrecisionRefused { model: model.into(), precision: self, why })
        };
        match (self, family) {
            // Published encoders of this family reach beyond 65,504 between their layers.
            (Self::FP16, Family::T5) => refused("its activations overflow f16; use bf16 or f32"),
            (
                Self::FP16,
                Family::Bert
                | Family::Roberta
                | Family::XlmRoberta
                | Family::DistilBert
                | Family::Mpnet
                | Family::Longformer
                | Family::Clip
                | Family::ModernBert
                | Family::Qwen2,
            )
            | (Self::FP32 | Self::TF32 | Self::BF16 | Self::FP8 | Self::INT8, _) => Ok(()),
        }
    }
}

impl fmt::Display for InferencePrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use calor_device::Driver;
    use calor_device::null::NullDriver;
    use calor_telemetry::{Counters, Null};

    use super::InferencePrecision as P;
    use super::*;

    #[track_caller]
    fn check(kind: &'static str, arch: &str, want: P) {
        let device = Signature {
            kind,
            model: "a machine".into(),
            arch: arch.into(),
            versions: Vec::new(),
            memory_bytes: 0,
            parallel_count: 1,
        };
        assert_eq!(P::detect_optimal(&device), want, "for {kind} {arch}");
    }

    #[test]
    fn the_best_precision_follows_the_architecture() {
        check("cuda", "sm_90a", P::BF16);
        check("cuda", "sm_121a", P::BF16);
        check("cuda", "sm_80", P::BF16);
        check("cuda", "sm_75", P::FP16);
        check("cuda", "sm_61", P::FP32);
        check("cpu", "x86_64", P::FP32);
        check("null", "sm_90a", P::FP32);
    }

    #[test]
    fn bytes_follow_the_precision() {
        let factors = [1.0, 1.0, 0.5, 0.5, 0.25, 0.25];
        assert_eq!(P::ALL.map(|it| it.memory_factor()), factors);
        for precision in [P::FP32, P::FP16, P::BF16] {
            let bytes = precision.rows().size_bytes() as f32;
            assert_eq!(bytes / 4.0, precision.memory_factor(), "{precision}");
        }
    }

    #[test]
    fn what_overflows_is_refused_by_name() {
        let refused = P::FP16.check_model("a-model", Family::T5).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "a-model does not run in f16: its activations overflow f16; use bf16 or f32"
        );
        P::BF16.check_model("a-model", Family::T5).unwrap();
        P::FP16.check_model("a-model", Family::Qwen2).unwrap();
    }

    #[test]
    fn what_a_device_cannot_multiply_is_refused_in_its_name() {
        let driver = NullDriver { claims: &[], memory_bytes: 0 };
        let device = driver.open(0).unwrap();
        let build = Build::new(device, 0, Arc::new(Counters::new()), Arc::new(Null));
        for precision in P::ALL {
            let want = precision.is_plain();
            match precision.check_device(&build) {
                Ok(()) => assert!(want, "{precision}"),
                Err(EmbeddingError::PrecisionRefused { model, .. }) => {
                    assert!(!want && model == build.signature().model, "{precision}");
                }
                Err(err) => panic!("{err}"),
            }
        }
    }
}
