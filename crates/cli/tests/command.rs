//! The command as users run it: answers, exit codes, and what is left on the disk.
//!
//! Needs nothing but a processor: models are tiny and seeded, and the network is off.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value as Json;
use tempfile::TempDir;

struct Calor {
    root: TempDir,
}

struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Calor {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Answer {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.root.path())
            .env_clear()
            .env("HOME", self.root.path())
            .env("CALOR_HOME", self.root.path().join("home"))
            .env("HF_HUB_OFFLINE", "1")
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let Output { status, stdout, stderr } = output;
        Answer {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    fn run(&self, line: &[&str]) -> Answer {
        self.command(env!("CARGO_BIN_EXE_calor"), line)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.root.path().join(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.root.path().join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.root.path()).unwrap();
        let mut names: Vec<String> =
            names.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|it| it != "home");
        names.sort();
        names
    }
}

#[track_caller]
fn check(answer: &Answer, code: i32, want: &str) {
    let Answer { code: found, out, err } = answer;
    assert_eq!(*found, code, "out: {out}\nerr: {err}");
    assert!(out.contains(want) || err.contains(want), "wanted `{want}`\nout: {out}\nerr: {err}");
}

fn lines(answer: &Answer) -> Vec<Json> {
    answer.out.lines().map(|it| serde_json::from_str(it).unwrap()).collect()
}

#[test]
fn usage_is_named_and_helped() {
    let calor = Calor::new();
    check(&calor.run(&[]), 2, "Usage: calor");
    check(&calor.run(&["--help"]), 0, "Exit codes");
    check(&calor.run(&["embed", "--help"]), 0, "Examples:");
    check(&calor.run(&["embd"]), 2, "embed");
    check(&calor.run(&["embed", "--outptu", "x"]), 2, "--output");
    check(&calor.run(&["embed", "x", "--output", "a.xyz"]), 2, "hint: use one of: jsonl, npy");
    check(&calor.run(&["embed", "--input", "a.docx"]), 2, "--format");
    check(&calor.run(&["embed", "x", "--models", "e13"]), 2, "there is no `e13`");
    check(&calor.run(&["embed", "x", "--threads", "0"]), 2, "--threads");
    check(&calor.run(&["embed", "--checkpoint", "absent", "x"]), 2, "absent");
    check(&calor.run(&["completions", "bash"]), 0, "_calor");
    check(&calor.run(&["version"]), 0, "calor 0.");
    let version: Json = serde_json::from_str(&calor.run(&["version", "--json"]).out).unwrap();
    assert_eq!(version["devices"], serde_json::json!(["cpu", "cuda"]));
}

#[test]
fn no_device_is_a_substitute_for_another() {
    let calor = Calor::new();
    let on = |device| {
        let line = ["embed", "x", "--profile", "random", "--models", "e9,e11", "--device", device];
        calor.run(&[&line[..], &["--report", "r.json"]].concat())
    };
    let device_of = || -> Json {
        let report = fs::read_to_string(calor.root.path().join("r.json")).unwrap();
        serde_json::from_str::<Json>(&report).unwrap()["device"].clone()
    };
    check(&on("wgpu"), 4, "this build has no device `wgpu`");
    check(&on("wgpu,cpu"), 0, "f32 on cpu");
    assert_eq!(device_of(), "cpu");
    check(&on("cuda:x"), 2, "write cuda:0 for the first");
    let doctor: Json = serde_json::from_str(&calor.run(&["doctor", "--json"]).out).unwrap();
    if doctor["cuda"]["gpus"].as_array().unwrap().is_empty() {
        check(&on("cuda"), 4, "there is no device `cuda`");
        check(&on("cuda"), 4, "hint: `calor doctor` says what is missing");
        check(&on("cuda:0,cpu"), 0, "f32 on cpu");
        assert_eq!(device_of(), "cpu");
    } else {
        check(&on("cuda:99"), 2, "there is no device `cuda:99`");
        check(&on("cuda,cpu"), 0, "on cuda");
        assert_eq!(device_of(), "cuda");
    }
    check(&calor.run(&["embed", "x", "--device", "tpu"]), 2, "no device is called `tpu`");
}

#[test]
fn input_that_cannot_be_read_is_said() {
    let calor = Calor::new();
    let random = ["embed", "--profile", "random", "--input"];
    let with = |name| calor.run(&[&random[..], &[name]].concat());
    check(&with("absent.txt"), 3, "absent.txt does not exist");
    calor.file("empty.txt", "\n\n");
    check(&with("empty.txt"), 3, "nothing to embed");
    calor.file("cut.parquet", "PAR1");
    check(&with("cut.parquet"), 3, "not a Parquet file");
    calor.file("a.csv", "body\nx\n");
    check(&with("a.csv"), 2, "no column `text`");
}

#[test]
fn a_model_without_a_source_is_a_fault_of_the_environment() {
    let calor = Calor::new();
    let answer = calor.run(&["models", "pull", "all-MiniLM-L6-v2", "--source", "hub"]);
    check(&answer, 4, "offline was asked for");
    check(&calor.run(&["models", "pull", "x", "--source", "magic"]), 2, "directory:DIR");
    check(&calor.run(&["doctor"]), 0, "HF_HUB_OFFLINE is set");
    let doctor: Json = serde_json::from_str(&calor.run(&["doctor", "--json"]).out).unwrap();
    assert!(doctor["findings"].as_array().unwrap().len() > 5);
    let libraries = doctor["cuda"]["libraries"].as_array().unwrap();
    let names: Vec<&str> = libraries.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["CUDA driver", "NVRTC", "cuBLASLt", "cuDNN", "NCCL", "NVML", "cuFile"]);
    for library in libraries {
        let cost = library["cost"].as_str();
        assert_eq!(cost.is_some(), library["path"].is_null(), "{library}");
    }
    check(&calor.run(&["doctor"]), 0, "NVRTC");
}

#[test]
fn models_are_made_pulled_verified_and_removed() {
    let calor = Calor::new();
    let answer = calor.run(&["models", "synth", "--profile", "tiny", "--models", "e8,e11", "m"]);
    check(&answer, 0, "m/all-MiniLM-L6-v2");
    let source = "directory:m/all-MiniLM-L6-v2";
    let pull = ["models", "pull", "tiny-model", "--source", "directory:absent", "--source", source];
    let answer = calor.run(&[&pull[..], &["--telemetry", "t.jsonl"]].concat());
    check(&answer, 0, "tiny-model pulled");
    let told = calor.text("t.jsonl");
    let event: Json = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&event["event"], &event["model"], &event["origin"]),
        (&"model_pulled".into(), &"tiny-model".into(), &"disk".into())
    );
    assert!(0 < event["size_bytes"].as_u64().unwrap() && told.lines().count() == 2, "{told}");
    assert!(answer.err.contains("directory absent: "), "each attempt is said: {}", answer.err);
    check(&calor.run(&[&pull[..], &["--telemetry", "t.jsonl"]].concat()), 0, "tiny-model is there");
    assert_eq!(calor.text("t.jsonl").lines().count(), 1, "nothing came");
    let import = ["models", "import", "other", "m/paraphrase-MiniLM-L6-v2"];
    check(&calor.run(&[&import[..], &["--telemetry", "t.jsonl"]].concat()), 0, "imported");
    assert!(calor.text("t.jsonl").starts_with('{') && calor.text("t.jsonl").lines().count() == 2);
    let list: Json = serde_json::from_str(&calor.run(&["models", "list", "--json"]).out).unwrap();
    assert_eq!(list["models"].as_array().unwrap().len(), 2, "{list}");
    check(&calor.run(&["models", "verify"]), 0, "tiny-model is as it was pulled");
    let file = calor.root.path().join("home/models/tiny-model/main/config.json");
    fs::write(&file, fs::read_to_string(&file).unwrap() + " ").unwrap();
    check(&calor.run(&["models", "verify", "tiny-model"]), 3, "hint");
    check(&calor.run(&["models", "remove", "tiny-model"]), 0, "removed");
    check(&calor.run(&["models", "remove", "tiny-model"]), 2, "no model `tiny-model`");
    check(&calor.run(&["models", "synth", "--models", "e2", "m"]), 2, "no synthetic model");
}

#[test]
fn bad_items_fail_alone_and_are_listed() {
    let calor = Calor::new();
    let good = r#"{"id": "a", "text": "one text", "instruction": "epoch:86400"}"#;
    let bad = concat!(
        "{\"text\": \"\"}\n{\n{\"text\": \"a\\u0000\"}\n",
        "{\"input_ids\": [1]}\n{\"text\": \"\u{1}\"}",
    );
    let clock = r#"{"text": "x", "instruction": "epoch:never"}"#;
    let mut text = format!("{good}\n{bad}\n{clock}\n").into_bytes();
    text.extend(b"{\"text\": \"\xff\"}\n");
    calor.file("t.jsonl", text);
    let line = ["embed", "--profile", "random", "--input", "t.jsonl", "--json"];
    let answer = calor.run(&[&line[..], &["--report", "r.json"]].concat());
    check(&answer, 1, "t.jsonl:2: the text is empty");
    let rows = lines(&answer);
    assert_eq!(rows[0]["id"], "a");
    assert_eq!(rows[0]["fused"].as_array().unwrap().len(), 1536);
    assert_eq!(rows[0]["semantic"].as_array().unwrap().len(), 1024);
    assert!(rows[0]["untrained"][0].as_str().unwrap().contains("seeded"));
    assert_eq!(rows[0]["timestamp_defaulted"], false);
    let report = fs::read_to_string(calor.root.path().join("r.json")).unwrap();
    let report: Json = serde_json::from_str(&report).unwrap();
    let places: Vec<&str> = report["failed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["place"].as_str().unwrap())
        .collect();
    let wanted = [2, 3, 4, 5, 6, 7, 8].map(|it| format!("t.jsonl:{it}"));
    assert_eq!(places, wanted, "{report:#}");
    assert_eq!(report["item_count"], 8);
    assert_eq!(report["done_count"], 1);
    assert!(report["untrained"].as_array().is_some_and(|it| !it.is_empty()));
}

#[test]
fn long_texts_are_cut_or_refused_as_the_user_says() {
    let calor = Calor::new();
    calor.file("long.txt", format!("{}\nshort\n", "word ".repeat(1 << 20)));
    let models = "e9,e11";
    let line =
        ["embed", "--profile", "random", "--input", "long.txt", "--json", "--models", models];
    let rows = lines(&calor.run(&[&line[..], &["--telemetry", "t.jsonl"]].concat()));
    let told = calor.text("t.jsonl");
    let event = |it: &&str| it.contains("\"event\":\"input_truncated\"");
    let cuts: Vec<Json> =
        told.lines().filter(event).map(|it| serde_json::from_str(it).unwrap()).collect();
    assert_eq!((cuts.len(), &cuts[0]["item_index"]), (1, &0.into()));
    let count = |name: &str| cuts[0][name].as_u64().unwrap();
    assert!(0 < count("kept_token_count") && count("kept_token_count") < count("token_count"));
    assert!(told.lines().last().unwrap().contains("\"calor.truncations\":1"));
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["truncated"], true);
    assert_eq!(rows[1]["truncated"], false);
    let answer = calor.run(&[&line[..], &["--on-too-long", "refuse"]].concat());
    check(&answer, 1, "long.txt:1: longer than 65536 bytes");
    assert_eq!(lines(&answer).len(), 1);
}

#[test]
fn every_file_format_is_written() {
    let calor = Calor::new();
    for name in ["a.jsonl", "a.npy", "a.parquet", "a.safetensors"] {
        let line = ["embed", "--profile", "random", "one", "two", "--output", name];
        check(&calor.run(&line), 0, "untrained: every model");
    }
    assert_eq!(calor.names(), ["a.jsonl", "a.npy", "a.npy.json", "a.parquet", "a.safetensors"]);
    let npy = fs::read(calor.root.path().join("a.npy")).unwrap();
    assert!(String::from_utf8_lossy(&npy[..128]).contains("(2, 1536)"));
    let notes = fs::read_to_string(calor.root.path().join("a.npy.json")).unwrap();
    assert!(notes.contains("untrained") && notes.contains("\"argument 2\""), "{notes}");
    let header = fs::read(calor.root.path().join("a.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&header[..2000]).into_owned();
    assert!(header.contains("\"embeddings\"") && header.contains("untrained"), "{header}");
}

#[test]
fn a_full_disk_leaves_nothing_under_the_name() {
    let calor = Calor::new();
    calor.run(&["embed", "--profile", "random", "warm"]); // Its models are written before.
    let texts: String = (0..40).map(|it| format!("text number {it}\n")).collect();
    calor.file("t.txt", texts);
    for name in ["a.jsonl", "a.npy", "a.parquet", "a.safetensors"] {
        // A limit of 64 KiB a file stands in for a full disk: both end in a failed write.
        let script = format!(
            "trap '' XFSZ; ulimit -f 64; \
             exec {} embed --profile random --input t.txt --output {name}",
            env!("CARGO_BIN_EXE_calor")
        );
        check(&calor.command("bash", &["-c", &script]), 4, &format!("write {name} "));
        assert_eq!(calor.names(), ["t.txt"], "after {name}");
    }
}

#[test]
fn a_checkpoint_embeds_by_itself() {
    let calor = Calor::new();
    check(&calor.run(&["models", "synth", "--models", "e11,e6", "m"]), 0, "m/");
    let dir = "m/all-MiniLM-L6-v2";
    calor.file("t.jsonl", "{\"text\": \"a text\"}\n{\"input_ids\": [2, 5, 3]}\n");
    let line = ["embed", "--checkpoint", dir, "--input", "t.jsonl", "--json"];
    let rows = lines(&calor.run(&line));
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["embedding"].as_array().unwrap().len(), 32);
    assert_eq!(rows[1]["token_count"], 3);
    let tokens = [&line[..5], &["--pool", "none", "--output", "t.safetensors"]].concat();
    check(&calor.run(&tokens), 0, "2 of 2 items");
    let bytes = fs::read(calor.root.path().join("t.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    assert_eq!(header["tokens.1"]["shape"], serde_json::json!([3, 32]));
    let splade = ["embed", "--checkpoint", dir, "--pool", "splade", "x"];
    check(&calor.run(&splade), 2, "masked-language-model");
    let plan = calor.run(&["plan", "show", "--checkpoint", dir, "--tokens", "64", "--kernels"]);
    check(&plan, 0, "\nrun:\n");
}

#[test]
fn the_nearest_texts_are_found_in_texts_and_in_vectors() {
    let calor = Calor::new();
    calor.file("c.txt", "bread and butter\nheat and cold\nnight trains\n");
    let random = ["--profile", "random", "--corpus"];
    let search = |corpus, by| {
        let line = [&["search", "night trains"], &random[..], &[corpus, "--by", by, "--json"]];
        let answer = calor.run(&line.concat());
        assert_eq!(answer.code, 0, "{}", answer.err);
        lines(&answer)
    };
    let output = ["embed", "--profile", "random", "--input", "c.txt", "--output", "c.jsonl"];
    check(&calor.run(&[&output[..], &["--now", "0"]].concat()), 0, "3 of 3 items");
    for by in ["e9", "e11", "e12", "e6", "fused"] {
        for corpus in ["c.txt", "c.jsonl"] {
            let hits = search(corpus, by);
            assert_eq!(hits.len(), 3, "{by}");
            if by == "e9" || by == "e11" {
                assert_eq!(hits[0]["text"], "night trains", "{corpus} by {by}");
            }
        }
    }
    let other =
        ["search", "x", "--corpus", "c.jsonl", "--profile", "mini", "--models-dir", "absent"];
    assert_ne!(calor.run(&other).code, 0);
    check(&calor.run(&["search", "x", "--corpus", "absent.txt"]), 3, "does not exist");
}

#[test]
fn what_happened_is_recorded() {
    let calor = Calor::new();
    let line = ["embed", "--profile", "random", "x", "--telemetry", "t.jsonl", "--trace", "t.json"];
    check(&calor.run(&line), 0, "fused");
    let read = |name: &str| fs::read_to_string(calor.root.path().join(name)).unwrap();
    let lines = read("t.jsonl");
    let (events, last) = lines.trim_end().rsplit_once('\n').unwrap();
    assert!(events.lines().all(|it| it.contains("calor.telemetry/")));
    assert!(last.contains("\"schema\":\"calor.run/2.1\""));
    assert!(read("t.jsonl").contains("program_ran"));
    assert!(read("t.json").contains("traceEvents"));
}

#[test]
fn graphs_are_planned_from_text() {
    let calor = Calor::new();
    calor.file("g.txt", "nonsense");
    check(&calor.run(&["plan", "show", "--graph", "g.txt"]), 3, "is no graph");
    check(&calor.run(&["plan", "show", "--graph", "absent"]), 3, "cannot read the graph");
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_leaves_nothing() {
    let calor = Calor::new();
    calor.run(&["embed", "--profile", "random", "warm"]);
    let script = format!(
        "(while :; do echo endless text; done) | {} embed --profile random --output a.npy & \
         sleep 2; kill -INT $(pgrep -P $$ calor); wait $!",
        env!("CARGO_BIN_EXE_calor")
    );
    if !Path::new("/usr/bin/pgrep").exists() {
        eprintln!("SKIPPED an_interrupted_run_leaves_nothing: pgrep is not installed");
        return;
    }
    let answer = calor.command("bash", &["-c", &script]);
    assert_eq!(answer.code, 130, "{}", answer.err);
    assert!(calor.names().is_empty(), "{:?}", calor.names());
}

#[test]
fn precision_is_chosen_stated_and_refused_by_name() {
    let calor = Calor::new();
    let vector = |precision: &str| {
        let line = ["embed", "a text", "--profile", "random", "--models", "e11", "--json"];
        let file = ["--vectors", "slots", "--report", "r.json", "--precision", precision];
        let answer = calor.run(&[&line[..], &file[..]].concat());
        check(&answer, 0, "entity");
        let report = fs::read_to_string(calor.root.path().join("r.json")).unwrap();
        let report: Json = serde_json::from_str(&report).unwrap();
        (report["precision"].clone(), lines(&answer)[0]["entity"].clone())
    };
    let (word, wide) = vector("f32");
    assert_eq!(word, "f32");
    assert_eq!(vector("auto"), ("f32".into(), wide.clone()));
    let (word, narrow) = vector("bf16");
    assert_eq!(word, "bf16");
    assert_ne!(narrow, wide);

    let line = ["embed", "x", "--profile", "random", "--models", "e11", "--precision", "bf16"];
    check(&calor.run(&[&line[..], &["--output", "a.safetensors"]].concat()), 0, "bf16 on cpu");
    let header = fs::read(calor.root.path().join("a.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&header).into_owned();
    assert!(header.contains(r#""precision":"bf16""#), "{}", &header[..2000.min(header.len())]);

    let line = ["embed", "x", "--profile", "random", "--models", "e7", "--precision", "f16"];
    check(&calor.run(&line), 2, "codet5p-110m-embedding does not run in f16");
    for word in ["tf32", "fp8", "int8"] {
        let line = ["embed", "x", "--profile", "random", "--models", "e11", "--precision", word];
        check(&calor.run(&line), 2, &format!("does not run in {word}: the device has no such"));
    }
    check(&calor.run(&["embed", "x", "--precision", "int4"]), 2, "possible values");
}

#[test]
fn several_devices_share_the_items_and_answer_as_one() {
    let calor = Calor::new();
    let texts: String = (0..300).map(|it| format!("text number {it}\n")).collect();
    fs::write(calor.root.path().join("texts.txt"), texts).unwrap();
    let embed = |more: &[&str]| -> (Vec<Json>, Json) {
        let line =
            ["embed", "--input", "texts.txt", "--profile", "random", "--models", "e2,e8,e11"];
        let rest = ["--now", "2024-05-01T12:00:00Z", "--json", "--report", "r.json"];
        let answer = calor.run(&[&line[..], &rest, more].concat());
        check(&answer, 0, "graph");
        let report = fs::read_to_string(calor.root.path().join("r.json")).unwrap();
        (lines(&answer), serde_json::from_str(&report).unwrap())
    };
    let (want, alone) = embed(&[]);
    assert_eq!(alone["devices"], Json::Null);
    let (got, report) = embed(&["--devices", "cpu,cpu,cpu"]);
    assert_eq!(got.len(), 300);
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got["id"], want["id"]);
        for slot in ["graph", "entity", "temporal_recent"] {
            let numbers = |it: &Json| -> Vec<f64> {
                it[slot].as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect()
            };
            for (got, want) in numbers(got).into_iter().zip(numbers(want)) {
                assert!((got - want).abs() < 1e-6, "{slot}: {got} for {want}");
            }
        }
    }
    let devices = report["devices"].as_array().unwrap();
    let names: Vec<&str> = devices.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["0:cpu", "1:cpu", "2:cpu"]);
    let counts: Vec<u64> = devices.iter().map(|it| it["item_count"].as_u64().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 300);
    assert!(counts.iter().all(|it| 0 < *it), "{counts:?}");
    assert!(devices.iter().all(|it| it["lost"].is_null()), "{report:#}");
    for (devices, more, want) in [
        ("cuda:1,cpu,cuda:1", &[][..], "named twice"),
        ("cpu,cpu", &["--device", "cpu"], "--device"),
        ("cpu,cpu", &["--checkpoint", "absent"], "--checkpoint"),
    ] {
        let line = ["embed", "x", "--devices", devices];
        check(&calor.run(&[&line[..], more].concat()), 2, want);
    }
}

#[test]
fn what_a_precision_costs_is_measured_when_asked_for() {
    let calor = Calor::new();
    let report = |more: &[&str]| -> Json {
        let line = ["embed", "a text", "another", "--profile", "random", "--models", "e11,e6"];
        let rest = ["--precision", "bf16", "--json", "--report", "r.json"];
        check(&calor.run(&[&line[..], &rest, more].concat()), 0, "entity");
        let report = fs::read_to_string(calor.root.path().join("r.json")).unwrap();
        serde_json::from_str(&report).unwrap()
    };
    assert_eq!(report(&[])["precision_check"], Json::Null);
    let found = &report(&["--check-precision"])["precision_check"];
    assert_eq!(found["item_count"], 2);
    let columns = found["columns"].as_object().unwrap();
    assert!(columns.contains_key("entity") && 2 < columns.len(), "{found}");
    for (name, it) in columns {
        let figure = |name: &str| it[name].as_f64().unwrap();
        let (least, mean) = (figure("cosine_min"), figure("cosine_mean"));
        assert!(0.99 < least && least < 1.0 && least <= mean, "{name}: {it}");
        assert!(0.0 < figure("difference_max"), "{name}: {it}");
    }
}
