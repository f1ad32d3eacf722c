//! Products of f32 numbers that are rounded to tf32.

use calor_device::{Offer, Site};

use super::linear::{Maker, Product, product};

/// By the library, three times as fast as our own (`bench/experiments/products`), else by
/// `mma.sync` where rows are whole.
pub(super) fn offer<const LIBRARY: bool>(site: &Site<'_>) -> Option<Offer> {
    let maker = |it: &Product| match LIBRARY {
        true => Some(Maker::Library { tf32: true }),
        false if it.n.is_multiple_of(8) && it.k.is_multiple_of(8) => {
            Some(Maker::Source("gemm_mma"))
        }
        false => None,
    };
    product(site, &maker)
}
