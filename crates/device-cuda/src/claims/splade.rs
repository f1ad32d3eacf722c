//! The head of SPLADE, whose logits never lie in memory.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::DType;
use calor_kernel::{Source, Unit};

use super::{HOPPER, fits, results, sizes};
use crate::sources::{splade_parts_bytes, type_number};

pub(super) fn offer<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    let &[h, w, bias, lo, hi] = site.inputs() else { return None };
    let graph = site.graph();
    let dtype = graph.ty(h).dtype;
    let number = type_number(dtype)?;
    let same = [w, bias].iter().all(|it| graph.ty(*it).dtype == dtype);
    let [rows, _] = sizes(site, h)?;
    let [v, k] = sizes(site, w)?;
    let aligned = k != 0 && k.is_multiple_of(8);
    if CORES != HOPPER || !same || !aligned || rows == 0 || v == 0 {
        return None;
    }
    let params = vec![
        ("v", fits(v)?.into()),
        ("k", fits(k)?.into()),
        ("dtype", number.into()),
        ("rows", fits(rows)?.into()),
    ];
    let [y] = results(site)[..] else { return None };
    let read = |value| OfferArg::Read(value, Layout::Dense);
    let mut args: Vec<OfferArg> = [h, w, bias, lo, hi].map(read).into();
    args.push(OfferArg::Write(y));
    if dtype == DType::F32 {
        args.push(OfferArg::Workspace { bytes: splade_parts_bytes(rows, k) });
    }
    let words = vec![OfferWord::Rows(h), OfferWord::Rows(lo)];
    let unit = Unit::Source(Source { name: "splade", params });
    Some(Offer { unit, words, args, absorbs: vec![] })
}
