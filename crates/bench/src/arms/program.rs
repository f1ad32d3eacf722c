//! A graph as an arm: weights once, inputs and outputs at each call.

use std::sync::Arc;
use std::time::Duration;

use calor_ir::{CheckedGraph, Role};
use calor_kernel::Digest;
use calor_runtime::{Choices, ProgramId, ProgramSpec, RuntimeError, Session, WeightSource};

use crate::arm::{Call, Opening, field, field_identity};
use crate::error::BenchError;
use crate::scenario::Done;

/// How long one run may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a graph's arm is.
pub(super) struct GraphArm {
    pub(super) name: &'static str,
    pub(super) graph: CheckedGraph,
    /// Where in the field each weight and input begins.
    pub(super) places: &'static [(&'static str, u32)],
    /// Integer inputs.
    pub(super) indexes: Vec<(&'static str, Vec<i32>)>,
    /// Inputs that every call writes; the others are written once.
    pub(super) fresh: &'static [&'static str],
    pub(super) item_count: u64,
    /// What the host makes of the output.
    pub(super) finish: fn(&[f32]) -> Vec<f64>,
}

struct Running {
    session: Session,
    program: ProgramId,
    fresh: Vec<(usize, Vec<u8>)>,
    output: usize,
    bytes: Vec<u8>,
    item_count: u64,
    finish: fn(&[f32]) -> Vec<f64>,
}

/// Builds and seals the program, and writes what is written once.
pub(super) fn open(arm: GraphArm, opening: Opening<'_>) -> Result<Box<dyn Call>, BenchError> {
    let mut build = opening.build;
    let lane = build.lane();
    let program = build.program(&ProgramSpec {
        label: arm.name,
        // No input is live, so there is one of each.
        token_count_max: 1,
        sequence_count_max: 1,
        lane,
        graph: &arm.graph,
        source: Some(Arc::new(Field { name: arm.name, places: arm.places })),
        choices: &Choices::default(),
        channels: &[],
    })?;
    let mut session = build.seal()?;
    let missing =
        |name: &str| RuntimeError::NoBuffer { program: arm.name.into(), name: name.into() };
    let mut fresh = Vec::new();
    for (value, input) in arm.graph.graph().inputs() {
        if input.role == Role::Weight {
            continue;
        }
        let name = &input.name;
        let slot = session.plan(program).input_index(name).ok_or_else(|| missing(name))?;
        let len = arm.graph.graph().shape(value).element_count();
        let bytes: Vec<u8> = match arm.indexes.iter().find(|it| it.0 == *name) {
            Some((_, indexes)) => indexes.iter().flat_map(|it| it.to_le_bytes()).collect(),
            None => {
                let start = place(arm.places, name).ok_or_else(|| missing(name))?;
                (0..len as u32).flat_map(|it| field(start + it).to_le_bytes()).collect()
            }
        };
        session.write(program, slot, &bytes)?;
        if arm.fresh.contains(&name.as_str()) {
            fresh.push((slot, bytes));
        }
    }
    let name = &arm.graph.graph().outputs()[0].name;
    let output = session.plan(program).output_index(name).ok_or_else(|| missing(name))?;
    let bytes = vec![0; session.plan(program).buffers[output].ty.size_bytes()];
    let (item_count, finish) = (arm.item_count, arm.finish);
    Ok(Box::new(Running { session, program, fresh, output, bytes, item_count, finish }))
}

impl Call for Running {
    fn call(&mut self) -> Result<Done, BenchError> {
        for (slot, bytes) in &self.fresh {
            self.session.write(self.program, *slot, bytes)?;
        }
        self.session.run(self.program, &[], DEADLINE)?;
        self.session.read(self.program, self.output, &mut self.bytes)?;
        let numbers: Vec<f32> =
            self.bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect();
        let values = (self.finish)(&numbers);
        Ok(Done { item_count: self.item_count, token_count: 0, values })
    }

    fn cost(&self) -> Option<(u64, u64)> {
        Some(self.session.plan(self.program).cost())
    }

    fn device_bytes(&self) -> Option<u64> {
        let held = self.session.memory();
        Some(held.weights_bytes + held.arena_bytes + held.boundary_bytes + held.state_bytes)
    }
}

fn place(places: &[(&str, u32)], name: &str) -> Option<u32> {
    places.iter().find(|it| it.0 == name).map(|it| it.1)
}

/// Weights that follow from their places in the field.
struct Field {
    name: &'static str,
    places: &'static [(&'static str, u32)],
}

impl WeightSource for Field {
    fn identity(&self) -> Digest {
        field_identity(self.name)
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let start = place(self.places, name).ok_or("no such weight")?;
        for (at, to) in (0..).zip(out) {
            *to = field(start + first as u32 + at);
        }
        Ok(())
    }
}
