//! The choice of experts as one kernel.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::DType;
use calor_kernel::{Source, Unit};

use super::{attrs, fits, results, sizes};
use crate::sources::LANE_COUNT;

pub(super) fn offer(site: &Site<'_>) -> Option<Offer> {
    let &[q] = site.inputs() else { return None };
    let k = attrs(site)?.get_int("k")?;
    let [_, e] = sizes(site, q)?;
    if site.graph().ty(q).dtype != DType::F32 || LANE_COUNT < fits(e)? {
        return None;
    }
    let params = vec![("e", e as i64), ("k", k)];
    let mut args = vec![OfferArg::Read(q, Layout::Dense)];
    args.extend(results(site).into_iter().map(OfferArg::Write));
    let unit = Unit::Source(Source { name: "top_k", params });
    Some(Offer { unit, words: vec![OfferWord::Rows(q)], args, absorbs: vec![] })
}
