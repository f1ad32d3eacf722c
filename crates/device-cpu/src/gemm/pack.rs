//! Packed weights: panels of columns, in the order in which the inner loop reads them.

use crate::{simd::Level, tile::PANEL_VECTORS, view::Aligned};

/// Where the floats of a weight matrix go: panel by panel, within a panel step by step of k,
/// within a step the panel's columns. Columns past `n` are zeros. A gated panel holds one
/// vector of each matrix's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    n: usize,
    k: usize,
    lanes: usize,
    gated: bool,
}

impl Layout {
    pub(super) fn new(level: Level, n: usize, k: usize, gated: bool) -> Self {
        Self { n, k, lanes: level.lanes(), gated }
    }

    /// Columns of the result.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Whether two matrices are interleaved.
    pub fn gated(&self) -> bool {
        self.gated
    }

    /// Floats of the packed form.
    pub fn packed_len(&self) -> usize {
        self.panel_count() * self.panel_len()
    }

    /// Packs `weights: [n, k]`, dense, as a Hugging Face `Linear` stores them (gated: the two
    /// matrices one after the other, `[2 n, k]`) into `packed`.
    ///
    /// # Panics
    /// When either slice has another size.
    pub fn pack(&self, weights: &[f32], packed: &mut [f32]) {
        let Self { n, k, lanes, gated } = *self;
        assert_eq!(weights.len(), n * k * if gated { 2 } else { 1 });
        assert_eq!(packed.len(), self.packed_len());
        let width = self.panel_width();
        for (panel_index, panel) in packed.chunks_exact_mut(self.panel_len().max(1)).enumerate() {
            for c in 0..width {
                let (col, matrix) = if gated {
                    (panel_index * lanes + c % lanes, c / lanes)
                } else {
                    (panel_index * width + c, 0)
                };
                let row = &weights[(matrix * n + col.min(n)) * k..];
                for (step, packed) in panel.chunks_exact_mut(width).enumerate() {
                    packed[c] = if col < n { row[step] } else { 0.0 };
                }
            }
        }
    }

    pub(crate) fn panel_width(&self) -> usize {
        self.lanes * PANEL_VECTORS
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.n.div_ceil(if self.gated { self.lanes } else { self.panel_width() })
    }

    fn panel_len(&self) -> usize {
        self.k * self.panel_width()
    }
}

/// Packed weights in somebody's memory.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    pub(super) layout: Layout,
    floats: &'a [f32],
}

impl<'a> Panels<'a> {
    /// What [`Layout::pack`] wrote to `floats`.
    ///
    /// # Panics
    /// When `floats` has another size.
    pub fn new(layout: Layout, floats: &'a [f32]) -> Self {
        assert_eq!(floats.len(), layout.packed_len());
        Self { layout, floats }
    }

    /// How they are laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Address of a panel, readable for its length.
    #[inline(always)]
    pub(crate) fn panel(&self, panel_index: usize) -> *const f32 {
        debug_assert!(panel_index < self.layout.panel_count());
        self.floats.as_ptr().wrapping_add(panel_index * self.layout.panel_len())
    }
}

/// Packed weights with memory of their own.
pub struct Packed {
    layout: Layout,
    floats: Aligned,
}

impl Packed {
    /// Packs `weights` as [`Layout::pack`] says. Allocates the packed form.
    ///
    /// # Panics
    /// When `weights` has another size than the layout's.
    pub fn new(layout: Layout, weights: &[f32]) -> Self {
        let mut floats = Aligned::zeros(layout.packed_len());
        layout.pack(weights, &mut floats);
        Self { layout, floats }
    }

    /// The weights, for a kernel.
    pub fn panels(&self) -> Panels<'_> {
        Panels::new(self.layout, &self.floats)
    }
}
