//! `docs/specifications.md` against the specifications and against the repository.
//!
//! `docs/specifications.items.txt` lists what the specifications name, one item a line:
//! `<specification> | <item>`. The document has one table row for each: specification, item,
//! kind, default or value, where, test. *Where* is a path in the repository, with the test's
//! function name in *test* (`path::name`, or a name in the file of *where*), or `planned`.

use std::collections::BTreeSet;

use crate::repository::Repository;
use crate::tidy::Finding;

const DOCUMENT: &str = "docs/specifications.md";
const ITEMS: &str = "docs/specifications.items.txt";
const PLANNED: &str = "planned";

/// One row of the document.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    line: usize,
    specification: &'a str,
    item: &'a str,
    places: Vec<&'a str>,
    tests: Vec<&'a str>,
}

/// Items without a row, rows without an item, and rows that are not true.
pub(crate) fn check(repository: &Repository) -> Vec<Finding> {
    let text = |path| repository.file(path).and_then(|it| it.text.as_deref());
    let (Some(document), Some(items)) = (text(DOCUMENT), text(ITEMS)) else {
        let message = format!("{DOCUMENT} and {ITEMS} must both be there");
        return vec![Finding::whole(DOCUMENT, message)];
    };
    let rows = rows(document);
    let mut findings = Vec::new();
    let mut wanted = BTreeSet::new();
    for (index, line) in items.lines().enumerate().filter(|it| !it.1.starts_with('#')) {
        let Some((specification, item)) = line.split_once(" | ") else {
            findings.push(Finding::at(ITEMS, index + 1, "write `<specification> | <item>`"));
            continue;
        };
        if !wanted.insert((specification, item)) {
            findings.push(Finding::at(ITEMS, index + 1, format!("`{item}` is listed twice")));
        }
        if !rows.iter().any(|it| (it.specification, it.item) == (specification, item)) {
            let message = format!("`{item}` has no row in {DOCUMENT}: add one, or `{PLANNED}`");
            findings.push(Finding::at(ITEMS, index + 1, message));
        }
    }
    for row in &rows {
        if !wanted.contains(&(row.specification, row.item)) {
            let message = format!("`{}` is not in {ITEMS}: add it there", row.item);
            findings.push(Finding::at(DOCUMENT, row.line, message));
        }
        findings.extend(faults(repository, row));
    }
    findings
}

fn faults(repository: &Repository, row: &Row<'_>) -> Vec<Finding> {
    let fault = |message: String| Finding::at(DOCUMENT, row.line, message);
    if row.places == [PLANNED] {
        let unfounded = row.tests.iter().map(|it| {
            fault(format!("`{}` is planned, yet names the test `{it}`: say where it is", row.item))
        });
        return unfounded.collect();
    }
    let mut findings = Vec::new();
    if row.places.is_empty() || row.tests.is_empty() {
        let message = format!("`{}` needs a place and a test, or `{PLANNED}`", row.item);
        findings.push(fault(message));
    }
    for place in &row.places {
        if repository.file(place).is_none() {
            findings.push(fault(format!("`{place}` does not exist: correct the row")));
        }
    }
    for test in &row.tests {
        let (paths, name) = match test.split_once("::") {
            Some((path, name)) => (vec![path], name),
            None => (row.places.clone(), *test),
        };
        let sources = paths.iter().filter_map(|it| repository.file(it)?.source.as_ref());
        let found = sources.into_iter().any(|it| {
            let function = format!("fn {name}");
            it.code.match_indices(&function).any(|(at, word)| {
                !it.code[at + word.len()..]
                    .starts_with(|it: char| it.is_alphanumeric() || it == '_')
            })
        });
        if !found {
            let message = format!("no test `{name}` in {}: correct the row", paths.join(", "));
            findings.push(fault(message));
        }
    }
    findings
}

/// Rows of tables with six columns, without headings.
fn rows(document: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (index, line) in document.lines().enumerate() {
        let Some(inner) = line.strip_prefix("| ").and_then(|it| it.strip_suffix(" |")) else {
            continue;
        };
        let cells: Vec<&str> = inner.split(" | ").map(str::trim).collect();
        let &[specification, item, _, _, places, tests] = cells.as_slice() else { continue };
        if specification == "specification" || specification.starts_with("---") {
            continue;
        }
        rows.push(Row {
            line: index + 1,
            specification,
            item: item.trim_matches('`'),
            places: names(places),
            tests: names(tests),
        });
    }
    rows
}

/// `a`, `b` as names; `-` is none.
fn names(cell: &str) -> Vec<&str> {
    let names = cell.split(',').map(|it| it.trim().trim_matches('`'));
    names.filter(|it| !it.is_empty() && *it != "-").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "| specification | item | kind | default or value | where | test |\n\
                           | --- | --- | --- | --- | --- | --- |\n";

    #[track_caller]
    fn expect(items: &str, row: &str, parts: &[&str]) {
        let document = format!("{HEADING}{row}\n");
        let test = "//! A.\n#[test]\nfn it_holds() {}\n";
        let files = [(DOCUMENT, document.as_str()), (ITEMS, items), ("a.rs", test)];
        let findings = check(&Repository::of(&files));
        assert_eq!(findings.len(), parts.len(), "{findings:?}");
        for (finding, part) in findings.iter().zip(parts) {
            assert!(finding.message.contains(part), "{finding}");
        }
    }

    #[test]
    fn a_row_is_mapped_or_planned() {
        expect("S | x", "| S | `x` | field | 8 | `a.rs` | `it_holds` |", &[]);
        expect("S | x", "| S | `x` | field | 8 | `a.rs` | `a.rs::it_holds` |", &[]);
        expect("S | x", "| S | `x` | field | 8 | planned | - |", &[]);
        expect("S | x", "| S | `x` | field | 8 | `a.rs` | - |", &["a place and a test"]);
        expect("S | x", "| S | `x` | field | 8 | - | - |", &["a place and a test"]);
        expect("S | x", "| S | `x` | field | 8 | planned | `it_holds` |", &["is planned, yet"]);
    }

    #[test]
    fn an_item_without_a_row_is_named() {
        expect("S | x\nS | y", "| S | `x` | field | 8 | planned | - |", &["`y` has no row"]);
        expect("S | x\nS | x", "| S | `x` | field | 8 | planned | - |", &["listed twice"]);
        expect("", "| S | `x` | field | 8 | planned | - |", &["is not in"]);
    }

    #[test]
    fn a_row_that_is_not_true_is_named() {
        let (gone, half) = ("`b.rs` does not exist", "no test `it`");
        expect("S | x", "| S | `x` | field | 8 | `b.rs` | `a.rs::it_holds` |", &[gone]);
        expect("S | x", "| S | `x` | field | 8 | `a.rs` | `it` |", &[half]);
    }

    #[test]
    fn the_specifications_of_this_repository_are_mapped() {
        let findings = check(&Repository::open().unwrap());
        assert!(findings.is_empty(), "{findings:#?}");
    }
}
