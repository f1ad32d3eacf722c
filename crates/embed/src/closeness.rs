//! How close a model's vectors in a precision are to those in f32, and whether that is enough.

use crate::embedding::{cosine, l2_norm};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::precision::InferencePrecision;

/// A vector nearer to the mean than this share of its length is not compared without the mean:
/// what it differs in is below the rounding of bf16 too.
const SPREAD_MIN: f64 = 0.2;

/// Fewer vectors have no mean worth taking off.
const CENTRED_COUNT_MIN: usize = 4;

/// The least cosines of vectors to exact ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Closeness {
    /// Of the vectors as they are.
    pub plain: f64,
    /// With the exact vectors' mean taken off, so that what all have in common hides nothing; 1
    /// where there are fewer than four.
    pub centred: f64,
}

impl Closeness {
    /// Of vectors and exact ones, in the same order; each pair has one length.
    ///
    /// # Panics
    /// When their numbers or lengths differ: that is a bug in the caller.
    pub fn of(got: &[Vec<f32>], exact: &[Vec<f32>]) -> Self {
        assert_eq!(got.len(), exact.len());
        let mut least = Self { plain: 1.0, centred: 1.0 };
        for (got, exact) in got.iter().zip(exact) {
            least.plain = least.plain.min(cosine(got, exact));
        }
        if exact.len() < CENTRED_COUNT_MIN {
            return least;
        }
        let count = exact.len() as f32;
        let mean: Vec<f32> = (0..exact[0].len())
            .map(|at| exact.iter().map(|it| it[at]).sum::<f32>() / count)
            .collect();
        let centred =
            |it: &[f32]| -> Vec<f32> { it.iter().zip(&mean).map(|(a, b)| a - b).collect() };
        for (got, exact) in got.iter().zip(exact) {
            let (own, other) = (centred(got), centred(exact));
            if SPREAD_MIN * l2_norm(exact) <= l2_norm(&other) {
                least.centred = least.centred.min(cosine(&own, &other));
            }
        }
        least
    }

    /// The lesser of the two.
    pub fn least(&self) -> f64 {
        self.plain.min(self.centred)
    }

    /// Refuses a model that is further away than its precision promises.
    ///
    /// # Errors
    /// [`EmbeddingError::PrecisionTooFar`] with both figures.
    pub fn require(&self, model: &str, precision: InferencePrecision) -> EmbeddingResult<()> {
        let want = precision.cosine_min();
        // What is no number is not close.
        if self.least() >= want {
            return Ok(());
        }
        let (model, cosine) = (model.to_owned(), self.least());
        Err(EmbeddingError::PrecisionTooFar { model, precision, cosine, want })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact() -> Vec<Vec<f32>> {
        vec![vec![1.0, 0.5, 0.0], vec![1.0, -0.5, 0.0], vec![1.0, 0.0, 0.5], vec![1.0, 0.0, -0.5]]
    }

    #[test]
    fn equal_vectors_are_close() {
        let near = Closeness::of(&exact(), &exact());
        assert!(near.plain > 0.999_999 && near.centred > 0.999_999, "{near:?}");
        assert!(near.require("m", InferencePrecision::FP32).is_ok());
    }

    #[test]
    fn what_all_have_in_common_hides_nothing() {
        let mut got = exact();
        got[0] = vec![1.0, 0.5, 0.2];
        let near = Closeness::of(&got, &exact());
        assert!(near.plain > 0.98 && near.centred < 0.95, "{near:?}");
        match near.require("m", InferencePrecision::FP8) {
            Err(EmbeddingError::PrecisionTooFar { model, cosine, want, .. }) => {
                assert_eq!((model.as_str(), cosine, want), ("m", near.centred, 0.99));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn few_vectors_have_no_mean_and_what_is_no_number_is_far() {
        let near = Closeness::of(&exact()[..2], &exact()[..2]);
        assert_eq!(near.centred, 1.0);
        let far = Closeness { plain: f64::NAN, centred: f64::NAN };
        assert!(far.require("m", InferencePrecision::INT8).is_err());
    }
}
