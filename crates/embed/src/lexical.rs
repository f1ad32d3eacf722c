//! E6 of the mini profile: a sparse vector from the text's own ids.
//!
//! Untrained: a term weighs ln(1 + how often it occurs), and no term that is not written gets a
//! weight. It stands in for a trained expansion where none is loaded, and says so by its name.

use crate::embedding::SparseVector;
use crate::error::EmbeddingResult;

/// The lexical weights of a text: one element per distinct id, ln(1 + count).
///
/// `ids` are the text's tokens without those that the tokenizer added; ids in `special` are left
/// out too (a text may spell them).
///
/// # Errors
/// None for ids from a tokenizer; the vector's own rules hold by construction.
pub fn lexical_vector(ids: &[u32], special: &[u32]) -> EmbeddingResult<SparseVector> {
    let mut sorted: Vec<u32> = ids.iter().copied().filter(|it| !special.contains(it)).collect();
    sorted.sort_unstable();
    let (indices, values) = sorted
        .chunk_by(|a, b| a == b)
        .map(|run| (run[0], (run.len() as f64).ln_1p() as f32))
        .unzip();
    SparseVector::new(indices, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ids: &[u32], special: &[u32], indices: &[u32], counts: &[f64]) {
        let got = lexical_vector(ids, special).unwrap();
        let values: Vec<f32> = counts.iter().map(|it| (1.0 + it).ln() as f32).collect();
        assert_eq!((got.indices(), got.values()), (indices, &values[..]), "for {ids:?}");
    }

    #[test]
    fn weights_grow_with_the_logarithm_of_the_count() {
        check(&[7, 3, 7, 7], &[], &[3, 7], &[1.0, 3.0]);
        check(&[101, 7, 102], &[101, 102], &[7], &[1.0]);
        check(&[], &[], &[], &[]);
    }
}
