//! Products of codes of one byte.

use calor_device::{Layout, Offer, OfferArg, Site};
use calor_ir::DType;
use calor_kernel::{Source, Unit};

use super::linear::Layer;
use super::{HOPPER, attrs, results};
use crate::sources::type_number;

/// In fp8, on warpgroup products where there are some: with bias, activation and residual they
/// are as fast as cuBLASLt's with a bare result (`bench/experiments/products`).
pub(super) fn fp8<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    let bf16 = attrs(site)?.get_word("out")? == DType::BF16.name();
    let name = if CORES == HOPPER && bf16 { "gemm_wgmma" } else { "gemm_mma" };
    offer(site, name)
}

/// In int8.
pub(super) fn int8(site: &Site<'_>) -> Option<Offer> {
    offer(site, "gemm_mma")
}

/// A product with scales, bias and activation, and the addition that follows if nothing else reads
/// the result.
fn offer(site: &Site<'_>, name: &'static str) -> Option<Offer> {
    let (&[x, x_scales, w, w_scales], bias) = site.inputs().split_first_chunk::<4>()?;
    let [y] = results(site)[..] else { return None };
    let out = site.graph().ty(y).dtype;
    let layer = Layer::between(site, x, w, bias.first().copied())?.added(site);
    let whole = layer.product.n.is_multiple_of(8) && layer.product.k.is_multiple_of(16);
    if !whole || bias.iter().any(|it| site.graph().ty(*it).dtype != out) {
        return None;
    }
    let mut params = layer.params(layer.bias.is_some())?;
    params.push(("out", type_number(out)?.into()));
    let mut weights = layer.weights();
    let scales = [x_scales, w_scales].map(|it| OfferArg::Read(it, Layout::Dense));
    weights.splice(1..1, scales);
    Some(layer.offer(Unit::Source(Source { name, params }), x, weights))
}
