//! The meter: counts that say whether the project got simpler. Going down is progress.
//!
//! Counts only; no limits. What has a limit is a rule of `tidy`.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::repository::{File, Repository};
use crate::source::Source;

/// Crates whose size is the size of the idea.
static CORE: &[&str] = &["crates/ir/", "crates/kernel/", "crates/device/", "crates/runtime/"];

/// Prints every count.
pub(crate) fn command(repository: &Repository) -> Result<bool> {
    for (name, count) in counts(repository) {
        println!("{count:>8}  {name}");
    }
    Ok(true)
}

fn counts(repository: &Repository) -> Vec<(&'static str, usize)> {
    let product: Vec<(&File, &Source)> =
        repository.sources().filter(|(file, _)| file.path.starts_with("crates/")).collect();
    let sum = |count: fn(&Source) -> usize| product.iter().map(|(_, it)| count(it)).sum();
    let core = product.iter().filter(|(file, _)| CORE.iter().any(|it| file.path.starts_with(it)));
    let packages = repository.metadata["packages"].as_array().map_or(0, Vec::len);
    let lock = repository.file("Cargo.lock").and_then(|it| it.text.as_deref()).unwrap_or_default();
    let names: BTreeSet<String> =
        product.iter().flat_map(|(file, it)| variables(file, it)).collect();
    vec![
        ("primitives", variants(repository, "crates/ir/src/op.rs", "Prim")),
        ("device methods", methods(repository, "crates/device/src/contract.rs")),
        ("public items", sum(public_items)),
        ("crates", packages),
        ("packages in the lock file", lock.matches("[[package]]").count()),
        ("unsafe blocks", sum(unsafe_blocks)),
        ("cfg sites", sum(|it| it.before_tests().matches("cfg(").count())),
        ("environment names", names.len()),
        ("code lines of the core", core.map(|(_, it)| it.code_line_count()).sum()),
    ]
}

/// Variants of `pub enum name`: capitalised words at the start of its members.
fn variants(repository: &Repository, path: &str, name: &str) -> usize {
    let Some(source) = repository.file(path).and_then(|it| it.source.as_ref()) else { return 0 };
    let opening = format!("pub enum {name} {{");
    let Some(at) = source.code.find(&opening) else { return 0 };
    members(&source.code[at + opening.len()..])
        .iter()
        .filter(|it| it.trim_start().starts_with(|it: char| it.is_ascii_uppercase()))
        .count()
}

/// Members up to the closing brace, without attributes, split at commas of the outermost level.
fn members(body: &str) -> Vec<String> {
    let mut depth = 0_i32;
    let mut members = vec![String::new()];
    for it in body.chars() {
        match it {
            '{' | '(' | '[' => depth += 1,
            '}' if depth == 0 => break,
            '}' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            _ if depth == 0 && it != '#' => {
                if let Some(member) = members.last_mut() {
                    member.push(it);
                }
            }
            _ => {}
        }
    }
    members
}

/// Functions of the public traits: what a machine provides.
fn methods(repository: &Repository, path: &str) -> usize {
    let Some(source) = repository.file(path).and_then(|it| it.source.as_ref()) else { return 0 };
    let mut count = 0;
    for (at, opening) in source.code.match_indices("pub trait ") {
        let body = &source.code[at + opening.len()..];
        let Some(open) = body.find('{') else { continue };
        let mut depth = 0_i32;
        let end = body[open..].find(|it| {
            depth += match it {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        let body = &body[open..open + end.unwrap_or(0)];
        count += body.matches("fn ").count();
    }
    count
}

fn public_items(source: &Source) -> usize {
    static KINDS: &[&str] =
        &["fn ", "struct ", "enum ", "trait ", "const ", "static ", "type ", "mod "];
    let lines = source.before_tests().lines().filter_map(|it| it.trim_start().strip_prefix("pub "));
    lines.filter(|it| KINDS.iter().any(|kind| it.starts_with(kind))).count()
}

fn unsafe_blocks(source: &Source) -> usize {
    let lines = source.code.match_indices("unsafe");
    lines.filter(|(at, it)| source.code[at + it.len()..].trim_start().starts_with('{')).count()
}

/// Names that are read from the environment, as the literals in calls of `env::var`.
fn variables(file: &File, source: &Source) -> Vec<String> {
    let text = file.text.as_deref().unwrap_or_default();
    let mut names = Vec::new();
    for (at, _) in source.code.match_indices("env::var") {
        let mut quoted = text[at..].split('"');
        if let (Some(call), Some(name)) = (quoted.next(), quoted.next())
            && !call.contains(';')
        {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_from_code() {
        let op = [
            "//! Ops.",
            "pub enum Prim {",
            "    /// A.",
            "    Neg,",
            "    #[x(y)]",
            "    Dot { a: u8, b: u8 },",
            "    Pad(u8, u8),",
            "}",
        ];
        let contract = [
            "pub trait A {",
            "    /// fn x",
            "    fn a(&self);",
            "    fn b(&self) -> u8 { 1 }",
            "}",
            "fn c() {}",
            "pub trait D {",
            "    fn d(&self);",
            "}",
        ];
        let machine = [
            "//! M.",
            "fn a() {",
            "    // SAFETY: none.",
            "    unsafe { b() };",
            "    unsafe {}",
            "}",
            "unsafe fn b() {}",
            "#[cfg(x)]",
            "pub fn c() { std::env::var(\"A_B\"); }",
        ];
        let [op, contract] = [op.join("\n"), contract.join("\n")];
        let machine = machine.join("\n");
        let repository = Repository::of(&[
            ("crates/ir/src/op.rs", &op),
            ("crates/device/src/contract.rs", &contract),
            ("crates/device-cpu/src/lib.rs", &machine),
            ("Cargo.lock", "[[package]]\n[[package]]\n"),
        ]);
        let counts = counts(&repository);
        let get = |name| counts.iter().find(|it| it.0 == name).unwrap().1;
        assert_eq!(get("primitives"), 3);
        assert_eq!(get("device methods"), 3);
        assert_eq!(get("public items"), 4);
        assert_eq!(get("packages in the lock file"), 2);
        assert_eq!(get("unsafe blocks"), 2);
        assert_eq!(get("cfg sites"), 1);
        assert_eq!(get("environment names"), 1);
        assert_eq!(get("code lines of the core"), 14);
    }
}
