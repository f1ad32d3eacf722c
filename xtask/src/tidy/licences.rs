//! Rule: every package that we depend on has a licence that allows shipping it.

use serde_json::Value as Json;

use super::Finding;

static ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "BlueOak-1.0.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages whose licence is absent or not allowed.
pub(crate) fn check(metadata: &Json) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().map_or(&[][..], Vec::as_slice) {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(licence) if allows(licence) => {}
            Some(licence) => {
                let message = format!(
                    "licence `{licence}` is not among those of xtask/src/tidy/licences.rs: replace \
                     the dependency, or decide in docs/decisions/"
                );
                findings.push(Finding::whole(name, message));
            }
            None => findings.push(Finding::whole(name, "names no licence: replace the dependency")),
        }
    }
    findings
}

/// Whether an SPDX expression can be met with allowed licences. `/` is an old way to write OR.
fn allows(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&tokens, &mut at);
    met && at == tokens.len()
}

fn any(tokens: &[&str], at: &mut usize) -> bool {
    let mut met = all(tokens, at);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(tokens, at);
    }
    met
}

fn all(tokens: &[&str], at: &mut usize) -> bool {
    let mut met = one(tokens, at);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at);
    }
    met
}

fn one(tokens: &[&str], at: &mut usize) -> bool {
    let Some(token) = tokens.get(*at) else { return false };
    *at += 1;
    if *token == "(" {
        let met = any(tokens, at);
        *at += 1;
        return met && tokens.get(*at - 1) == Some(&")");
    }
    // An exception only adds rights.
    if tokens.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    ALLOWED.contains(token)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn expect(expression: &str, allowed: bool) {
        assert_eq!(allows(expression), allowed, "{expression}");
    }

    #[test]
    fn compositions_are_understood() {
        expect("MIT", true);
        expect("MIT OR Apache-2.0", true);
        expect("MIT/Apache-2.0", true);
        expect("GPL-3.0-only", false);
        expect("GPL-3.0-only OR MIT", true);
        expect("GPL-3.0-only AND MIT", false);
        expect("(MIT OR Apache-2.0) AND Unicode-3.0", true);
        expect("(MIT OR GPL-2.0-only) AND LGPL-3.0-only", false);
        expect("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true);
        expect("GPL-2.0-only WITH Classpath-exception-2.0", false);
        expect("(MIT", false);
        expect("", false);
    }

    #[test]
    fn a_package_is_named() {
        let package = |name: &str, licence| json!({ "name": name, "license": licence });
        let packages =
            [package("a", Some("MIT")), package("b", None), package("c", Some("SSPL-1.0"))];
        let findings = check(&json!({ "packages": packages }));
        let places: Vec<&str> = findings.iter().map(|it| it.place.as_str()).collect();
        assert_eq!(places, ["b", "c"]);
    }
}
