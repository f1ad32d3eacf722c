//! Products of codes of one byte.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::{DType, ValueId};
use calor_kernel::{Activation, Source, Unit};

use super::linear::residual;
use super::{HOPPER, attrs, fits, results, sizes};
use crate::sources::{E4M3, INT8, activation_number, type_number};

/// In fp8, on warpgroup products where there are some: with bias, activation and residual they
/// are as fast as cuBLASLt's with a bare result (`bench/experiments/products`).
pub(super) fn fp8<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    let bf16 = attrs(site)?.get_word("out")? == DType::BF16.name();
    let name = if CORES == HOPPER && bf16 { "gemm_wgmma" } else { "gemm_mma" };
    offer(site, name, E4M3)
}

/// In int8.
pub(super) fn int8(site: &Site<'_>) -> Option<Offer> {
    offer(site, "gemm_mma", INT8)
}

/// A product with scales, bias and activation, and the addition that follows if nothing else reads
/// the result.
fn offer(site: &Site<'_>, name: &'static str, codes: u32) -> Option<Offer> {
    let (&[x, x_scales, w, w_scales], bias) = site.inputs().split_first_chunk::<4>()?;
    let [n, k] = sizes(site, w)?;
    let outer: usize = site.graph().shape(x).sizes().split_last()?.1.iter().product();
    let (m, n, k) = (fits(outer)?, fits(n)?, fits(k)?);
    let whole = n.is_multiple_of(8) && k.is_multiple_of(16);
    let activation = Activation::by_name(attrs(site)?.get_word("activation")?)?;
    let [y] = results(site)[..] else { return None };
    let out = site.graph().ty(y).dtype;
    let same = bias.iter().all(|it| site.graph().ty(*it).dtype == out);
    if m == 0 || n == 0 || k == 0 || !whole || !same {
        return None;
    }
    let added = residual(site, y);
    let read = |it: ValueId| OfferArg::Read(it, Layout::Dense);
    let mut args: Vec<OfferArg> = [x, w, x_scales, w_scales].map(read).into();
    args.extend(bias.iter().map(|it| read(*it)));
    let residual_at = args.len();
    args.extend(added.map(|it| OfferArg::Read(it.other, super::rows(1))));
    let out_at = args.len();
    args.push(OfferArg::Write(added.map_or(y, |it| it.sum)));
    let words = vec![
        OfferWord::OuterRows { value: x, inner: 1 },
        OfferWord::Stride { arg: 0, inner: 1 },
        OfferWord::Stride { arg: out_at, inner: 1 },
        match added {
            Some(_) => OfferWord::Stride { arg: residual_at, inner: 1 },
            None => OfferWord::Fixed(0),
        },
    ];
    let params = vec![
        ("n", i64::from(n)),
        ("k", k.into()),
        ("dtype", codes.into()),
        ("activation", activation_number(activation).into()),
        ("bias", (!bias.is_empty()).into()),
        ("residual", added.is_some().into()),
        ("rows", m.into()),
        ("out", type_number(out)?.into()),
    ];
    let absorbs = added.map(|it| it.node).into_iter().collect();
    Some(Offer { unit: Unit::Source(Source { name, params }), words, args, absorbs })
}
