//! `calor serve` and `calor warmup` as users run them, with tiny seeded models on the processor.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value as Json;
use tempfile::TempDir;

fn command(root: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calor"));
    command
        .args(line)
        .current_dir(root)
        .env_clear()
        .env("HOME", root)
        .env("CALOR_HOME", root.join("home"))
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

/// A server that is ended with its test.
struct Server {
    child: Child,
    address: String,
    /// Between its address and its being ready.
    said: String,
    errors: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn start(root: &Path, more: &[&str]) -> Self {
        Self::of(root, &[&["--profile", "random"], more].concat())
    }

    fn of(root: &Path, more: &[&str]) -> Self {
        let line = ["serve", "--hostname", "127.0.0.1", "--port", "0"];
        let line = [&line, more].concat();
        let mut child = command(root, &line).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        // What is pulled comes before.
        while !first.starts_with("http://") {
            let before = std::mem::take(&mut first);
            assert_ne!(errors.read_line(&mut first).unwrap(), 0, "{before}");
        }
        let address = first.strip_prefix("http://").and_then(|it| it.split(": ").next());
        let address = address.unwrap_or_else(|| panic!("{first}")).to_owned();
        let mut said = String::new();
        let mut last = String::new();
        while last.trim() != "ready" {
            said.push_str(&last);
            last.clear();
            assert_ne!(errors.read_line(&mut last).unwrap(), 0, "{said}");
        }
        Self { child, address, said, errors }
    }

    /// Sends a request and reads everything until the server closes.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Sends a signal, and waits for the end: the code and what was said.
    fn end(mut self, signal: &str) -> (Option<i32>, String) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let code = self.child.wait().unwrap().code();
        let mut rest = String::new();
        self.errors.read_to_string(&mut rest).unwrap();
        (code, rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_serves_and_ends_well_at_a_signal() {
    let root = TempDir::new().unwrap();
    for signal in ["-TERM", "-INT"] {
        let server = Server::start(root.path(), &["--api-key", "k"]);
        let body = r#"{"inputs": "heat", "dimensions": 4}"#;
        let request = format!(
            "POST /embed HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer k\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = server.ask(&request);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let rows: Json = serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap();
        assert_eq!(rows[0].as_array().unwrap().len(), 4);
        let refused = server.ask("GET /info HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
        let (code, said) = server.end(signal);
        assert_eq!((code, said.trim()), (Some(0), "shutting down"), "{signal}");
    }
}

/// Sends one text after another on a connection until the server ends it: answers with 200, with
/// 503, and requests without any answer.
fn ask_until_it_ends(address: &str, name: usize) -> (usize, usize, usize) {
    let Ok(stream) = TcpStream::connect(address) else { return (0, 0, 0) };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let (mut good, mut refused) = (0, 0);
    for number in 0.. {
        let body = format!("{{\"inputs\": \"text {number} of {name}\", \"dimensions\": 4}}");
        let request = format!(
            "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(request.as_bytes()).is_err() {
            break;
        }
        let mut head = String::new();
        match answers.read_line(&mut head) {
            // A connection that is closed before it answers at all did not take the request.
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let (mut len, mut closes) = (0, false);
        loop {
            let mut line = String::new();
            if answers.read_line(&mut line).unwrap_or(0) == 0 {
                return (good, refused, 1);
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            len = line.strip_prefix("content-length: ").map_or(len, |it| it.parse().unwrap());
            closes |= line == "connection: close";
        }
        let mut body = vec![0; len];
        if answers.read_exact(&mut body).is_err() {
            return (good, refused, 1);
        }
        match head.split(' ').nth(1) {
            Some("200") => {
                let rows: Json = serde_json::from_slice(&body).unwrap();
                assert_eq!(rows[0].as_array().unwrap().len(), 4);
                good += 1;
            }
            Some("503") => refused += 1,
            other => panic!("{other:?}"),
        }
        if closes {
            break;
        }
    }
    (good, refused, 0)
}

#[test]
fn a_signal_under_load_loses_no_reply() {
    let root = TempDir::new().unwrap();
    let server = Server::start(root.path(), &[]);
    let clients: Vec<_> = (0..6)
        .map(|name| {
            let address = server.address.clone();
            std::thread::spawn(move || ask_until_it_ends(&address, name))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(600));
    let (code, said) = server.end("-TERM");
    assert_eq!((code, said.trim()), (Some(0), "shutting down"));
    for client in clients {
        let (good, _, cut_off) = client.join().unwrap();
        assert!(0 < good && cut_off == 0, "{good} good, {cut_off} cut off in the middle");
    }
}

#[test]
fn load_on_a_server_is_a_curve_with_what_the_server_adds() {
    let root = TempDir::new().unwrap();
    let server = Server::start(root.path(), &["--results-cache-mib", "0"]);
    let line = ["load", &server.address, "--rates", "5,10", "--seconds", "1", "--json"];
    let output = command(root.path(), &line).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let points: Vec<Json> = text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    assert_eq!(points.len(), 2);
    for point in &points {
        assert_eq!(
            (&point["good_count"], &point["failed_count"]),
            (&point["sent_count"], &0.into())
        );
        assert!(0.0 < point["p50_ms"].as_f64().unwrap(), "{point}");
        assert!(0.0 < point["flop_per_s"].as_f64().unwrap(), "{point}");
    }
    // One after another: where the time goes, told by the server itself.
    let line = ["load", &server.address, "--one-by-one", "102", "--words", "6"];
    let one: Json =
        serde_json::from_str(&said(root.path(), &[&line[..], &["--json"]].concat())).unwrap();
    assert_eq!((one["walls_ms"].as_array().unwrap().len(), &one["failed_count"]), (102, &0.into()));
    for field in ["first_ms", "first_100_p95_ms", "steady_p50_ms", "steady_p95_ms"] {
        assert!(0.0 < one[field].as_f64().unwrap(), "{field}: {one}");
    }
    let step = |name: &str| one["steps_ms"][name].as_f64().unwrap();
    assert!(step("tokenize") + step("queue") + step("batch") <= 1.5 * step("total"), "{one}");
    assert!(said(root.path(), &line).contains("the others, p95 ms"));
    let gone = ["load", "127.0.0.1:1", "--seconds", "1"];
    assert_eq!(command(root.path(), &gone).output().unwrap().status.code(), Some(4));
    let nothing = ["load", &server.address, "--rates", "0"];
    assert_eq!(command(root.path(), &nothing).output().unwrap().status.code(), Some(2));
}

/// What a program of the same run said, whole.
fn said(root: &Path, line: &[&str]) -> String {
    let output = command(root, line).output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_served_run_is_a_timeline_from_requests_over_batches_to_programs() {
    let root = TempDir::new().unwrap();
    let kept = ["--telemetry", "run.jsonl", "--trace", "trace.json", "--telemetry-socket", "s"];
    let server = Server::start(root.path(), &kept);
    for text in ["heat", "cold water"] {
        let body = format!("{{\"inputs\": \"{text}\", \"dimensions\": 4}}");
        let answer = server.ask(&format!(
            "POST /embed HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // It answers while it runs, on its socket and by its address.
    let url = format!("http://{}", server.address);
    let live: Json =
        serde_json::from_str(&said(root.path(), &["accel-info", "--json", "--socket", "s"]))
            .unwrap();
    assert_eq!(live["run"]["events"]["request_served"]["count"], 2);
    assert_eq!(live["run"]["counters"]["calor.requests"], 2);
    let page: Json =
        serde_json::from_str(&said(root.path(), &["accel-info", "--json", "--url", &url])).unwrap();
    assert_eq!(page["run"]["metrics"]["calor_requests_total"], 2);
    let (code, _) = server.end("-TERM");
    assert_eq!(code, Some(0));
    said(root.path(), &["telemetry", "trace", "run.jsonl", "--output", "again.json"]);
    let read = |name: &str| std::fs::read_to_string(root.path().join(name)).unwrap();
    let timeline: Json = serde_json::from_str(&read("trace.json")).unwrap();
    let again: Json = serde_json::from_str(&read("again.json")).unwrap();
    assert_eq!(timeline, again, "lines hold all that the timeline shows");
    let events = timeline["traceEvents"].as_array().unwrap();
    let of = |kind: &str| events.iter().filter(|it| it["cat"] == kind).collect::<Vec<_>>();
    let (served, batches) = (of("request_served"), of("batch_ran"));
    assert_eq!((served.len(), batches.len()), (2, 2));
    for request in &served {
        let about = &request["args"];
        assert_eq!((&about["outcome"], &about["model"]), (&"answered".into(), &"fused".into()));
        for name in ["token_count", "tokenization_ns", "inference_ns", "wall_ns"] {
            assert!(0 < about[name].as_u64().unwrap(), "{name}: {about}");
        }
    }
    // An arrow lies with its beginning on a slice of one kind, and points at one of another.
    let ends: Vec<&Json> = events.iter().filter(|it| it.get("id").is_some()).collect();
    let meets = |end: &Json, slice: &Json| {
        let number = |it: &Json, name: &str| it[name].as_f64().unwrap();
        let (at, start) = (number(end, "ts"), number(slice, "ts"));
        end["pid"] == slice["pid"]
            && end["tid"] == slice["tid"]
            && start <= at
            && at <= start + number(slice, "dur")
    };
    let joined =
        |from: &Json, to: &Json| ends.chunks(2).any(|it| meets(it[0], from) && meets(it[1], to));
    for request in &served {
        assert_eq!(batches.iter().filter(|it| joined(request, it)).count(), 1);
    }
    let programs = of("program_ran");
    for batch in &batches {
        assert!(programs.iter().any(|it| joined(batch, it)), "{batch}: {programs:?}");
    }
}

#[test]
fn it_serves_from_several_devices() {
    let root = TempDir::new().unwrap();
    let server = Server::start(root.path(), &["--devices", "cpu,cpu"]);
    assert!(
        server.said.starts_with("the same models on each of 2 devices: all want "),
        "{}",
        server.said
    );
    let page = server.ask("GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    for place in ["0:cpu", "1:cpu"] {
        let line = format!("calor_server_place_ready{{place=\"{place}\"}} 1");
        assert!(page.contains(&line), "{line}: {page}");
    }
    let (code, _) = server.end("-TERM");
    assert_eq!(code, Some(0));
}

/// The body of an answer to a request of a server.
fn body(server: &Server, head: &str, body: &str) -> Json {
    let request = format!(
        "{head} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = server.ask(&request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap()
}

#[test]
fn models_are_placed_over_devices_and_answer_as_one() {
    let root = TempDir::new().unwrap();
    let now = ["--now", "2024-05-01T12:00:00Z"];
    let one = Server::start(root.path(), &now);
    let ask = r#"{"inputs": "heat is energy in transit", "slots": ["all"]}"#;
    let want = body(&one, "POST /v1/fused", ask);
    one.end("-TERM");
    let placed = [&now[..], &["--devices", "cpu,cpu,cpu", "--placement", "parts"]].concat();
    let server = Server::start(root.path(), &placed);
    assert!(
        server.said.starts_with("each model on one of 3 devices: all want "),
        "{}",
        server.said
    );
    let info = body(&server, "GET /info", "");
    let placement = &info["placement"];
    assert_eq!(placement["kind"], "parts");
    assert_eq!(placement["why"], server.said.trim());
    let devices = placement["devices"].as_array().unwrap();
    let names: Vec<&str> = devices.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["0:cpu", "1:cpu", "2:cpu"]);
    let parts = devices.iter().flat_map(|it| it["parts"].as_array().unwrap());
    assert_eq!(parts.count(), 9, "eight checkpoints and the fusion: {placement}");
    let got = body(&server, "POST /v1/fused", ask);
    let numbers = |json: &Json| -> Vec<f64> {
        json.as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect()
    };
    let close = |got: &Json, want: &Json| {
        for (got, want) in numbers(got).into_iter().zip(numbers(want)) {
            assert!((got - want).abs() < 1e-6, "{got} for {want}");
        }
    };
    close(&got["data"][0]["fused"], &want["data"][0]["fused"]);
    for (name, slot) in want["data"][0]["slots"].as_object().unwrap() {
        close(&got["data"][0]["slots"][name], slot);
    }
    let (code, _) = server.end("-TERM");
    assert_eq!(code, Some(0));
}

#[test]
fn devices_that_do_not_hold_the_models_are_refused_with_the_bytes() {
    let root = TempDir::new().unwrap();
    let line = ["serve", "--profile", "random", "--hostname", "127.0.0.1", "--port", "0"];
    let line = [&line[..], &["--devices", "cpu,cpu", "--memory", "1"]].concat();
    let output = command(root.path(), &line).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    let want = "bytes, and there are free 1048576 on 0:cpu, 1048576 on 1:cpu";
    assert!(said.contains("finds no device: all models want") && said.contains(want), "{said}");
}

#[test]
fn models_that_fail_are_lost_where_the_policy_allows_it() {
    let root = TempDir::new().unwrap();
    let synth = ["models", "synth", "there"];
    let made = command(root.path(), &synth).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::remove_dir_all(root.path().join("there/colbertv2.0")).unwrap();
    let models = ["--models-dir", "there", "--min-models", "9"];
    let base = ["serve", "--profile", "random", "--hostname", "127.0.0.1", "--port", "0"];
    let line = [&base[..], &models, &["--mandatory-models", "e1,e12"]].concat();
    let output = command(root.path(), &line).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    let want = "11 models are warm, 9 must be, among them semantic, late_interaction; lost: \
                late_interaction (";
    assert!(said.contains(want), "{said}");
    let line = [&base[..], &models].concat();
    let mut child = command(root.path(), &line).stderr(Stdio::piped()).spawn().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    let lines: Vec<String> = errors.lines().map(Result::unwrap).take(3).collect();
    // It may have ended already.
    let _ = child.kill();
    let _ = child.wait();
    assert!(lines[1].starts_with("lost late_interaction ("), "{lines:?}");
    assert_eq!(lines[2], "ready");
}

/// Two of the published models, tiny and random, in the store: the others are nowhere.
fn store_of_two(root: &Path) {
    let run = |line: &[&str]| {
        let output = command(root, line).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["models", "synth", "there"]);
    for name in ["paraphrase-MiniLM-L6-v2", "all-MiniLM-L6-v2"] {
        run(&["models", "import", name, &format!("there/{name}")]);
    }
}

#[test]
fn a_checkpoint_that_is_nowhere_is_lost_where_the_policy_allows_it() {
    let root = TempDir::new().unwrap();
    store_of_two(root.path());
    let base = ["--profile", "full", "--models", "e1,e8,e11"];
    let served = ["--min-models", "2", "--mandatory-models", "e11"];
    let server = Server::of(root.path(), &[&base[..], &served].concat());
    let why = "no source has `e5-large-v2`";
    let lost = format!("lost semantic (cannot load `e5-large-v2`: {why})");
    assert!(server.said.contains(&lost), "{}", server.said);
    for path in ["/readyz", "/warmup"] {
        let lost = &body(&server, &format!("GET {path}"), "")["lost"];
        assert!(lost["semantic"].as_str().unwrap().contains(why), "{path}: {lost}");
        assert_eq!(lost.as_object().unwrap().len(), 1, "{path}: {lost}");
    }
    body(&server, "POST /embed", r#"{"inputs": "heat", "model": "e8"}"#);
    assert_eq!(server.end("-TERM").0, Some(0));
    for (more, want) in [
        (&["--min-models", "2", "--mandatory-models", "e1"][..], "2 models are warm, 2 must be"),
        (&["--min-models", "3", "--mandatory-models", "e11"], "2 models are warm, 3 must be"),
        (&[], "no source has `e5-large-v2`"),
    ] {
        let line = ["serve", "--hostname", "127.0.0.1", "--port", "0"];
        let output = command(root.path(), &[&line[..], &base, more].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{said}");
        let last = said.lines().find(|it| it.starts_with("calor: ")).unwrap();
        assert!(last.contains(want) && last.contains(why), "{said}");
    }
}

#[test]
fn a_changed_checkpoint_is_lost_where_the_policy_allows_it() {
    let root = TempDir::new().unwrap();
    store_of_two(root.path());
    let found = Command::new("find").arg(root.path().join("home")).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let is_it = |it: &&str| it.contains("paraphrase") && it.ends_with("model.safetensors");
    let file = found.lines().find(is_it).unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, bytes).unwrap();
    let models = ["--profile", "full", "--models", "e8,e11"];
    let enough = ["--min-models", "1", "--mandatory-models", "e11"];
    let server = Server::of(root.path(), &[&models[..], &enough].concat());
    assert!(server.said.contains("lost graph ("), "{}", server.said);
    body(&server, "POST /embed", r#"{"inputs": "heat", "model": "e11"}"#);
    assert_eq!(server.end("-TERM").0, Some(0));
    let line = [&["warmup"][..], &models, &enough, &["--skip-on-failure", "--json"]].concat();
    let output = command(root.path(), &line).output().unwrap();
    let report: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["state"]), (Some(1), &"degraded".into()));
    let rows = report["model_results"].as_array().unwrap();
    let row = rows.iter().find(|it| it["model_id"] == "graph").unwrap();
    assert!(row["error"].as_str().unwrap().contains("paraphrase-MiniLM-L6-v2"), "{row}");
}

#[test]
fn settings_come_from_flags_the_environment_and_a_file() {
    let root = TempDir::new().unwrap();
    let config = root.path().join("calor.toml");
    std::fs::write(&config, "port = 4000\nmax-client-batch-size = 7\nhostname = \"::1\"\n")
        .unwrap();
    let line = ["serve", "--print-config", "--config", "calor.toml", "--hostname", "localhost"];
    let mut command = command(root.path(), &line);
    command.env("CALOR_PORT", "5000").env("CALOR_API_KEY", "secret").env("HOSTNAME", "machine");
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let line = |name: &str| -> Vec<String> {
        let found = text.lines().find(|it| it.starts_with(name)).unwrap();
        found.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(line("port "), ["port", "=", "5000", "#", "environment"]);
    assert_eq!(line("hostname "), ["hostname", "=", "\"localhost\"", "#", "flag"]);
    assert_eq!(line("max-client-batch-size ")[2..], ["7", "#", "file"]);
    assert_eq!(line("max-batch-tokens ")[2..], ["16384", "#", "default"]);
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn what_cannot_be_served_ends_with_its_reason() {
    let root = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let base = ["serve", "--profile", "random", "--hostname", "127.0.0.1"];
    for (more, code, want) in [
        (vec!["--port", &port], 4, "choose another `--port`"),
        (vec!["--port", "0", "--device", "wgpu"], 4, "no device `wgpu`"),
        (vec!["--port", "0", "--otlp-endpoint", "https://a"], 2, "is no collector"),
        (vec!["--port", "0", "--devices", "cuda:1,cpu,cuda:1"], 2, "named twice"),
        (vec!["--port", "0", "--tls-cert", "a", "--tls-key", "b"], 2, "no certificate or key"),
        (vec!["--port", "0", "--min-batch-requests", "99"], 2, "min_batch_size"),
    ] {
        let line = [base.as_slice(), more.as_slice()].concat();
        let output = command(root.path(), &line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{more:?}: {said}");
        assert!(said.contains(want), "{more:?}: {said}");
    }
}

#[test]
fn warmup_reports_as_a_table_and_as_json() {
    let root = TempDir::new().unwrap();
    let line = ["warmup", "--profile", "random", "--batch-sizes", "1,4", "--samples", "1"];
    let output = command(root.path(), &line).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{said}");
    assert!(
        text.contains("12 of 12 models warm") && text.contains("24 of 24 batch sizes"),
        "{text}"
    );
    assert!(said.contains("build, run and check every program:"), "{said}");
    let line = [&line[..], &["--json", "--now", "2024-05-01T12:00:00Z"]].concat();
    let output = command(root.path(), &line).output().unwrap();
    let report: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["models_warmed"], 12);
    assert_eq!(report["compiled_late_count"], 0);
    assert_eq!(report["model_results"].as_array().unwrap().len(), 12);
    assert!(output.stderr.is_empty());
    assert!(0 < report["primed_bytes"].as_u64().unwrap(), "{report}");
    let unknown = ["warmup", "--profile", "random", "--mandatory-models", "e13"];
    assert_eq!(command(root.path(), &unknown).output().unwrap().status.code(), Some(2));
    let line = ["warmup", "--profile", "random", "--batch-sizes", "0"];
    let output = command(root.path(), &line).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
