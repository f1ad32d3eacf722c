//! Index maps: where an element of a value is, in terms of a program's loops.
//!
//! A coordinate is affine in the loop variables, plus indices that come out of registers.

use calor_ir::Shape;
use calor_kernel::Reg;

/// Loop variables: seven outer ones, the step, the lane.
pub(super) const VAR_COUNT: usize = 9;
/// The step loop.
pub(super) const STEP: usize = 7;
/// The lane loop.
pub(super) const LANE: usize = 8;

/// One index out of a register: `scale * clamp(register, 0, extent - 1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Indirect {
    pub(super) index: Reg,
    pub(super) scale: i64,
    pub(super) extent: i64,
}

/// `Σ coef[v] * v + constant + Σ indirect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Coord {
    pub(super) coef: [i64; VAR_COUNT],
    pub(super) constant: i64,
    pub(super) indirect: Vec<Indirect>,
}

impl Coord {
    /// A loop variable.
    pub(super) fn var(var: usize) -> Self {
        let mut it = Self::default();
        it.coef[var] = 1;
        it
    }

    /// A number.
    pub(super) fn number(constant: i64) -> Self {
        Self { constant, ..Self::default() }
    }

    /// An index out of a register.
    pub(super) fn register(index: Reg, extent: usize) -> Self {
        let indirect = vec![Indirect { index, scale: 1, extent: extent as i64 }];
        Self { indirect, ..Self::default() }
    }

    /// `self * factor + addend`.
    pub(super) fn scaled(&self, factor: i64, addend: i64) -> Self {
        let mut it = self.clone();
        it.coef.iter_mut().for_each(|coef| *coef *= factor);
        it.constant = it.constant * factor + addend;
        it.indirect.iter_mut().for_each(|indirect| indirect.scale *= factor);
        it.indirect.retain(|indirect| indirect.scale != 0);
        it
    }

    /// `self + other`.
    pub(super) fn plus(&self, other: &Self) -> Self {
        let mut it = self.clone();
        for (coef, more) in it.coef.iter_mut().zip(&other.coef) {
            *coef += more;
        }
        it.constant += other.constant;
        it.indirect.extend(&other.indirect);
        it
    }

    /// Whether the variable occurs.
    pub(super) fn has(&self, var: usize) -> bool {
        self.coef[var] != 0
    }

    /// Whether it is a number.
    pub(super) fn is_number(&self) -> bool {
        self.coef == [0; VAR_COUNT] && self.indirect.is_empty()
    }
}

/// Coordinates of an element, one for each dimension.
pub(super) type Map = Vec<Coord>;

/// The coordinates in the source of a reshape, or nothing when they are not affine.
///
/// Dimensions are matched in groups of equal products. A group that has one dimension in the
/// source is a weighted sum; equal dimensions pass through; anything else needs a division.
pub(super) fn through_reshape(from: &Shape, to: &Shape, map: &Map) -> Option<Map> {
    let (from, to) = (from.sizes(), to.sizes());
    let mut out = Vec::with_capacity(from.len());
    let (mut i, mut j) = (0, 0);
    while i < from.len() || j < to.len() {
        let (i0, j0) = (i, j);
        let (mut left, mut right) = (1_usize, 1_usize);
        if i < from.len() {
            left *= from[i];
            i += 1;
        }
        if j < to.len() {
            right *= to[j];
            j += 1;
        }
        while left != right {
            if left < right && i < from.len() {
                left *= from[i];
                i += 1;
            } else if right < left && j < to.len() {
                right *= to[j];
                j += 1;
            } else {
                return None;
            }
        }
        // Trailing ones join the last group.
        if i == from.len() {
            j = to.len();
        }
        if j == to.len() && from[i..].iter().all(|size| *size == 1) {
            i = from.len();
        }
        out.extend(group_source(&from[i0..i], &to[j0..j], &map[j0..j])?);
    }
    Some(out)
}

/// Coordinates of one group of source dimensions, from those of as many elements of the result.
fn group_source(from: &[usize], to: &[usize], map: &[Coord]) -> Option<Vec<Coord>> {
    let real: Vec<usize> = (0..from.len()).filter(|at| from[*at] != 1).collect();
    let targets: Vec<usize> = (0..to.len()).filter(|at| to[*at] != 1).collect();
    let mut out = vec![Coord::number(0); from.len()];
    let linear = targets
        .iter()
        .fold(Coord::default(), |sum, at| sum.scaled(to[*at] as i64, 0).plus(&map[*at]));
    if let [only] = real.as_slice() {
        out[*only] = linear;
        return Some(out);
    }
    // Several source dimensions: they must be the same ones as in the result.
    let same =
        real.len() == targets.len() && real.iter().zip(&targets).all(|(a, b)| from[*a] == to[*b]);
    if same {
        for (at, target) in real.iter().zip(&targets) {
            out[*at] = map[*target].clone();
        }
        return Some(out);
    }
    if !linear.is_number() {
        return real.is_empty().then_some(out);
    }
    let mut rest = linear.constant;
    for (coord, size) in out.iter_mut().zip(from).rev() {
        *coord = Coord::number(rest % *size as i64);
        rest /= *size as i64;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(count: usize) -> Map {
        (0..count).map(Coord::var).collect()
    }

    fn check(from: &[usize], to: &[usize], want: Option<&[&[i64]]>) {
        let got = through_reshape(&Shape::new(from), &Shape::new(to), &vars(to.len()));
        let got =
            got.map(|map| map.iter().map(|it| it.coef[..to.len()].to_vec()).collect::<Vec<_>>());
        let want = want.map(|rows| rows.iter().map(|it| it.to_vec()).collect::<Vec<_>>());
        assert_eq!(got, want, "{from:?} as {to:?}");
    }

    #[test]
    fn splitting_a_dimension_is_a_weighted_sum() {
        check(&[5, 12], &[5, 3, 4], Some(&[&[1, 0, 0], &[0, 4, 1]]));
    }

    #[test]
    fn joining_dimensions_is_not_affine() {
        check(&[5, 3, 4], &[5, 12], None);
    }

    #[test]
    fn ones_come_and_go() {
        check(&[5, 7], &[5, 1, 7], Some(&[&[1, 0, 0], &[0, 0, 1]]));
        check(&[5, 1, 7], &[5, 7], Some(&[&[1, 0], &[0, 0], &[0, 1]]));
        check(&[1], &[], Some(&[&[]]));
        check(&[], &[1, 1], Some(&[]));
        check(&[5, 1], &[5], Some(&[&[1], &[0]]));
        check(&[5], &[5, 1], Some(&[&[1, 0]]));
        check(&[1, 5], &[5], Some(&[&[0], &[1]]));
    }
}
