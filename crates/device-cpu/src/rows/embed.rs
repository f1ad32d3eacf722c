//! Embedding tables: rows looked up by id, added, and normalised.

use super::{Norm, for_rows, map};
use crate::{
    simd::{Kernel, Level, Simd},
    threads::{Pool, TaskPanicked},
    view::{Rows, RowsMut},
};

/// A table and the row of it that each token takes.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// `[ids, d]`.
    pub table: Rows<'a>,
    /// `[tokens]`, each a row of the table.
    pub ids: &'a [i32],
}

/// `out = norm(Σ table[ids])`: tokens, positions and types, summed in this order.
///
/// Shapes: `out: [tokens, d]`.
pub struct Embed<'a> {
    /// At least one.
    pub lookups: &'a [Lookup<'a>],
    /// Applied to the sum.
    pub norm: Option<Norm<'a>>,
    /// Where the result goes.
    pub out: RowsMut<'a>,
}

impl Embed<'_> {
    /// Computes it.
    ///
    /// # Errors
    /// [`TaskPanicked`], which would be a bug here.
    ///
    /// # Panics
    /// When shapes differ, there is no table, or an id is not in its table.
    pub fn run(self, level: Level, pool: &Pool) -> Result<(), TaskPanicked> {
        let (tokens, d) = (self.out.row_count(), self.out.col_count());
        assert!(!self.lookups.is_empty());
        for Lookup { table, ids } in self.lookups {
            assert_eq!((ids.len(), table.col_count()), (tokens, d));
            let row_count = table.row_count();
            let is_row = |id: &i32| usize::try_from(*id).is_ok_and(|it| it < row_count);
            assert!(ids.iter().all(is_row), "an id is not in its table of {row_count} rows");
        }
        if let Some(norm) = self.norm {
            norm.check(d);
        }
        let row_floats = d * self.lookups.len();
        for_rows(pool, tokens, row_floats, |first, end| {
            level.run(Part { embed: &self, first, end });
        })
    }
}

struct Part<'a> {
    embed: &'a Embed<'a>,
    first: usize,
    end: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { embed, first, end } = self;
        let d = embed.out.col_count();
        for row in first..end {
            let out = embed.out.row(row);
            let found = |it: &Lookup<'_>| it.table.row(it.ids[row] as usize);
            // SAFETY: rows of `d` floats; only this task touches row `row` of the result.
            unsafe {
                map(
                    simd,
                    d,
                    [found(&embed.lookups[0])],
                    out,
                    #[inline(always)]
                    |[x]| x,
                );
                for lookup in &embed.lookups[1..] {
                    let inputs = [out.cast_const(), found(lookup)];
                    map(
                        simd,
                        d,
                        inputs,
                        out,
                        #[inline(always)]
                        |[a, b]| simd.add(a, b),
                    );
                }
                if let Some(norm) = embed.norm {
                    norm.row(simd, d, out, out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rows::Moments,
        sample::{Sample, assert_close},
    };

    #[test]
    fn tables_are_summed_and_normalised() {
        let pool = Pool::new(2).unwrap();
        let mut sample = Sample::new(2);
        for d in [5, 384] {
            let tokens = 50;
            let tables: Vec<Vec<f32>> = [9, 50, 2].map(|rows| sample.floats(rows * d)).into();
            let mut ids: Vec<Vec<i32>> = Vec::new();
            for end in [9, 50, 2] {
                ids.push((0..tokens).map(|_| sample.below(end) as i32).collect());
            }
            let lookups: Vec<Lookup<'_>> = [9, 50, 2]
                .iter()
                .zip(tables.iter().zip(&ids))
                .map(|(rows, (table, ids))| Lookup { table: Rows::dense(table, *rows, d), ids })
                .collect();
            for level in Level::available() {
                for norm in [
                    None,
                    Some(Norm {
                        moments: Moments::Layer,
                        weight: None,
                        bias: None,
                        epsilon: 1e-12,
                    }),
                ] {
                    let mut want = Vec::new();
                    for token in 0..tokens {
                        let row: Vec<f64> = (0..d)
                            .map(|c| {
                                let at = |t: usize| tables[t][ids[t][token] as usize * d + c];
                                (0..3).map(|t| f64::from(at(t))).sum()
                            })
                            .collect();
                        let mean = row.iter().sum::<f64>() / d as f64;
                        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
                        let is_plain = norm.is_none();
                        want.extend(
                            row.iter().map(|x| if is_plain { *x } else { (x - mean) / var.sqrt() }),
                        );
                    }
                    let mut out = vec![0.0; tokens * d];
                    let out_rows = RowsMut::dense(&mut out, tokens, d);
                    let embed = Embed { lookups: &lookups, norm, out: out_rows };
                    embed.run(level, &pool).unwrap();
                    assert_close(&out, &want, 1e-5, &format!("{level:?} {d}"));
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "an id is not in its table of 2 rows")]
    fn unknown_ids_are_refused() {
        let lookups = [Lookup { table: Rows::dense(&[0.0; 4], 2, 2), ids: &[-1] }];
        let mut out = [0.0; 2];
        let embed = Embed { lookups: &lookups, norm: None, out: RowsMut::dense(&mut out, 1, 2) };
        embed.run(Level::detect(), &Pool::new(1).unwrap()).unwrap();
    }
}
