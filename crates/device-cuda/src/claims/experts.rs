//! A mixture of experts, of which only the chosen ones are read.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::DType;
use calor_kernel::{Source, Unit};

use super::{TURING, fits, results, sizes};
use crate::sources::{EXPERT_COUNT_MAX, type_number};

pub(super) fn offer<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    let &[x, shares, w1, b1, w2, b2] = site.inputs() else { return None };
    let graph = site.graph();
    let dtype = graph.ty(x).dtype;
    let number = type_number(dtype)?;
    let same = [w1, b1, w2, b2].iter().all(|it| graph.ty(*it).dtype == dtype);
    let [rows, d] = sizes(site, x)?;
    let [e, h, _] = sizes(site, w1)?;
    let [_, o, _] = sizes(site, w2)?;
    // Rows of whole 16 bytes, whose place in a tensor is a number of 31 bits.
    let aligned = [d, h, o].iter().all(|it| *it != 0 && it.is_multiple_of(8));
    let near = fits(rows.checked_mul(d.max(h))?)? <= u32::MAX >> 1;
    let few = (1..=EXPERT_COUNT_MAX as usize).contains(&e) && rows != 0;
    let known = CORES != TURING && same && graph.ty(shares).dtype == DType::F32;
    if !known || !aligned || !near || !few {
        return None;
    }
    let params = vec![
        ("e", e as i64),
        ("d", d as i64),
        ("h", h as i64),
        ("o", o as i64),
        ("dtype", number.into()),
        ("rows", rows as i64),
    ];
    let [y] = results(site)[..] else { return None };
    let read = |value| OfferArg::Read(value, Layout::Dense);
    let bytes = (e * rows * h * dtype.size_bytes()) as u64;
    let mut args: Vec<OfferArg> = [x, shares, w1, b1, w2, b2].map(read).into();
    args.extend([OfferArg::Write(y), OfferArg::Workspace { bytes }]);
    let unit = Unit::Source(Source { name: "experts", params });
    Some(Offer { unit, words: vec![OfferWord::Rows(x)], args, absorbs: vec![] })
}
