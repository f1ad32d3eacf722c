//! A plan on the reference interpreter: what every device must compute for it.
//!
//! Memory is bytes that start as garbage, so a step that reads what nobody wrote shows. Knows
//! generated kernels and copies only: plans for it are made without claims.

use calor_device::Word;
use calor_ir::{Evaluated, Graph, Op, Tensor};
use calor_kernel::{Access, InterpretError, LoopProgram, Unit, interpret};
use calor_runtime::{BufferKind, Place, Plan, PlanSpan, PlanStep};
use thiserror::Error;

/// What memory holds before anything is written: a NaN of every float type.
pub const GARBAGE: u8 = 0xFF;

/// Why a plan does not run here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A step that no loop program describes.
    #[error("step {step}: `{label}` is not generated")]
    NotGenerated {
        /// Index of the step.
        step: usize,
        /// Label of its unit.
        label: String,
    },
    /// A kernel that breaks a rule.
    #[error("step {step}: {source}")]
    Kernel {
        /// Index of the step.
        step: usize,
        /// What is wrong.
        source: InterpretError,
    },
    /// No such buffer.
    #[error("the plan has no buffer for `{name}`")]
    NoBuffer {
        /// Name of the input, state or output.
        name: String,
    },
}

/// A plan with its memory.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    plan: &'a Plan,
    buffers: Vec<Vec<u8>>,
    arena: Vec<u8>,
}

impl<'a> Reference<'a> {
    /// Memory for a plan: constants and garbage.
    pub fn new(plan: &'a Plan) -> Self {
        let contents = |row: &calor_runtime::BufferRow| match &row.kind {
            BufferKind::Constant { bytes } => bytes.clone(),
            BufferKind::Input { .. }
            | BufferKind::Weight { .. }
            | BufferKind::Prepared
            | BufferKind::Output { .. }
            | BufferKind::State { .. } => vec![GARBAGE; row.size_bytes() as usize],
        };
        let buffers = plan.buffers.iter().map(contents).collect();
        Self { plan, buffers, arena: vec![GARBAGE; plan.arena_bytes as usize] }
    }

    /// Fills a buffer of the plan.
    ///
    /// # Panics
    /// When the bytes are not as many as the buffer's.
    pub fn write(&mut self, slot: usize, bytes: &[u8]) {
        self.buffers[slot].copy_from_slice(bytes);
    }

    /// Fills the input, weight or state called `name`.
    ///
    /// # Errors
    /// When the plan has none of that name.
    pub fn fill(&mut self, name: &str, tensor: &Tensor) -> Result<(), ReferenceError> {
        let slot = self.plan.input_index(name);
        let slot = slot.ok_or_else(|| ReferenceError::NoBuffer { name: name.into() })?;
        self.write(slot, &tensor.to_bytes());
        Ok(())
    }

    /// The bytes of a buffer.
    pub fn read(&self, slot: usize) -> &[u8] {
        &self.buffers[slot]
    }

    /// The output called `name`, typed as its buffer.
    ///
    /// # Errors
    /// When the plan has none of that name.
    pub fn output(&self, name: &str) -> Result<Tensor, ReferenceError> {
        let slot = self.plan.output_index(name);
        let slot = slot.ok_or_else(|| ReferenceError::NoBuffer { name: name.into() })?;
        Ok(Tensor::from_bytes(self.plan.buffers[slot].ty, &self.buffers[slot]))
    }

    /// The state called `name` as the last run left it.
    ///
    /// # Errors
    /// When the plan has none of that name.
    pub fn state(&self, name: &str) -> Result<Tensor, ReferenceError> {
        let slot = self.plan.input_index(name);
        let slot = slot.ok_or_else(|| ReferenceError::NoBuffer { name: name.into() })?;
        Ok(Tensor::from_bytes(self.plan.buffers[slot].ty, &self.buffers[slot]))
    }

    /// Runs the prelude: what depends on weights alone.
    ///
    /// # Errors
    /// The first step that does not run.
    pub fn prelude(&mut self) -> Result<(), ReferenceError> {
        let plan = self.plan;
        plan.prelude.iter().enumerate().try_for_each(|(at, step)| self.step(at, step, &[]))
    }

    /// Runs the steps in the order of the list. Counts that are not given are at their most.
    ///
    /// # Errors
    /// The first step that does not run.
    pub fn run(&mut self, live: &[u32]) -> Result<(), ReferenceError> {
        let order: Vec<usize> = (0..self.plan.steps.len()).collect();
        self.run_in(&order, live)
    }

    /// Runs the steps in another order.
    ///
    /// # Errors
    /// The first step that does not run.
    pub fn run_in(&mut self, order: &[usize], live: &[u32]) -> Result<(), ReferenceError> {
        let plan = self.plan;
        order.iter().try_for_each(|at| self.step(*at, &plan.steps[*at], live))
    }

    fn step(&mut self, at: usize, step: &PlanStep, live: &[u32]) -> Result<(), ReferenceError> {
        match step {
            PlanStep::Run { unit, words, args, label, .. } => {
                let Unit::Loop(program) = &self.plan.units[*unit as usize] else {
                    let label = label.clone();
                    return Err(ReferenceError::NotGenerated { step: at, label });
                };
                let words: Vec<i64> = words.iter().map(|it| word(it, live)).collect();
                self.launch(program, &words, args)
                    .map_err(|source| ReferenceError::Kernel { step: at, source })
            }
            PlanStep::Copy { from, to } => {
                let bytes = self.bytes(from).to_vec();
                self.bytes(to).copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    fn launch(
        &mut self,
        program: &LoopProgram,
        words: &[i64],
        args: &[PlanSpan],
    ) -> Result<(), InterpretError> {
        let mut numbers: Vec<Vec<f64>> = Vec::with_capacity(args.len());
        for (arg, span) in program.args.iter().zip(args) {
            let elements = self.bytes(span).chunks_exact(arg.dtype.size_bytes());
            numbers.push(elements.map(|it| arg.dtype.decode(it)).collect());
        }
        // Elements that the kernel does not write keep their bytes, whatever they encode.
        let before = numbers.clone();
        interpret(program, words, &mut numbers)?;
        for (at, (arg, span)) in program.args.iter().zip(args).enumerate() {
            if arg.access == Access::Write {
                let size = arg.dtype.size_bytes();
                let elements = self.bytes(span).chunks_exact_mut(size);
                for (index, bytes) in elements.enumerate() {
                    let (old, new) = (before[at][index], numbers[at][index]);
                    if old.to_bits() != new.to_bits() {
                        let mut element = Vec::with_capacity(size);
                        arg.dtype.encode(new, &mut element);
                        bytes.copy_from_slice(&element);
                    }
                }
            }
        }
        Ok(())
    }

    fn bytes(&mut self, span: &PlanSpan) -> &mut [u8] {
        let range = span.offset as usize..(span.offset + span.len) as usize;
        match span.place {
            Place::Buffer(index) => &mut self.buffers[index as usize][range],
            Place::Arena => &mut self.arena[range],
        }
    }
}

fn word(word: &Word, live: &[u32]) -> i64 {
    match word {
        Word::Fixed(number) => *number,
        Word::Live { count, scale, max } => match live.get(usize::from(*count)) {
            Some(live) => (i64::from(*live) * scale).min(*max),
            None => *max,
        },
    }
}

/// Runs a plan once on the values of the graph's inputs, in order, and gives what left it.
///
/// # Errors
/// The first step that does not run.
pub fn run_on_interpreter(
    plan: &Plan,
    graph: &Graph,
    inputs: &[Tensor],
) -> Result<Evaluated, ReferenceError> {
    let mut reference = Reference::new(plan);
    for ((_, input), tensor) in graph.inputs().zip(inputs) {
        reference.fill(&input.name, tensor)?;
    }
    reference.prelude()?;
    reference.run(&[])?;
    evaluated(&reference, graph)
}

/// Everything that left the graph in the last run.
///
/// # Errors
/// When the plan is not one of the graph.
pub fn evaluated(reference: &Reference<'_>, graph: &Graph) -> Result<Evaluated, ReferenceError> {
    let outputs = graph.outputs().iter().map(|it| reference.output(&it.name));
    let states = graph.states().iter().map(|state| match graph.op(state.input) {
        Op::Input(input) => reference.state(&input.name),
        Op::Prim(_) | Op::Composite(..) => Err(ReferenceError::NoBuffer { name: "state".into() }),
    });
    Ok(Evaluated {
        outputs: outputs.collect::<Result<_, _>>()?,
        next_states: states.collect::<Result<_, _>>()?,
    })
}
