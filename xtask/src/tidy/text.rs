//! Rules about single files: their names, their first line, their words and their size.

use super::Finding;
use crate::repository::Repository;
use crate::source::{Source, is_alone, line_of};

const COLUMN_COUNT_MAX: usize = 100;
const BLOB_BYTES_MAX: u64 = 200_000;
/// Raw samples of one case.
const SAMPLES_BYTES_MAX: u64 = 2_000_000;
const TABLE_MARK: &str = "// tidy: table";

/// Names that say how a file came about instead of what it is.
static MECHANISMS: &[&str] =
    &["util", "utils", "helper", "helpers", "types", "common", "manager", "base", "impl", "misc"];

/// Words in code, and what to write instead.
static BANNED: &[(&str, &str)] = &[
    ("DefaultHasher", "a key is a type with canonical bytes"),
    ("todo!", "finish it, or return a typed error that says what is not there"),
    ("unimplemented!", "finish it, or return a typed error that says what is not there"),
    ("#[ignore", "make the known failure a row that asserts the wrong answer and says why"),
];

/// Folders that belong to one machine. In two parts, so that this file does not name them.
static MACHINE_FOLDERS: &[&str] =
    &[concat!("/", "work"), concat!("/", "root"), concat!("/", "scratch"), concat!("/", "home")];

/// A mark of unfinished work, anywhere in a file. In two parts for the same reason.
const UNFINISHED: &str = concat!("FIX", "ME");

/// Files and folders named after a mechanism.
pub(crate) fn check_file_names(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, _) in repository.sources() {
        let path = file.path.trim_end_matches(".rs");
        if let Some(name) = path.split('/').find(|it| MECHANISMS.contains(it)) {
            let message =
                format!("`{name}` names a mechanism: name the noun that the file defines");
            findings.push(Finding::whole(&file.path, message));
        }
    }
    findings
}

/// Rust files that do not open with their documentation.
pub(crate) fn check_module_docs(repository: &Repository) -> Vec<Finding> {
    let opens = |text: &str| {
        text.strip_prefix("//!")
            .is_some_and(|it| !it.lines().next().unwrap_or("").trim().is_empty())
    };
    let silent = repository.sources().filter(|(file, _)| !file.text.as_deref().is_some_and(opens));
    let message = "open with `//!`: what the file is, and what it is not";
    silent.map(|(file, _)| Finding::at(&file.path, 1, message)).collect()
}

/// Words that may not stand in code, and marks of unfinished work anywhere.
pub(crate) fn check_banned_words(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &repository.files {
        if let Some(source) = &file.source {
            for (word, instead) in BANNED {
                for line in source.lines_with_word(word) {
                    findings.push(Finding::at(&file.path, line, format!("`{word}`: {instead}")));
                }
            }
            for line in string_errors(source) {
                let message = "errors are facts: return an enum of this crate, not a `String`";
                findings.push(Finding::at(&file.path, line, message));
            }
        }
        // STYLE.md explains the mark.
        let Some(text) = file.text.as_deref().filter(|_| file.path != "STYLE.md") else { continue };
        for (at, word) in text.match_indices(UNFINISHED) {
            if is_alone(text, at, word.len()) {
                let message = format!("`{UNFINISHED}` means before merge: settle it now");
                findings.push(Finding::at(&file.path, line_of(text, at), message));
            }
        }
    }
    findings
}

/// Lines of results whose error is a `String`.
fn string_errors(source: &Source) -> Vec<usize> {
    let code = &source.code;
    let starts = code.match_indices("Result<").filter(|(at, it)| is_alone(code, *at, it.len()));
    let is_string = |at: usize| {
        let mut depth = 0_i32;
        let mut last = at;
        for (offset, it) in code[at..].char_indices() {
            match it {
                '<' | '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                // The arrow of a function type closes nothing.
                '>' if code[..at + offset].ends_with('-') => {}
                '>' => depth -= 1,
                ',' if depth == 1 => last = at + offset + 1,
                ';' | '{' if depth == 0 => return false,
                _ => {}
            }
            if depth == 0 && it == '>' {
                return at < last && code[last..at + offset].trim() == "String";
            }
        }
        false
    };
    starts
        .filter(|(at, it)| is_string(at + it.len() - 1))
        .map(|(at, _)| line_of(code, at))
        .collect()
}

/// Rust lines that are too long, outside tables.
pub(crate) fn check_columns(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, _) in repository.sources() {
        let mut table_indent = None;
        for (index, line) in file.text.as_deref().unwrap_or_default().lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if line.trim() == TABLE_MARK {
                table_indent = Some(indent);
            } else if table_indent == Some(indent) && line.trim_start().starts_with([']', '}', ')'])
            {
                table_indent = None;
            }
            if table_indent.is_none() && COLUMN_COUNT_MAX < line.chars().count() {
                let message = format!(
                    "over {COLUMN_COUNT_MAX} columns: break it, or put `{TABLE_MARK}` above a table"
                );
                findings.push(Finding::at(&file.path, index + 1, message));
            }
        }
    }
    findings
}

/// Large files outside `golden/`; raw samples of a package may be larger, for nobody makes them
/// again.
pub(crate) fn check_blobs(repository: &Repository) -> Vec<Finding> {
    let most = |path: &str| match path.starts_with("results/") && path.contains("/raw/") {
        true => SAMPLES_BYTES_MAX,
        false => BLOB_BYTES_MAX,
    };
    let large = repository.files.iter().filter(|it| most(&it.path) < it.size_bytes);
    let message = "over 200 kB: generate it, shrink it, or put it under golden/";
    let outside = large.filter(|it| !it.path.starts_with("golden/"));
    outside.map(|it| Finding::whole(&it.path, message)).collect()
}

/// Absolute paths that exist on one machine only.
pub(crate) fn check_machine_paths(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &repository.files {
        let is_ours = !file.path.starts_with("golden/") && !file.path.ends_with(".lock");
        let Some(text) = file.text.as_deref().filter(|_| is_ours) else { continue };
        for folder in MACHINE_FOLDERS {
            for (at, it) in text.match_indices(folder) {
                let before = text[..at].chars().next_back().unwrap_or(' ');
                let after = text[at + it.len()..].chars().next().unwrap_or(' ');
                let inside_path = before.is_alphanumeric() || "_.-/*}>)$".contains(before);
                if !inside_path && after == '/' {
                    let message =
                        format!("`{folder}` is a folder of one machine: use a relative path");
                    findings.push(Finding::at(&file.path, line_of(text, at), message));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&Repository) -> Vec<Finding>;

    #[track_caller]
    fn expect(check: Check, path: &str, text: &str, lines: &[Option<usize>]) {
        let findings = check(&Repository::of(&[(path, text)]));
        let got: Vec<Option<usize>> = findings.iter().map(|it| it.line).collect();
        assert_eq!(got, lines, "{findings:?}");
    }

    #[test]
    fn files_are_named_after_nouns() {
        expect(check_file_names, "crates/ir/src/shape.rs", "", &[]);
        expect(check_file_names, "crates/ir/src/utils.rs", "", &[None]);
        expect(check_file_names, "crates/ir/src/common/shape.rs", "", &[None]);
        expect(check_file_names, "docs/types.md", "", &[]);
    }

    #[test]
    fn files_open_with_their_docs() {
        expect(check_module_docs, "a.rs", "//! What it is.\n", &[]);
        expect(check_module_docs, "a.rs", "use b;\n", &[Some(1)]);
        expect(check_module_docs, "a.rs", "//!\n", &[Some(1)]);
        expect(check_module_docs, "a.sh", "#!/bin/sh\n", &[]);
    }

    #[test]
    fn unfinished_work_is_found_in_code() {
        expect(check_banned_words, "a.rs", "fn a() {\n    todo!()\n}\n", &[Some(2)]);
        expect(check_banned_words, "a.rs", "// todo! is banned\n", &[]);
        expect(check_banned_words, "a.rs", "use x::DefaultHasher;\n", &[Some(1)]);
        expect(check_banned_words, "a.rs", "#[test]\n#[ignore]\nfn a() {}\n", &[Some(2)]);
        expect(check_banned_words, "a.sh", concat!("# FIX", "ME: later\n"), &[Some(1)]);
    }

    #[test]
    fn errors_are_not_strings() {
        expect(check_banned_words, "a.rs", "fn a() -> Result<u8, String> {}", &[Some(1)]);
        expect(check_banned_words, "a.rs", "fn a() -> Result<(u8, u8),\n String,\n>;", &[]);
        expect(check_banned_words, "a.rs", "fn a() -> Result<Vec<u8>,\n String>;", &[Some(1)]);
        expect(check_banned_words, "a.rs", "fn a() -> Result<(u8, String), E>;", &[]);
        expect(check_banned_words, "a.rs", "fn a() -> Result<String>;", &[]);
        expect(check_banned_words, "a.rs", "fn a() -> Result<fn() -> u8, E>;", &[]);
    }

    #[test]
    fn long_lines_stand_in_tables_only() {
        let long = "x".repeat(101);
        expect(check_columns, "a.rs", &format!("//!\n{long}\n"), &[Some(2)]);
        expect(check_columns, "a.rs", &"é".repeat(100), &[]);
        expect(check_columns, "a.md", &long, &[]);
        let table = format!("// tidy: table\nstatic T: X = [\n    {long}\n];\n{long}\n");
        expect(check_columns, "a.rs", &table, &[Some(5)]);
    }

    #[test]
    fn large_files_are_golden() {
        let large = "x".repeat(200_001);
        expect(check_blobs, "docs/a.svg", &large, &[None]);
        expect(check_blobs, "golden/a/model.safetensors", &large, &[]);
        expect(check_blobs, "results/a/raw/case.jsonl", &large, &[]);
        expect(check_blobs, "results/a/report.html", &large, &[None]);
    }

    #[test]
    fn paths_are_relative() {
        let folder = MACHINE_FOLDERS[1];
        expect(check_machine_paths, "a.md", &format!("see {folder}/x\n"), &[Some(1)]);
        expect(check_machine_paths, "a.rs", &format!("\n\"{folder}/x\""), &[Some(2)]);
        expect(check_machine_paths, "a.md", &format!("see docs{folder}/x"), &[]);
        expect(check_machine_paths, "a.md", &format!("see $HOME{folder}work/x"), &[]);
    }
}
