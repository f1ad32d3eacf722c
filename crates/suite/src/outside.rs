//! A sealed workload between two lines of output, for a program that counts from outside.
//!
//! `crates/suite/outside/check.sh` runs it and judges the counts.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use calor_device::Driver;
use calor_kernel::{Unit, examples};
use calor_runtime::{Build, Choices, ProgramSpec};
use calor_telemetry::{Counters, Null};

use crate::bench::{Encoder, Seeded};

/// Runs of the workload.
const RUNS: usize = 50;

/// Builds the encoder, runs it once, seals, and runs it between the lines `calor: sealed` and
/// `calor: ended`. With `plant` a kernel is compiled and loaded between them, which whoever counts
/// must notice.
///
/// # Errors
/// When nothing can be written.
///
/// # Panics
/// When the encoder does not build or run.
pub fn sealed_runs(
    driver: &dyn Driver,
    encoder: &Encoder,
    plant: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let open = || {
        let device = driver.open(0).unwrap();
        Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null))
    };
    let mut planted = plant.then(open);
    let mut build = open();
    let lane = build.lane();
    let program = build
        .program(&ProgramSpec {
            label: encoder.name,
            token_count_max: encoder.rows() as u32,
            sequence_count_max: encoder.sequences as u32,
            lane,
            graph: &encoder.graph().unwrap(),
            source: Some(Arc::new(Seeded)),
            choices: &Choices::default(),
            channels: &[],
        })
        .unwrap();
    build.run_each_once(Duration::from_secs(60)).unwrap();
    let mut session = build.seal().unwrap();
    out.write_all(b"calor: sealed\n")?;
    out.flush()?;
    let first = encoder.run(&mut session, program);
    for _ in 1..RUNS {
        assert!(first == encoder.run(&mut session, program), "a run gives other bits");
    }
    if let Some(build) = &mut planted {
        build.kernel_of(&Unit::Loop(examples::all()[0].program.clone())).unwrap();
    }
    out.write_all(b"calor: ended\n")?;
    out.flush()
}
