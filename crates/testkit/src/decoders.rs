//! Blocks of known decoders, and runs of them with seeded weights and inputs.

use std::sync::Arc;
use std::time::Duration;

use calor_device::{Artifacts, Driver};
use calor_ir::{CheckedGraph, DType, DecoderBlock, LowRank, Type};
use calor_kernel::{Canonical, Digest};
use calor_runtime::{
    BufferKind, Build, Choices, ProgramId, ProgramSpec, RuntimeError, Session, WeightSource,
};
use calor_telemetry::counter::Plain;
use calor_telemetry::{Counters, Null};

use crate::prewarm::{Door, Doors, module_faults};

/// Blocks of real size, by the names of their models.
pub const REAL: [(&str, DecoderBlock); 4] = [
    ("Qwen2.5-0.5B", block([896, 4864], [14, 2, 64], true, false)),
    ("Qwen2.5-Coder-1.5B", block([1536, 8960], [12, 2, 128], true, false)),
    ("Qwen3-4B", block([2560, 9728], [32, 8, 128], false, true)),
    (
        "Llama",
        DecoderBlock {
            norm_eps: 1e-5,
            rope_theta: 1e4,
            ..block([2048, 5632], [32, 32, 64], false, false)
        },
    ),
];

/// A block that any device runs in no time. Its heads together are wider than a row.
pub const SMALL: DecoderBlock = DecoderBlock {
    token_count_max: 24,
    dtype: DType::F32,
    low_rank: LowRank { rank: 4, alpha: 8.0 },
    ..block([64, 96], [6, 2, 16], true, true)
};

const fn block(
    [hidden_len, inner_len]: [usize; 2],
    [head_count, key_head_count, head_len]: [usize; 3],
    qkv_bias: bool,
    head_norms: bool,
) -> DecoderBlock {
    DecoderBlock {
        hidden_len,
        inner_len,
        head_count,
        key_head_count,
        head_len,
        token_count_max: 512,
        norm_eps: 1e-6,
        rope_theta: 1e6,
        dtype: DType::BF16,
        qkv_bias,
        head_norms,
        low_rank: LowRank::NONE,
    }
}

/// A block with what training and other checkpoints change: two epsilons, with factors of low
/// rank and without.
pub fn variants(block: DecoderBlock) -> Vec<DecoderBlock> {
    let mut all = Vec::new();
    for norm_eps in [1e-6, 1e-5] {
        for rank in [0, 16] {
            let low_rank = LowRank { rank, alpha: 32.0 };
            all.push(DecoderBlock { norm_eps, low_rank, ..block });
        }
    }
    all
}

/// Weights that follow from their names: of the size that trained ones have.
#[derive(Clone, Copy, Debug)]
pub struct SeededWeights;

impl WeightSource for SeededWeights {
    fn identity(&self) -> Digest {
        Digest::of(&Canonical::new("seeded weights of decoders", 1).finish())
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let middle = if name.contains("norm") { 1.0 } else { 0.0 };
        for (at, to) in out.iter_mut().enumerate() {
            *to = middle + 0.2 * unit(name, first + at) as f32;
        }
        Ok(())
    }
}

/// A number between minus a half and a half that follows from a name and a place.
fn unit(name: &str, at: usize) -> f64 {
    let seed: u64 = name.bytes().fold(1469, |sum, it| sum.wrapping_mul(31) + u64::from(it));
    // A step of SplitMix64.
    let mut z = seed.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 40) as f64 / f64::from(1 << 24) - 0.5
}

/// Bytes of an input: two causal sequences of equal length, and seeded numbers.
fn input(name: &str, ty: Type) -> Vec<u8> {
    let mut out = Vec::with_capacity(ty.size_bytes());
    let count = ty.shape.element_count();
    for at in 0..count {
        let first = if at < count / 2 { 0 } else { count / 2 };
        let value = match name {
            "positions" => (at - first) as f64,
            "lo" => first as f64,
            "hi" => (at + 1) as f64,
            _ => 2.0 * unit(name, at),
        };
        ty.dtype.encode(value, &mut out);
    }
    out
}

/// An output by name, with its bytes.
pub type Output = (String, Type, Vec<u8>);

/// Gives a program of a block its inputs, runs it, and takes its outputs.
fn run(session: &mut Session, program: ProgramId) -> Result<Vec<Output>, RuntimeError> {
    let rows = session.plan(program).buffers.clone();
    for (slot, row) in rows.iter().enumerate() {
        if let BufferKind::Input { name } = &row.kind {
            session.write(program, slot, &input(name, row.ty))?;
        }
    }
    session.run(program, &[], DEADLINE)?;
    let mut outputs = Vec::new();
    for (slot, row) in rows.iter().enumerate() {
        if let BufferKind::Output { name } = &row.kind {
            let mut bytes = vec![0; row.ty.size_bytes()];
            session.read(program, slot, &mut bytes)?;
            outputs.push((name.clone(), row.ty, bytes));
        }
    }
    Ok(outputs)
}

/// Longest that a run may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// In which order programs become ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As C-PREWARM-001 wants it.
    Manifest,
    /// Each with its weights before the next one's code.
    OneByOne,
    /// As a manifest, and not run before the first request.
    Unrun,
}

/// What serving one request for each program showed.
#[derive(Clone, Debug)]
pub struct Served {
    /// Outputs of all programs.
    pub outputs: Vec<Output>,
    /// What went through the device's doors.
    pub log: Vec<Door>,
    /// Code that nobody launches, and code that is missing.
    pub module_faults: Vec<String>,
    /// Kernels that were compiled after the seal.
    pub late_compiles: i64,
}

/// Makes programs of the graphs in an order, seals, and runs each once with seeded inputs. What
/// `artifacts` keeps decides who computes a product where a device measures that: two builds give
/// the same bits when they share it.
///
/// # Errors
/// What building or running says.
pub fn serve(
    driver: &dyn Driver,
    graphs: &[CheckedGraph],
    token_count_max: usize,
    order: Order,
    artifacts: Arc<dyn Artifacts>,
) -> Result<Served, RuntimeError> {
    let (doors, counters) = (Doors::default(), Arc::new(Counters::new()));
    let device = doors.watch(driver.open(0)?);
    let mut build = Build::new(device, u64::MAX, counters.clone(), Arc::new(Null));
    build = build.with_artifacts(artifacts);
    let (lane, choices) = (build.lane(), Choices::default());
    let spec = |graph| ProgramSpec {
        label: "block",
        token_count_max: token_count_max as u32,
        sequence_count_max: 1,
        lane,
        graph,
        source: Some(Arc::new(SeededWeights)),
        choices: &choices,
        channels: &[],
    };
    let specs: Vec<ProgramSpec<'_>> = graphs.iter().map(spec).collect();
    let programs = match order {
        Order::Manifest | Order::Unrun => build.programs(&specs)?,
        Order::OneByOne => specs.iter().map(|it| build.program(it)).collect::<Result<_, _>>()?,
    };
    if order != Order::Unrun {
        build.run_each_once(DEADLINE)?;
    }
    let mut session = build.seal()?;
    let scope = counters.scope();
    let mut outputs = Vec::new();
    for program in &programs {
        doors.request();
        outputs.extend(run(&mut session, *program)?);
    }
    let plans: Vec<_> = programs.iter().map(|it| session.plan(*it)).collect();
    Ok(Served {
        outputs,
        log: doors.log(),
        module_faults: module_faults(&session.kernel_keys(), &plans),
        late_compiles: scope.change().get(Plain::Compiles),
    })
}
