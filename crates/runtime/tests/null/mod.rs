//! Programs on the null device, with weights that are one number over and over.

use std::sync::Arc;

use calor_device::null::NullDriver;
use calor_device::{Claim, Driver};
use calor_ir::CheckedGraph;
use calor_kernel::Digest;
use calor_runtime::{Build, Choices, LaneId, ProgramId, ProgramSpec, RuntimeError, WeightSource};
use calor_telemetry::{Counters, Null};

/// One number, whatever is read.
struct Constant(f32);

impl WeightSource for Constant {
    fn identity(&self) -> Digest {
        Digest([self.0 as u8; 32])
    }

    fn read(
        &self,
        _name: &str,
        _first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        out.fill(self.0);
        Ok(())
    }
}

pub(crate) fn build(
    claims: &'static [Claim],
    memory_bytes: u64,
    counters: Arc<Counters>,
) -> Result<Build, RuntimeError> {
    let device = NullDriver { claims, memory_bytes }.open(0)?;
    Ok(Build::new(device, memory_bytes, counters, Arc::new(Null)))
}

pub(crate) fn program(
    build: &mut Build,
    lane: LaneId,
    graph: &CheckedGraph,
    [token_count_max, sequence_count_max]: [u32; 2],
) -> Result<ProgramId, RuntimeError> {
    build.program(&ProgramSpec {
        label: "null",
        token_count_max,
        sequence_count_max,
        lane,
        graph,
        source: Some(Arc::new(Constant(1.0))),
        choices: &Choices::default(),
        channels: &[],
    })
}
