//! Every scenario at its smallest, so that no benchmark rots.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calor_bench::{Child, Context, Revision, Run, SCENARIOS, Size, Unit, op_names, run};
use calor_device::{Driver, NoArtifacts};
use calor_device_cpu::CpuDriver;
use calor_telemetry::{Event, Log, Null, Recorder};
use calor_weights::{Dtype, SYNTH_MODELS, SynthOptions, SynthProfile, synth};

const TRUNK: &str = "all-MiniLM-L6-v2";

fn driver() -> CpuDriver {
    CpuDriver { threads: 2, level: None, memory_bytes: None, profile: None }
}

fn checkpoint(dir: &Path) -> PathBuf {
    let models: Vec<_> = SYNTH_MODELS.iter().filter(|it| it.name == TRUNK).collect();
    let options =
        SynthOptions { profile: SynthProfile::Tiny, seed: 7, dtype: Dtype::F32, models: &models };
    synth(&options, dir, &mut ()).unwrap().remove(0)
}

/// This very program, made to run [`a_child_prints_a_vector`] alone.
fn child() -> Child {
    let arguments = ["--exact", "a_child_prints_a_vector", "--nocapture", "--test-threads=1"];
    let arguments = arguments.map(str::to_owned).to_vec();
    Child { program: std::env::current_exe().unwrap(), arguments, report: None }
}

fn smoke(name: &str) -> Run {
    told(name, Arc::new(Null))
}

fn told(name: &str, recorder: Arc<dyn Recorder>) -> Run {
    let place = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(place.path());
    let scratch = place.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let context = Context {
        driver: &driver(),
        artifacts: Arc::new(NoArtifacts),
        size: Size::Smoke,
        checkpoint: Some(&checkpoint),
        child: Some(&child()),
        scratch: &scratch,
        batch_tokens_max: 128,
        thread_count: NonZeroUsize::MIN,
        revision: Revision { commit: Some("0123456789ab".into()), dirty: Some(true) },
        recorder,
    };
    run(name, &context).unwrap_or_else(|err| panic!("{name}: {err}"))
}

#[test]
fn a_child_prints_a_vector() {
    let device = driver().open(0).unwrap();
    println!("\n[{}]", device.signature.parallel_count);
}

/// Samples that were told of, in their order: what one computed, and how long it took.
fn sampled(log: &Log, name: &str) -> Vec<[u64; 4]> {
    let sample = |event| match event {
        Event::ScenarioSampled { scenario, sample_index, item_count, token_count, wall_ns } => {
            assert_eq!(scenario.text(), name);
            Some([sample_index, item_count, token_count, wall_ns])
        }
        _ => None,
    };
    log.events().into_iter().filter_map(sample).collect()
}

/// The same of a run; its parts, such as loading weights, are no samples of their own.
fn timed(run: &Run, name: &str) -> Vec<[u64; 4]> {
    let measures = run.measures.iter().filter(|it| it.name == name && it.unit == Unit::Ns);
    let rows = measures.flat_map(|it| {
        let amount = [it.item_count, it.token_count].map(|one| one * it.runs_per_sample_count);
        (0..).zip(&it.samples).map(move |(index, ns)| [index, amount[0], amount[1], *ns])
    });
    rows.collect()
}

#[test]
fn every_scenario_runs() {
    for scenario in SCENARIOS.iter().filter(|it| it.name != "op.*") {
        let log = Arc::new(Log::new());
        let run = told(scenario.name, log.clone());
        assert_eq!(sampled(&log, scenario.name), timed(&run, scenario.name), "{}", scenario.name);
        for measure in &run.measures {
            assert!(measure.name.starts_with(scenario.name), "{}", measure.name);
            assert!(measure.samples.iter().all(|it| 0 < *it), "{}", measure.name);
            assert!(0 < measure.item_count, "{}", measure.name);
        }
        let report = run.to_json();
        assert_eq!(report["schema"], "calor.bench/1.0");
        assert_eq!(report["revision"]["dirty"], true);
        assert_eq!(report["device"]["kind"], "cpu");
        assert_eq!(report["measures"][0]["digest"].as_str().unwrap().len(), 64);
        assert!(run.to_string().contains(scenario.name));
    }
}

#[test]
fn every_case_of_every_composite_is_a_benchmark() {
    let run = smoke("op");
    let measured: Vec<&str> = run.measures.iter().map(|it| it.name.as_str()).collect();
    for name in op_names() {
        let is_left_out = run.left_out.contains(&name);
        assert!(measured.contains(&format!("op.{name}").as_str()) != is_left_out, "{name}");
        assert!(!is_left_out || name.starts_with("sort."), "{name} is left out");
    }
    for measure in &run.measures {
        assert!(0 < measure.moved_bytes.unwrap(), "{} moves nothing", measure.name);
    }
}

#[test]
fn the_same_work_has_the_same_digest() {
    let digest = |run: &Run| run.measures[0].digest;
    let first = smoke("embed.minilm.1x32");
    assert_eq!(digest(&first), digest(&smoke("embed.minilm.1x32")));
    assert_ne!(digest(&first), digest(&smoke("embed.minilm.64x128")));
    assert_eq!(first.measures[0].token_count, 16);
}

#[test]
fn what_is_missing_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let context = Context {
        driver: &driver(),
        artifacts: Arc::new(NoArtifacts),
        size: Size::Smoke,
        checkpoint: None,
        child: None,
        scratch: place.path(),
        batch_tokens_max: 128,
        thread_count: NonZeroUsize::MIN,
        revision: Revision { commit: None, dirty: None },
        recorder: Arc::new(Null),
    };
    for name in ["tea", "op.tea", "embed.minilm.1x32", "start.first_vector", "memory.peak.minilm"] {
        assert!(run(name, &context).is_err(), "{name}");
    }
}
