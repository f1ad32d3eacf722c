//! Live extents: garbage in the padding of inputs and of the arena reaches no live row.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_device::Word;
use calor_ir::{DType, Input, Role, Tensor, expand_all};
use calor_runtime::{BufferKind, Capabilities, Choices, plan};
use calor_testkit::random_graph::Numbers;
use calor_testkit::stacks::{Family, Stack};
use calor_testkit::{Reference, agree, check_plan};

const GENERATED: Capabilities = Capabilities { claims: &[], parallel_count: 2 };

/// Two sequences of five and three tokens; the rest of every input is garbage.
const LENGTHS: [usize; 2] = [5, 3];

/// The number of an index input at a row.
fn index(name: &str, row: usize) -> f64 {
    let starts = [0, LENGTHS[0]];
    let ends = [LENGTHS[0], LENGTHS[0] + LENGTHS[1]];
    let sequence = usize::from(row >= LENGTHS[0]);
    let number = match name {
        "ids" => (row * 5 + 2) % 11,
        "positions" => row - starts[sequence],
        "lo" | "first" => starts[sequence],
        "hi" => ends[sequence],
        "segment_lo" => starts[row],
        "segment_hi" => ends[row],
        other => panic!("no input is called {other}"),
    };
    number as f64
}

/// The input with `live` rows, the others out of range or plausible.
fn tensor(input: &Input, ty: calor_ir::Type, garbage: Option<f64>) -> Tensor {
    let rows = ty.shape.sizes()[0];
    let live = if input.live == Some(0) { LENGTHS[0] + LENGTHS[1] } else { LENGTHS.len() };
    let number =
        |row: usize| if row < live { index(&input.name, row) } else { garbage.unwrap_or(0.0) };
    let numbers: Vec<f64> = (0..rows).map(number).collect();
    Tensor::new(DType::I32, &[rows], &numbers)
}

fn weight(name: &str, ty: calor_ir::Type) -> Tensor {
    let seed = name.bytes().fold(7, |sum, it| sum * 31 + u64::from(it));
    let mut next = Numbers::new(seed);
    let numbers: Vec<f64> =
        (0..ty.shape.element_count()).map(|_| next.below(2001) as f64 / 1000.0 - 1.0).collect();
    Tensor::new(ty.dtype, ty.shape.sizes(), &numbers)
}

fn pooled(stack: &Stack, garbage: Option<f64>, live: &[u32], expanded: bool) -> Tensor {
    let mut graph = stack.graph().unwrap();
    if expanded {
        graph = expand_all(graph.graph(), &mut |_, _| false).unwrap().graph.check().unwrap();
    }
    let plan = plan(&graph, &GENERATED, &Choices::default()).unwrap();
    check_plan(&plan).unwrap_or_else(|err| panic!("{err}\n{plan}"));
    let is_live = |it: &Word| matches!(it, Word::Live { .. });
    let follows = plan.steps.iter().any(|step| match step {
        calor_runtime::PlanStep::Run { words, .. } => words.iter().any(is_live),
        calor_runtime::PlanStep::Copy { .. } => false,
    });
    assert!(follows, "no step follows a live count");
    let mut reference = Reference::new(&plan);
    for (value, input) in graph.graph().inputs() {
        let ty = graph.graph().ty(value);
        let filled = match input.role {
            Role::Data => tensor(input, ty, garbage),
            Role::Weight | Role::State => weight(&input.name, ty),
        };
        reference.fill(&input.name, &filled).unwrap();
    }
    reference.prelude().unwrap();
    reference.run(live).unwrap();
    let out = reference.output("pooled").unwrap();
    let rows = LENGTHS.len() * stack.dim_len;
    Tensor::new(DType::F32, &[rows], &out.data[..rows])
}

#[test]
fn garbage_in_padding_reaches_no_live_row() {
    for family in Family::ALL {
        for expanded in [false, true] {
            let stack = Stack::small(family);
            let want = pooled(&stack, None, &[], expanded);
            assert!(want.data.iter().all(|it| it.is_finite()), "{family:?}: {want:?}");
            for garbage in [i32::MAX, i32::MIN, -1] {
                let got = pooled(&stack, Some(f64::from(garbage)), &[8, 2], expanded);
                agree(&got, &want, 1e-6)
                    .unwrap_or_else(|err| panic!("{family:?}, {garbage}, {expanded}: {err}"));
            }
        }
    }
}

#[test]
fn live_inputs_and_outputs_say_so() {
    let graph = Stack::small(Family::Bert).graph().unwrap();
    let plan = plan(&graph, &GENERATED, &Choices::default()).unwrap();
    for row in &plan.buffers {
        let want = match &row.kind {
            BufferKind::Input { name } if name.starts_with("segment") => Some(1),
            BufferKind::Input { .. } => Some(0),
            BufferKind::Output { .. } => Some(1),
            BufferKind::Weight { .. }
            | BufferKind::Constant { .. }
            | BufferKind::Prepared
            | BufferKind::State { .. } => None,
        };
        assert_eq!(row.live, want, "{row:?}");
    }
}
