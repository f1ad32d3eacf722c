//! Exact nearest neighbours: dense rows, sparse vectors and token matrices.
//!
//! Every row is looked at. Equal scores are ordered by index, so a ranking is the same on every
//! run.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::embedding::{SparseVector, TokenMatrix, dot, normalize_l2, require_finite, require_len};
use crate::error::{EmbeddingError, EmbeddingResult};

/// A row and how near it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Its place.
    pub row_index: usize,
    /// Cosine, inner product or MaxSim: larger is nearer.
    pub score: f64,
}

/// Dense rows of norm 1 in memory, `[rows, dim]`.
#[derive(Clone, Debug)]
pub struct DenseIndex {
    rows: Vec<f32>,
    dim: usize,
}

impl DenseIndex {
    /// Scales each row to norm 1; rows of zeros stay zero and score 0.
    ///
    /// Shapes: `rows: [rows, dim]`.
    ///
    /// # Errors
    /// [`EmbeddingError::InvalidDimension`] for rows of no elements;
    /// [`EmbeddingError::DimensionMismatch`] for a broken last row;
    /// [`EmbeddingError::InvalidValue`].
    pub fn new(mut rows: Vec<f32>, dim: usize) -> EmbeddingResult<Self> {
        if dim == 0 {
            return Err(EmbeddingError::InvalidDimension { what: "index row", got_len: 0 });
        }
        require_len("index rows", rows.len().next_multiple_of(dim), rows.len())?;
        require_finite(&rows)?;
        rows.chunks_exact_mut(dim).for_each(normalize_l2);
        Ok(Self { rows, dim })
    }

    /// How many rows.
    pub fn row_count(&self) -> usize {
        self.rows.len() / self.dim
    }

    /// Elements of a row.
    pub fn dimension(&self) -> usize {
        self.dim
    }

    /// The `count` rows of largest cosine with `query`, nearest first.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`]; [`EmbeddingError::InvalidValue`].
    pub fn nearest(&self, query: &[f32], count: usize) -> EmbeddingResult<Vec<Hit>> {
        require_len("query", self.dim, query.len())?;
        require_finite(query)?;
        let mut unit = query.to_vec();
        normalize_l2(&mut unit);
        let scores = self.rows.chunks_exact(self.dim).map(|row| f64::from(dot(row, &unit)));
        Ok(top(scores, count))
    }
}

/// The `count` vectors of largest inner product with `query`, nearest first.
pub fn nearest_sparse(query: &SparseVector, rows: &[SparseVector], count: usize) -> Vec<Hit> {
    top(rows.iter().map(|row| query.dot(row)), count)
}

/// The `count` documents of largest MaxSim for `query`, nearest first.
///
/// # Errors
/// [`EmbeddingError::DimensionMismatch`] for a document of another row length.
pub fn nearest_max_sim(
    query: &TokenMatrix,
    documents: &[TokenMatrix],
    count: usize,
) -> EmbeddingResult<Vec<Hit>> {
    let scores: EmbeddingResult<Vec<f64>> = documents.iter().map(|it| query.max_sim(it)).collect();
    Ok(top(scores?.into_iter(), count))
}

/// The largest scores, largest first, equal ones by index. Memory: `count` hits.
fn top(scores: impl Iterator<Item = f64>, count: usize) -> Vec<Hit> {
    let mut heap: BinaryHeap<Worst> = BinaryHeap::new();
    for (row_index, score) in scores.enumerate() {
        let hit = Worst(Hit { row_index, score });
        if heap.len() < count {
            heap.push(hit);
        } else if heap.peek().is_some_and(|worst| hit < *worst) {
            heap.pop();
            heap.push(hit);
        }
    }
    heap.into_sorted_vec().into_iter().map(|it| it.0).collect()
}

/// Orders hits so that the worst is the greatest.
#[derive(Clone, Copy, PartialEq)]
struct Worst(Hit);

impl Eq for Worst {}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = other.0.score.total_cmp(&self.0.score);
        by_score.then(self.0.row_index.cmp(&other.0.row_index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scores: &[f64], count: usize, want: &[usize]) {
        let got: Vec<usize> =
            top(scores.iter().copied(), count).iter().map(|it| it.row_index).collect();
        assert_eq!(got, want, "the {count} best of {scores:?}");
    }

    #[test]
    fn the_best_come_first_and_ties_by_index() {
        check(&[0.1, 0.9, 0.5, 0.9, 0.2], 3, &[1, 3, 2]);
        check(&[0.5, 0.5, 0.5, 0.5], 2, &[0, 1]);
        check(&[0.5], 3, &[0]);
        check(&[0.5], 0, &[]);
        check(&[], 3, &[]);
        check(&[0.0, -0.1, -0.5], 2, &[0, 1]);
    }

    #[test]
    fn dense_rows_are_compared_by_angle() {
        let index = DenseIndex::new(vec![10.0, 0.0, 0.0, 2.0, 1.0, 1.0, 0.0, 0.0], 2).unwrap();
        let hits = index.nearest(&[0.0, 5.0], 4).unwrap();
        let order: Vec<usize> = hits.iter().map(|it| it.row_index).collect();
        assert_eq!(order, [1, 2, 0, 3]);
        assert!((hits[0].score - 1.0).abs() < 1e-6);
        assert!((hits[1].score - 0.5_f64.sqrt()).abs() < 1e-6);
        assert!(index.nearest(&[1.0], 1).is_err());
        assert!(index.nearest(&[f32::NAN, 1.0], 1).is_err());
        assert!(DenseIndex::new(vec![1.0; 3], 2).is_err());
        assert!(DenseIndex::new(vec![], 0).is_err());
        assert_eq!(DenseIndex::new(vec![], 2).unwrap().nearest(&[1.0, 0.0], 3).unwrap(), []);
    }

    #[test]
    fn sparse_vectors_and_token_matrices_rank() {
        let sparse = |index| SparseVector::new(vec![0, index], vec![0.1, 1.0]).unwrap();
        let rows = [sparse(3), sparse(5), sparse(9)];
        assert_eq!(nearest_sparse(&sparse(5), &rows, 1)[0].row_index, 1);
        let tokens = |rows: &[f32]| TokenMatrix::new(rows.to_vec(), 2).unwrap();
        let documents = [tokens(&[1.0, 0.0]), tokens(&[1.0, 0.0, 0.0, 1.0])];
        let hits = nearest_max_sim(&tokens(&[0.6, 0.8, 0.8, 0.6]), &documents, 2).unwrap();
        assert_eq!([hits[0].row_index, hits[1].row_index], [1, 0]);
        let other = TokenMatrix::new(vec![1.0], 1).unwrap();
        assert!(nearest_max_sim(&tokens(&[1.0, 0.0]), &[other], 1).is_err());
    }
}
