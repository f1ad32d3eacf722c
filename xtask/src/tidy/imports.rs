//! Rule: modules keep to what they may know, where no crate boundary says so.

use super::Finding;
use crate::repository::Repository;
use crate::source::line_of;

/// Folders or files that may not name something.
struct Boundary {
    /// A file is inside when its path starts with one of these.
    inside: &'static [&'static str],
    /// Words that may not stand in its code.
    banned: &'static [&'static str],
    /// Why, and what to do.
    message: &'static str,
}

static BOUNDARIES: &[Boundary] = &[
    Boundary {
        inside: &["crates/runtime/src/plan.rs", "crates/runtime/src/plan/"],
        banned: &[
            "std::time",
            "std::env",
            "std::fs",
            "Instant",
            "SystemTime",
            "Stopwatch",
            "calor_telemetry::clock",
            "calor_device::Queue",
            "calor_device::contract::Queue",
            "dyn Queue",
            "dyn Memory",
        ],
        message: "planning is a pure function: pass the value in, or do this after planning",
    },
    Boundary {
        inside: &["crates/ir/src/"],
        banned: &["std::time", "std::env", "std::fs", "std::net", "std::thread", "Instant"],
        message: "`ir` knows no clock, environment, file or thread: do this in the caller",
    },
    Boundary {
        inside: &["crates/kernel/src/"],
        banned: &["std::time", "std::env", "std::fs", "std::net", "std::thread", "Instant"],
        message: "a kernel is data: do this in the runtime or in a device",
    },
];

/// Modules of `ir` that `kernel` may use; the rest is the graph, which it does not know.
static KERNEL_MAY_USE: &[&str] = &["dtype", "op", "DType", "Unary", "Binary", "Fold"];

/// What modules may not import.
pub(crate) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in repository.sources() {
        let inside =
            |boundary: &&Boundary| boundary.inside.iter().any(|it| file.path.starts_with(it));
        for boundary in BOUNDARIES.iter().filter(inside) {
            for word in boundary.banned {
                for line in source.lines_with_word(word) {
                    let message = format!("`{word}`: {}", boundary.message);
                    findings.push(Finding::at(&file.path, line, message));
                }
            }
        }
        if file.path.starts_with("crates/kernel/src/") {
            findings.extend(graph_words(&file.path, source.before_tests()));
        }
    }
    findings
}

/// Parts of `ir` named after `calor_ir::` that a kernel may not know.
fn graph_words(path: &str, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, prefix) in code.match_indices("calor_ir::") {
        let rest = &code[at + prefix.len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let end = name.trim().find(|it: char| !it.is_alphanumeric() && it != '_');
            let name = &name.trim()[..end.unwrap_or(name.trim().len())];
            if !name.is_empty() && !KERNEL_MAY_USE.contains(&name) {
                let message = format!(
                    "`calor_ir::{name}`: a kernel does not know the graph; it may use {}",
                    KERNEL_MAY_USE.join(", ")
                );
                findings.push(Finding::at(path, line_of(code, at), message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_file(path: &str, text: &str, words: &[&str]) {
        let findings = check(&Repository::of(&[(path, text)]));
        assert_eq!(findings.len(), words.len(), "{findings:?}");
        for (finding, word) in findings.iter().zip(words) {
            assert!(finding.message.contains(word), "{finding}");
        }
    }

    #[test]
    fn planning_has_no_clock_and_no_machine() {
        let path = "crates/runtime/src/plan/memory.rs";
        check_file(path, "use std::collections::BTreeMap; // std::time", &[]);
        check_file(path, "use std::time::Duration;", &["std::time"]);
        check_file(path, "fn f(q: &mut dyn Queue) {}", &["dyn Queue"]);
        check_file("crates/runtime/src/session.rs", "use std::time::Duration;", &[]);
    }

    #[test]
    fn kernels_do_not_know_the_graph() {
        let path = "crates/kernel/src/program.rs";
        check_file(path, "use calor_ir::dtype::DType;\nuse calor_ir::op::{Unary, Fold};", &[]);
        check_file(path, "use calor_ir::{DType, Graph};", &["calor_ir::Graph"]);
        check_file(path, "fn f(x: calor_ir::graph::Node) {}", &["calor_ir::graph"]);
        check_file(path, "#[cfg(test)]\nmod tests {\n    use calor_ir::Graph;\n}", &[]);
    }

    #[test]
    fn meaning_reads_no_file() {
        check_file("crates/ir/src/oracle.rs", "use std::fs;", &["std::fs"]);
    }
}
