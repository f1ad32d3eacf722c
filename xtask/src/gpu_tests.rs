//! The checks for a machine with a GPU: one stripped program that needs nothing but a driver.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Largest program that travels easily.
const BYTES_MAX: u64 = 40 << 20;

/// Builds the program and says where it is.
pub(crate) fn command() -> Result<bool> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let arguments =
        ["build", "--release", "--locked", "-p", "calor-suite", "--message-format=json"];
    let output = Command::new(cargo)
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo does not start")?;
    if !output.status.success() {
        return Ok(false);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let program = text.lines().filter_map(executable).next_back();
    let program = program.context("cargo named no program")?;
    let size_bytes = std::fs::metadata(&program)?.len();
    if BYTES_MAX < size_bytes {
        bail!("{} has {size_bytes} bytes, at most {BYTES_MAX} are wanted", program.display());
    }
    println!("{} ({:.1} MiB)", program.display(), size_bytes as f64 / f64::from(1 << 20));
    println!("Run it in the repository's root on the other machine; `golden/` must be there.");
    Ok(true)
}

/// The program that a line of cargo's messages names.
fn executable(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    message["executable"].as_str().map(PathBuf::from)
}

#[test]
fn cargo_names_the_program() {
    let line = r#"{"reason":"compiler-artifact","executable":"/t/release/calor-suite"}"#;
    assert_eq!(executable(line), Some(PathBuf::from("/t/release/calor-suite")));
    assert_eq!(executable(r#"{"executable":null}"#), None);
    assert_eq!(executable("no message"), None);
}
