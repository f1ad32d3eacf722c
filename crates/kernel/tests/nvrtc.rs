//! Golden CUDA C++ compiles by NVRTC. Needs its library and a Python, and no GPU.

use std::io::Write;
use std::path::Path;
use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "a test is told here where NVRTC is")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skip(reason: &str) {
    let line = format!("SKIPPED kernel::nvrtc: {reason}");
    eprintln!("{line}");
    if let Some(path) = variable("CALOR_SKIP_LOG") {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path);
        log.and_then(|mut it| writeln!(it, "{line}")).expect("the log of skipped tests is open");
    }
}

#[test]
fn golden_text_compiles() {
    let [library, python] = ["CALOR_NVRTC", "CALOR_TEST_PYTHON"].map(|name| (name, variable(name)));
    let (library, python) = match (library, python) {
        ((_, Some(library)), (_, Some(python))) => (library, python),
        ((name, None), _) | (_, (name, None)) => return skip(&format!("{name} is not set")),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(root.join("golden")).unwrap().map(|it| it.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|it| it.extension().is_some_and(|it| it == "cu")).collect();
    files.sort();
    assert!(!files.is_empty());
    let run = Command::new(python)
        .arg(root.join("tests/nvrtc_compile.py"))
        .args([&library, "sm_90a,sm_75,sm_120"])
        .args(&files)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    println!("{out}");
    assert!(run.status.success(), "{out}\n{err}");
}
