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
mod rope;
mod splade;
mod top_k;

use calor_device::{Claim, Layout, Site};
use calor_ir::composite;
use calor_ir::{Attrs, Composite, NodeId, Op, ValueId};

use crate::arch::Arch;

/// Tensor cores of f16 alone: sm_75.
const TURING: u32 = 7;
/// Tensor cores of f16 and bf16.
const AMPERE: u32 = 8;
/// Products of four warps, the copy engine, clusters: sm_90a.
const HOPPER: u32 = 9;

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
        ];
    };
}

table!(TURING_LIBRARY, TURING, true);
table!(TURING_ALONE, TURING, false);
table!(AMPERE_LIBRARY, AMPERE, true);
table!(AMPERE_ALONE, AMPERE, false);
table!(HOPPER_LIBRARY, HOPPER, true);
table!(HOPPER_ALONE, HOPPER, false);

/// The claims of a device of this architecture. `library` says whether cuBLASLt is used.
pub fn claims(arch: Arch, library: bool) -> &'static [Claim] {
    match (arch.major, library) {
        (..8, true) => TURING_LIBRARY,
        (..8, false) => TURING_ALONE,
        (_, true) if arch.has_wgmma() => HOPPER_LIBRARY,
        (_, false) if arch.has_wgmma() => HOPPER_ALONE,
        (_, true) => AMPERE_LIBRARY,
        (_, false) => AMPERE_ALONE,
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
