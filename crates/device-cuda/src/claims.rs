//! What a GPU does better than generated code.
//!
//! A table for each generation of tensor cores, with and without the vendor's library.

mod attention;
mod experts;
mod few_rows;
mod gate;
mod linear;
mod nf4;
mod norm;
mod pool;
mod quantize;
mod rope;
mod scaled;
mod splade;
mod tf32;
mod top_k;

use calor_device::{Claim, Layout, Site};
use calor_ir::composite::{self, quantize_rows, scaled_linear, tf32_linear};
use calor_ir::{Attrs, Composite, NodeId, Op, ValueId};

use crate::arch::Arch;

/// Tensor cores of f16 alone: sm_75.
const TURING: u32 = 75;
/// Tensor cores of f16, bf16, tf32 and int8.
const AMPERE: u32 = 80;
/// And of fp8.
const ADA: u32 = 89;
/// Products of four warps, the copy engine, clusters: sm_90a.
const HOPPER: u32 = 90;

macro_rules! table {
    ($name:ident, $cores:ident, $library:literal) => {
        static $name: &[Claim] = &[
            Claim {
                composite: &composite::linear::LINEAR,
                offer: linear::offer::<$cores, $library>,
            },
            Claim {
                composite: &composite::attention::ATTENTION,
                offer: attention::offer::<$cores>,
            },
            Claim { composite: &composite::layer_norm::LAYER_NORM, offer: norm::offer },
            Claim { composite: &composite::rms_norm::RMS_NORM, offer: norm::offer },
            Claim { composite: &composite::pool::POOL, offer: pool::offer },
            Claim { composite: &composite::experts::EXPERTS, offer: experts::offer::<$cores> },
            Claim {
                composite: &composite::splade_pool::SPLADE_POOL,
                offer: splade::offer::<$cores>,
            },
            Claim { composite: &composite::gate::GATE, offer: gate::offer },
            Claim { composite: &composite::top_k::TOP_K, offer: top_k::offer },
            Claim { composite: &composite::nf4_linear::NF4_LINEAR, offer: nf4::offer::<$cores> },
            Claim {
                composite: &composite::nf4_linear_transposed::NF4_LINEAR_TRANSPOSED,
                offer: nf4::offer_transposed::<$cores>,
            },
            Claim {
                composite: &composite::nf4_swiglu::NF4_SWIGLU,
                offer: nf4::offer_swiglu::<$cores>,
            },
            Claim { composite: &composite::nf4_pair::NF4_PAIR, offer: nf4::offer_pair::<$cores> },
            Claim { composite: &composite::rope::ROPE, offer: rope::offer },
            Claim { composite: &composite::rope::ROPE_INVERSE, offer: rope::offer_inverse },
            // From here on not on sm_75.
            Claim { composite: &tf32_linear::TF32_LINEAR, offer: tf32::offer::<$library> },
            Claim { composite: &quantize_rows::QUANTIZE_ROWS, offer: quantize::offer::<$cores> },
            Claim { composite: &scaled_linear::INT8_LINEAR, offer: scaled::int8 },
            // The last one: from sm_89.
            Claim { composite: &scaled_linear::FP8_LINEAR, offer: scaled::fp8::<$cores> },
        ];
    };
}

table!(TURING_LIBRARY, TURING, true);
table!(TURING_ALONE, TURING, false);
table!(AMPERE_LIBRARY, AMPERE, true);
table!(AMPERE_ALONE, AMPERE, false);
table!(ADA_LIBRARY, ADA, true);
table!(ADA_ALONE, ADA, false);
table!(HOPPER_LIBRARY, HOPPER, true);
table!(HOPPER_ALONE, HOPPER, false);

/// Rows of a table behind those that sm_75 has.
const AFTER_TURING: usize = 4;
/// Rows of a table that need fp8.
const FP8: usize = 1;

/// The claims of a device of this architecture. `library` says whether cuBLASLt is used.
pub fn claims(arch: Arch, library: bool) -> &'static [Claim] {
    let wgmma = arch.has_wgmma();
    let (alone, with_library, missing) = match arch.major {
        ..8 => (TURING_ALONE, TURING_LIBRARY, AFTER_TURING),
        _ if wgmma => (HOPPER_ALONE, HOPPER_LIBRARY, 0),
        _ if arch.has_fp8() => (ADA_ALONE, ADA_LIBRARY, 0),
        _ => (AMPERE_ALONE, AMPERE_LIBRARY, FP8),
    };
    let table = if library { with_library } else { alone };
    &table[..table.len() - missing]
}

/// The same claims but for products in fp8.
pub(crate) fn without_fp8(claims: &'static [Claim]) -> &'static [Claim] {
    match claims.split_last() {
        Some((last, rest)) if last.composite.is(&scaled_linear::FP8_LINEAR) => rest,
        Some(_) | None => claims,
    }
}

fn attrs<'a>(site: &Site<'a>) -> Option<&'a Attrs> {
    composite_of(site, site.node()).map(|(_, attrs)| attrs)
}

fn composite_of<'a>(site: &Site<'a>, node: NodeId) -> Option<(&'static Composite, &'a Attrs)> {
    match &site.graph().node(node).op {
        Op::Composite(composite, attrs) => Some((composite, attrs)),
        Op::Input(_) | Op::Prim(_) => None,
    }
}

fn results(site: &Site<'_>) -> Vec<ValueId> {
    site.graph().node(site.node()).results().collect()
}

fn sizes<'a, const N: usize>(site: &Site<'a>, value: ValueId) -> Option<[usize; N]> {
    site.graph().shape(value).sizes().try_into().ok()
}

/// Rows whose last `inner` dimensions have no gaps.
const fn rows(inner: usize) -> Layout {
    Layout::Rows { inner }
}

/// A size as a unit's field.
fn fits(size: usize) -> Option<u32> {
    u32::try_from(size).ok()
}

#[test]
fn generations_differ_in_what_they_multiply() {
    let claims_it = |claims: &'static [Claim], it: &'static composite::Composite| {
        claims.iter().any(|claim| claim.composite.is(it))
    };
    let narrow: [&'static composite::Composite; 3] =
        [&tf32_linear::TF32_LINEAR, &scaled_linear::INT8_LINEAR, &scaled_linear::FP8_LINEAR];
    for (major, minor, want) in [
        (7, 5, [false, false, false]),
        (8, 0, [true, true, false]),
        (8, 6, [true, true, false]),
        (8, 9, [true, true, true]),
        (9, 0, [true, true, true]),
        (12, 0, [true, true, true]),
    ] {
        for library in [true, false] {
            let all = claims(Arch::of_device(major, minor), library);
            assert_eq!(narrow.map(|it| claims_it(all, it)), want, "{major}.{minor}");
            let fewer = without_fp8(all);
            assert_eq!(narrow.map(|it| claims_it(fewer, it)), [want[0], want[1], false]);
        }
    }
}
