//! Matrices in memory: rows of floats at a stride, read or written.
//!
//! A view is checked once, when it is made; kernels then walk it by pointer. Nothing here
//! computes.

use std::marker::PhantomData;

/// Rows of floats to read. A row is `col_count` floats; the next starts `stride` floats later.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    start: *const f32,
    row_count: usize,
    col_count: usize,
    stride: usize,
    life: PhantomData<&'a [f32]>,
}

// SAFETY: a `Rows` only reads, as `&[f32]` does.
unsafe impl Send for Rows<'_> {}
// SAFETY: as above.
unsafe impl Sync for Rows<'_> {}

impl<'a> Rows<'a> {
    /// The first `row_count` rows of `values`.
    ///
    /// # Panics
    /// When `values` is too short, or rows would overlap.
    pub fn new(values: &'a [f32], row_count: usize, col_count: usize, stride: usize) -> Self {
        check_extent(values.len(), row_count, col_count, stride);
        Self { start: values.as_ptr(), row_count, col_count, stride, life: PhantomData }
    }

    /// Rows without gaps: `values: [row_count, col_count]`.
    ///
    /// # Panics
    /// When `values` has another size.
    pub fn dense(values: &'a [f32], row_count: usize, col_count: usize) -> Self {
        assert_eq!(values.len(), row_count * col_count);
        Self::new(values, row_count, col_count, col_count)
    }

    /// Rows at an address, for buffers that are carved up elsewhere.
    ///
    /// # Safety
    /// Each row is readable for `'a`, and no one writes it meanwhile except a kernel that says
    /// that its input may be its output.
    pub unsafe fn from_raw(
        start: *const f32,
        row_count: usize,
        col_count: usize,
        stride: usize,
    ) -> Self {
        Self { start, row_count, col_count, stride, life: PhantomData }
    }

    /// Number of rows.
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// Floats in a row.
    pub fn col_count(&self) -> usize {
        self.col_count
    }

    /// Floats from one row's start to the next one's.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Address of a row; readable for `col_count` floats.
    #[inline(always)]
    pub(crate) fn row(&self, row_index: usize) -> *const f32 {
        debug_assert!(row_index < self.row_count);
        self.start.wrapping_add(row_index * self.stride)
    }
}

/// Rows of floats to write; otherwise as [`Rows`].
#[derive(Debug)]
pub struct RowsMut<'a> {
    start: *mut f32,
    row_count: usize,
    col_count: usize,
    stride: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow of floats, which may move between threads.
unsafe impl Send for RowsMut<'_> {}
// SAFETY: sharing it gives addresses only; the kernels that write through them promise that no
// two tasks touch the same float.
unsafe impl Sync for RowsMut<'_> {}

impl<'a> RowsMut<'a> {
    /// The first `row_count` rows of `values`.
    ///
    /// # Panics
    /// When `values` is too short, or rows would overlap.
    pub fn new(values: &'a mut [f32], row_count: usize, col_count: usize, stride: usize) -> Self {
        check_extent(values.len(), row_count, col_count, stride);
        Self { start: values.as_mut_ptr(), row_count, col_count, stride, life: PhantomData }
    }

    /// Rows without gaps: `values: [row_count, col_count]`.
    ///
    /// # Panics
    /// When `values` has another size.
    pub fn dense(values: &'a mut [f32], row_count: usize, col_count: usize) -> Self {
        assert_eq!(values.len(), row_count * col_count);
        Self::new(values, row_count, col_count, col_count)
    }

    /// Rows at an address, for buffers that are carved up elsewhere.
    ///
    /// # Safety
    /// Each row is writable for `'a` and nobody else uses it meanwhile, except as the input of
    /// a kernel that says that its input may be its output.
    pub unsafe fn from_raw(
        start: *mut f32,
        row_count: usize,
        col_count: usize,
        stride: usize,
    ) -> Self {
        Self { start, row_count, col_count, stride, life: PhantomData }
    }

    /// The same rows, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> RowsMut<'_> {
        let Self { start, row_count, col_count, stride, life: _ } = *self;
        RowsMut { start, row_count, col_count, stride, life: PhantomData }
    }

    /// Number of rows.
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// Floats in a row.
    pub fn col_count(&self) -> usize {
        self.col_count
    }

    /// Floats from one row's start to the next one's.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Address of a row; writable for `col_count` floats.
    #[inline(always)]
    pub(crate) fn row(&self, row_index: usize) -> *mut f32 {
        debug_assert!(row_index < self.row_count);
        self.start.wrapping_add(row_index * self.stride)
    }
}

/// What a kernel reads that can also work in place.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Rows of the result's shape.
    Rows(Rows<'a>),
    /// What stands in the result's place.
    InPlace,
}

impl Input<'_> {
    /// Asserts that it has the result's shape.
    pub(crate) fn check(&self, out: &RowsMut<'_>) {
        if let Self::Rows(rows) = self {
            assert_eq!(rows.row_count, out.row_count);
            assert_eq!(rows.col_count, out.col_count);
        }
    }

    /// Address of a row of the result's shape.
    #[inline(always)]
    pub(crate) fn row(&self, out: &RowsMut<'_>, row_index: usize) -> *const f32 {
        match self {
            Self::Rows(rows) => rows.row(row_index),
            Self::InPlace => out.row(row_index).cast_const(),
        }
    }
}

/// Floats that several tasks write, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: it is an address; whoever writes through it promises that parts are disjoint.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(values: &mut [T]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The address `offset` items on.
    #[inline(always)]
    pub(crate) fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// Floats that start on a cache line, so that no vector load crosses one.
pub struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Aligned {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is sixteen floats without padding and there are lines for `len`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: `Line` is sixteen floats without padding and there are lines for `len`.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

fn check_extent(len: usize, row_count: usize, col_count: usize, stride: usize) {
    if row_count == 0 {
        return;
    }
    assert!(row_count == 1 || col_count <= stride, "rows of {col_count} at {stride} overlap");
    let extent = (row_count - 1).checked_mul(stride).and_then(|it| it.checked_add(col_count));
    assert!(extent.is_some_and(|it| it <= len), "{row_count} rows at {stride} in {len} floats");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_needs_no_gap() {
        let rows = Rows::new(&[0.0; 8], 2, 3, 5);
        assert_eq!((rows.row_count(), rows.col_count(), rows.stride()), (2, 3, 5));
    }

    #[test]
    #[should_panic(expected = "2 rows at 5 in 7 floats")]
    fn short_slices_are_refused() {
        Rows::new(&[0.0; 7], 2, 3, 5);
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_rows_are_refused() {
        RowsMut::new(&mut [0.0; 7], 2, 3, 2);
    }

    #[test]
    fn aligned_floats_start_on_a_line() {
        let floats = Aligned::zeros(17);
        assert_eq!((floats.len(), floats.as_ptr().addr() % 64), (17, 0));
    }
}
