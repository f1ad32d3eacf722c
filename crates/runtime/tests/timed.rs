//! Steps of runs as events, where a device times them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use calor_device::{Driver, Profile};
use calor_device_cpu::CpuDriver;
use calor_runtime::{Build, Choices, PlanStep, ProgramSpec};
use calor_telemetry::{Counters, Event, Log, Record, clock};
use calor_testkit::decoders::{SMALL, SeededWeights};

/// Records of two runs of a program, behind those of building it, and its steps by their bytes.
fn two_runs(profile: Option<Profile>) -> (Vec<Record>, Vec<u64>) {
    let driver = CpuDriver {
        threads: 1,
        level: None,
        memory_bytes: Some(1 << 30),
        profile: profile.clone(),
    };
    let log = Arc::new(Log::new());
    let device = driver.open(0).unwrap();
    let build = Build::new(device, 1 << 30, Arc::new(Counters::new()), log.clone());
    let mut build = match profile {
        Some(profile) => build.timing_steps(profile),
        None => build,
    };
    let lane = build.lane();
    let program = build
        .program(&ProgramSpec {
            label: "block",
            token_count_max: SMALL.token_count_max as u32,
            sequence_count_max: 1,
            lane,
            graph: &SMALL.forward().unwrap(),
            source: Some(Arc::new(SeededWeights)),
            choices: &Choices::default(),
            channels: &[],
        })
        .unwrap();
    let moved = |step: &PlanStep| match step {
        PlanStep::Run { moved_bytes, .. } => *moved_bytes,
        PlanStep::Copy { from, .. } => 2 * from.len,
    };
    let steps = build.plan(program).steps.iter().map(moved).collect();
    let mut session = build.seal().unwrap();
    let before_count = log.records().len();
    for _ in 0..2 {
        let run = session.start(program, &[], &[]).unwrap();
        session.finish(run, Duration::from_secs(10)).unwrap();
    }
    (log.records().split_off(before_count), steps)
}

fn is_kernel(record: &&Record) -> bool {
    matches!(record.event, Event::KernelRan { .. })
}

#[test]
fn each_step_of_each_run_is_an_event_with_its_time_inside_the_run() {
    let (records, steps) = two_runs(Some(Profile::new()));
    let ends = |record: &Record| matches!(record.event, Event::ProgramRan { .. });
    let runs: Vec<&[Record]> = records.split_inclusive(ends).collect();
    assert_eq!(runs.len(), 2);
    for run in runs {
        let (program, kernels) = run.split_last().unwrap();
        let Event::ProgramRan { wall_ns, .. } = program.event else { panic!("{program:?}") };
        let mut free_ns = program.at_ns - wall_ns;
        assert_eq!(kernels.len(), steps.len());
        for (record, step_bytes) in kernels.iter().zip(&steps) {
            let Event::KernelRan { kernel, config, device, device_time_ns, moved_bytes, .. } =
                record.event
            else {
                panic!("{record:?}")
            };
            assert_eq!((device.text(), moved_bytes), ("cpu", *step_bytes));
            assert!(!kernel.text().is_empty() && !config.text().is_empty());
            assert!(free_ns <= record.at_ns - device_time_ns, "steps follow each other");
            free_ns = record.at_ns;
        }
        assert!(free_ns <= program.at_ns);
    }
    assert!(records.last().unwrap().at_ns <= clock::now_ns());
}

#[test]
fn without_a_profile_no_step_is_told_of() {
    let (records, _) = two_runs(None);
    assert_eq!(records.iter().filter(is_kernel).count(), 0);
    assert_eq!(records.len(), 2);
}
