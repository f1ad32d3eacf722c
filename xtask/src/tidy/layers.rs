//! Rule: dependencies between crates point downwards, and unsafe code stays with machines.

use serde_json::Value as Json;

use super::Finding;
use crate::repository::Repository;

/// Layers from the bottom. A crate may depend on crates of its own row and of rows above it
/// in this list. `ARCHITECTURE.md` says what each row is.
static LAYERS: &[&[&str]] = &[
    &["calor-telemetry"],
    &["calor-ir"],
    &["calor-kernel"],
    &["calor-device", "calor-device-cpu", "calor-device-cuda", "calor-device-wgpu"],
    &["calor-runtime"],
    &["calor-weights"],
    &["calor-embed", "calor-train", "calor-array"],
    &["calor-measure", "calor-bench", "calor-server", "calor-cli"],
    &["calor-testkit", "calor-suite", "xtask"],
];

/// Crates that contain `unsafe`, because they talk to a machine.
static MACHINES: &[&str] = &["calor-device-cpu", "calor-device-cuda", "calor-device-wgpu"];

/// The only crate that names machines outside tests.
const NAMES_MACHINES: &str = "calor-cli";

/// Dependencies that point upwards, and crates without a layer.
pub(crate) fn check(metadata: &Json) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in array(metadata, "packages") {
        let name = text(package, "name");
        let Some(layer) = layer_of(name) else {
            let message = "has no layer: add it to LAYERS in xtask/src/tidy/layers.rs and to \
                           ARCHITECTURE.md";
            findings.push(Finding::whole(name, message));
            continue;
        };
        for dependency in array(package, "dependencies") {
            let target = text(dependency, "name");
            let in_tests = text(dependency, "kind") == "dev";
            if let Some(message) = objection(name, layer, target, in_tests) {
                findings.push(Finding::whole(name, message));
            }
        }
    }
    findings
}

fn objection(name: &str, layer: usize, target: &str, in_tests: bool) -> Option<String> {
    let target_layer = layer_of(target)?;
    let is_dev = target_layer == LAYERS.len() - 1;
    if is_dev && in_tests {
        return None;
    }
    if layer < target_layer {
        return Some(format!(
            "depends on `{target}`, which is a layer above it: move the shared part down, or pass \
             it in as a value"
        ));
    }
    let may_name_machines = name == NAMES_MACHINES || layer == LAYERS.len() - 1;
    if MACHINES.contains(&target) && !in_tests && !may_name_machines {
        return Some(format!(
            "depends on `{target}`: only `{NAMES_MACHINES}` names machines; take a device as an \
             argument"
        ));
    }
    None
}

/// Crate roots that neither forbid unsafe code nor are a machine that expects it.
pub(crate) fn check_unsafe(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in array(&repository.metadata, "packages") {
        let is_machine = MACHINES.contains(&text(package, "name"));
        for root in roots(package, &repository.root.to_string_lossy()) {
            let Some(source) = repository.file(&root).and_then(|it| it.source.as_ref()) else {
                continue;
            };
            let code: String = source.code.split_whitespace().collect();
            if !is_machine && !code.contains("#![forbid(unsafe_code)]") {
                findings.push(Finding::at(
                    &root,
                    1,
                    "add `#![forbid(unsafe_code)]` after the docs",
                ));
            }
            if is_machine && !code.contains("#![expect(unsafe_code,reason=") {
                let message = "add `#![expect(unsafe_code, reason = \"...\")]` after the docs";
                findings.push(Finding::at(&root, 1, message));
            }
        }
    }
    findings
}

/// Roots of a package's libraries and programs, relative to the repository.
fn roots(package: &Json, repository: &str) -> Vec<String> {
    let is_root = |target: &&Json| {
        let kinds = array(target, "kind");
        kinds.iter().any(|it| it == "lib" || it == "bin" || it == "proc-macro")
    };
    let relative = |target: &Json| {
        let path = text(target, "src_path");
        let path = path.strip_prefix(repository).unwrap_or(path);
        path.trim_start_matches('/').to_owned()
    };
    array(package, "targets").iter().filter(is_root).map(relative).collect()
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&name))
}

fn array<'a>(value: &'a Json, key: &str) -> &'a [Json] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Json, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_dependency(from: &str, to: &str, kind: Option<&str>, complaint: Option<&str>) {
        let dependency = json!({ "name": to, "kind": kind });
        let metadata = json!({ "packages": [{ "name": from, "dependencies": [dependency] }] });
        let findings = check(&metadata);
        match complaint {
            None => assert_eq!(findings, [], "{from} -> {to}"),
            Some(part) => assert!(findings[0].message.contains(part), "{findings:?}"),
        }
    }

    #[test]
    fn dependencies_point_downwards() {
        check_dependency("calor-runtime", "calor-ir", None, None);
        check_dependency("calor-cli", "calor-bench", None, None);
        check_dependency("calor-ir", "serde", None, None);
        check_dependency("calor-ir", "calor-runtime", None, Some("a layer above"));
        check_dependency("calor-weights", "calor-embed", Some("dev"), Some("a layer above"));
        check_dependency("calor-attic", "calor-ir", None, Some("has no layer"));
    }

    #[test]
    fn tests_may_use_the_dev_crates() {
        check_dependency("calor-ir", "calor-testkit", Some("dev"), None);
        check_dependency("calor-ir", "calor-testkit", None, Some("a layer above"));
    }

    #[test]
    fn only_the_command_names_machines() {
        check_dependency("calor-cli", "calor-device-cpu", None, None);
        check_dependency("calor-embed", "calor-device-cpu", Some("dev"), None);
        check_dependency("calor-embed", "calor-device-cpu", None, Some("names machines"));
    }

    #[test]
    fn unsafe_code_is_forbidden_at_the_root() {
        let mut repository = Repository::of(&[
            ("crates/ir/src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n"),
            ("crates/kernel/src/lib.rs", "//! x\n// #![forbid(unsafe_code)]\n"),
            ("crates/device-cpu/src/lib.rs", "//! x\n#![expect(unsafe_code, reason = \"y\")]\n"),
        ]);
        let package = |name: &str| {
            let path = format!("crates/{}/src/lib.rs", &name["calor-".len()..]);
            json!({ "name": name, "targets": [{ "kind": ["lib"], "src_path": path }] })
        };
        let packages = ["calor-ir", "calor-kernel", "calor-device-cpu"].map(package);
        repository.metadata = json!({ "packages": packages });
        let findings = check_unsafe(&repository);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].place, "crates/kernel/src/lib.rs");
    }
}
