//! What the processor does better than generated code.
//!
//! `gated_linear` is not claimed: its expansion is two linear layers, which are.

use calor_device::{Claim, Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::composite::{attention, experts, linear, splade_pool};
use calor_ir::{Attrs, Binary, DType, NodeId, Op, Prim, ValueId};
use calor_kernel::{Activation, Call, Source, Unit};

use crate::code::packed_len_max;

/// The device's claims.
pub static CLAIMS: &[Claim] = &[
    Claim { composite: &linear::LINEAR, offer: linear },
    Claim { composite: &attention::ATTENTION, offer: attention },
    Claim { composite: &splade_pool::SPLADE_POOL, offer: splade },
    Claim { composite: &experts::EXPERTS, offer: experts },
];

/// Rows whose last `inner` dimensions have no gaps.
const fn rows(inner: usize) -> Layout {
    Layout::Rows { inner }
}

fn attrs<'a>(site: &Site<'a>) -> Option<&'a Attrs> {
    match &site.graph().node(site.node()).op {
        Op::Composite(_, attrs) => Some(attrs),
        Op::Input(_) | Op::Prim(_) => None,
    }
}

fn results(site: &Site<'_>) -> Vec<ValueId> {
    site.graph().node(site.node()).results().collect()
}

fn sizes<'a, const N: usize>(site: &Site<'a>, value: ValueId) -> Option<[usize; N]> {
    site.graph().shape(value).sizes().try_into().ok()
}

fn all_f32(site: &Site<'_>, values: &[ValueId]) -> bool {
    values.iter().all(|it| site.graph().ty(*it).dtype == DType::F32)
}

/// A number that fits a unit's field.
fn fits(size: usize) -> Option<u32> {
    u32::try_from(size).ok()
}

/// The packed form of constant weights `[n, k]`.
fn packed(value: ValueId, n: usize, k: usize) -> Option<OfferArg> {
    let call = Call::Pack { n: fits(n)?, k: fits(k)?, dtype: DType::F32 };
    let bytes = 4 * packed_len_max(n, k) as u64;
    Some(OfferArg::Prepared { values: vec![value], unit: Box::new(Unit::Call(call)), bytes })
}

/// A product with bias and activation, and the addition that follows if nothing else reads the
/// result.
fn linear(site: &Site<'_>) -> Option<Offer> {
    let (x, w, bias) = match *site.inputs() {
        [x, w] => (x, w, None),
        [x, w, bias] => (x, w, Some(bias)),
        _ => return None,
    };
    if !all_f32(site, site.inputs()) {
        return None;
    }
    let [n, k] = sizes(site, w)?;
    let activation = Activation::by_name(attrs(site)?.get_word("activation")?)?;
    let [y] = results(site)[..] else { return None };
    let added = residual(site, y);

    let weights =
        if site.is_constant(w) { packed(w, n, k)? } else { OfferArg::Read(w, Layout::Dense) };
    let call = Call::Gemm {
        rows: 0,
        n: fits(n)?,
        k: fits(k)?,
        dtype: DType::F32,
        tf32: false,
        bias: bias.is_some(),
        activation,
        residual: added.is_some(),
        packed: matches!(weights, OfferArg::Prepared { .. }),
    };
    let mut args = vec![OfferArg::Read(x, rows(1)), weights];
    args.extend(bias.map(|it| OfferArg::Read(it, Layout::Dense)));
    let residual_at = args.len();
    args.extend(added.map(|it| OfferArg::Read(it.other, rows(1))));
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
    let absorbs = added.map(|it| it.node).into_iter().collect();
    Some(Offer { unit: Unit::Call(call), words, args, absorbs })
}

/// An addition to a layer's result.
#[derive(Clone, Copy)]
struct Added {
    node: NodeId,
    other: ValueId,
    sum: ValueId,
}

fn residual(site: &Site<'_>, y: ValueId) -> Option<Added> {
    let (node, Op::Prim(Prim::Binary(Binary::Add))) = site.only_user(y)? else { return None };
    let user = site.graph().node(node);
    let other = match user.inputs[..] {
        [a, b] if a == y && b != y => b,
        [a, b] if b == y && a != y => a,
        _ => return None,
    };
    Some(Added { node, other, sum: user.result() })
}

fn attention(site: &Site<'_>) -> Option<Offer> {
    let attrs = attrs(site)?;
    let scale = attrs.get_float("scale")?;
    let flag = |name| attrs.get_int(name).map(|it| it != 0);
    let (extra, bias, lse) = (flag("extra")?, flag("bias")?, flag("lse")?);
    let (&[q, k, v, lo, hi], rest) = site.inputs().split_first_chunk::<5>()?;
    let [tq, heads, d] = sizes(site, q)?;
    let [tk, kv_heads, dv] = sizes(site, v)?;
    if !all_f32(site, &[q, k, v]) || d != dv || d == 0 || 1 << 24 <= tk || (bias && tq != tk) {
        return None;
    }
    let reach = match rest.last() {
        Some(table) if bias => sizes::<2>(site, *table)?[0] / 2,
        Some(_) | None => 0,
    };
    let source = Source {
        name: "attention",
        params: vec![
            ("heads", heads as i64),
            ("kv_heads", kv_heads as i64),
            ("d", d as i64),
            ("scale", scale.to_bits().cast_signed()),
            ("extra", i64::from(extra)),
            ("bias", i64::from(bias)),
            ("lse", i64::from(lse)),
            ("reach", reach as i64),
        ],
    };
    let mut args: Vec<OfferArg> = [q, k, v].map(|it| OfferArg::Read(it, rows(2))).into();
    args.extend([lo, hi].iter().chain(rest).map(|it| OfferArg::Read(*it, Layout::Dense)));
    args.extend(results(site).into_iter().map(OfferArg::Write));
    let words = vec![
        OfferWord::Rows(q),
        OfferWord::Rows(k),
        OfferWord::Stride { arg: 0, inner: 2 },
        OfferWord::Stride { arg: 1, inner: 2 },
        OfferWord::Stride { arg: 2, inner: 2 },
    ];
    Some(Offer { unit: Unit::Source(source), words, args, absorbs: vec![] })
}

fn splade(site: &Site<'_>) -> Option<Offer> {
    let &[h, w, bias, lo, hi] = site.inputs() else { return None };
    if !all_f32(site, &[h, w, bias]) || !site.is_constant(w) {
        return None;
    }
    let [v, k] = sizes(site, w)?;
    let [y] = results(site)[..] else { return None };
    let source = Source { name: "splade", params: vec![("v", v as i64), ("k", k as i64)] };
    let dense = |value| OfferArg::Read(value, Layout::Dense);
    let args = vec![
        OfferArg::Read(h, rows(1)),
        packed(w, v, k)?,
        dense(bias),
        dense(lo),
        dense(hi),
        OfferArg::Write(y),
    ];
    let words =
        vec![OfferWord::Rows(h), OfferWord::Rows(lo), OfferWord::Stride { arg: 0, inner: 1 }];
    Some(Offer { unit: Unit::Source(source), words, args, absorbs: vec![] })
}

fn experts(site: &Site<'_>) -> Option<Offer> {
    let &[x, weights, w1, b1, w2, b2] = site.inputs() else { return None };
    if !all_f32(site, site.inputs()) || !site.is_constant(w1) || !site.is_constant(w2) {
        return None;
    }
    let [e, h, d] = sizes(site, w1)?;
    let [_, o, _] = sizes(site, w2)?;
    let [y] = results(site)[..] else { return None };
    let prepared = |value: ValueId, n: usize, k: usize| {
        let params = vec![("e", e as i64), ("n", n as i64), ("k", k as i64)];
        let unit = Box::new(Unit::Source(Source { name: "pack_experts", params }));
        OfferArg::Prepared {
            values: vec![value],
            unit,
            bytes: 4 * (e * packed_len_max(n, k)) as u64,
        }
    };
    let params = vec![("e", e as i64), ("d", d as i64), ("h", h as i64), ("o", o as i64)];
    let dense = |value| OfferArg::Read(value, Layout::Dense);
    let args = vec![
        OfferArg::Read(x, rows(1)),
        dense(weights),
        prepared(w1, h, d),
        dense(b1),
        prepared(w2, o, h),
        dense(b2),
        OfferArg::Write(y),
    ];
    Some(Offer {
        unit: Unit::Source(Source { name: "experts", params }),
        words: vec![OfferWord::Rows(x), OfferWord::Stride { arg: 0, inner: 1 }],
        args,
        absorbs: vec![],
    })
}
