//! Pooling of segments, with the widening in front of it and the unit length behind.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::composite::l2_normalize;
use calor_ir::{Op, Prim, ValueId};
use calor_kernel::{Source, Unit};

use super::{attrs, fits, results, sizes};
use crate::sources::{POOL_KINDS, POOL_LEN_MAX, type_number};

pub(super) fn offer(site: &Site<'_>) -> Option<Offer> {
    let kind = attrs(site)?.get_word("kind")?;
    let kind = POOL_KINDS.iter().position(|it| *it == kind)?;
    let graph = site.graph();
    let [x, lo, hi] = *site.inputs() else { return None };
    let [pooled] = results(site)[..] else { return None };
    let [t, d] = sizes(site, x)?;
    if d == 0 || (POOL_LEN_MAX as usize) < d {
        return None;
    }
    let mut absorbs = Vec::new();
    let narrow = narrow_form(site, x);
    let rows = narrow.unwrap_or(x);
    absorbs.extend(narrow.map(|_| graph.maker(x)));
    let mut result = pooled;
    let mut eps = 0.0;
    let mut unit = false;
    if let Some((node, Op::Composite(composite, attrs))) = site.only_user(pooled)
        && composite.is(&l2_normalize::L2_NORMALIZE)
    {
        (result, eps, unit) = (graph.node(node).result(), attrs.get_float("eps")?, true);
        absorbs.push(node);
    }
    let params = vec![
        ("d", i64::from(fits(d)?)),
        ("kind", kind as i64),
        ("in", type_number(graph.ty(rows).dtype)?.into()),
        ("out", type_number(graph.ty(result).dtype)?.into()),
        ("unit", unit.into()),
        ("eps", eps.to_bits().cast_signed()),
    ];
    let mut args: Vec<OfferArg> = [rows, lo, hi].map(|it| OfferArg::Read(it, Layout::Dense)).into();
    args.push(OfferArg::Write(result));
    let words = vec![OfferWord::Rows(lo), OfferWord::Fixed(t as i64)];
    Some(Offer { unit: Unit::Source(Source { name: "pool", params }), words, args, absorbs })
}

/// The rows that `x` is the wider form of, if nobody else reads that form.
fn narrow_form(site: &Site<'_>, x: ValueId) -> Option<ValueId> {
    let (node, Op::Prim(Prim::Cast(_))) = site.maker(x)? else { return None };
    let rows = site.graph().node(node).inputs[0];
    let dtype = site.graph().ty(rows).dtype;
    let is_narrower = dtype.size_bytes() < site.graph().ty(x).dtype.size_bytes();
    (is_narrower && type_number(dtype).is_some() && site.is_read_once(x)).then_some(rows)
}
