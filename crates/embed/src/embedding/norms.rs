//! Lengths and angles of vectors.

use super::NORM_MIN;

/// Euclidean norm, summed in f64.
pub fn l2_norm(vector: &[f32]) -> f64 {
    // Sums beside each other, so that they need not wait for one another.
    let (whole, rest) = vector.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for chunk in whole {
        for (sum, it) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(*it) * f64::from(*it);
        }
    }
    let rest: f64 = rest.iter().map(|it| f64::from(*it).powi(2)).sum();
    (sums.iter().sum::<f64>() + rest).sqrt()
}

/// Scales to norm 1; below [`NORM_MIN`] the vector becomes zero.
pub fn normalize_l2(vector: &mut [f32]) {
    scale_to_norm(vector, 1.0);
}

/// Cosine of two vectors of one length, in f64; 0 where one has no direction.
///
/// # Panics
/// When the lengths differ: that is a bug in the caller.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());

    let norms = l2_norm(a) * l2_norm(b);
    if norms < NORM_MIN * NORM_MIN {
        return 0.0;
    }
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>() / norms
}

pub(super) fn scale_to_norm(vector: &mut [f32], norm: f64) {
    let now = l2_norm(vector);
    if now < NORM_MIN {
        vector.fill(0.0);
        return;
    }
    let factor = norm / now;
    for it in vector {
        *it = (f64::from(*it) * factor) as f32;
    }
}
