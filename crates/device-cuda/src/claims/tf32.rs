//! Products of f32 numbers that are rounded to tf32.

use calor_device::{Offer, Site};

use super::linear::{Layer, Maker, by};

/// By the library, three times as fast as our own (`bench/experiments/products`), else by
/// `mma.sync` where rows are whole.
pub(super) fn offer<const LIBRARY: bool>(site: &Site<'_>) -> Option<Offer> {
    let layer = Layer::of(site)?.added(site);
    let is_whole = layer.product.n.is_multiple_of(8) && layer.product.k.is_multiple_of(8);
    match LIBRARY {
        true => by(Maker::Library { tf32: true }, &layer),
        false if is_whole => by(Maker::Source("gemm_mma"), &layer),
        false => None,
    }
}
