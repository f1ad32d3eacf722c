//! Pieces of real size that are no layers of an encoder: gate, experts, the head of SPLADE.
//!
//! Each is measured several times in one program, on weights that do not stay in the cache.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use calor_device::Driver;
use calor_ir::{CheckedGraph, DType, Graph, GraphError, Role, Tensor, Type, ValueId, nn};
use calor_runtime::{Build, Choices, ProgramId, ProgramSpec};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::{Counters, Null};

use crate::bench::Seeded;

/// Lengths of the fusion's rows: input, hidden, output.
const LENGTHS: [usize; 3] = [8320, 4096, 1536];
const EXPERTS: usize = 8;
/// Experts of a row.
const TAKEN: usize = 4;
/// Length of a row and terms of the head of SPLADE, and tokens of a text.
const HIDDEN: usize = 768;
const TERMS: usize = 30_522;
const TEXT_LEN: usize = 128;

/// One piece at one size.
#[derive(Clone, Copy, Debug)]
struct Part {
    kind: Kind,
    rows: usize,
    dtype: DType,
    /// Whether the device does it its own way, else generated code.
    claimed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gate,
    Experts,
    Splade,
}

fn parts() -> Vec<Part> {
    let mut out = Vec::new();
    let mut all = |kind, dtype, rows: &[usize]| {
        out.extend(rows.iter().map(|rows| Part { kind, rows: *rows, dtype, claimed: true }));
    };
    all(Kind::Gate, DType::F32, &[1, 64]);
    for dtype in [DType::F32, DType::BF16] {
        all(Kind::Experts, dtype, &[1, 4, 16, 32, 64]);
        all(Kind::Splade, dtype, &[32, 256, 4096]);
    }
    for (kind, rows, dtype) in [
        (Kind::Gate, 1, DType::F32),
        (Kind::Experts, 1, DType::F32),
        (Kind::Splade, 256, DType::BF16),
    ] {
        out.push(Part { kind, rows, dtype, claimed: false });
    }
    out
}

/// Measures every piece whose name has one of `names` in it, and prints a line for each.
///
/// # Errors
/// When nothing can be written.
///
/// # Panics
/// When a piece does not build or run.
pub fn table(driver: &dyn Driver, names: &[String], out: &mut dyn Write) -> std::io::Result<()> {
    // One build, so that pieces share their weights.
    let mut build =
        Build::new(driver.open(0).unwrap(), u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
    writeln!(out, "piece                        median us   least us     GB/s  TFLOP/s")?;
    for part in parts() {
        let name = part.name();
        if !names.is_empty() && !names.iter().any(|it| name.contains(&**it)) {
            continue;
        }
        let mut us = part.measure(&mut build);
        us.sort_by(f64::total_cmp);
        let (median, least) = (us[us.len() / 2], us[0]);
        let (bytes, flops) = part.work();
        let (rate, speed) = (bytes / median / 1e3, flops / median / 1e6);
        writeln!(out, "{name:<28} {median:>9.1} {least:>10.1} {rate:>8.0} {speed:>8.1}")?;
    }
    Ok(())
}

impl Part {
    fn name(&self) -> String {
        let Self { kind, rows, dtype, claimed } = self;
        let kind = match kind {
            Kind::Gate => "gate",
            Kind::Experts => "experts",
            Kind::Splade => "splade",
        };
        let how = if *claimed { "" } else { " generated" };
        format!("{kind} {rows} {}{how}", dtype.name())
    }

    /// How often it is done in one program.
    fn copies(&self) -> usize {
        match self.kind {
            Kind::Gate | Kind::Splade => 6,
            Kind::Experts => 3,
        }
    }

    /// Bytes of weights and operations of one.
    fn work(&self) -> (f64, f64) {
        let size = self.dtype.size_bytes() as f64;
        let [d, h, o] = LENGTHS.map(|it| it as f64);
        let rows = self.rows as f64;
        match self.kind {
            Kind::Gate => (4.0 * (EXPERTS as f64 + 2.0) * d, 2.0 * rows * d * EXPERTS as f64),
            Kind::Experts => {
                let read = (0..EXPERTS).filter(|it| (0..self.rows).any(|row| takes(row, *it)));
                let each = h * (d + o);
                (read.count() as f64 * each * size, 2.0 * rows * TAKEN as f64 * each)
            }
            Kind::Splade => {
                let weights = (HIDDEN * TERMS) as f64;
                (weights * size, 2.0 * rows * weights)
            }
        }
    }

    /// Microseconds of one, from each run.
    fn measure(&self, build: &mut Build) -> Vec<f64> {
        let name = self.name();
        let graph = self.graph().unwrap_or_else(|err| panic!("{name}: {err}"));
        let mut choices = Choices::default();
        if !self.claimed {
            for unit in ["claim gate", "claim top_k", "claim experts", "claim splade"] {
                choices.0.insert(unit.into(), 0);
            }
        }
        let lane = build.lane();
        let program = build.program(&ProgramSpec {
            label: &name,
            token_count_max: u32::MAX,
            sequence_count_max: u32::MAX,
            lane,
            graph: &graph,
            source: Some(Arc::new(Seeded)),
            choices: &choices,
            channels: &[],
        });
        let program = program.unwrap_or_else(|err| panic!("{name}: {err}"));
        self.fill(build, program);
        let runs = if self.claimed { 20 } else { 3 };
        let mut us = Vec::new();
        for run in 0..runs + 2 {
            let watch = Stopwatch::start();
            build.run(program, &[], Duration::from_secs(60)).unwrap();
            // The first runs are not like the others.
            if 2 <= run {
                us.push(watch.elapsed_ns() as f64 / 1e3 / self.copies() as f64);
            }
        }
        build.remove(program).unwrap();
        us
    }

    fn graph(&self) -> Result<CheckedGraph, GraphError> {
        let mut g = Graph::new();
        match self.kind {
            Kind::Gate => self.gates(&mut g)?,
            Kind::Experts => self.experts(&mut g)?,
            Kind::Splade => self.heads(&mut g)?,
        }
        g.check()
    }

    fn gates(&self, g: &mut Graph) -> Result<(), GraphError> {
        let d = LENGTHS[0];
        for copy in 0..self.copies() {
            let x = self.rows(g, copy, d);
            let weights = nn::GateWeights {
                norm_w: self.weight(g, &format!("norm_w{copy}"), &[d])?,
                norm_b: self.weight(g, &format!("norm_b{copy}"), &[d])?,
                w: self.weight(g, &format!("gate_w{copy}"), &[EXPERTS, d])?,
                b: self.weight(g, &format!("gate_b{copy}"), &[EXPERTS])?,
            };
            let q = nn::gate(g, x, &weights, 1.0, 0.01)?;
            let [shares, chosen] = nn::top_k(g, q, TAKEN)?;
            g.output(&format!("shares{copy}"), shares);
            g.output(&format!("chosen{copy}"), chosen);
        }
        Ok(())
    }

    fn experts(&self, g: &mut Graph) -> Result<(), GraphError> {
        let [d, h, o] = LENGTHS;
        let ty = Type::new(DType::F32, &[self.rows, EXPERTS]);
        let shares = g.input("shares", Role::Data, ty);
        // So large that one set does not stay in the cache.
        let weights = nn::ExpertWeights {
            w1: self.weight(g, "w1", &[EXPERTS, h, d])?,
            b1: self.weight(g, "b1", &[EXPERTS, h])?,
            w2: self.weight(g, "w2", &[EXPERTS, o, h])?,
            b2: self.weight(g, "b2", &[EXPERTS, o])?,
        };
        for copy in 0..self.copies() {
            let x = self.rows(g, copy, d);
            let y = nn::experts(g, x, shares, &weights)?;
            g.output(&format!("y{copy}"), y);
        }
        Ok(())
    }

    fn heads(&self, g: &mut Graph) -> Result<(), GraphError> {
        let ty = Type::new(DType::I32, &[self.rows.div_ceil(TEXT_LEN)]);
        let [lo, hi] = ["lo", "hi"].map(|name| g.input(name, Role::Data, ty));
        for copy in 0..self.copies() {
            let h = self.rows(g, copy, HIDDEN);
            let w = self.weight(g, &format!("terms{copy}"), &[TERMS, HIDDEN])?;
            let bias = self.weight(g, &format!("bias{copy}"), &[TERMS])?;
            let y = nn::splade_pool(g, h, [w, bias], lo, hi, 256)?;
            g.output(&format!("y{copy}"), y);
        }
        Ok(())
    }

    fn rows(&self, g: &mut Graph, copy: usize, len: usize) -> ValueId {
        g.input(&format!("x{copy}"), Role::Data, Type::new(self.dtype, &[self.rows, len]))
    }

    fn weight(&self, g: &mut Graph, name: &str, sizes: &[usize]) -> Result<ValueId, GraphError> {
        let raw = g.input(name, Role::Weight, Type::new(DType::F32, sizes));
        g.cast(raw, self.dtype)
    }

    fn fill(&self, build: &mut Build, program: ProgramId) {
        let count = self.rows.div_ceil(TEXT_LEN);
        let bounds = |first: usize| -> Vec<f64> {
            (0..count).map(|at| self.rows.min((at + first) * TEXT_LEN) as f64).collect()
        };
        let share = |at: usize| if takes(at / EXPERTS, at % EXPERTS) { 0.25 } else { 0.0 };
        let shares: Vec<f64> = (0..self.rows * EXPERTS).map(share).collect();
        let mut inputs = vec![
            ("lo".to_owned(), DType::I32, bounds(0)),
            ("hi".to_owned(), DType::I32, bounds(1)),
            ("shares".to_owned(), DType::F32, shares),
        ];
        let len = if self.kind == Kind::Splade { HIDDEN } else { LENGTHS[0] };
        for copy in 0..self.copies() {
            let wave = |at: usize| ((at * 7919 + copy) % 2003) as f64 / 1001.5 - 1.0;
            inputs.push((format!("x{copy}"), self.dtype, (0..self.rows * len).map(wave).collect()));
        }
        for (name, dtype, values) in inputs {
            if let Some(slot) = build.plan(program).input_index(&name) {
                let bytes = Tensor::new(dtype, &[values.len()], &values).to_bytes();
                build.write(program, slot, &bytes).unwrap();
            }
        }
    }
}

/// Whether a row has an expert: four of the eight, others in each row.
fn takes(row: usize, expert: usize) -> bool {
    (0..TAKEN).any(|at| (row * 5 + at * 3) % EXPERTS == expert)
}

#[test]
fn every_part_is_claimed() {
    use calor_device_cuda::{Arch, claims};
    use calor_runtime::{Capabilities, plan};
    let claims = claims(Arch::of_device(9, 0), true);
    let capabilities = Capabilities { claims, parallel_count: 132 };
    for part in parts().into_iter().filter(|it| it.claimed) {
        let plan = plan(&part.graph().unwrap(), &capabilities, &Choices::default()).unwrap();
        let steps = part.copies() * if part.kind == Kind::Gate { 2 } else { 1 };
        assert_eq!(plan.steps.len(), steps, "{}", part.name());
    }
}

#[test]
fn a_piece_is_measured_without_a_machine() {
    use calor_device::null::NullDriver;
    use calor_device_cuda::{Arch, claims};
    let driver = NullDriver { claims: claims(Arch::of_device(9, 0), true), memory_bytes: 1 << 40 };
    let mut out = Vec::new();
    table(&driver, &["gate 1".into()], &mut out).unwrap();
    // The head, and the gate as it is claimed and as it is generated.
    assert_eq!(String::from_utf8(out).unwrap().lines().count(), 3);
}
