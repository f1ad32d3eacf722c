//! Products: who computes one, and what is done with its result on the way.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::{Binary, DType, NodeId, Op, Prim, ValueId};
use calor_kernel::{Activation, Call, Source, Unit};

use super::few_rows;
use super::{HOPPER, TURING, attrs, fits, results, rows, sizes};
use crate::gemm::workspace_bytes;
use crate::sources::{E4M3, INT8, SKINNY_ROWS_MAX, activation_number, type_number};

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    Library { tf32: bool },
    Source(&'static str),
}

/// What decides who computes a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) rows: u32,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) dtype: DType,
    activation: Activation,
    pub(super) join: Join,
}

/// What becomes of a result with other rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    None,
    /// They are added.
    Add,
    /// They are multiplied with: a gate.
    Multiply,
}

/// Measured on an H200 for half types: few rows are bound by reading weights; the library has no
/// erf in its epilogue, and a pass of its own costs more than its product is faster. Of many rows
/// a few hundredths are between the two, and the library multiplies rows that are not live too.
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
        (it.activation, it.join),
        (Activation::None, Join::None | Join::Add)
            | (Activation::Relu | Activation::GeluTanh, Join::None)
    );
    let many = 2048 <= it.rows;
    match (known && aligned, cores == HOPPER, library) {
        (true, true, true) if !fused || many => Maker::Source("gemm_wgmma"),
        (_, _, true) => Maker::Library { tf32: false },
        (true, true, false) => Maker::Source("gemm_wgmma"),
        (true, false, false) => Maker::Source("gemm_mma"),
        (false, _, false) => Maker::Source("gemm_plain"),
    }
}

/// A linear layer, with the addition or multiplication that follows if nothing else reads its
/// result.
pub(super) struct Layer {
    pub(super) x: ValueId,
    pub(super) w: ValueId,
    pub(super) bias: Option<ValueId>,
    pub(super) product: Product,
    joined: Option<Joined>,
    result: ValueId,
}

impl Layer {
    /// The layer of rows, weights and perhaps a bias, all of one type.
    pub(super) fn of(site: &Site<'_>) -> Option<Self> {
        let (x, w, bias) = match *site.inputs() {
            [x, w] => (x, w, None),
            [x, w, bias] => (x, w, Some(bias)),
            _ => return None,
        };
        let dtype = site.graph().ty(x).dtype;
        if site.inputs().iter().any(|it| site.graph().ty(*it).dtype != dtype) {
            return None;
        }
        Self::between(site, x, w, bias)
    }

    /// The layer of these among a site's inputs, whatever their types.
    pub(super) fn between(
        site: &Site<'_>,
        x: ValueId,
        w: ValueId,
        bias: Option<ValueId>,
    ) -> Option<Self> {
        let dtype = site.graph().ty(x).dtype;
        let [n, k] = sizes(site, w)?;
        let outer: usize = site.graph().shape(x).sizes().split_last()?.1.iter().product();
        let (rows, n, k) = (fits(outer)?, fits(n)?, fits(k)?);
        if rows == 0 || n == 0 || k == 0 {
            return None;
        }
        let activation = Activation::by_name(attrs(site)?.get_word("activation")?)?;
        let [y] = results(site)[..] else { return None };
        let product = Product { rows, n, k, dtype, activation, join: Join::None };
        Some(Self { x, w, bias, product, joined: None, result: y })
    }

    /// The layer with the addition that follows, if there is one.
    pub(super) fn added(self, site: &Site<'_>) -> Self {
        match self.joined(site) {
            Some(it) if it.product.join == Join::Add => it,
            Some(_) | None => self,
        }
    }

    /// The layer with what follows.
    fn joined(&self, site: &Site<'_>) -> Option<Self> {
        let joined = joined(site, self.result)?;
        let product = Product { join: joined.join, ..self.product };
        Some(Self { product, joined: Some(joined), result: joined.result, ..*self })
    }

    /// The offer of a unit that reads rows, weights, then what they meet, and writes the result.
    pub(super) fn offer(&self, unit: Unit, x: ValueId, weights: Vec<OfferArg>) -> Offer {
        // Rows of codes are whole pieces of 16 bytes only where they have no gaps.
        let layout = if is_codes(self.product.dtype) { Layout::Dense } else { rows(1) };
        let mut args = vec![OfferArg::Read(x, layout)];
        args.extend(weights);
        let mut stride_joined = OfferWord::Fixed(0);
        if let Some(joined) = self.joined {
            stride_joined = OfferWord::Stride { arg: args.len(), inner: 1 };
            args.push(OfferArg::Read(joined.other, rows(1)));
        }
        let words = vec![
            OfferWord::OuterRows { value: x, inner: 1 },
            OfferWord::Stride { arg: 0, inner: 1 },
            OfferWord::Stride { arg: args.len(), inner: 1 },
            stride_joined,
        ];
        args.push(OfferArg::Write(self.result));
        let absorbs = self.joined.map(|it| it.node).into_iter().collect();
        Offer { unit, words, args, absorbs }
    }

    /// Weights and bias as they are.
    pub(super) fn weights(&self) -> Vec<OfferArg> {
        let values = [Some(self.w), self.bias];
        values.into_iter().flatten().map(|it| OfferArg::Read(it, Layout::Dense)).collect()
    }

    /// The parameters that every source of a product has.
    pub(super) fn params(&self, bias: bool) -> Option<Vec<(&'static str, i64)>> {
        let Product { rows, n, k, dtype, activation, join } = self.product;
        let number = match dtype {
            DType::I8 => INT8,
            DType::F8E4M3 => E4M3,
            dtype => type_number(dtype)?,
        };
        Some(vec![
            ("n", i64::from(n)),
            ("k", k.into()),
            ("dtype", number.into()),
            ("activation", activation_number(activation).into()),
            ("bias", bias.into()),
            ("residual", join as i64),
            ("rows", rows.into()),
        ])
    }
}

/// Whether numbers of a type are codes, which scales belong to.
fn is_codes(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::F8E4M3)
}

/// A product with bias and activation, and the addition that follows if nothing else reads the
/// result.
pub(super) fn offer<const CORES: u32, const LIBRARY: bool>(site: &Site<'_>) -> Option<Offer> {
    let alone = Layer::of(site)?;
    let joined = alone.joined(site).map(|it| (maker(CORES, LIBRARY, &it.product), it));
    let (maker, layer) = match joined {
        // The library does not multiply, and one more pass is what there is without it.
        Some((Maker::Library { .. }, it)) if it.product.join == Join::Multiply => {
            (maker(CORES, LIBRARY, &alone.product), alone)
        }
        Some(joined) => joined,
        None => (maker(CORES, LIBRARY, &alone.product), alone),
    };
    match maker {
        Maker::Source("gemm_skinny") => few_rows::offer(site, &layer),
        maker => by(maker, &layer),
    }
}

/// The offer of a layer that the library or a source without parameters of its own computes.
pub(super) fn by(maker: Maker, layer: &Layer) -> Option<Offer> {
    match maker {
        Maker::Library { tf32 } => {
            let Product { rows, n, k, dtype, activation, join } = layer.product;
            let residual = join == Join::Add;
            let (bias, packed) = (layer.bias.is_some(), false);
            let call = Call::Gemm { rows, n, k, dtype, tf32, bias, activation, residual, packed };
            let mut offer = layer.offer(Unit::Call(call), layer.x, layer.weights());
            // The claims are the same for a generation, so the workspace is the largest.
            offer.args.push(OfferArg::Workspace { bytes: workspace_bytes(9) });
            Some(offer)
        }
        Maker::Source(name) => {
            let params = layer.params(layer.bias.is_some())?;
            let unit = Unit::Source(Source { name, params });
            Some(layer.offer(unit, layer.x, layer.weights()))
        }
    }
}

/// Other rows that a layer's result meets.
#[derive(Clone, Copy)]
struct Joined {
    join: Join,
    node: NodeId,
    other: ValueId,
    result: ValueId,
}

fn joined(site: &Site<'_>, y: ValueId) -> Option<Joined> {
    let (node, op) = site.only_user(y)?;
    let join = match op {
        Op::Prim(Prim::Binary(Binary::Add)) => Join::Add,
        Op::Prim(Prim::Binary(Binary::Mul)) => Join::Multiply,
        Op::Prim(_) | Op::Input(_) | Op::Composite(..) => return None,
    };
    let user = site.graph().node(node);
    let other = match user.inputs[..] {
        [a, b] if a == y && b != y => b,
        [a, b] if b == y && a != y => a,
        _ => return None,
    };
    Some(Joined { join, node, other, result: user.result() })
}

#[test]
fn products_go_to_who_measured_best() {
    let product =
        |rows, n, k, dtype, activation, join| Product { rows, n, k, dtype, activation, join };
    let (gelu, none) = (Activation::Gelu, Activation::None);
    let bf16 = DType::BF16;
    let library = Maker::Library { tf32: false };
    let hopper = |library: bool, it: Product| maker(HOPPER, library, &it);
    let small = product(32, 4096, 1024, bf16, gelu, Join::None);
    assert_eq!(hopper(true, small), Maker::Source("gemm_skinny"));
    let wide = product(2048, 3072, 768, bf16, gelu, Join::None);
    assert_eq!(hopper(true, wide), Maker::Source("gemm_wgmma"));
    let added = product(2048, 768, 3072, bf16, none, Join::Add);
    assert_eq!(hopper(true, added), Maker::Source("gemm_wgmma"));
    assert_eq!(hopper(true, Product { rows: 1344, ..added }), library);
    assert_eq!(hopper(false, added), Maker::Source("gemm_wgmma"));
    let gate = product(2048, 8960, 1536, bf16, Activation::Silu, Join::Multiply);
    assert_eq!(hopper(true, gate), Maker::Source("gemm_wgmma"));
    let exact = product(2048, 768, 3072, DType::F32, none, Join::Add);
    assert_eq!(hopper(true, exact), library);
    assert_eq!(hopper(false, exact), Maker::Source("gemm_plain"));
    let odd = product(2048, 771, 3072, bf16, none, Join::Add);
    assert_eq!(hopper(false, odd), Maker::Source("gemm_plain"));
    assert_eq!(maker(TURING, true, &small), library);
    assert_eq!(maker(super::AMPERE, false, &wide), Maker::Source("gemm_mma"));
}
