//! Clients that others publish, unchanged, and the command lines of the README.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fixture::Running;

#[expect(clippy::disallowed_methods, reason = "what a test needs is named in the environment")]
fn python(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("CALOR_TEST_PYTHON").map(PathBuf::from);
    if found.is_none() {
        eprintln!("SKIPPED {test}: CALOR_TEST_PYTHON is not set");
    }
    found
}

/// Runs a program to its end beside the server; what it printed.
async fn output(mut command: Command) -> String {
    let run = move || command.stdin(Stdio::null()).output().unwrap();
    let out = tokio::task::spawn_blocking(run).await.unwrap();
    let [text, errors] = [&out.stdout, &out.stderr].map(|it| String::from_utf8_lossy(it));
    assert!(out.status.success(), "{text}\n{errors}");
    text.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn published_clients_work_unchanged() {
    let Some(python) = python("published_clients_work_unchanged") else { return };
    let server = Running::start(|_| {}).await;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python);
    command
        .arg(here.join("tests/server/clients/unchanged.py"))
        .arg(format!("http://{}", server.address))
        .arg(here.join("proto"));
    assert_eq!(output(command).await.trim(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_command_lines_work() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED the_readmes_command_lines_work: curl is not installed");
        return;
    }
    let server = Running::start(|_| {}).await;
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let lines: Vec<&str> = readme.lines().filter(|it| it.starts_with("curl ")).collect();
    assert!(4 <= lines.len(), "{lines:?}");
    for line in lines {
        let line = line.replace("localhost:3000", &server.address.to_string());
        let mut command = Command::new("sh");
        command.arg("-c").arg(line.replacen("curl ", "curl --silent --fail-with-body ", 1));
        let answer = output(command).await;
        let is_answer = serde_json::from_str::<serde_json::Value>(&answer).is_ok();
        assert!(is_answer || answer.contains("calor_"), "{line}: {answer}");
    }
}
