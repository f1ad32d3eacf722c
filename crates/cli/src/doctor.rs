//! `calor doctor`: what is there, what is missing, what that costs and how to fix it.

mod cuda;

use std::{
    net::{TcpStream, ToSocketAddrs},
    process::{Command, Stdio},
    time::Duration,
};

use calor_device::Claim;
use calor_device_cpu::Level;
use calor_embed::{InferencePrecision, ModelId, Profile};
use calor_weights::source::PIP_COMMANDS;
use serde_json::{Value as Json, json};

use crate::{
    answer,
    arguments::AnswerArguments,
    devices::{self, Wish},
    environment::Environment,
    exit::{Exit, Failure},
};

/// How long a network source may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// One thing that was looked at.
struct Finding {
    name: &'static str,
    good: bool,
    found: String,
    /// What its absence costs, and how to fix it.
    remedy: Option<String>,
}

impl Finding {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, good: true, found: found.into(), remedy: None }
    }

    fn bad(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, good: false, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at everything.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn run(arguments: &AnswerArguments, environment: &Environment) -> Result<Exit, Failure> {
    let mut findings = machine(environment);
    let cuda = cuda::Section::look(environment);
    findings.extend(cuda.findings());
    findings.push(store(environment));
    findings.push(models(environment));
    findings.push(cache(environment));
    findings.extend(sources(environment));
    if arguments.json {
        let rows: Vec<Json> = findings
            .iter()
            .map(|it| {
                json!({ "name": it.name, "good": it.good, "found": it.found, "remedy": it.remedy })
            })
            .collect();
        let version = crate::version::VERSION;
        answer::line(json!({ "findings": rows, "cuda": cuda.to_json(), "version": version }))?;
        return Ok(Exit::Done);
    }
    for it in &findings {
        let mark = if it.good { "ok " } else { "-- " };
        answer::line(format!("{mark} {:<11} {}", it.name, it.found))?;
        if let Some(remedy) = &it.remedy {
            answer::line(format!("{:16}{remedy}", ""))?;
        }
    }
    Ok(Exit::Done)
}

fn machine(environment: &Environment) -> Vec<Finding> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut out = Vec::new();
    match devices::open(&Wish::first(devices::Kind::Cpu), threads, None, environment, None) {
        Ok(device) => {
            let signature = &device.signature;
            let words = precisions(device.claims).join(", ");
            out.push(Finding::good("cpu", format!("{}: {words}", signature.model)));
            out.push(Finding::good("memory", answer::bytes(signature.memory_bytes)));
        }
        Err(failure) => out.push(Finding::bad("cpu", failure.to_string(), "nothing can run")),
    }
    let level = Level::detect();
    let name = format!("{level:?}");
    let name = name.split('(').next().unwrap_or(&name).to_lowercase();
    let simd = format!("{name}, {} floats at once", level.lanes());
    out.push(match level.lanes() {
        0..=4 => Finding::bad("simd", simd, "runs several times slower than with AVX2"),
        _ => Finding::good("simd", simd),
    });
    out.push(Finding::good("threads", threads.to_string()));
    out
}

/// What models can run in on a device with these claims.
fn precisions(claims: &[Claim]) -> Vec<&'static str> {
    let runs = InferencePrecision::ALL.into_iter().filter(|it| it.runs_with(claims));
    runs.map(InferencePrecision::word).collect()
}

fn store(environment: &Environment) -> Finding {
    let opened = environment.store().and_then(|it| Ok(it.list()?));
    match (opened, environment.root()) {
        (Ok(models), Ok(root)) => {
            let bytes = models.iter().map(|it| it.total_bytes()).sum();
            let size = answer::bytes(bytes);
            Finding::good("store", format!("{} ({} models, {size})", root.display(), models.len()))
        }
        (Err(failure), _) | (_, Err(failure)) => Finding::bad(
            "store",
            failure.to_string(),
            "no model can be kept: set CALOR_HOME to a folder that you can write",
        ),
    }
}

fn cache(environment: &Environment) -> Finding {
    match crate::cache::describe(environment.cache_dir(None)) {
        Ok(found) => Finding::good("cache", found),
        Err((found, remedy)) => Finding::bad("cache", found, remedy),
    }
}

fn models(environment: &Environment) -> Finding {
    let there = environment.store().and_then(|it| Ok(it.list()?)).unwrap_or_default();
    let all: Vec<ModelId> = ModelId::iter().collect();
    let missing = |profile: Profile| {
        let needs = profile.needs(&all);
        needs.iter().filter(|need| there.iter().all(|it| it.name != need.name)).count()
    };
    match (missing(Profile::Mini), missing(Profile::Full)) {
        (0, 0) => Finding::good("models", "all of the profiles mini and full"),
        (0, full) => Finding::good("models", format!("all of mini; {full} of full are missing")),
        _ => Finding::bad(
            "models",
            "the model of the profile mini is missing",
            "the first `calor embed` pulls it (about 90 MB); or: calor models pull --profile mini",
        ),
    }
}

fn sources(environment: &Environment) -> Vec<Finding> {
    let mut out = Vec::new();
    if environment.offline {
        out.push(Finding::bad(
            "hub",
            "HF_HUB_OFFLINE is set",
            "models come from the hub's cache and from folders only",
        ));
        return out;
    }
    let endpoint = environment.hub_endpoint.as_deref().unwrap_or("https://huggingface.co");
    out.push(match reaches(endpoint) {
        true => Finding::good("hub", format!("{endpoint} answers")),
        false => Finding::bad(
            "hub",
            format!("{endpoint} does not answer"),
            "full cannot be pulled, mini can as a wheel: set HF_ENDPOINT to a mirror, or use \
             `calor models import`",
        ),
    });
    let token = environment.hub_token.as_ref().map_or("none (public models need none)", |_| "set");
    out.push(Finding::good("hub token", token));
    let pip = PIP_COMMANDS.iter().find(|it| runs(it));
    out.push(match pip {
        Some(command) => Finding::good("pip", format!("`{}`", command.join(" "))),
        None => Finding::bad(
            "pip",
            "not found",
            "the wheel source is closed: install Python's pip, or use the hub",
        ),
    });
    out
}

/// Whether a server takes connections. A proxy may still be needed or do the work.
fn reaches(endpoint: &str) -> bool {
    let (rest, port) = match endpoint.split_once("://") {
        Some(("http", rest)) => (rest, 80),
        Some((_, rest)) => (rest, 443),
        None => (endpoint, 443),
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, number)) => (host, number.parse().unwrap_or(port)),
        None => (authority, port),
    };
    let addresses = (host, port).to_socket_addrs();
    addresses.is_ok_and(|mut all| {
        all.any(|address| TcpStream::connect_timeout(&address, PATIENCE).is_ok())
    })
}

fn runs(command: &[&str]) -> bool {
    let status = Command::new(command[0])
        .args(&command[1..])
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|it| it.success())
}

#[test]
fn a_closed_port_does_not_answer() {
    assert!(!reaches("http://127.0.0.1:1/x"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(reaches(&format!("http://{}", listener.local_addr().unwrap())));
}
