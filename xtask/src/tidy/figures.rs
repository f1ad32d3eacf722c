//! Rule: every figure in README and `docs/performance.md` names its results, and those are there,
//! of a commit without changes, and hold raw samples.

use std::path::Path;

use serde_json::Value as Json;

use super::Finding;
use crate::repository::Repository;

/// Documents with figures.
static DOCUMENTS: &[&str] = &["README.md", "docs/performance.md"];

/// Results from before there were packages, and what they lack. A row that lacks nothing any more
/// is a finding, so the list only gets shorter.
static OLD: &[(&str, &str)] = &[
    ("results/cuda-encoders-h200.jsonl", "does not say whether files differed"),
    ("results/cuda-weights-h200.txt", "is no data but text"),
];

/// What units of figures look like. Sizes of files are no measurements.
static UNITS: &[&str] = &[
    " s ", " ms", " µs", " us", " ns", "TFLOP/s", "GFLOP/s", "GB/s", "tokens/s", "items/s", "×",
    " %",
];

/// Sections with figures whose results are missing, changed or without samples.
pub(crate) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named = Vec::new();
    for path in DOCUMENTS {
        let text = repository.file(path).and_then(|it| it.text.as_deref()).unwrap_or_default();
        for section in sections(text) {
            let results: Vec<&str> = results_in(section.text).collect();
            if results.is_empty() {
                if let Some(line) = first_figure(section.text) {
                    let message = "a figure without results: name the file or package under \
                                   results/ that it comes from in its section";
                    findings.push(Finding::at(path, section.line + line, message));
                }
                continue;
            }
            for result in results {
                named.push(result.to_owned());
                if let Some(flaw) = flaw(repository, result)
                    && !is_old(result, &flaw)
                {
                    findings.push(Finding::at(path, section.line, format!("`{result}` {flaw}")));
                }
            }
        }
    }
    for (result, lacks) in OLD {
        let still = flaw(repository, result).is_some_and(|it| is_old(result, &it));
        if !still || !named.iter().any(|it| it == result) {
            let message = format!(
                "`{result}` lacks nothing any more, or is not named: take its row ({lacks}) out"
            );
            findings.push(Finding::whole("xtask/src/tidy/figures.rs", message));
        }
    }
    findings
}

fn is_old(result: &str, flaw: &str) -> bool {
    OLD.iter().any(|it| it.0 == result && it.1 == flaw)
}

struct Section<'a> {
    /// Lines before it.
    line: usize,
    text: &'a str,
}

/// Parts of a document from heading to heading.
fn sections(text: &str) -> Vec<Section<'_>> {
    let mut starts = vec![0];
    starts.extend(text.match_indices("\n#").map(|it| it.0 + 1));
    starts.push(text.len());
    let part = |it: &[usize]| Section {
        line: text[..it[0]].matches('\n').count() + 1,
        text: &text[it[0]..it[1]],
    };
    starts.windows(2).map(part).collect()
}

/// Paths under `results/` that stand in backticks.
fn results_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|it| it.starts_with("results/") && it.len() > "results/".len() && !it.contains(' '))
}

/// The first line with a number that has a unit, outside of code.
fn first_figure(text: &str) -> Option<usize> {
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if !is_code && is_figure(line) {
            return Some(index);
        }
    }
    None
}

fn is_figure(line: &str) -> bool {
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ") + " ";
    UNITS.iter().any(|unit| {
        prose.match_indices(unit).any(|(at, _)| {
            prose[..at].trim_end().chars().next_back().is_some_and(|it| it.is_ascii_digit())
        })
    })
}

/// What results lack, if anything.
fn flaw(repository: &Repository, result: &str) -> Option<String> {
    let folder = result.trim_end_matches('/');
    if let Some(manifest) = repository.file(&format!("{folder}/manifest.json")) {
        return of_package(repository, folder, manifest.text.as_deref().unwrap_or_default());
    }
    let Some(file) = repository.file(result) else { return Some("is not there".into()) };
    let kind = Path::new(result).extension().and_then(|it| it.to_str()).unwrap_or_default();
    if !matches!(kind, "json" | "jsonl") {
        return Some("is no data but text".into());
    }
    let text = file.text.as_deref().unwrap_or_default();
    let documents: Vec<Json> = match kind {
        "json" => serde_json::from_str(text).into_iter().collect(),
        _ => text.lines().filter_map(|it| serde_json::from_str(it).ok()).collect(),
    };
    let dirty = documents
        .iter()
        .find_map(|it| it["dirty"].as_bool().or_else(|| it["revision"]["dirty"].as_bool()));
    if !documents.iter().any(has_samples) {
        return Some("holds no raw samples".into());
    }
    match dirty {
        Some(false) => None,
        Some(true) => Some("is of changed files".into()),
        None => Some("does not say whether files differed".into()),
    }
}

fn of_package(repository: &Repository, folder: &str, manifest: &str) -> Option<String> {
    let Ok(manifest) = serde_json::from_str::<Json>(manifest) else {
        return Some("has a manifest that cannot be read".into());
    };
    if manifest["dirty"] != false || !manifest["commit"].is_string() {
        return Some("is not of a commit without changes".into());
    }
    let files = manifest["files"].as_object();
    let raw = files.into_iter().flatten().filter(|it| it.0.starts_with("raw/"));
    let mut count = 0;
    for (name, _) in raw {
        if repository.file(&format!("{folder}/{name}")).is_none() {
            return Some(format!("lacks its raw samples {name}"));
        }
        count += 1;
    }
    (count == 0).then(|| "holds no raw samples".into())
}

/// Whether a list of numbers stands under one of the names that samples have.
fn has_samples(document: &Json) -> bool {
    match document {
        Json::Object(map) => map.iter().any(|(name, value)| {
            let is_list = value.as_array().is_some_and(|it| !it.is_empty());
            (is_list && matches!(name.as_str(), "samples" | "samples_ns" | "runs_ns" | "run_ns"))
                || has_samples(value)
        }),
        Json::Array(list) => list.iter().any(has_samples),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"revision":{"commit":"c","dirty":false},"samples":[1,2]}"#;
    const ENCODERS: &str = "{\"runs_ns\":[1,2]}";

    /// The document's own section, with the old rows named elsewhere.
    #[track_caller]
    fn check_one(section: &str, files: &[(&str, &str)], want: &str) {
        let rest = OLD.iter().map(|it| format!("`{}`", it.0)).collect::<Vec<_>>().join(" ");
        let text = format!("# A\n\n## One\n\n{section}\n\n## Old\n\n{rest}\n");
        let mut all = vec![("docs/performance.md", text.as_str())];
        all.extend([(OLD[0].0, ENCODERS), (OLD[1].0, "text")]);
        all.extend(files);
        let findings = check(&Repository::of(&all));
        let found: Vec<String> = findings.iter().map(Finding::to_string).collect();
        match want {
            "" => assert!(found.is_empty(), "{found:?}"),
            _ => assert!(found.iter().any(|it| it.contains(want)), "{found:?}"),
        }
    }

    #[test]
    fn a_figure_names_results_that_hold() {
        let figure = "It takes 12 ms, from `results/a.json`.";
        let good = [("results/a.json", GOOD)];
        check_one(figure, &good, "");
        check_one("It takes 12 ms.", &good, "a figure without results");
        check_one("| a | 3.5 GB/s |", &[], "a figure without results");
        check_one("Twelve models, 45 primitives, version 2.11.", &[], "");
        check_one("```\ntakes 12 ms\n```", &[], "");
        check_one(figure, &[], "is not there");
        let with = |from: &str, to: &str| GOOD.replace(from, to);
        check_one(figure, &[("results/a.json", &with("false", "true"))], "changed files");
        check_one(figure, &[("results/a.json", &with(",\"dirty\":false", ""))], "whether files");
        check_one(figure, &[("results/a.json", &with("[1,2]", "[]"))], "no raw samples");
        check_one(figure, &[("results/a.json", "{")], "no raw samples");
    }

    #[test]
    fn a_package_has_a_clean_manifest_and_its_samples() {
        let figure = "It takes 12 ms, from `results/p`.";
        let manifest = r#"{"commit":"c","dirty":false,"files":{"raw/c.jsonl":{}}}"#;
        let raw = ("results/p/raw/c.jsonl", "{}");
        check_one(figure, &[("results/p/manifest.json", manifest), raw], "");
        check_one(figure, &[("results/p/manifest.json", manifest)], "lacks its raw samples");
        let dirty = manifest.replace("false", "true");
        check_one(figure, &[("results/p/manifest.json", &dirty), raw], "without changes");
        let empty = manifest.replace("raw/", "plots/");
        check_one(figure, &[("results/p/manifest.json", &empty), raw], "no raw samples");
    }

    #[test]
    fn an_old_row_that_lacks_nothing_has_to_go() {
        let clean = r#"{"dirty":false,"runs_ns":[1,2]}"#;
        let text = format!("`{}` `{}`", OLD[0].0, OLD[1].0);
        let files = [("docs/performance.md", text.as_str()), (OLD[0].0, clean), (OLD[1].0, "text")];
        let findings = check(&Repository::of(&files));
        assert!(findings.iter().any(|it| it.message.contains("take its row")), "{findings:?}");
    }
}
