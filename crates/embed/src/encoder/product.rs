//! Products of a layer in each precision: what becomes of rows, weights and biases.

use calor_ir::{DType, GraphError, ValueId, nn};

use super::{Builder, Made};
use crate::precision::InferencePrecision;

impl Builder<'_> {
    /// `activation(x · wᵀ + bias)` with the parts of the weight and of the bias, all f32, below
    /// each other. What is made of weights alone is made once, when they are loaded.
    pub(super) fn product(
        &mut self,
        x: ValueId,
        weights: &[ValueId],
        biases: &[ValueId],
        activation: nn::Activation,
    ) -> Made {
        let rows = self.g.ty(x).dtype;
        let bias = match biases {
            [] => None,
            parts => Some(self.joined_as(parts, rows)?),
        };
        let codes = match self.precision {
            InferencePrecision::FP8 => DType::F8E4M3,
            InferencePrecision::INT8 => DType::I8,
            InferencePrecision::TF32 => {
                let weight = self.joined_as(weights, DType::F32)?;
                return nn::tf32_linear(&mut self.g, x, weight, bias, activation);
            }
            InferencePrecision::FP32 | InferencePrecision::FP16 | InferencePrecision::BF16 => {
                let weight = self.joined_as(weights, rows)?;
                return nn::linear(&mut self.g, x, weight, bias, activation);
            }
        };
        let quantized: Vec<nn::Quantized> = weights
            .iter()
            .map(|it| nn::quantize_rows(&mut self.g, *it, codes))
            .collect::<Result<_, GraphError>>()?;
        let of = |part: fn(&nn::Quantized) -> ValueId| quantized.iter().map(part).collect();
        let (parts, scales): (Vec<ValueId>, Vec<ValueId>) = (of(|it| it.codes), of(|it| it.scales));
        let weight = nn::Quantized { codes: self.joined(&parts)?, scales: self.joined(&scales)? };
        let x = nn::quantize_rows(&mut self.g, x, codes)?;
        nn::scaled_linear(&mut self.g, x, weight, bias, activation, rows)
    }

    fn joined_as(&mut self, parts: &[ValueId], dtype: DType) -> Made {
        let parts: Vec<ValueId> =
            parts.iter().map(|it| self.g.cast(*it, dtype)).collect::<Result<_, _>>()?;
        self.joined(&parts)
    }

    fn joined(&mut self, parts: &[ValueId]) -> Made {
        match parts {
            [one] => Ok(*one),
            parts => self.g.concat(0, parts),
        }
    }
}
