//! Activations, elementwise, applied where a product's sums leave the registers.

use crate::simd::{Simd, erf, sigmoid, tanh};

/// A function of one float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x`.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x (1 + erf(x / √2)) / 2`.
    Gelu,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    GeluTanh,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `tanh x`.
    Tanh,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Relu,
        Self::Gelu,
        Self::GeluTanh,
        Self::QuickGelu,
        Self::Silu,
        Self::Tanh,
    ];

    /// Calls `user` with the function, so that a loop inside is compiled for each and does not
    /// decide per vector.
    #[inline(always)]
    pub(crate) fn with<S: Simd, U: ActivationUser<S>>(self, simd: S, user: U) {
        match self {
            Self::None => user.call(
                #[inline(always)]
                |x| x,
            ),
            Self::Relu => user.call(
                #[inline(always)]
                |x| simd.max(simd.splat(0.0), x),
            ),
            Self::Gelu => user.call(
                #[inline(always)]
                |x| {
                    let c = |value: f32| simd.splat(value);
                    let erf = erf(simd, simd.mul(x, c(std::f32::consts::FRAC_1_SQRT_2)));
                    let half = simd.mul(x, c(0.5));
                    simd.fma(half, erf, half)
                },
            ),
            Self::GeluTanh => user.call(
                #[inline(always)]
                |x| {
                    // (1 + tanh y) / 2 = sigmoid(2 y), and 2 √(2/π) = 1.5957…
                    let c = |value: f32| simd.splat(value);
                    let cubic =
                        simd.fma(simd.mul(x, x), c(0.044_715 * 1.595_769_2), c(1.595_769_2));
                    simd.mul(x, sigmoid(simd, simd.mul(x, cubic)))
                },
            ),
            Self::QuickGelu => user.call(
                #[inline(always)]
                |x| simd.mul(x, sigmoid(simd, simd.mul(x, simd.splat(1.702)))),
            ),
            Self::Silu => user.call(
                #[inline(always)]
                |x| simd.mul(x, sigmoid(simd, x)),
            ),
            Self::Tanh => user.call(
                #[inline(always)]
                |x| tanh(simd, x),
            ),
        }
    }

    /// The definition, for tests.
    #[cfg(test)]
    pub(crate) fn exact(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            Self::None => x,
            Self::Relu => x.max(0.0),
            Self::Gelu => {
                x * 0.5 * (1.0 + crate::simd::erf_exact(x * std::f64::consts::FRAC_1_SQRT_2))
            }
            Self::GeluTanh => {
                let y = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + y.tanh())
            }
            Self::QuickGelu => x * sigmoid(1.702 * x),
            Self::Silu => x * sigmoid(x),
            Self::Tanh => x.tanh(),
        }
    }
}

/// Something generic over the function that it applies.
pub(crate) trait ActivationUser<S: Simd> {
    /// Must be `#[inline(always)]`.
    fn call(self, f: impl Fn(S::F) -> S::F);
}
