//! What a GPU does better than generated code.

use calor_device::{Claim, Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::composite::linear;
use calor_ir::{Attrs, Binary, DType, NodeId, Op, Prim, ValueId};
use calor_kernel::{Activation, Call, Unit};

use crate::gemm::workspace_bytes;

/// The device's claims.
pub static CLAIMS: &[Claim] = &[Claim { composite: &linear::LINEAR, offer: linear }];

fn attrs<'a>(site: &Site<'a>) -> Option<&'a Attrs> {
    match &site.graph().node(site.node()).op {
        Op::Composite(_, attrs) => Some(attrs),
        Op::Input(_) | Op::Prim(_) => None,
    }
}

fn sizes<'a, const N: usize>(site: &Site<'a>, value: ValueId) -> Option<[usize; N]> {
    site.graph().shape(value).sizes().try_into().ok()
}

/// Rows whose last `inner` dimensions have no gaps.
const fn rows(inner: usize) -> Layout {
    Layout::Rows { inner }
}

/// A product with bias and activation, and the addition that follows if nothing else reads the
/// result.
fn linear(site: &Site<'_>) -> Option<Offer> {
    let (x, w, bias) = match *site.inputs() {
        [x, w] => (x, w, None),
        [x, w, bias] => (x, w, Some(bias)),
        _ => return None,
    };
    let dtype = site.graph().ty(x).dtype;
    let known = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    if !known || site.inputs().iter().any(|it| site.graph().ty(*it).dtype != dtype) {
        return None;
    }
    let [n, k] = sizes(site, w)?;
    let outer: usize = site.graph().shape(x).sizes().split_last()?.1.iter().product();
    let m = u32::try_from(outer).ok()?;
    if m == 0 || n == 0 || k == 0 {
        return None;
    }
    let activation = Activation::by_name(attrs(site)?.get_word("activation")?)?;
    let [y] = site.graph().node(site.node()).results().collect::<Vec<_>>()[..] else {
        return None;
    };
    let added = residual(site, y);
    let call = Call::Gemm {
        rows: m,
        n: u32::try_from(n).ok()?,
        k: u32::try_from(k).ok()?,
        dtype,
        bias: bias.is_some(),
        activation,
        residual: added.is_some(),
        packed: false,
    };
    let mut args = vec![OfferArg::Read(x, rows(1)), OfferArg::Read(w, Layout::Dense)];
    args.extend(bias.map(|it| OfferArg::Read(it, Layout::Dense)));
    let residual_at = args.len();
    args.extend(added.map(|it| OfferArg::Read(it.other, rows(1))));
    let out_at = args.len();
    args.push(OfferArg::Write(added.map_or(y, |it| it.sum)));
    // The claims are the same for every architecture, so the workspace is the largest.
    args.push(OfferArg::Workspace { bytes: workspace_bytes(9) });
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
    let (node, Prim::Binary(Binary::Add)) = site.only_user(y)? else { return None };
    let user = site.graph().node(node);
    let other = match user.inputs[..] {
        [a, b] if a == y && b != y => b,
        [a, b] if b == y && a != y => a,
        _ => return None,
    };
    Some(Added { node, other, sum: user.result() })
}
