//! Rule: files and functions stay short; what is long is listed and may only get shorter.

use std::collections::BTreeMap;

use super::Finding;
use crate::repository::Repository;

/// The list, relative to the repository.
pub(crate) const LIST: &str = "xtask/ratchet.txt";

const FILE_LINE_COUNT_MAX: usize = 400;
const FUNCTION_LINE_COUNT_MAX: usize = 70;

const HEADER: &str = "\
# Files over 400 code lines and functions over 70, tests not counted.
# `cargo xtask tidy --bless` writes this list; a length in it only goes down.
";

/// A file, or a file and a function in it, with its length.
type Lengths = BTreeMap<String, usize>;

/// What is longer than allowed or listed, and what is listed but shorter now.
pub(crate) fn check(repository: &Repository) -> Vec<Finding> {
    let (today, listed) = (today(repository), listed(repository));
    let mut findings = Vec::new();
    for (what, length) in &today {
        let place = what.split(' ').next().unwrap_or(what);
        let message = match listed.get(what) {
            Some(limit) if length == limit => continue,
            Some(limit) if length < limit => format!(
                "`{what}` has {length} code lines now, {limit} are listed: run `cargo xtask tidy \
                 --bless`"
            ),
            Some(limit) => {
                format!("`{what}` has {length} code lines, {limit} are listed: split it")
            }
            None => format!("`{what}` has {length} code lines: split it by nouns"),
        };
        findings.push(Finding::whole(place, message));
    }
    for what in listed.keys().filter(|it| !today.contains_key(*it)) {
        let message =
            format!("`{what}` is no longer over its limit: run `cargo xtask tidy --bless`");
        findings.push(Finding::whole(LIST, message));
    }
    findings
}

/// Today's list; lengths that were listed before do not go up.
pub(crate) fn blessed(repository: &Repository) -> String {
    let listed = listed(repository);
    let mut out = HEADER.to_owned();
    for (what, length) in today(repository) {
        let length = listed.get(&what).map_or(length, |limit| length.min(*limit));
        out.push_str(&format!("{length} {what}\n"));
    }
    out
}

fn today(repository: &Repository) -> Lengths {
    let mut lengths = Lengths::new();
    for (file, source) in repository.sources() {
        if file.path.contains("/tests/") || file.path.ends_with("/tests.rs") {
            continue;
        }
        let count = source.code_line_count();
        if FILE_LINE_COUNT_MAX < count {
            lengths.insert(file.path.clone(), count);
        }
        for function in source.functions() {
            if FUNCTION_LINE_COUNT_MAX < function.code_line_count {
                let what = format!("{} {}", file.path, function.name);
                let length = lengths.entry(what).or_default();
                *length = (*length).max(function.code_line_count);
            }
        }
    }
    lengths
}

fn listed(repository: &Repository) -> Lengths {
    let text = repository.file(LIST).and_then(|it| it.text.as_deref()).unwrap_or_default();
    let rows = text.lines().filter(|it| !it.starts_with('#'));
    let row = |line: &str| {
        let (length, what) = line.split_once(' ')?;
        Some((what.to_owned(), length.parse().ok()?))
    };
    rows.filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(line_count: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    x();\n".repeat(line_count - 2))
    }

    #[track_caller]
    fn expect(length: usize, list: &str, part: Option<&str>) {
        let text = function(length);
        let repository = Repository::of(&[("a.rs", &text), (LIST, list)]);
        let findings = check(&repository);
        match part {
            None => assert_eq!(findings, []),
            Some(part) => assert!(findings[0].message.contains(part), "{findings:?}"),
        }
    }

    #[test]
    fn what_is_long_is_listed_with_its_length() {
        expect(70, "", None);
        expect(71, "", Some("split it by nouns"));
        expect(80, "80 a.rs long\n", None);
        expect(81, "80 a.rs long\n", Some("80 are listed: split it"));
        expect(79, "80 a.rs long\n", Some("--bless"));
        expect(70, "80 a.rs long\n", Some("no longer over"));
    }

    #[test]
    fn files_count_without_comments_and_tests() {
        let filler = "// note\n\n".repeat(500);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn a() {}\n".repeat(500));
        let short = format!("{filler}{}{tests}", "use a;\n".repeat(400));
        assert_eq!(check(&Repository::of(&[("a.rs", &short)])), []);
        let long = "use a;\n".repeat(401);
        assert_eq!(check(&Repository::of(&[("a.rs", &long)])).len(), 1);
        assert_eq!(check(&Repository::of(&[("crates/a/tests/b.rs", &long)])), []);
    }

    #[test]
    fn blessing_only_goes_down() {
        let text = function(90);
        let with = |list: &str| blessed(&Repository::of(&[("a.rs", &text), (LIST, list)]));
        assert!(with("").ends_with("\n90 a.rs long\n"));
        assert!(with("95 a.rs long\n").ends_with("\n90 a.rs long\n"));
        assert!(with("80 a.rs long\n70 gone.rs\n").ends_with("\n80 a.rs long\n"));
        assert!(!with("70 gone.rs\n").contains("gone"));
    }
}
