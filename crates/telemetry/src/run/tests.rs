//! Documents of made records, golden documents of every version, and the schema over both.

use super::*;
use crate::counter::Counters;
use crate::recorder::Recorder;
use crate::{Log, schema};

fn facts(legacy_names: bool) -> RunFacts {
    RunFacts {
        run_id: "r1".into(),
        started_s: 1_800_000_000,
        program: "embed".into(),
        version: "0.1.0".into(),
        revision: Some("0123456789ab".into()),
        wall_ns: 5_000_000,
        environment: json!({ "host": { "cpu": "a processor" } }),
        options: json!({ "device": "cpu" }),
        peak_host_bytes: Some(1 << 20),
        peak_device_bytes: None,
        energy_mj: None,
        lost_record_count: 0,
        legacy_names,
    }
}

fn made(legacy_names: bool) -> Json {
    let (counters, log) = (Counters::new(), Log::new());
    let scope = counters.scope();
    counters.add(Plain::UploadedBytes, 128);
    counters.add(Plain::Uploads, 2);
    counters.add(Plain::PlannedNodes, 30);
    counters.add(Plain::PlannedSteps, 12);
    counters.cache_asked(Cache::KernelStructural, true);
    counters.cache_asked(Cache::KernelStructural, true);
    counters.cache_asked(Cache::KernelStructural, false);
    let (model, device) = (Label::fixed("bert"), Label::fixed("cpu"));
    let compiled = |origin| Event::Compiled {
        kernel: Label::fixed("k"),
        device,
        origin,
        code_bytes: 10,
        wall_ns: 700,
    };
    let ran = Event::ProgramRan {
        model,
        device,
        bucket_token_count: 64,
        bucket_sequence_count: 8,
        live_token_count: 40,
        live_sequence_count: 3,
        wall_ns: 2_000,
    };
    let kernel = Event::KernelRan {
        kernel: Label::fixed("k"),
        config: Label::fixed("words 8"),
        device,
        device_time_ns: 90,
        moved_bytes: 64,
        flop_count: 8,
    };
    for event in [compiled(Origin::Made), compiled(Origin::Disk), ran, kernel, ran] {
        log.record(event);
    }
    log.record(compiled(Origin::Made));
    document(&facts(legacy_names), &scope.change(), &log.records())
}

#[test]
fn a_document_says_where_time_went_and_what_was_kept() {
    let got = made(false);
    assert_eq!(got["schema"], "calor.run/2.1");
    let time = &got["time"];
    assert_eq!((&time["compile_ns"], &time["programs_ns"]), (&json!(2_100), &json!(4_000)));
    assert_eq!((&time["kernel_ns"], &time["first_program_ns"]), (&json!(90), &json!(2_000)));
    assert_eq!(got["transfers"]["upload_bytes"], 128);
    // The last one was made after a program had run.
    assert_eq!(got["compiles"], json!({ "before_seal": 1, "after_seal": 1, "found": 1 }));
    assert_eq!(got["fusion"]["saved_count"], 18);
    assert_eq!(
        (&got["fusion"]["group_count"], &got["fusion"]["hit_count"]),
        (&json!(3), &json!(2))
    );
    let cache = &got["caches"]["kernel_structural"];
    assert_eq!((&cache["hits"], &cache["hit_rate"]), (&json!(2), &json!(2.0 / 3.0)));
    assert_eq!(got["caches"].as_object().unwrap().len(), 1);
    let kernel = &got["kernels"][0];
    assert_eq!((&kernel["kernel"], &kernel["config"]), (&json!("k"), &json!("words 8")));
    assert_eq!((&kernel["count"], &kernel["device_time_ns"]), (&json!(1), &json!(90)));
    assert_eq!(got["shapes"][0]["run_count"], 2);
    assert_eq!(got["shapes"][0]["live_token_count"], 80);
    assert_eq!(got["events"]["program_ran"], json!({ "count": 2, "wall_ns": 4_000 }));
    assert!(got.get("legacy").is_none());
}

#[test]
fn without_a_profile_there_is_no_kernel_time() {
    let got = document(&facts(false), &Counters::new().scope().change(), &[]);
    assert_eq!(got["time"]["kernel_ns"], Json::Null);
    assert_eq!(got["caches"], json!({}));
}

#[test]
fn old_names_stand_beside_ours_when_asked_for() {
    let got = made(true);
    assert_eq!(got["legacy"]["fusion_cache_hits"], 2);
    assert_eq!(got["legacy"]["upload_bytes"], 128);
    assert_eq!(got["legacy"]["bind_group_cache_hits"], Json::Null);
    assert_eq!(got["legacy"]["kernel_launches"][0]["kernel_ns"], 90);
}

const GOLDEN: [(&str, &str); 2] = [
    ("1.0", include_str!("../../golden/run-1.0.json")),
    ("2.0", include_str!("../../golden/run-2.0.json")),
];

/// Files that earlier versions wrote are never rewritten; each must still be read.
#[test]
fn every_version_is_read_and_valid_when_it_has_been_brought_up() {
    let validator = jsonschema::validator_for(&schema::run()).unwrap();
    for (version, text) in GOLDEN {
        let got = read(text).unwrap_or_else(|err| panic!("{version}: {err}"));
        let errors: Vec<String> = validator.iter_errors(&got).map(|it| it.to_string()).collect();
        assert!(errors.is_empty(), "{version}: {errors:?}");
        assert_eq!(got["schema"], "calor.run/2.0");
        // Bringing up what is up changes nothing.
        assert_eq!(migrate(got.clone()).unwrap(), got);
    }
    let first = read(GOLDEN[0].1).unwrap();
    assert_eq!(first["scenario"], "embed.minilm.1x32");
    assert_eq!(first["measures"][0]["samples"], json!([4_822_686, 4_900_000]));
    assert_eq!(first["mood"], "kept");
    let made = made(true);
    let errors: Vec<String> = validator.iter_errors(&made).map(|it| it.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(!validator.is_valid(&serde_json::from_str(GOLDEN[0].1).unwrap()));
}

#[test]
fn what_cannot_be_read_says_why() {
    let with = |from: &str, to: &str| {
        assert!(GOLDEN[1].1.contains(from), "{from}");
        read(&GOLDEN[1].1.replacen(from, to, 1))
    };
    assert_eq!(read("[]"), Err(RunFault::NotAnObject));
    assert_eq!(read("{"), Err(RunFault::NotAnObject));
    assert_eq!(with("calor.run/2.0", "calor.run/3.0"), Err(RunFault::Newer { major: 3 }));
    let tea = RunFault::NotARun { schema: "calor.tea/2.0".into() };
    assert_eq!(with("calor.run/2.0", "calor.tea/2.0"), Err(tea));
    assert_eq!(with("\"time\"", "\"tim\""), Err(RunFault::Field { name: "time" }));
    assert_eq!(
        with("\"run_id\": \"r1\"", "\"run_id\": 1"),
        Err(RunFault::Field { name: "run_id" })
    );
    assert_eq!(
        with("\"wall_ns\": 5000000,", "\"wall_ns\": -1,"),
        Err(RunFault::Field { name: "time.wall_ns" })
    );
    // A later minor version has more fields; they are kept.
    let later = with("calor.run/2.0", "calor.run/2.7").unwrap();
    assert_eq!(later["schema"], "calor.run/2.7");
    let odd = GOLDEN[0].1.replacen("\"measures\"", "\"measure\"", 1);
    assert_eq!(read(&odd), Err(RunFault::Field { name: "measures" }));
}
