//! Products for few rows, with the norm in front of one folded into its weights.
//!
//! At few rows a norm costs a launch that nothing else can hide; a product that reads the rows
//! anyway takes their moments on the way.

use calor_device::{Layout, Offer, OfferArg, Site};
use calor_ir::composite::{layer_norm, rms_norm};
use calor_ir::{DType, NodeId, ValueId};
use calor_kernel::{Source, Unit};

use super::composite_of;
use super::linear::{Join, Layer, Product};
use super::norm::Norm;
use crate::sources::{folded_bytes, type_number};

pub(super) fn offer(site: &Site<'_>, layer: &Layer) -> Option<Offer> {
    let Some(fold) = foldable(site, layer) else {
        let mut params = layer.params(layer.bias.is_some())?;
        params.extend([("norm", 0), ("eps", 0), ("normed", 0)]);
        let unit = Unit::Source(Source { name: "gemm_skinny", params });
        return Some(layer.offer(unit, layer.x, layer.weights()));
    };
    let Fold { norm, node, is_read_elsewhere } = fold;
    let Product { n, k, dtype, .. } = layer.product;
    let mut params = layer.params(false)?;
    let normed = i64::from(is_read_elsewhere) * (1 + i64::from(norm.shift.is_some()));
    params.extend([
        ("norm", if norm.centred { 1 } else { 2 }),
        ("eps", norm.eps.to_bits().cast_signed()),
        ("normed", normed),
    ]);
    let unit = Unit::Source(Source { name: "gemm_skinny", params });
    let mut weights = vec![OfferArg::Prepared {
        values: [Some(layer.w), Some(norm.gain), norm.shift, layer.bias]
            .into_iter()
            .flatten()
            .collect(),
        unit: Box::new(Unit::Source(Source {
            name: "fold_norm",
            params: vec![
                ("n", n.into()),
                ("k", k.into()),
                ("dtype", type_number(dtype)?.into()),
                ("shift", norm.shift.is_some().into()),
                ("bias", layer.bias.is_some().into()),
            ],
        })),
        bytes: folded_bytes(n, k),
    }];
    if is_read_elsewhere {
        let vectors = [Some(norm.gain), norm.shift];
        weights.extend(vectors.into_iter().flatten().map(|it| OfferArg::Read(it, Layout::Dense)));
    }
    let mut offer = layer.offer(unit, norm.x, weights);
    offer.args.extend(is_read_elsewhere.then_some(OfferArg::Write(layer.x)));
    offer.absorbs.push(node);
    Some(offer)
}

/// A norm that a product can take into its weights.
struct Fold {
    norm: Norm,
    node: NodeId,
    is_read_elsewhere: bool,
}

/// The norm of the layer's rows, if its gain and bias can go into the weights.
///
/// Not in f16, which has no range left for a weight times a small gain. Not where the result meets
/// other rows: they may depend on the norm, whose rows this product would write.
fn foldable(site: &Site<'_>, layer: &Layer) -> Option<Fold> {
    let (node, _) = site.maker(layer.x)?;
    let (composite, _) = composite_of(site, node)?;
    let known = composite.is(&layer_norm::LAYER_NORM) || composite.is(&rms_norm::RMS_NORM);
    if !known || layer.product.dtype != DType::BF16 || layer.product.join != Join::None {
        return None;
    }
    let norm = Norm::of(site, node)?;
    let is_exact = |it: &ValueId| site.graph().ty(*it).dtype == DType::F32;
    let vectors = [Some(norm.gain), norm.shift];
    let constants = [Some(layer.w), layer.bias, Some(norm.gain), norm.shift];
    let is_ready = vectors.iter().flatten().all(is_exact)
        && constants.iter().flatten().all(|it| site.is_constant(*it));
    is_ready.then(|| Fold { norm, node, is_read_elsewhere: !site.is_read_once(layer.x) })
}
