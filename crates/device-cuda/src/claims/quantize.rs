//! Rows as codes of one byte.

use calor_device::{Layout, Offer, OfferArg, OfferWord, Site};
use calor_ir::DType;
use calor_kernel::{Source, Unit};

use super::{AMPERE, attrs, fits, results};
use crate::sources::{E4M3, INT8, QUANTIZED_LEN_MAX, type_number};

/// Rows of a half type. What depends on weights alone is left to the planner, which does it once.
pub(super) fn offer<const CORES: u32>(site: &Site<'_>) -> Option<Offer> {
    let &[x] = site.inputs() else { return None };
    let codes_number = match attrs(site)?.get_word("codes")? {
        "i8" => INT8,
        "f8e4m3" if CORES != AMPERE => E4M3,
        _ => return None,
    };
    let dtype = site.graph().ty(x).dtype;
    let half = matches!(dtype, DType::F16 | DType::BF16);
    let shape = site.graph().shape(x);
    let (last, outer) = shape.sizes().split_last()?;
    let k = fits(*last)?;
    let whole = k != 0 && k.is_multiple_of(8) && k <= QUANTIZED_LEN_MAX && !outer.contains(&0);
    if site.is_constant(x) || !half || !whole {
        return None;
    }
    let [codes, scales] = results(site)[..] else { return None };
    let params = vec![
        ("k", i64::from(k)),
        ("dtype", type_number(dtype)?.into()),
        ("codes", codes_number.into()),
    ];
    Some(Offer {
        unit: Unit::Source(Source { name: "quantize_rows", params }),
        words: vec![OfferWord::OuterRows { value: x, inner: 1 }],
        args: vec![
            OfferArg::Read(x, Layout::Dense),
            OfferArg::Write(codes),
            OfferArg::Write(scales),
        ],
        absorbs: vec![],
    })
}
