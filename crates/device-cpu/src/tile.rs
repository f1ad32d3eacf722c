//! The register tile: the one inner loop that every matrix product here ends in.
//!
//! Each sum runs over k in order, in one accumulator, from the value that was there. So a
//! product's bits do not depend on tile sizes, blocks of k, or the rows next to it.

use crate::simd::Simd;

/// Vectors that a panel of packed weights is wide.
pub(crate) const PANEL_VECTORS: usize = 2;

/// Most rows of a register tile at any level.
pub(crate) const TILE_ROWS_MAX: usize = 12;

/// An operand of which single floats are spread over a vector: row `i`, step `k` is
/// `start[i * row + k * step]`.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) start: *const f32,
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// `sums[i][p][v] += Σ_k a[i, k] b[p][k * b_step + v * LANES ..]`; with `PART` the last vector
/// of each panel has only `tail` lanes and no more is read.
///
/// # Safety
/// `a` is readable for `M` rows and `k_count` steps, each `b` for `k_count` steps of its width.
#[inline(always)]
pub(crate) unsafe fn multiply<
    S: Simd,
    const M: usize,
    const P: usize,
    const V: usize,
    const PART: bool,
>(
    simd: S,
    k_count: usize,
    a: Spread,
    b: [*const f32; P],
    b_step: usize,
    tail: usize,
    mut sums: [[[S::F; V]; P]; M],
) -> [[[S::F; V]; P]; M] {
    for k in 0..k_count {
        let mut right = [[simd.splat(0.0); V]; P];
        for p in 0..P {
            for (v, x) in right[p].iter_mut().enumerate() {
                let start = b[p].wrapping_add(k * b_step + v * S::LANES);
                *x = if PART && v + 1 == V {
                    // SAFETY: the last vector of step `k` has `tail` floats.
                    unsafe { simd.load_part(start, tail) }
                } else {
                    // SAFETY: step `k` is as wide as the vectors before the last.
                    unsafe { simd.load(start) }
                };
            }
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row `i` and step `k` are within what the caller promised.
            let left = simd.splat(unsafe { *a.start.wrapping_add(i * a.row + k * a.step) });
            for p in 0..P {
                for v in 0..V {
                    sums[p][v] = simd.fma(left, right[p][v], sums[p][v]);
                }
            }
        }
    }
    sums
}

/// `rows` as strips of nearly equal height, none above `strip_rows_max`: each strip's first row
/// and its rows. Even strips keep the accumulators busy where a rest would not.
#[inline(always)]
pub(crate) fn strips(rows: usize, strip_rows_max: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(strip_rows_max);
    let (each, longer) = (rows / count.max(1), rows % count.max(1));
    (0..count).scan(0, move |next, index| {
        let first = *next;
        let strip_rows = each + usize::from(index < longer);
        *next += strip_rows;
        Some((first, strip_rows))
    })
}

/// Evaluates the expression with `$m` the constant equal to `$rows`, which is in
/// `1..=S::TILE_ROWS`.
macro_rules! with_rows {
    ($s:ty, $rows:expr, $m:ident => $body:expr) => {
        $crate::tile::with_rows!(@ $s, $rows, $m => $body;
            1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@ $s:ty, $rows:expr, $m:ident => $body:expr; $($n:literal)*) => {
        match $rows {
            $( $n if $n <= <$s as $crate::simd::Simd>::TILE_ROWS => {
                const $m: usize = $n;
                $body
            } )*
            rows => unreachable!("{rows} rows in one tile"),
        }
    };
}
pub(crate) use with_rows;

const _: () = assert!(crate::simd::Scalar::TILE_ROWS <= TILE_ROWS_MAX);
#[cfg(target_arch = "x86_64")]
const _: () = assert!(crate::simd::Avx512::TILE_ROWS == TILE_ROWS_MAX);

#[cfg(test)]
mod tests {
    #[test]
    fn strips_are_even_and_complete() {
        for rows in 0..40 {
            let mut seen = Vec::new();
            for (first, count) in super::strips(rows, 6) {
                assert_eq!(first, seen.iter().sum::<usize>());
                seen.push(count);
            }
            assert_eq!(seen.iter().sum::<usize>(), rows);
            let spread = seen.iter().max().unwrap_or(&0) - seen.iter().min().unwrap_or(&0);
            assert!(spread <= 1 && seen.iter().all(|it| (1..=6).contains(it)), "{seen:?}");
        }
    }
}
