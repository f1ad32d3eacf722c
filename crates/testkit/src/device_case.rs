//! One op case on one device, against the oracle.

use std::sync::Arc;
use std::time::Duration;

use calor_device::{DeviceError, Driver};
use calor_ir::{Evaluated, Op, OpCase, OracleError, Role, Tensor, oracle};
use calor_kernel::{Canonical, Digest};
use calor_runtime::{
    Build, Choices, Plan, ProgramId, ProgramSpec, RuntimeError, Session, WeightSource,
};
use calor_telemetry::{Counters, Null};
use thiserror::Error;

use crate::compare::{Mismatch, agree};
use crate::rewrite::named_inputs;

/// How long one run of a case may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A case that passed.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// What left the graph, as the device computed it.
    pub results: Evaluated,
    /// The plan that was run.
    pub plan: Plan,
}

/// Why a case did not pass.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Failure {
    /// The device is not here.
    #[error("the device does not open: {0}")]
    Device(#[from] DeviceError),
    /// The program does not build or run.
    #[error("{0}")]
    Runtime(#[from] RuntimeError),
    /// The case itself is wrong.
    #[error("the oracle refuses the case: {0}")]
    Oracle(OracleError),
    /// The device computes something else.
    #[error("`{what}`: {mismatch}")]
    Differs {
        /// Name of the output or state.
        what: String,
        /// Where.
        mismatch: Mismatch,
    },
    /// A second run on the same inputs gives other bits.
    #[error("`{what}` differs between two runs")]
    Unsteady {
        /// Name of the output or state.
        what: String,
    },
}

/// Weights of a case.
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
        let found = self.0.iter().find(|(it, _)| it == name);
        let (_, tensor) = found.ok_or("there is no such weight")?;
        for (to, from) in out.iter_mut().zip(&tensor.data[first..]) {
            *to = *from as f32;
        }
        Ok(())
    }
}

/// Builds one program of the case on the driver's first device, runs it twice and compares what
/// leaves it with the oracle.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn check_case(driver: &dyn Driver, op: &str, case: &OpCase) -> Result<Checked, Failure> {
    let device = driver.open(0)?;
    let counters = Arc::new(Counters::new());
    let mut build = Build::new(device, u64::MAX, counters, Arc::new(Null));
    let lane = build.lane();
    let named = named_inputs(case);
    let weights = named.iter().filter(|(_, role, _)| *role == Role::Weight);
    let weights = weights.map(|(name, _, it)| ((*name).to_owned(), (*it).clone())).collect();
    let program = build.program(&ProgramSpec {
        label: op,
        token_count_max: u32::MAX,
        sequence_count_max: u32::MAX,
        lane,
        graph: &case.graph,
        source: Some(Arc::new(CaseWeights(weights))),
        choices: &Choices::default(),
        channels: &[],
    })?;
    let mut session = build.seal()?;
    let results = run(&mut session, program, case)?;
    let want = oracle::eval(&case.graph, &case.inputs).map_err(Failure::Oracle)?;
    compare(case, &results, &want)?;
    let again = run(&mut session, program, case)?;
    let pairs = results.outputs.iter().zip(&again.outputs);
    for (at, (first, second)) in pairs.enumerate() {
        if first.to_bytes() != second.to_bytes() {
            let what = case.graph.graph().outputs()[at].name.clone();
            return Err(Failure::Unsteady { what });
        }
    }
    Ok(Checked { results, plan: session.plan(program).clone() })
}

fn run(session: &mut Session, program: ProgramId, case: &OpCase) -> Result<Evaluated, Failure> {
    let missing =
        |name: &str| RuntimeError::NoBuffer { program: case.name.clone(), name: name.to_owned() };
    for (name, role, tensor) in named_inputs(case) {
        if role != Role::Weight {
            let slot = session.plan(program).input_index(name).ok_or_else(|| missing(name))?;
            session.write(program, slot, &tensor.to_bytes())?;
        }
    }
    session.run(program, &[], DEADLINE)?;
    let graph = case.graph.graph();
    let mut results = Evaluated { outputs: Vec::new(), next_states: Vec::new() };
    for output in graph.outputs() {
        let slot = session.plan(program).output_index(&output.name);
        let slot = slot.ok_or_else(|| missing(&output.name))?;
        results.outputs.push(read(session, program, slot)?);
    }
    for name in state_names(case) {
        let slot = session.plan(program).input_index(&name).ok_or_else(|| missing(&name))?;
        results.next_states.push(read(session, program, slot)?);
    }
    Ok(results)
}

fn read(session: &mut Session, program: ProgramId, slot: usize) -> Result<Tensor, Failure> {
    let ty = session.plan(program).buffers[slot].ty;
    let mut bytes = vec![0; ty.size_bytes()];
    session.read(program, slot, &mut bytes)?;
    Ok(Tensor::from_bytes(ty, &bytes))
}

fn state_names(case: &OpCase) -> Vec<String> {
    let graph = case.graph.graph();
    let named = graph.states().iter().filter_map(|state| match graph.op(state.input) {
        Op::Input(input) => Some(input.name.clone()),
        Op::Prim(_) | Op::Composite(..) => None,
    });
    named.collect()
}

/// Whether everything that left the graph is what the oracle says, within the case's tolerance.
///
/// # Errors
/// [`Failure::Differs`] for the first output or state that is not.
pub fn compare(case: &OpCase, got: &Evaluated, want: &Evaluated) -> Result<(), Failure> {
    let outputs = case.graph.graph().outputs().iter().map(|it| it.name.clone());
    let names = outputs.chain(state_names(case));
    let got = got.outputs.iter().chain(&got.next_states);
    let want = want.outputs.iter().chain(&want.next_states);
    for ((what, got), want) in names.zip(got).zip(want) {
        agree(got, want, case.tolerance).map_err(|mismatch| Failure::Differs { what, mismatch })?;
    }
    Ok(())
}
