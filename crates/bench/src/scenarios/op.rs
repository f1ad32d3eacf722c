//! Every case of every composite on the device: what one step costs where the work is small.

use std::sync::Arc;
use std::time::Duration;

use calor_ir::{COMPOSITES, OpCase, Role, Tensor};
use calor_kernel::{Canonical, Digest};
use calor_runtime::{Choices, PlanError, ProgramSpec, RuntimeError, WeightSource};
use calor_telemetry::Stopwatch;

use crate::error::BenchError;
use crate::measure::{Measure, Unit, digest_of};
use crate::scenario::{Context, Measured};

/// How long one run may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// A sample repeats its run until it takes about so long: clocks and calls cost time too.
const SAMPLE_NS: u64 = 200_000;
/// Most runs in one sample.
const RUN_COUNT_MAX: u64 = 10_000;

/// Members of the family: `<composite>.<case>`.
pub fn op_names() -> Vec<String> {
    members().map(|(name, _)| name).collect()
}

fn members() -> impl Iterator<Item = (String, OpCase)> {
    COMPOSITES.iter().flat_map(|composite| {
        let named = |case: OpCase| (format!("{}.{}", composite.name, case.name), case);
        (composite.cases)().into_iter().map(named)
    })
}

pub(super) fn measure(context: &Context<'_>, member: Option<&str>) -> Result<Measured, BenchError> {
    let (mut measures, mut left_out) = (Vec::new(), Vec::new());
    for (name, case) in members() {
        match member {
            Some(member) if member != name => {}
            Some(_) => measures.push(one(context, &name, &case)?),
            None => match one(context, &name, &case) {
                Ok(measure) => measures.push(measure),
                // Not every device does every composite that has no expansion.
                Err(BenchError::Runtime(RuntimeError::Plan(PlanError::Opaque { .. }))) => {
                    left_out.push(name);
                }
                Err(err) => return Err(err),
            },
        }
    }
    Ok(Measured { measures, left_out })
}

fn one(context: &Context<'_>, member: &str, case: &OpCase) -> Result<Measure, BenchError> {
    let name = &format!("op.{member}");
    let (mut build, _) = context.build()?;
    let lane = build.lane();
    let program = build.program(&ProgramSpec {
        label: name,
        token_count_max: u32::MAX,
        sequence_count_max: u32::MAX,
        lane,
        graph: &case.graph,
        source: Some(Arc::new(CaseWeights(inputs(case, true)))),
        choices: &Choices::default(),
        channels: &[],
    })?;
    let mut session = build.seal()?;
    for (input, tensor) in inputs(case, false) {
        let missing = || RuntimeError::NoBuffer { program: name.into(), name: input.clone() };
        let slot = session.plan(program).input_index(&input).ok_or_else(missing)?;
        session.write(program, slot, &tensor.to_bytes())?;
    }
    let watch = Stopwatch::start();
    session.run(program, &[], DEADLINE)?;
    let first_ns = watch.elapsed_ns();

    let mut values = Vec::new();
    for output in case.graph.graph().outputs() {
        let missing = || RuntimeError::NoBuffer { program: name.into(), name: output.name.clone() };
        let slot = session.plan(program).output_index(&output.name).ok_or_else(missing)?;
        let ty = session.plan(program).buffers[slot].ty;
        let mut bytes = vec![0; ty.size_bytes()];
        session.read(program, slot, &mut bytes)?;
        // A masked row is minus infinity in some results, and that is right.
        let finite = |it: f64| it.clamp(-1e12, 1e12);
        values.extend(Tensor::from_bytes(ty, &bytes).data.into_iter().map(finite));
    }
    let wrong = || BenchError::Wrong { scenario: name.into(), what: "no finite numbers" };
    let digest = digest_of(values).ok_or_else(wrong)?;

    let watch = Stopwatch::start();
    session.run(program, &[], DEADLINE)?;
    let run_count =
        (context.size.pick(1, SAMPLE_NS) / watch.elapsed_ns().max(1)).clamp(1, RUN_COUNT_MAX);
    let mut samples = Vec::new();
    for sample_index in 0..context.size.pick(2, 30) {
        let watch = Stopwatch::start();
        for _ in 0..run_count {
            session.run(program, &[], DEADLINE)?;
        }
        let ns = watch.elapsed_ns();
        context.sampled(name, sample_index, [run_count, 0], ns);
        samples.push(ns);
    }
    let (moved_bytes, flops) = session.plan(program).cost();
    Ok(Measure {
        name: name.to_owned(),
        unit: Unit::Ns,
        samples,
        first: Some(first_ns),
        runs_per_sample_count: run_count,
        item_count: 1,
        token_count: 0,
        moved_bytes: Some(moved_bytes),
        flops: Some(flops),
        digest,
    })
}

/// The case's weights, or its other inputs.
fn inputs(case: &OpCase, weights: bool) -> Vec<(String, Tensor)> {
    let all = case.graph.graph().inputs().zip(&case.inputs);
    all.filter(|((_, input), _)| (input.role == Role::Weight) == weights)
        .map(|((_, input), tensor)| (input.name.clone(), tensor.clone()))
        .collect()
}

struct CaseWeights(Vec<(String, Tensor)>);

impl WeightSource for CaseWeights {
    fn identity(&self) -> Digest {
        let mut out = Canonical::new("case weights", 1);
        for (name, tensor) in &self.0 {
            out.text(name).text(&tensor.ty.to_string()).bytes(&tensor.to_bytes());
        }
        Digest::of(&out.finish())
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (_, tensor) = self.0.iter().find(|(it, _)| it == name).ok_or("no such weight")?;
        for (to, from) in out.iter_mut().zip(&tensor.data[first..]) {
            *to = *from as f32;
        }
        Ok(())
    }
}
