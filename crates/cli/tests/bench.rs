//! Suites, packages, gates and telemetry through the command, as users run them.
//!
//! Needs nothing but a processor: peers are our own arms once more, and models are tiny.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

struct Place(TempDir);

struct Answer {
    code: i32,
    out: String,
    err: String,
}

/// The words of a run of [`SUITE`] into `p`.
const RUN: &[&str] = &[
    "bench",
    "run",
    "--suite",
    "suite.toml",
    "--device",
    "cpu",
    "--output",
    "p",
    "--revision",
    "0123456789ab",
];

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calor"));
        command
            .args(line)
            .current_dir(self.0.path())
            .env_clear()
            .env("HOME", self.0.path())
            .env("CALOR_HOME", self.0.path().join("home"))
            .env("HF_HUB_OFFLINE", "1")
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &[&str]) -> Answer {
        let Output { status, stdout, stderr } = self.command(line).output().unwrap();
        Answer {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    /// A run of [`SUITE`] into `p`.
    fn package(&self) -> Answer {
        self.file("suite.toml", SUITE);
        self.run(RUN)
    }

    fn checkpoint(&self) {
        let synth = ["models", "synth", "--profile", "tiny", "--seed", "1", "seeded"];
        let answer = self.run(&synth);
        assert_eq!(answer.code, 0, "{}", answer.err);
    }
}

const SUITE: &str = r#"
schema = "calor.suite/1.0"
name = "tiny"
about = "our own arm beside itself"
[rounds]
cold_count = 1
count_min = 2
count_max = 2
spread_max = 1.0
timeout_s = 60
sample_count = 3
[arms.calor]
role = "ours"
command = [
    "{program}", "bench", "arm", "{case}", "--size", "{size}", "--samples", "{samples}",
    "--device", "{device}", "--threads", "1", "--cache-dir", "{cache}",
]
[arms.again]
role = "baseline"
command = [
    "{program}", "bench", "arm", "{case}", "--size", "{size}", "--samples", "{samples}",
    "--device", "{device}", "--threads", "1", "--cache-dir", "{cache}",
]
[[cases]]
name = "pooling.mean"
about = "two sizes"
size_unit = "rows"
reference = "again"
tolerance = 1e-5
points = [{ size = 64, items = 2 }, { size = 256, items = 8 }]
"#;

const GATES: &str = "schema = \"calor.gate/1.0\"\n[[exact]]\ncase = \"pooling.mean\"\n\
                     arm = \"calor\"\ncounter = \"steady.calor.compiles\"\nequals = 0\n";

#[test]
fn a_suite_becomes_a_package_that_is_gated_and_drawn() {
    let place = Place::new();
    let answer = place.package();
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert!(answer.out.contains("over again:"), "{}", answer.out);
    let manifest: Json = serde_json::from_str(&place.text("p/manifest.json")).unwrap();
    assert_eq!((&manifest["commit"], &manifest["dirty"]), (&"0123456789ab".into(), &false.into()));
    // 1 reference, and 1 cold and 2 warm rounds of 2 arms, at 2 sizes.
    assert_eq!(manifest["sample_count"], 14);

    place.file("gate.toml", GATES);
    let gate =
        ["bench", "gate", "p", "--gates", "gate.toml", "--junit", "j.xml", "--markdown", "m.md"];
    let answer = place.run(&gate);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert!(place.text("j.xml").contains("pooling.mean") && place.text("m.md").contains("| ok |"));
    place.file("gate.toml", &GATES.replace("equals = 0", "min = 1"));
    assert_eq!(place.run(&gate).code, 1);
    assert!(place.text("j.xml").contains("<failure"));
    place.file("gate.toml", "schema = \"calor.gate/1.0\"\n");
    assert_eq!(place.run(&gate).code, 2);

    let report = ["bench", "report", "p", "--output", "r.html", "--archive", "p.zip"];
    assert_eq!(place.run(&report).code, 0);
    assert!(place.text("r.html").contains("<svg"));
    let both = ["bench", "report", "p", "p.zip", "--output", "both.html"];
    assert_eq!(place.run(&both).code, 0);
    assert!(place.text("both.html").contains("Measurements over time"));

    fs::remove_file(place.0.path().join("p/raw/pooling.mean.jsonl")).unwrap();
    let answer = place.run(&gate);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("is refused") && answer.err.contains("missing"), "{}", answer.err);
}

#[test]
fn a_suite_whose_arm_fails_is_no_success_and_goes_on_where_it_ended() {
    let place = Place::new();
    place
        .file("suite.toml", &SUITE.replacen("\"{program}\", \"bench\"", "\"false\", \"bench\"", 1));
    let run = ["bench", "run", "--suite", "suite.toml", "--device", "cpu", "--output", "p"];
    let answer = place.run(&run);
    assert_eq!(answer.code, 1, "{}", answer.err);
    assert!(answer.out.contains("failed") && answer.err.contains("exit status: 1"));
    let before = place.text("p/raw/pooling.mean.jsonl");
    assert_eq!(place.run(&run).code, 1);
    assert_eq!(before, place.text("p/raw/pooling.mean.jsonl"));
    let other = [&run[..], &["--word", "more=1"]].concat();
    let answer = place.run(&other);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("another run"), "{}", answer.err);
}

#[cfg(unix)]
#[test]
fn a_run_that_was_killed_goes_on_and_is_sealed() {
    let place = Place::new();
    place.file("suite.toml", SUITE);
    let run = [RUN, &["--quiet"]].concat();
    let raw = place.0.path().join("p/raw/pooling.mean.jsonl");
    let lines = || fs::read_to_string(&raw).unwrap_or_default().lines().count();
    let mut child =
        place.command(&run).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut patience = 600;
    while lines() < 4 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        patience -= 1;
        assert!(0 < patience, "nothing was measured");
    }
    // No chance to tidy up: what is on the disk is all that there is.
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    let kept = fs::read_to_string(&raw).unwrap();
    let kept = &kept[..kept.rfind('\n').unwrap() + 1];
    assert!(kept.lines().count() < 14, "it was killed too late to show anything");
    assert!(!place.0.path().join("p/manifest.json").exists());
    // Half of a sample, as a machine that lost its power leaves it.
    fs::write(&raw, format!("{kept}{{\"schema\":\"calor.sample/1.0\",\"case\":\"poo")).unwrap();
    let answer = place.run(&["bench", "report", "p", "--output", "r.html"]);
    assert_eq!(answer.code, 3, "what is not sealed is no package: {}", answer.err);

    let answer = place.run(&run);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    let whole = place.text("p/raw/pooling.mean.jsonl");
    assert!(whole.starts_with(kept), "what was measured before stays as it is");
    assert_eq!(whole.lines().count(), 14);
    let manifest: Json = serde_json::from_str(&place.text("p/manifest.json")).unwrap();
    assert_eq!(manifest["sample_count"], 14);
    assert_eq!(place.run(&["bench", "report", "p", "--output", "r.html"]).code, 0);
}

#[test]
fn one_build_in_pairs_with_itself_is_not_slower() {
    let place = Place::new();
    // A case that nobody asks for is not missing.
    let (_, case) = SUITE.split_once("[[cases]]").unwrap();
    let more = format!("{SUITE}[[cases]]{}", case.replace("pooling.mean", "left.out"));
    place.file("suite.toml", &more);
    let program = env!("CARGO_BIN_EXE_calor");
    let answer = place.run(&[
        "bench",
        "compare",
        "--base",
        program,
        "--head",
        program,
        "--suite",
        "suite.toml",
        "--pairs",
        "8",
        "--output",
        "p",
        "--device",
        "cpu",
        "--case",
        "pooling.mean",
        "--by-times",
    ]);
    // A busy machine may keep it from being told; it is no regression.
    assert!([0, 2].contains(&answer.code), "{} {}{}", answer.code, answer.out, answer.err);
    assert!(answer.out.contains("pooling.mean at 64"), "{}", answer.out);
    assert!(!answer.out.contains("left.out"), "{}", answer.out);
    let alike = ["--base", program, "--head", program, "--suite", "suite.toml", "--output", "r"];
    let answer = place.run(&[&["bench", "compare"][..], &alike].concat());
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(answer.out.contains("same code and data"), "{}", answer.out);
    assert!(!place.0.path().join("r").exists(), "there was nothing to measure");
    place.file("suite.toml", SUITE);
    let answer = place.run(&[
        "bench",
        "compare",
        "--base",
        program,
        "--head",
        "/bin/false",
        "--suite",
        "suite.toml",
        "--pairs",
        "8",
        "--output",
        "q",
        "--device",
        "cpu",
    ]);
    assert_eq!(answer.code, 1, "{}{}", answer.out, answer.err);
    assert!(answer.out.contains("FAILED"), "{}", answer.out);
}

#[test]
fn the_last_run_is_told_and_forgotten() {
    let place = Place::new();
    let info = ["accel-info", "--format", "json", "--reset"];
    assert_eq!(place.run(&info).code, 3);
    place.checkpoint();
    let embed = ["embed", "a text", "--checkpoint", "seeded/all-MiniLM-L6-v2", "--quiet", "--json"];
    let off = [&embed[..], &["--no-telemetry"]].concat();
    assert_eq!(place.run(&off).code, 0);
    assert_eq!(place.run(&info).code, 3, "nothing is left behind when it is switched off");
    let answer = place.run(&embed);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let text = place.run(&["accel-info"]);
    assert!(text.out.contains("programs") && text.out.contains("fusion"), "{}", text.out);
    let told: Json = serde_json::from_str(&place.run(&info).out).unwrap();
    assert_eq!((&told["schema_version"], &told["source"]), (&"2.1".into(), &"last-run".into()));
    assert_eq!(told["run"]["program"], "embed");
    assert!(0 < told["run"]["counters"]["calor.programs"].as_u64().unwrap());
    assert!(0 < told["run"]["transfers"]["upload_bytes"].as_u64().unwrap());
    assert_eq!(told["run"]["compiles"]["after_seal"], 0);
    assert_eq!(place.run(&info).code, 3);
}

#[test]
fn what_recording_costs_is_told_with_what_decides() {
    let place = Place::new();
    let answer = place.run(&["bench", "overhead", "--blocks", "8", "--seconds", "0", "--json"]);
    // So few requests need not decide.
    assert!([0, 1, 2].contains(&answer.code) && answer.err.is_empty(), "{}", answer.err);
    let told: Json = serde_json::from_str(&answer.out).unwrap();
    assert_eq!((&told["event_count"], &told["allowed_percent"]), (&json!(2), &json!(1.0)));
    let overhead = &told["overhead_percent"];
    let of = |name: &str| overhead[name].as_f64().unwrap();
    assert!(of("low") <= of("middle") && of("middle") <= of("high"), "{told}");
    assert!(0.0 < told["request_ns"].as_f64().unwrap() && told["verdict"].is_string());
    let holds = match answer.code {
        0 => json!(true),
        1 => json!(false),
        _ => Json::Null,
    };
    assert_eq!(told["holds"], holds);
    let answer = place.run(&["bench", "overhead", "--blocks", "1", "--seconds", "0"]);
    assert!(answer.err.contains("too few blocks"), "{}", answer.err);
}

#[test]
fn a_file_holds_events_and_the_document_and_is_brought_up() {
    let place = Place::new();
    place.checkpoint();
    let run = |name: &str, more: &[&str]| {
        let embed = ["embed", "a text", "--checkpoint", "seeded/all-MiniLM-L6-v2", "--quiet"];
        let answer = place.run(&[&embed[..], &["--telemetry", name], more].concat());
        assert_eq!(answer.code, 0, "{}", answer.err);
        place.text(name)
    };
    let lines = run("t.jsonl", &["--trace", "trace.json"]);
    let last: Json = serde_json::from_str(lines.lines().next_back().unwrap()).unwrap();
    assert_eq!(last["schema"], "calor.run/2.1");
    assert!(last["environment"]["host"]["cpu"].is_string() && last.get("legacy").is_none());
    let device = &last["environment"]["devices"][0];
    assert_eq!(
        (&device["kind"], last["environment"]["devices"][1].is_null()),
        (&"cpu".into(), true)
    );
    assert!(device["versions"]["calor-device-cpu"].is_string(), "{device}");
    assert!(lines.lines().any(|it| it.contains("\"program_ran\"")));
    let trace: Json = serde_json::from_str(&place.text("trace.json")).unwrap();
    // A request, its programs, and arrows from the one to the others.
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |field: &str, value: &str| events.iter().filter(|it| it[field] == value).count();
    assert_eq!(count("cat", "request_done"), 1);
    let programs = count("cat", "program_ran");
    assert!(0 < programs && count("ph", "s") <= programs, "{trace}");
    assert!(0 < count("ph", "s") && count("ph", "s") == count("ph", "f"), "{trace}");
    let one: Json = serde_json::from_str(&run("t.json", &["--telemetry-names", "legacy"])).unwrap();
    assert!(one["legacy"]["upload_bytes"].is_u64());
    let options = &one["options"];
    assert_eq!((&options["command"], &options["precision"]), (&"embed".into(), &"auto".into()));
    assert_eq!(options["checkpoint"], "seeded/all-MiniLM-L6-v2");
    assert!(!options.to_string().contains("a text"), "{options}");
    let memory = &one["memory"];
    let weights = memory["allocated_bytes"]["weights"].as_u64().unwrap();
    assert!(weights <= memory["peak_device_bytes"].as_u64().unwrap(), "{memory}");
    assert_eq!(one["environment"]["options"], *options);

    let answer = place.run(&["telemetry", "migrate", "t.jsonl", "--output", "u.jsonl"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(place.text("u.jsonl").lines().count(), lines.lines().count());
    let golden = include_str!("../../telemetry/golden/run-1.0.json");
    place.file("old.json", golden);
    let brought: Json =
        serde_json::from_str(&place.run(&["telemetry", "migrate", "old.json"]).out).unwrap();
    assert_eq!((&brought["schema"], &brought["mood"]), (&"calor.run/2.0".into(), &"kept".into()));
    place.file("new.json", &golden.replace("calor.bench/1.0", "calor.run/9.0"));
    let answer = place.run(&["telemetry", "migrate", "new.json"]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("later than 2"), "{}", answer.err);
    let schema: Json = serde_json::from_str(&place.run(&["telemetry", "schema"]).out).unwrap();
    assert_eq!(schema["$id"], "calor:run/2.1");
}

#[test]
fn kernels_are_timed_where_that_is_asked_for_and_nowhere_else() {
    let place = Place::new();
    place.checkpoint();
    let embed = ["embed", "a text", "--checkpoint", "seeded/all-MiniLM-L6-v2", "--quiet"];
    let run = |more: &[&str]| {
        let answer = place.run(&[&embed[..], &["--telemetry", "t.json"], more].concat());
        assert_eq!(answer.code, 0, "{}", answer.err);
        serde_json::from_str::<Json>(&place.text("t.json")).unwrap()
    };
    let quiet = run(&[]);
    assert_eq!((&quiet["kernels"], &quiet["time"]["kernel_ns"]), (&json!([]), &Json::Null));
    let told = run(&["--telemetry-kernels", "--trace", "trace.json"]);
    let kernels = told["kernels"].as_array().unwrap();
    let sum = |name: &str| kernels.iter().map(|it| it[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("count"), told["counters"]["calor.kernels"].as_u64().unwrap());
    assert_eq!(told["time"]["kernel_ns"], sum("device_time_ns"));
    assert!(0 < sum("device_time_ns"));
    assert!(told["time"]["kernel_ns"].as_u64() <= told["time"]["programs_ns"].as_u64());
    for kernel in kernels {
        let named = |name: &str| kernel[name].as_str().is_some_and(|it| !it.is_empty());
        assert!(named("kernel") && named("config") && kernel["device"] == "cpu", "{kernel}");
    }
    let trace: Json = serde_json::from_str(&place.text("trace.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let slices = events.iter().filter(|it| it["cat"] == "kernel_ran" && it["ph"] == "X");
    assert_eq!(slices.count() as u64, sum("count"));
    let answer = place.run(&["accel-info"]);
    assert!(answer.out.contains("kernel      "), "{}", answer.out);

    let answer = place.run(&["models", "list", "--telemetry-kernels"]);
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(answer.err.contains("no steps to time"), "{}", answer.err);
}

#[cfg(unix)]
#[test]
fn a_running_process_answers_and_starts_anew() {
    let place = Place::new();
    place.checkpoint();
    let socket = place.0.path().join("s");
    let mut command = place.command(&[
        "embed",
        "--input",
        "-",
        "--format",
        "txt",
        "--checkpoint",
        "seeded/all-MiniLM-L6-v2",
        "--quiet",
        "--json",
        "--telemetry-socket",
        "s",
    ]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // A whole chunk, so that it is embedded before the input ends.
    for index in 0..128 {
        writeln!(input, "text {index}").unwrap();
    }
    input.flush().unwrap();
    let ask = |more: &[&str]| {
        let line = [&["accel-info", "--json", "--socket", "s"][..], more].concat();
        place.run(&line)
    };
    let programs = |answer: &Answer| {
        let told: Json = serde_json::from_str(&answer.out).unwrap();
        assert_eq!(told["source"], "socket");
        told["run"]["counters"]["calor.programs"].as_u64().unwrap()
    };
    let mut patience = 200;
    while !socket.exists() || programs(&ask(&[])) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        patience -= 1;
        assert!(0 < patience, "nothing was embedded");
    }
    // The chunk may go on while it is asked; afterwards all is quiet.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(0 < programs(&ask(&["--reset"])));
    assert_eq!(programs(&ask(&[])), 0);
    drop(input);
    assert!(child.wait().unwrap().success());
    assert!(!socket.exists());
    assert_eq!(ask(&[]).code, 4);
}

/// Answers one request after another with a counter that grows by each.
fn scraped() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (count, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            while lines.next().is_some_and(|it| !it.is_empty()) {}
            let body =
                format!("# TYPE calor_programs_total counter\ncalor_programs_total {count}\n");
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/plain\r\n";
            let length = body.len();
            let _ = write!(&stream, "{head}content-length: {length}\r\n\r\n{body}");
        }
    });
    port
}

#[test]
fn a_server_is_asked_for_what_grew_since_a_reset() {
    let place = Place::new();
    let url = format!("http://127.0.0.1:{}", scraped());
    let ask = |more: &[&str]| {
        let answer = place.run(&[&["accel-info", "--json", "--url", &url][..], more].concat());
        assert_eq!(answer.code, 0, "{}", answer.err);
        let told: Json = serde_json::from_str(&answer.out).unwrap();
        assert_eq!((&told["source"], &told["schema_version"]), (&"server".into(), &"2.1".into()));
        (told["run"]["metrics"]["calor_programs_total"].clone(), told["run"]["since_s"].is_u64())
    };
    assert_eq!(ask(&[]), (json!(0), false));
    assert_eq!(ask(&["--reset"]), (json!(1), false));
    assert_eq!(ask(&[]), (json!(1), true));
    assert_eq!(ask(&["--reset"]), (json!(2), true));
    assert_eq!(ask(&[]), (json!(1), true));
}
