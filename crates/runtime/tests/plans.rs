//! Every op case can be planned without any claim.

use calor_ir::{COMPOSITES, Meaning, OpCase, primitive_cases};
use calor_runtime::{Capabilities, Choices, PlanError, plan};

const GENERATED: Capabilities = Capabilities { claims: &[], parallel_count: 2 };

fn cases() -> Vec<(&'static str, bool, OpCase)> {
    let composites = COMPOSITES.iter().flat_map(|composite| {
        let opaque = matches!(composite.meaning, Meaning::Opaque { .. });
        (composite.cases)().into_iter().map(move |case| (composite.name, opaque, case))
    });
    let primitives = primitive_cases().into_iter().map(|case| ("primitive", false, case));
    composites.chain(primitives).collect()
}

#[test]
fn every_case_has_a_plan() {
    let mut bad = Vec::new();
    for (op, opaque, case) in cases() {
        let planned = plan(&case.graph, &GENERATED, &Choices::default());
        match planned {
            Ok(plan) if !opaque => {
                assert!(plan.peak_live_bytes <= plan.arena_bytes);
                let again = self::plan(&case.graph, &GENERATED, &Choices::default());
                assert_eq!(again.map(|it| it.digest()), Ok(plan.digest()), "{op} {}", case.name);
            }
            Err(PlanError::Opaque { .. }) if opaque => {}
            other => bad.push(format!("{op} {}: {:?}", case.name, other.map(|_| ()))),
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}
