//! The gate of a mixture of experts as one kernel.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::DType;
use calor_kernel::{Source, Unit};

use super::{attrs, fits, results, sizes};
use crate::sources::LANE_COUNT;

pub(super) fn offer(site: &Site<'_>) -> Option<Offer> {
    let &[x, norm_w, norm_b, w, b] = site.inputs() else { return None };
    let temperature = attrs(site)?.get_float("temperature")?;
    let smoothing = attrs(site)?.get_float("smoothing")?;
    let [e, d] = sizes(site, w)?;
    let all_f32 = site.inputs().iter().all(|it| site.graph().ty(*it).dtype == DType::F32);
    let few = (1..=LANE_COUNT).contains(&fits(e)?);
    if !all_f32 || !few || d == 0 || !d.is_multiple_of(4) || fits(d).is_none() {
        return None;
    }
    let params = vec![
        ("d", d as i64),
        ("e", e as i64),
        ("temperature", temperature.to_bits().cast_signed()),
        ("smoothing", smoothing.to_bits().cast_signed()),
    ];
    let read = |value| OfferArg::Read(value, Layout::Dense);
    let mut args: Vec<OfferArg> = [x, norm_w, norm_b, w, b].map(read).into();
    args.extend(results(site).into_iter().map(OfferArg::Write));
    let unit = Unit::Source(Source { name: "gate", params });
    Some(Offer { unit, words: vec![OfferWord::Rows(x)], args, absorbs: vec![] })
}
