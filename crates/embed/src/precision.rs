//! Which type a model's products run in, and which models refuse which.
//!
//! A policy by role: linear layers, attention and the rows between them run in the narrow type,
//! with weights that are converted once, when they are loaded. Embeddings, gains of norms, sums,
//! pooling, maps of pooled vectors, the fusion and everything that leaves stay f32.

use std::fmt;

use calor_device::Signature;
use calor_ir::DType;
use calor_weights::Family;

use crate::error::{EmbeddingError, EmbeddingResult};

/// Precision modes for inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InferencePrecision {
    /// 32-bit floats throughout.
    FP32,
    /// 16-bit floats: eleven digits, numbers up to 65,504.
    FP16,
    /// Brain floats: eight digits, the range of 32-bit floats.
    BF16,
    /// Bytes with scales.
    INT8,
}

impl InferencePrecision {
    /// Every precision, in declaration order.
    pub const ALL: [Self; 4] = [Self::FP32, Self::FP16, Self::BF16, Self::INT8];

    /// What the device's products are made for: BF16 on an NVIDIA GPU from compute capability
    /// 8.0, FP16 from 7.0, else FP32.
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

    /// Bytes of a number as a share of those in FP32.
    pub fn memory_factor(&self) -> f32 {
        match self {
            Self::FP32 => 1.0,
            Self::FP16 | Self::BF16 => 0.5,
            Self::INT8 => 0.25,
        }
    }

    /// As users and reports write it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::FP32 => "f32",
            Self::FP16 => "f16",
            Self::BF16 => "bf16",
            Self::INT8 => "int8",
        }
    }

    /// The type that a model's products run in.
    ///
    /// # Errors
    /// [`EmbeddingError::PrecisionRefused`] for FP16 of T5, and for INT8.
    pub fn dtype(self, model: &str, family: Family) -> EmbeddingResult<DType> {
        let refused = |why| {
            Err(EmbeddingError::PrecisionRefused { model: model.into(), precision: self, why })
        };
        match (self, family) {
            (Self::FP32, _) => Ok(DType::F32),
            (Self::BF16, _) => Ok(DType::BF16),
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
            ) => Ok(DType::F16),
            (Self::INT8, _) => refused("no model runs in int8 yet; use bf16, f16 or f32"),
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
        assert_eq!(P::ALL.map(|it| it.memory_factor()), [1.0, 0.5, 0.5, 0.25]);
        for precision in [P::FP32, P::FP16, P::BF16] {
            let bytes = precision.dtype("a model", Family::Bert).unwrap().size_bytes() as f32;
            assert_eq!(bytes / 4.0, precision.memory_factor(), "{precision}");
        }
    }

    #[test]
    fn what_overflows_is_refused_by_name() {
        let refused = |precision: P, family| precision.dtype("a-model", family).unwrap_err();
        assert_eq!(
            refused(P::FP16, Family::T5).to_string(),
            "a-model does not run in f16: its activations overflow f16; use bf16 or f32"
        );
        assert_eq!(P::BF16.dtype("a-model", Family::T5).unwrap(), DType::BF16);
        assert_eq!(P::FP16.dtype("a-model", Family::Qwen2).unwrap(), DType::F16);
        let int8 = refused(P::INT8, Family::Bert);
        assert!(matches!(int8, EmbeddingError::PrecisionRefused { precision: P::INT8, .. }));
    }
}
