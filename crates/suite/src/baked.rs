//! Numbers that decide what a kernel computes: each must give its own result, whichever came first
//! in the process, and code is one exactly where its text is one.

use calor_device::Driver;
use calor_ir::case::CaseBuilder;
use calor_ir::{DType, OpCase, ValueId, nn, oracle};
use calor_testkit::check_case;

/// Values of one number under which kernels of one process are built.
const THETAS: [f64; 3] = [1e4, 5e5, 1e6];
const EPSILONS: [f64; 2] = [1e-5, 1e-6];

/// An operation that has such a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rope(nn::RopeStyle),
    RopeInverse(nn::RopeStyle),
    LayerNorm,
    RmsNorm,
    L2Normalize,
}

const KINDS: [Kind; 7] = [
    Kind::Rope(nn::RopeStyle::Half),
    Kind::RopeInverse(nn::RopeStyle::Half),
    Kind::Rope(nn::RopeStyle::Interleaved),
    Kind::RopeInverse(nn::RopeStyle::Interleaved),
    Kind::LayerNorm,
    Kind::RmsNorm,
    Kind::L2Normalize,
];

impl Kind {
    fn values(self) -> &'static [f64] {
        match self {
            Self::Rope(_) | Self::RopeInverse(_) => &THETAS,
            Self::LayerNorm | Self::RmsNorm | Self::L2Normalize => &EPSILONS,
        }
    }

    /// One graph with a result for each of these values, in their order.
    fn case(self, dtype: DType, values: &[f64]) -> OpCase {
        let tolerance = if dtype == DType::F32 { 1e-3 } else { 1e-2 };
        let mut case = CaseBuilder::new(&format!("{self:?} {dtype} {values:?}"));
        case = case.tolerance(tolerance);
        let rotary = matches!(self, Self::Rope(_) | Self::RopeInverse(_));
        // Norms of rows so small that epsilon is most of what they are divided by.
        let size = if rotary { 1.0 } else { 1e-3 };
        let sizes: &[usize] = if rotary { &[6, 3, 16] } else { &[6, 48] };
        let x = case.random_in("x", dtype, sizes, -size, size);
        let other = match self {
            Self::Rope(_) | Self::RopeInverse(_) => {
                case.indices("positions", &[0, 1, 2, 40, 333, 900])
            }
            Self::LayerNorm | Self::RmsNorm => case.random_in("weight", dtype, &[48], 0.5, 1.0),
            Self::L2Normalize => x,
        };
        let mut results: Vec<ValueId> = Vec::new();
        for value in values.iter().copied() {
            let g = &mut case.graph;
            let result = match self {
                Self::Rope(style) => nn::rope(g, x, other, value, style),
                Self::RopeInverse(style) => nn::rope_inverse(g, x, other, value, style),
                Self::LayerNorm => nn::layer_norm(g, x, other, None, value),
                Self::RmsNorm => nn::rms_norm(g, x, other, value),
                // Its epsilon is a length, not a square.
                Self::L2Normalize => nn::l2_normalize(g, x, 1e4 * value),
            };
            results.push(result.unwrap());
        }
        case.finish(Ok(results))
    }
}

/// Every kind with its values in both orders: each by itself, one after another, and all in one
/// program.
///
/// # Panics
/// When a result is not what the oracle says for its own value, or the values would not show.
pub fn check_baked_values(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    let mut check = |case: &OpCase| {
        if let Err(failure) = check_case(driver, "baked", case) {
            wrong.push(format!("{}: {failure}", case.name));
        }
    };
    for dtype in [DType::F32, DType::BF16] {
        for kind in KINDS {
            let mut values = kind.values().to_vec();
            assert!(apart(&kind.case(dtype, &values)), "{kind:?}: the values do not show");
            for _ in 0..2 {
                for value in &values {
                    check(&kind.case(dtype, &[*value]));
                }
                check(&kind.case(dtype, &values));
                values.reverse();
            }
        }
    }
    assert!(wrong.is_empty(), "{} results:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whether every two results of a case differ by more than it forgives.
fn apart(case: &OpCase) -> bool {
    let outputs = oracle::eval(&case.graph, &case.inputs).unwrap().outputs;
    let pairs = outputs
        .iter()
        .enumerate()
        .flat_map(|(at, it)| outputs[..at].iter().map(move |other| (it, other)));
    let mut all = pairs.map(|(a, b)| calor_testkit::agree(a, b, case.tolerance).is_err());
    all.all(|it| it)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use calor_device_cuda::{Arch, claims};
    use calor_kernel::{Digest, Language, Unit};
    use calor_runtime::{Capabilities, Choices, Plan, PlanStep, plan};

    use super::*;

    fn plan_of(case: &OpCase, own: bool) -> Plan {
        let claims = if own { claims(Arch::of_device(9, 0), false) } else { &[] };
        let capabilities = Capabilities { claims, parallel_count: 132 };
        plan(&case.graph, &capabilities, &Choices::default()).unwrap()
    }

    /// What a unit's code is made from: its text where a language writes it.
    fn text(unit: &Unit) -> String {
        match unit {
            Unit::Loop(program) => calor_kernel::write(program, Language::CudaCpp).unwrap().text,
            Unit::Source(_) | Unit::Call(_) => format!("{unit:?}"),
        }
    }

    /// Of the kinds with every value, with the device's own kernels and without: two units have
    /// one digest if and only if they have one text, and a value is in the digest of a unit, or
    /// else in a word or a buffer of the plan.
    #[test]
    fn keys_are_equal_where_texts_are() {
        let mut texts: HashMap<Digest, String> = HashMap::new();
        let mut digests: HashMap<String, Digest> = HashMap::new();
        for own in [true, false] {
            for dtype in [DType::F32, DType::BF16] {
                for kind in KINDS {
                    let plans =
                        kind.values().iter().map(|it| plan_of(&kind.case(dtype, &[*it]), own));
                    let plans: Vec<Plan> = plans.collect();
                    for unit in plans.iter().flat_map(|it| &it.units) {
                        let (digest, text) = (unit.digest(), text(unit));
                        assert_eq!(*texts.entry(digest).or_insert_with(|| text.clone()), text);
                        assert_eq!(*digests.entry(text).or_insert(digest), digest);
                    }
                    for (at, plan) in plans.iter().enumerate() {
                        assert!(
                            plans[..at].iter().all(|it| it.digest() != plan.digest()),
                            "{kind:?}"
                        );
                    }
                }
            }
        }
    }

    /// A device's own rotation is one kernel for every theta, forward and back.
    #[test]
    fn theta_and_direction_are_launch_words() {
        for style in [nn::RopeStyle::Half, nn::RopeStyle::Interleaved] {
            let mut seen = Vec::new();
            for kind in [Kind::Rope(style), Kind::RopeInverse(style)] {
                for theta in THETAS {
                    let plan = plan_of(&kind.case(DType::BF16, &[theta]), true);
                    let [PlanStep::Run { words, .. }] = &plan.steps[..] else {
                        panic!("{kind:?} is not one step")
                    };
                    seen.push((plan.units.clone(), words.clone()));
                }
            }
            for (at, (units, words)) in seen.iter().enumerate() {
                assert_eq!(*units, seen[0].0);
                assert!(seen[..at].iter().all(|(_, it)| it != words));
            }
        }
    }

    /// The number of rows is not in the key of a product with weights of four bits, beyond the
    /// kernel that it chooses.
    #[test]
    fn rows_are_not_in_the_key() {
        for (few, many) in [(1, 8), (9, 16), (2500, 8192)] {
            let units = [few, many].map(|rows| {
                let mut case = CaseBuilder::new("rows");
                let x = case.random("x", DType::BF16, &[rows, 64]);
                let count = 2048 * 64;
                let codes = case.random_in("codes", DType::U8, &[count / 2], 0.0, 255.0);
                let scales = case.random("scales", DType::F32, &[count / 64]);
                let weight = nn::Nf4Weight { codes, scales };
                let y = nn::nf4_linear(&mut case.graph, x, weight, 2048);
                plan_of(&case.finish(y.map(|it| vec![it])), true).units
            });
            assert_eq!(units[0], units[1], "{few} and {many} rows");
        }
    }
}
