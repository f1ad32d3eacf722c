//! Attention over intervals.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::DType;
use calor_kernel::{Source, Unit};

use super::{TURING, attrs, fits, results, rows, sizes};
use crate::sources::type_number;
use crate::sources::{ATTENTION_CORE_SIZES, ATTENTION_FEW_ROWS_MAX, ATTENTION_SIZE_MAX};

/// Query rows are few where there are so many keys for each.
const FEW_ROWS_SHARE: usize = 8;

pub(super) fn offer<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    let attrs = attrs(site)?;
    let scale = attrs.get_float("scale")?;
    let flag = |name| attrs.get_int(name).map(|it| it != 0);
    let (extra, bias, lse) = (flag("extra")?, flag("bias")?, flag("lse")?);
    let (&[q, k, v, lo, hi], rest) = site.inputs().split_first_chunk::<5>()?;
    let [tq, heads, d] = sizes(site, q)?;
    let [tk, kv_heads, dv] = sizes(site, v)?;
    let dtype = site.graph().ty(q).dtype;
    let number = type_number(dtype)?;
    let same = [k, v].iter().all(|it| site.graph().ty(*it).dtype == dtype);
    let size = fits(d)?;
    let far = fits(tk)? == u32::MAX || !scale.is_finite();
    if !same || d != dv || d == 0 || ATTENTION_SIZE_MAX < size || tq == 0 || far {
        return None;
    }
    // The plain form has no bf16 where the processor has none.
    if CORES == TURING && dtype == DType::BF16 {
        return None;
    }
    let reach = match rest.last() {
        Some(table) if bias => sizes::<2>(site, *table)?[0] / 2,
        Some(_) | None => 0,
    };
    // Whole 16 bytes in every row, whichever tensor the heads are a part of.
    let in_rows = [q, k, v].iter().all(|it| {
        let shape = site.graph().shape(*it);
        shape.sizes()[1..].iter().product::<usize>().is_multiple_of(8)
    });
    let words = vec![
        OfferWord::Rows(q),
        OfferWord::Rows(k),
        OfferWord::Stride { arg: 0, inner: 2 },
        OfferWord::Stride { arg: 1, inner: 2 },
        OfferWord::Stride { arg: 2, inner: 2 },
    ];
    // Tiles of rows that belong to as many sequences would look at the keys of all of them.
    let few = tq * FEW_ROWS_SHARE <= tk && tq <= ATTENTION_FEW_ROWS_MAX as usize;
    if few && in_rows && size.is_multiple_of(8) && !extra && !bias && !lse {
        let params = vec![
            ("heads", heads as i64),
            ("kv_heads", kv_heads as i64),
            ("d", d as i64),
            ("scale", scale.to_bits().cast_signed()),
            ("dtype", number.into()),
        ];
        let mut args: Vec<OfferArg> = [q, k, v].map(|it| OfferArg::Read(it, rows(2))).into();
        args.extend([lo, hi].map(|it| OfferArg::Read(it, Layout::Dense)));
        args.extend(results(site).into_iter().map(OfferArg::Write));
        let unit = Unit::Source(Source { name: "attention_rows", params });
        return Some(Offer { unit, words, args, absorbs: vec![] });
    }
    let cores = dtype != DType::F32 && ATTENTION_CORE_SIZES.contains(&size) && in_rows;
    let params = vec![
        ("heads", heads as i64),
        ("kv_heads", kv_heads as i64),
        ("d", d as i64),
        ("scale", scale.to_bits().cast_signed()),
        ("extra", i64::from(extra)),
        ("bias", i64::from(bias)),
        ("lse", i64::from(lse)),
        ("reach", reach as i64),
        ("dtype", number.into()),
        ("rows", tq as i64),
        ("cores", i64::from(cores)),
    ];
    let mut args: Vec<OfferArg> = [q, k, v].map(|it| OfferArg::Read(it, rows(2))).into();
    args.extend([lo, hi].iter().chain(rest).map(|it| OfferArg::Read(*it, Layout::Dense)));
    args.extend(results(site).into_iter().map(OfferArg::Write));
    let unit = Unit::Source(Source { name: "attention", params });
    Some(Offer { unit, words, args, absorbs: vec![] })
}
