//! Graphs and plans in half precision: rows are cast at the entry and at the exit and nowhere
//! between, weights are cast once, and every product of a layer is one of the narrow type.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::Path;

use calor_device_cuda::{Arch, claims};
use calor_embed::encoder::{Pooling, TextOutputs, image_graph, text_graph};
use calor_embed::packing::Bucket;
use calor_ir::{CheckedGraph, DType, Graph, Op, Prim, Role, ValueId};
use calor_kernel::{Call, Unit};
use calor_runtime::{Capabilities, Choices, Plan, PlanStep, plan};
use calor_weights::{Head, ModelConfig};

fn config(model: &str) -> ModelConfig {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    ModelConfig::from_file(dir.join(model).join("config.json")).unwrap()
}

fn text(model: &str, dtype: DType) -> CheckedGraph {
    let outputs = TextOutputs {
        pooling: Pooling::Mean,
        project: false,
        normalize: true,
        slots: Vec::new(),
        token_slot: None,
        token_mean: None,
    };
    let encoder = config(model).text.unwrap();
    text_graph(&encoder, Head::None, "", Bucket::of_tokens(512), &outputs, dtype).unwrap()
}

/// Whether a value depends on weights and numbers alone.
fn is_weight_only(g: &Graph, value: ValueId) -> bool {
    let node = g.node(g.maker(value));
    match &node.op {
        Op::Input(input) => input.role == Role::Weight,
        Op::Prim(_) | Op::Composite(..) => node.inputs.iter().all(|it| is_weight_only(g, *it)),
    }
}

/// Casts of what a request brings, to and from the type of the products.
fn cast_count(graph: &CheckedGraph) -> usize {
    let g = graph.graph();
    let is_float = |it: ValueId| g.ty(it).dtype.is_float();
    let of_rows = g.nodes().iter().filter(|node| {
        matches!(node.op, Op::Prim(Prim::Cast(to)) if to.is_float())
            && is_float(node.inputs[0])
            && !is_weight_only(g, node.inputs[0])
    });
    of_rows.count()
}

#[test]
fn rows_are_cast_at_the_entry_and_at_the_exit() {
    let families = ["bert", "roberta", "longformer", "mpnet", "modernbert", "qwen2", "t5-gated"];
    for model in families {
        assert_eq!(cast_count(&text(model, DType::F32)), 0, "{model}");
        assert_eq!(cast_count(&text(model, DType::BF16)), 2, "{model}");
    }
    let vision = config("clip").vision.unwrap();
    let image = |dtype| image_graph(&vision, Some(32), 2, true, dtype).unwrap();
    // Patches have an entry and an exit of their own, before the norm in f32.
    assert_eq!([DType::F32, DType::F16].map(|it| cast_count(&image(it))), [0, 4]);
}

fn planned(model: &str, dtype: DType) -> Plan {
    let claims = claims(Arch::of_device(8, 0), true);
    let capabilities = Capabilities { claims, parallel_count: 132 };
    plan(&text(model, dtype), &capabilities, &Choices::default()).unwrap()
}

/// Types of the products that a run makes, in its order.
fn products(plan: &Plan) -> Vec<DType> {
    let call = |step: &PlanStep| match step {
        PlanStep::Run { unit, .. } => match &plan.units[*unit as usize] {
            Unit::Call(Call::Gemm { dtype, .. }) => Some(*dtype),
            Unit::Call(_) | Unit::Loop(_) | Unit::Source(_) => None,
        },
        PlanStep::Copy { .. } => None,
    };
    plan.steps.iter().filter_map(call).collect()
}

#[test]
fn a_plan_in_bf16_has_the_steps_of_one_in_f32() {
    for model in ["bert", "modernbert", "t5-gated"] {
        let [wide, narrow] = [DType::F32, DType::BF16].map(|it| planned(model, it));
        let [of_wide, of_narrow] = [&wide, &narrow].map(products);
        assert_eq!(of_wide, vec![DType::F32; of_wide.len()], "{model}");
        assert_eq!(of_narrow, vec![DType::BF16; of_wide.len()], "{model}");
        assert_eq!(narrow.steps.len(), wide.steps.len(), "{model}\n{wide}\n{narrow}");
        let [wide_bytes, narrow_bytes] = [&wide, &narrow].map(|it| it.cost().0);
        assert!(narrow_bytes < wide_bytes, "{model}: {narrow_bytes} of {wide_bytes}");
    }
}
