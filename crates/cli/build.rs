//! Tells the command its revision and target, where they are known when it is built.

use std::{env, path::Path, process::Command};

#[expect(clippy::disallowed_methods, reason = "a build script is told its target this way")]
fn main() {
    let target = env::var("TARGET").unwrap_or_else(|_| "unknown".into());
    println!("cargo::rustc-env=CALOR_TARGET={target}");
    println!("cargo::rustc-env=CALOR_REVISION={}", revision().unwrap_or_default());
    println!("cargo::rustc-check-cfg=cfg(fuzzing)"); // Set by the fuzzer's own build.
    // A commit appends to this file. It is absent outside a repository.
    let log = "../../.git/logs/HEAD";
    println!("cargo::rerun-if-changed={}", if Path::new(log).is_file() { log } else { "build.rs" });
}

/// The commit that is checked out; none outside a repository or without git.
fn revision() -> Option<String> {
    let out = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
