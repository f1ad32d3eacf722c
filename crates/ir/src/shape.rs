//! Sizes of tensors: at most eight dimensions, fixed when the graph is built.

use std::fmt;

/// Most dimensions that a tensor may have.
pub const RANK_MAX: usize = 8;

/// Most elements that a tensor may have.
pub const ELEMENT_COUNT_MAX: usize = 1 << 40;

/// Sizes of a tensor's dimensions, outermost first. Row-major order is implied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    sizes: [usize; RANK_MAX],
    rank: u8,
}

impl Shape {
    /// The shape of a single number.
    pub const SCALAR: Self = Self { sizes: [0; RANK_MAX], rank: 0 };

    /// A shape with these sizes, or nothing when there are too many dimensions or elements.
    pub fn try_new(sizes: &[usize]) -> Option<Self> {
        if RANK_MAX < sizes.len() {
            return None;
        }
        // An empty dimension does not excuse absurd ones beside it: strides must not overflow.
        let mut count = 1_usize;
        for size in sizes.iter().filter(|it| **it != 0) {
            count = count.checked_mul(*size).filter(|it| *it <= ELEMENT_COUNT_MAX)?;
        }
        let mut all = [0; RANK_MAX];
        all[..sizes.len()].copy_from_slice(sizes);
        Some(Self { sizes: all, rank: sizes.len() as u8 })
    }

    /// A shape with these sizes.
    ///
    /// # Panics
    /// When [`Shape::try_new`] would refuse them.
    #[track_caller]
    pub fn new(sizes: &[usize]) -> Self {
        Self::try_new(sizes).unwrap_or_else(|| panic!("{sizes:?} is no shape"))
    }

    /// The sizes, outermost first.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes[..self.rank as usize]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements; one for a scalar.
    pub fn element_count(&self) -> usize {
        self.sizes().iter().product()
    }

    /// Size of the innermost dimension; one for a scalar.
    pub fn last(&self) -> usize {
        self.sizes().last().copied().unwrap_or(1)
    }

    /// Distance in elements between neighbours along each dimension.
    pub fn strides(&self) -> [usize; RANK_MAX] {
        let mut strides = [0; RANK_MAX];
        let mut step = 1;
        for axis in (0..self.rank()).rev() {
            strides[axis] = step;
            step *= self.sizes[axis];
        }
        strides
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, size) in self.sizes().iter().enumerate() {
            if axis > 0 {
                f.write_str(",")?;
            }
            write!(f, "{size}")?;
        }
        f.write_str("]")
    }
}

#[test]
fn strides_are_row_major() {
    let shape = Shape::new(&[2, 3, 4]);
    assert_eq!(shape.strides()[..3], [12, 4, 1]);
    assert_eq!(shape.element_count(), 24);
    assert_eq!(Shape::SCALAR.element_count(), 1);
    assert_eq!(shape.to_string(), "[2,3,4]");
}

#[test]
fn absurd_sizes_are_refused() {
    assert!(Shape::try_new(&[usize::MAX, 2]).is_none());
    assert!(Shape::try_new(&[1; 9]).is_none());
    assert!(Shape::try_new(&[1 << 41]).is_none());
    assert!(Shape::try_new(&[usize::MAX, 0]).is_none());
}
