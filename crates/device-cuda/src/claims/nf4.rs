//! Products with weights of four bits: who computes one.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::{DType, Op, ValueId};
use calor_kernel::{Source, Unit};

use super::{HOPPER, TURING, attrs, fits, results, rows};
use crate::sources::{NF4_SKINNY_ROWS_MAX, type_number};

/// One weight, and what is done with its product.
pub(super) fn offer<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    offer_of(site, CORES, 0, false)
}

/// One weight as it lies.
pub(super) fn offer_transposed<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    offer_of(site, CORES, 0, true)
}

/// Two weights, one gating the other.
pub(super) fn offer_swiglu<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    offer_of(site, CORES, 1, false)
}

/// Two weights, a result of each.
pub(super) fn offer_pair<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    offer_of(site, CORES, 2, false)
}

/// What decides who computes a product.
#[derive(Clone, Copy, Debug)]
struct Product {
    rows: u32,
    n: u32,
    k: u32,
    dtype: DType,
    parts: u32,
    transposed: bool,
    early: bool,
}

/// The kernel for so many rows, and the parameters that only it has. They are steps of the number
/// of rows, so that a kernel is made once for all numbers that it serves.
fn maker(cores: u32, it: &Product) -> (&'static str, Vec<(&'static str, i64)>) {
    let known = it.dtype != DType::F32 && (cores != TURING || it.dtype == DType::F16);
    if !known || !it.n.is_multiple_of(8) || !it.k.is_multiple_of(64) {
        return ("nf4_plain", vec![("lane_rows", if it.rows <= 16 { 1 } else { 4 })]);
    }
    let columns = it.parts * if it.transposed { it.k } else { it.n };
    // Past 32 rows the form for few rows is best only where it needs no second wave of blocks.
    let few = it.rows <= 32 || it.rows <= NF4_SKINNY_ROWS_MAX && columns <= 132 * 32;
    if cores != TURING && !it.transposed && few {
        let row_tiles = it.rows.div_ceil(8).into();
        return ("nf4_skinny", vec![("row_tiles", row_tiles), ("early", it.early.into())]);
    }
    let tiles =
        |high: u32, wide: u32| it.rows.div_ceil(high).saturating_mul(columns.div_ceil(wide));
    // Measured on an H200: the largest tiles that leave no multiprocessor idle; where few are left,
    // several blocks share the sum of one.
    let steps = if it.transposed { it.n } else { it.k }.div_ceil(64);
    let split = |tiles: u32, blocks_max: u32| {
        let fits = |split: &u32| tiles.saturating_mul(*split) <= blocks_max && 2 * split <= steps;
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    };
    let (row_tile, column_tile, warpgroups, split) = match cores {
        HOPPER if 128 < it.rows && 132 <= tiles(256, 128) => (256, 128, 2, 1),
        HOPPER if 64 < it.rows => (128, 128, 2, split(tiles(128, 128), 132)),
        HOPPER => (64, 64, 0, split(tiles(64, 64), 264)),
        _ if 300 <= tiles(128, 128) => (128, 128, 0, 1),
        _ if 64 <= tiles(128, 64) && 128 < it.rows => (128, 64, 0, 1),
        _ => (64, 64, 0, 1),
    };
    let params = vec![
        ("row_tile", row_tile),
        ("column_tile", column_tile),
        ("warpgroups", warpgroups),
        ("split", split.into()),
    ];
    ("nf4_mma", params)
}

fn offer_of(site: &Site<'_>, cores: u32, form: u32, transposed: bool) -> Option<Offer> {
    let (x, weights) = site.inputs().split_first()?;
    let dtype = site.graph().ty(*x).dtype;
    let number = type_number(dtype)?;
    let shape = site.graph().shape(*x);
    let (last, outer) = shape.sizes().split_last()?;
    let other = attrs(site)?.get_int(if transposed { "k" } else { "n" })?;
    let (last, other) = (fits(*last)?, u32::try_from(other).ok()?);
    let (n, k) = if transposed { (last, other) } else { (other, last) };
    let rows_max = fits(outer.iter().product())?;
    if rows_max == 0 {
        return None;
    }
    let parts = fits(weights.len() / 2)?;
    let early = weights.iter().all(|it| is_before(site, *it));
    let product = Product { rows: rows_max, n, k, dtype, parts, transposed, early };
    let (name, more) = maker(cores, &product);
    let mut params = vec![
        ("n", i64::from(n)),
        ("k", k.into()),
        ("dtype", number.into()),
        ("form", form.into()),
        ("transposed", transposed.into()),
    ];
    params.extend(more);

    let mut args = vec![OfferArg::Read(*x, rows(1))];
    args.extend(weights.iter().map(|it| OfferArg::Read(*it, Layout::Dense)));
    let out_at = args.len();
    let results = results(site);
    let more_at = out_at + results.len() - 1;
    args.extend(results.into_iter().map(OfferArg::Write));
    let words = vec![
        OfferWord::OuterRows { value: *x, inner: 1 },
        OfferWord::Stride { arg: 0, inner: 1 },
        OfferWord::Stride { arg: out_at, inner: 1 },
        OfferWord::Stride { arg: more_at, inner: 1 },
    ];
    let unit = Unit::Source(Source { name, params });
    Some(Offer { unit, words, args, absorbs: vec![] })
}

/// Whether a value is there before the program begins.
fn is_before(site: &Site<'_>, value: ValueId) -> bool {
    site.is_constant(value) || matches!(site.graph().op(value), Op::Input(_))
}

#[test]
fn rows_choose_the_kernel_in_steps() {
    let bf16 = Product {
        rows: 1,
        n: 4096,
        k: 4096,
        dtype: DType::BF16,
        parts: 1,
        transposed: false,
        early: true,
    };
    let of = |it: Product| maker(HOPPER, &it);
    assert_eq!(of(bf16), of(Product { rows: 8, ..bf16 }));
    assert_ne!(of(bf16), of(Product { rows: 9, ..bf16 }));
    assert_eq!(of(Product { rows: 500, ..bf16 }), of(Product { rows: 1000, ..bf16 }));
    assert_ne!(of(Product { rows: 100, ..bf16 }), of(Product { rows: 500, ..bf16 }));
    assert_eq!(of(Product { rows: 2000, ..bf16 }), of(Product { rows: 8192, ..bf16 }));
    assert_eq!(of(Product { k: 4100, ..bf16 }).0, "nf4_plain");
    assert_eq!(of(Product { dtype: DType::F32, ..bf16 }).0, "nf4_plain");
    assert_eq!(of(Product { transposed: true, ..bf16 }).0, "nf4_mma");
    assert_eq!(maker(TURING, &bf16).0, "nf4_plain");
    assert_eq!(maker(TURING, &Product { dtype: DType::F16, ..bf16 }).0, "nf4_mma");
}
