//! Rotary positions.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::DType;
use calor_kernel::{Source, Unit};

use super::{attrs, fits, results, rows, sizes};
use crate::sources::type_number;

/// Turned by the positions.
pub(super) fn offer(site: &Site<'_>) -> Option<Offer> {
    offer_of(site, 1)
}

/// Turned back.
pub(super) fn offer_inverse(site: &Site<'_>) -> Option<Offer> {
    offer_of(site, -1)
}

fn offer_of(site: &Site<'_>, direction: i64) -> Option<Offer> {
    let &[x, positions] = site.inputs() else { return None };
    let [t, heads, d] = sizes(site, x)?;
    let dtype = type_number(site.graph().ty(x).dtype)?;
    let attrs = attrs(site)?;
    let theta = attrs.get_float("theta")?;
    let interleaved = match attrs.get_word("style")? {
        "half" => 0,
        "interleaved" => 1,
        _ => return None,
    };
    if t == 0 || heads == 0 || site.graph().ty(positions).dtype != DType::I32 {
        return None;
    }
    let params =
        vec![("d", fits(d)?.into()), ("dtype", dtype.into()), ("interleaved", interleaved)];
    let mut args = vec![OfferArg::Read(x, rows(2)), OfferArg::Read(positions, Layout::Dense)];
    args.extend(results(site).into_iter().map(OfferArg::Write));
    let words = vec![
        OfferWord::Rows(x),
        OfferWord::Fixed(fits(heads)?.into()),
        OfferWord::Stride { arg: 0, inner: 2 },
        OfferWord::Fixed(theta.to_bits().cast_signed()),
        OfferWord::Fixed(direction),
    ];
    let unit = Unit::Source(Source { name: "rope", params });
    Some(Offer { unit, words, args, absorbs: vec![] })
}
