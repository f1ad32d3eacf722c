//! Products: who computes one, and what is done with its result on the way.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::{Binary, DType, NodeId, Prim, ValueId};
use calor_kernel::{Activation, Call, Source, Unit};

use super::{HOPPER, TURING, attrs, fits, results, rows, sizes};
use crate::gemm::workspace_bytes;
use crate::sources::{SKINNY_ROWS_MAX, activation_number, type_number};

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    Library { tf32: bool },
    Source(&'static str),
}

/// What decides who computes a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    rows: u32,
    pub(super) n: u32,
    pub(super) k: u32,
    dtype: DType,
    activation: Activation,
    residual: bool,
}

/// Measured on an H200 for half types: few rows are bound by reading weights; the library has no
/// erf in its epilogue, and a pass of its own costs more than its product is faster.
fn maker(cores: u32, library: bool, it: &Product) -> Maker {
    let half = it.dtype != DType::F32;
    let aligned = it.n.is_multiple_of(8) && it.k.is_multiple_of(8);
    let known = half && (cores != TURING || it.dtype == DType::F16);
    let weights = u64::from(it.n) * u64::from(it.k);
    if known && aligned && cores != TURING && it.rows <= SKINNY_ROWS_MAX {
        let few = match it.rows {
            ..=8 => true,
            9..=32 => weights <= 8 << 20,
            _ => weights <= 5 << 19,
        };
        if few || !library {
            return Maker::Source("gemm_skinny");
        }
    }
    let fused = matches!(
        (it.activation, it.residual),
        (Activation::None, _) | (Activation::Relu | Activation::GeluTanh, false)
    );
    let wide = 4096 <= it.rows && it.n.is_multiple_of(192);
    match (known && aligned, cores == HOPPER, library) {
        (true, true, true) if !fused || wide => Maker::Source("gemm_wgmma"),
        (_, _, true) => Maker::Library { tf32: false },
        (true, true, false) => Maker::Source("gemm_wgmma"),
        (true, false, false) => Maker::Source("gemm_mma"),
        (false, _, false) => Maker::Source("gemm_plain"),
    }
}

pub(super) fn offer<const CORES: u32, const LIBRARY: bool>(site: &Site<'_>) -> Option<Offer> {
    product(site, &|it| Some(maker(CORES, LIBRARY, it)))
}

/// A product with bias and activation, and the addition that follows if nothing else reads the
/// result.
pub(super) fn product(site: &Site<'_>, maker: &dyn Fn(&Product) -> Option<Maker>) -> Option<Offer> {
    let (x, w, bias) = match *site.inputs() {
        [x, w] => (x, w, None),
        [x, w, bias] => (x, w, Some(bias)),
        _ => return None,
    };
    let dtype = site.graph().ty(x).dtype;
    if site.inputs().iter().any(|it| site.graph().ty(*it).dtype != dtype) {
        return None;
    }
    let type_number = type_number(dtype)?;
    let [n, k] = sizes(site, w)?;
    let outer: usize = site.graph().shape(x).sizes().split_last()?.1.iter().product();
    let (m, n, k) = (fits(outer)?, fits(n)?, fits(k)?);
    if m == 0 || n == 0 || k == 0 {
        return None;
    }
    let activation = Activation::by_name(attrs(site)?.get_word("activation")?)?;
    let [y] = results(site)[..] else { return None };
    let added = residual(site, y);
    let residual = added.is_some();
    let product = Product { rows: m, n, k, dtype, activation, residual };

    let mut args = vec![OfferArg::Read(x, rows(1)), OfferArg::Read(w, Layout::Dense)];
    args.extend(bias.map(|it| OfferArg::Read(it, Layout::Dense)));
    let residual_at = args.len();
    args.extend(added.map(|it| OfferArg::Read(it.other, rows(1))));
    let out_at = args.len();
    args.push(OfferArg::Write(added.map_or(y, |it| it.sum)));
    let mut words = vec![
        OfferWord::OuterRows { value: x, inner: 1 },
        OfferWord::Stride { arg: 0, inner: 1 },
        OfferWord::Stride { arg: out_at, inner: 1 },
        match added {
            Some(_) => OfferWord::Stride { arg: residual_at, inner: 1 },
            None => OfferWord::Fixed(0),
        },
    ];
    let unit = match maker(&product)? {
        Maker::Library { tf32 } => {
            // The claims are the same for a generation, so the workspace is the largest.
            args.push(OfferArg::Workspace { bytes: workspace_bytes(9) });
            let bias = bias.is_some();
            let (rows, packed) = (m, false);
            let gemm = Call::Gemm { rows, n, k, dtype, tf32, bias, activation, residual, packed };
            Unit::Call(gemm)
        }
        Maker::Source(name) => {
            if name == "gemm_skinny" {
                // Bytes that are asked for ahead: none.
                words.push(OfferWord::Fixed(0));
            }
            let params = vec![
                ("n", i64::from(n)),
                ("k", k.into()),
                ("dtype", type_number.into()),
                ("activation", activation_number(activation).into()),
                ("bias", bias.is_some().into()),
                ("residual", residual.into()),
                ("rows", m.into()),
            ];
            Unit::Source(Source { name, params })
        }
    };
    let absorbs = added.map(|it| it.node).into_iter().collect();
    Some(Offer { unit, words, args, absorbs })
}

/// An addition to a layer's result.
#[derive(Clone, Copy)]
pub(super) struct Added {
    pub(super) node: NodeId,
    pub(super) other: ValueId,
    pub(super) sum: ValueId,
}

pub(super) fn residual(site: &Site<'_>, y: ValueId) -> Option<Added> {
    let (node, Prim::Binary(Binary::Add)) = site.only_user(y)? else { return None };
    let user = site.graph().node(node);
    let other = match user.inputs[..] {
        [a, b] if a == y && b != y => b,
        [a, b] if b == y && a != y => a,
        _ => return None,
    };
    Some(Added { node, other, sum: user.result() })
}

#[test]
fn products_go_to_who_measured_best() {
    let product = |rows, n, k, dtype, activation, residual| Product {
        rows,
        n,
        k,
        dtype,
        activation,
        residual,
    };
    let (gelu, none) = (Activation::Gelu, Activation::None);
    let bf16 = DType::BF16;
    let library = Maker::Library { tf32: false };
    let hopper = |library: bool, it: Product| maker(HOPPER, library, &it);
    let small = product(32, 4096, 1024, bf16, gelu, false);
    assert_eq!(hopper(true, small), Maker::Source("gemm_skinny"));
    let wide = product(2048, 3072, 768, bf16, gelu, false);
    assert_eq!(hopper(true, wide), Maker::Source("gemm_wgmma"));
    let added = product(2048, 768, 3072, bf16, none, true);
    assert_eq!(hopper(true, added), library);
    assert_eq!(hopper(false, added), Maker::Source("gemm_wgmma"));
    let exact = product(2048, 768, 3072, DType::F32, none, true);
    assert_eq!(hopper(true, exact), library);
    assert_eq!(hopper(false, exact), Maker::Source("gemm_plain"));
    let odd = product(2048, 771, 3072, bf16, none, true);
    assert_eq!(hopper(false, odd), Maker::Source("gemm_plain"));
    assert_eq!(maker(TURING, true, &small), library);
    assert_eq!(maker(super::AMPERE, false, &wide), Maker::Source("gemm_mma"));
}
