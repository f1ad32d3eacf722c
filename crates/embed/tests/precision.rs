//! Graphs and plans in narrow precisions: rows begin in their type and are cast at the exit, and
//! nowhere between, weights are converted once, and every product of a layer is one of the
//! precision.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::Path;

use calor_device_cuda::{Arch, claims};
use calor_embed::InferencePrecision;
use calor_embed::InferencePrecision as P;
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

fn text(model: &str, precision: InferencePrecision) -> CheckedGraph {
    let outputs = TextOutputs {
        pooling: Pooling::Mean,
        project: false,
        normalize: true,
        slots: Vec::new(),
        token_slot: None,
        token_mean: None,
    };
    let encoder = config(model).text.unwrap();
    text_graph(&encoder, Head::None, "", Bucket::of_tokens(512), &outputs, precision).unwrap()
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
fn rows_are_cast_at_the_exit_and_pixels_at_the_entry_too() {
    let families = ["bert", "roberta", "longformer", "mpnet", "modernbert", "qwen2", "t5-gated"];
    for model in families {
        let counts = P::ALL.map(|it| cast_count(&text(model, it)));
        assert_eq!(counts, [0, 0, 1, 1, 1, 1], "{model}");
    }
    let vision = config("clip").vision.unwrap();
    let image = |precision| image_graph(&vision, Some(32), 2, true, precision).unwrap();
    // Patches have an entry and an exit of their own, before the norm in f32.
    assert_eq!([P::FP32, P::FP16].map(|it| cast_count(&image(it))), [0, 4]);
}

fn planned(model: &str, precision: InferencePrecision) -> Plan {
    let claims = claims(Arch::of_device(8, 9), true);
    let capabilities = Capabilities { claims, parallel_count: 132 };
    plan(&text(model, precision), &capabilities, &Choices::default()).unwrap()
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
        let [wide, narrow] = [P::FP32, P::BF16].map(|it| planned(model, it));
        let [of_wide, of_narrow] = [&wide, &narrow].map(products);
        assert_eq!(of_wide, vec![DType::F32; of_wide.len()], "{model}");
        assert_eq!(of_narrow, vec![DType::BF16; of_wide.len()], "{model}");
        assert_eq!(narrow.steps.len(), wide.steps.len(), "{model}\n{wide}\n{narrow}");
        let [wide_bytes, narrow_bytes] = [&wide, &narrow].map(|it| it.cost().0);
        assert!(narrow_bytes < wide_bytes, "{model}: {narrow_bytes} of {wide_bytes}");
    }
}

/// Names of the kernels that a run launches, in its order.
fn sources(plan: &Plan) -> Vec<&'static str> {
    let name = |step: &PlanStep| match step {
        PlanStep::Run { unit, .. } => match &plan.units[*unit as usize] {
            Unit::Source(source) => Some(source.name),
            Unit::Call(_) | Unit::Loop(_) => None,
        },
        PlanStep::Copy { .. } => None,
    };
    plan.steps.iter().filter_map(name).collect()
}

#[test]
fn rows_are_quantized_once_for_all_that_multiplies_them() {
    for model in ["bert", "modernbert", "t5-gated"] {
        let encoder = config(model).text.unwrap();
        let plain = planned(model, P::BF16);
        let products = products(&plain).len();
        for precision in [P::FP8, P::INT8] {
            let plan = planned(model, precision);
            let names = sources(&plan);
            let count = |name: &str| names.iter().filter(|it| **it == name).count();
            assert_eq!(count("gemm_mma"), products, "{model} {precision}\n{plan}");
            // Rows of queries, keys and values; mixed rows; inner rows; rows of gate and up.
            assert_eq!(count("quantize_rows"), 4 * encoder.layer_count, "{model} {precision}");
            // Nothing of the weights is left to a run.
            let extra = count("quantize_rows");
            assert_eq!(plan.steps.len(), plain.steps.len() + extra, "{model}\n{plain}\n{plan}");
        }
    }
}

#[test]
fn layers_in_tf32_have_the_steps_of_f32() {
    let [wide, narrow] = [P::FP32, P::TF32].map(|it| planned("bert", it));
    assert_eq!(narrow.steps.len(), wide.steps.len());
    let tf32 = |plan: &Plan| {
        let is = |it: &&Unit| matches!(it, Unit::Call(Call::Gemm { tf32: true, .. }));
        plan.units.iter().filter(is).count()
    };
    assert_eq!([tf32(&wide), tf32(&narrow)], [0, 4]);
}
