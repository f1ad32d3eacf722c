//! Rotary positions: pairs of a head's floats turned by an angle.

use super::for_rows;
use crate::{
    simd::{Kernel, Level, Simd},
    threads::{Pool, TaskPanicked},
    view::{Input, Rows, RowsMut},
};

/// Which floats of a head make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `c` and `c + d/2`.
    Halves,
    /// `2 c` and `2 c + 1`.
    Neighbours,
}

/// Turns pair `c` of each head by the angle of the row's position.
///
/// Shapes: `input` and `out: [rows, heads × d]`, `cos` and `sin: [positions, d/2]`,
/// `positions: [rows]`.
pub struct Rope<'a> {
    /// What is turned.
    pub input: Input<'a>,
    /// Heads in a row.
    pub heads: usize,
    /// Cosines by position.
    pub cos: Rows<'a>,
    /// Sines by position.
    pub sin: Rows<'a>,
    /// Each row's position.
    pub positions: &'a [i32],
    /// Which floats make a pair.
    pub pairing: Pairing,
    /// Where the result goes.
    pub out: RowsMut<'a>,
}

impl Rope<'_> {
    /// Computes it.
    ///
    /// # Errors
    /// [`TaskPanicked`], which would be a bug here.
    ///
    /// # Panics
    /// When shapes differ or a position is not in the tables.
    pub fn run(self, level: Level, pool: &Pool) -> Result<(), TaskPanicked> {
        let (rows, width) = (self.out.row_count(), self.out.col_count());
        self.input.check(&self.out);
        let half = self.cos.col_count();
        assert_eq!(width, self.heads * 2 * half);
        assert_eq!(self.sin.col_count(), half);
        assert_eq!(self.positions.len(), rows);
        let count = self.cos.row_count().min(self.sin.row_count());
        let is_known = |it: &i32| usize::try_from(*it).is_ok_and(|it| it < count);
        assert!(self.positions.iter().all(is_known), "a position is beyond the tables' {count}");
        for_rows(pool, rows, width, |first, end| level.run(Part { rope: &self, first, end }))
    }
}

struct Part<'a> {
    rope: &'a Rope<'a>,
    first: usize,
    end: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { rope, first, end } = self;
        let half = rope.cos.col_count();
        for row in first..end {
            let position = rope.positions[row] as usize;
            let (cos, sin) = (rope.cos.row(position), rope.sin.row(position));
            for head in 0..rope.heads {
                let offset = head * 2 * half;
                let input = rope.input.row(&rope.out, row).wrapping_add(offset);
                let out = rope.out.row(row).wrapping_add(offset);
                // SAFETY: a head of `2 half` floats in and out, which only this task writes,
                // and `half` of each table.
                unsafe {
                    match rope.pairing {
                        Pairing::Halves => halves(simd, half, input, cos, sin, out),
                        Pairing::Neighbours => neighbours(half, input, cos, sin, out),
                    }
                }
            }
        }
    }
}

/// # Safety
/// `input` and `out` have `2 half` floats, the tables `half`. `input` may be `out`.
#[inline(always)]
unsafe fn halves<S: Simd>(
    simd: S,
    half: usize,
    input: *const f32,
    cos: *const f32,
    sin: *const f32,
    out: *mut f32,
) {
    for c in (0..half).step_by(S::LANES) {
        let count = S::LANES.min(half - c);
        // SAFETY: `count` floats are left of each; both are read before either is written.
        unsafe {
            let a = simd.load_part(input.wrapping_add(c), count);
            let b = simd.load_part(input.wrapping_add(half + c), count);
            let cos = simd.load_part(cos.wrapping_add(c), count);
            let sin = simd.load_part(sin.wrapping_add(c), count);
            let x = simd.sub(simd.mul(a, cos), simd.mul(b, sin));
            let y = simd.add(simd.mul(b, cos), simd.mul(a, sin));
            simd.store_part(out.wrapping_add(c), x, count);
            simd.store_part(out.wrapping_add(half + c), y, count);
        }
    }
}

/// # Safety
/// As [`halves`].
#[inline(always)]
unsafe fn neighbours(
    half: usize,
    input: *const f32,
    cos: *const f32,
    sin: *const f32,
    out: *mut f32,
) {
    for c in 0..half {
        // SAFETY: pair `c`; both are read before either is written.
        unsafe {
            let (a, b) = (*input.wrapping_add(2 * c), *input.wrapping_add(2 * c + 1));
            let (cos, sin) = (*cos.wrapping_add(c), *sin.wrapping_add(c));
            *out.wrapping_add(2 * c) = a * cos - b * sin;
            *out.wrapping_add(2 * c + 1) = b * cos + a * sin;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close};

    fn check(pairing: Pairing, half: usize, is_in_place: bool) {
        let pool = Pool::new(2).unwrap();
        let (rows, heads, stride) = (9, 3, 6 * half + 4);
        let mut sample = Sample::new(half as u64);
        let x = sample.floats(rows * stride);
        let (cos, sin) = (sample.floats(20 * half), sample.floats(20 * half));
        let positions: Vec<i32> = (0..rows).map(|_| sample.below(20) as i32).collect();
        let mut want: Vec<f64> = x.iter().map(|it| f64::from(*it)).collect();
        for (row, position) in positions.iter().enumerate() {
            for head in 0..heads {
                for c in 0..half {
                    let at = row * stride + head * 2 * half;
                    let (i, j) = match pairing {
                        Pairing::Halves => (at + c, at + half + c),
                        Pairing::Neighbours => (at + 2 * c, at + 2 * c + 1),
                    };
                    let table = *position as usize * half + c;
                    let (cos, sin) = (f64::from(cos[table]), f64::from(sin[table]));
                    let (a, b) = (want[i], want[j]);
                    (want[i], want[j]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
        for level in Level::available() {
            let mut out = x.clone();
            let input = Rows::new(&x, rows, 6 * half, stride);
            let rope = Rope {
                input: if is_in_place { Input::InPlace } else { Input::Rows(input) },
                heads,
                cos: Rows::dense(&cos, 20, half),
                sin: Rows::dense(&sin, 20, half),
                positions: &positions,
                pairing,
                out: RowsMut::new(&mut out, rows, 6 * half, stride),
            };
            rope.run(level, &pool).unwrap();
            assert_close(&out, &want, 1e-6, &format!("{level:?} {pairing:?} {half}"));
        }
    }

    #[test]
    fn both_pairings() {
        for half in [1, 4, 8, 10, 32, 40] {
            for pairing in [Pairing::Halves, Pairing::Neighbours] {
                check(pairing, half, true);
                check(pairing, half, false);
            }
        }
    }
}
