//! Pooling: one row from each segment of rows.

use super::{for_rows, map};
use crate::{
    simd::{Kernel, Level, Simd},
    threads::{Pool, TaskPanicked},
    view::{Rows, RowsMut},
};

/// How a segment becomes a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Mean of the rows.
    Mean,
    /// Largest in each column.
    Max,
    /// Sum of the rows, in order.
    Sum,
    /// The first row.
    First,
    /// The last row.
    Last,
}

/// Row `n` of `out` is pooled from the rows `[lo[n], hi[n])` of `input`; zeros from none.
///
/// Shapes: `input: [rows, d]`, `lo` and `hi: [segments]`, `out: [segments, d]`.
///
/// # Errors
/// [`TaskPanicked`], which would be a bug here.
///
/// # Panics
/// When shapes differ or a segment lies outside the rows.
pub fn pool(
    level: Level,
    threads: &Pool,
    pooling: Pooling,
    input: Rows<'_>,
    lo: &[i32],
    hi: &[i32],
    out: RowsMut<'_>,
) -> Result<(), TaskPanicked> {
    let segments = out.row_count();
    assert_eq!((lo.len(), hi.len()), (segments, segments));
    assert_eq!(input.col_count(), out.col_count());
    let rows = input.row_count();
    let is_inside = |(lo, hi): (&i32, &i32)| 0 <= *lo && lo <= hi && *hi as usize <= rows;
    assert!(lo.iter().zip(hi).all(is_inside), "a segment lies outside the {rows} rows");
    let row_floats = input.col_count() * (rows / segments.max(1)).max(1);
    for_rows(threads, segments, row_floats, |first, end| {
        level.run(Part { pooling, input, lo, hi, out: &out, first, end });
    })
}

struct Part<'a> {
    pooling: Pooling,
    input: Rows<'a>,
    lo: &'a [i32],
    hi: &'a [i32],
    out: &'a RowsMut<'a>,
    first: usize,
    end: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { pooling, input, lo, hi, out, first, end } = self;
        let d = out.col_count();
        for segment in first..end {
            let (lo, hi) = (lo[segment] as usize, hi[segment] as usize);
            let to = out.row(segment);
            let so_far = to.cast_const();
            // SAFETY: rows of `d` floats; only this task touches this row of the result.
            unsafe {
                if lo == hi {
                    map(
                        simd,
                        d,
                        [so_far],
                        to,
                        #[inline(always)]
                        |[_]| simd.splat(0.0),
                    );
                    continue;
                }
                let start = if pooling == Pooling::Last { hi - 1 } else { lo };
                map(
                    simd,
                    d,
                    [input.row(start)],
                    to,
                    #[inline(always)]
                    |[x]| x,
                );
                match pooling {
                    Pooling::First | Pooling::Last => {}
                    Pooling::Max => {
                        for row in lo + 1..hi {
                            map(
                                simd,
                                d,
                                [so_far, input.row(row)],
                                to,
                                #[inline(always)]
                                |[a, b]| simd.max(a, b),
                            );
                        }
                    }
                    Pooling::Sum | Pooling::Mean => {
                        for row in lo + 1..hi {
                            map(
                                simd,
                                d,
                                [so_far, input.row(row)],
                                to,
                                #[inline(always)]
                                |[a, b]| simd.add(a, b),
                            );
                        }
                    }
                }
                if pooling == Pooling::Mean {
                    let factor = simd.splat(1.0 / (hi - lo) as f32);
                    map(
                        simd,
                        d,
                        [so_far],
                        to,
                        #[inline(always)]
                        |[x]| simd.mul(x, factor),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close};

    #[test]
    fn each_pooling() {
        let threads = Pool::new(2).unwrap();
        let (lo, hi) = ([0, 3, 3, 4, 0], [3, 3, 4, 40, 40]);
        for level in Level::available() {
            for d in [1, 8, 37] {
                let x = Sample::new(8).floats(40 * d);
                for pooling in
                    [Pooling::Mean, Pooling::Max, Pooling::Sum, Pooling::First, Pooling::Last]
                {
                    let mut want = Vec::new();
                    for (lo, hi) in lo.iter().zip(&hi) {
                        for c in 0..d {
                            let column: Vec<f64> =
                                (*lo..*hi).map(|row| f64::from(x[row as usize * d + c])).collect();
                            let sum: f64 = column.iter().sum();
                            want.push(match pooling {
                                _ if column.is_empty() => 0.0,
                                Pooling::Mean => sum / column.len() as f64,
                                Pooling::Max => column.iter().copied().fold(f64::MIN, f64::max),
                                Pooling::Sum => sum,
                                Pooling::First => column[0],
                                Pooling::Last => column[column.len() - 1],
                            });
                        }
                    }
                    let mut out = vec![9.0; 5 * d];
                    let (input, to) = (Rows::dense(&x, 40, d), RowsMut::dense(&mut out, 5, d));
                    pool(level, &threads, pooling, input, &lo, &hi, to).unwrap();
                    assert_close(&out, &want, 1e-6, &format!("{level:?} {pooling:?} {d}"));
                }
            }
        }
    }
}
