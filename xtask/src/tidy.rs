//! Rules that the compiler does not know, each a function with its own test.
//!
//! A finding says where, what, and what to do about it. Formatting belongs to rustfmt, and
//! what clippy can say belongs to clippy.

mod figures;
mod golden;
mod imports;
mod layers;
mod licences;
mod ratchet;
mod text;

use std::fmt;

use anyhow::Result;

use crate::repository::Repository;
use crate::specifications;

/// One rule.
pub(crate) struct Rule {
    /// Its name in findings.
    pub(crate) name: &'static str,
    /// What it asks for.
    pub(crate) about: &'static str,
    check: fn(&Repository) -> Result<Vec<Finding>>,
}

/// Every rule, in the order in which they run.
pub(crate) static RULES: &[Rule] = &[
    Rule {
        name: "layers",
        about: "a crate depends on its layer or lower ones",
        check: |it| Ok(layers::check(&it.metadata)),
    },
    Rule {
        name: "imports",
        about: "planning stays pure, kernels do not know the graph",
        check: |it| Ok(imports::check(it)),
    },
    Rule {
        name: "unsafe",
        about: "every crate but the machines opens with forbid(unsafe_code)",
        check: |it| Ok(layers::check_unsafe(it)),
    },
    Rule {
        name: "file-names",
        about: "a file is named after its noun, not after a mechanism",
        check: |it| Ok(text::check_file_names(it)),
    },
    Rule {
        name: "module-docs",
        about: "a file says first what it is",
        check: |it| Ok(text::check_module_docs(it)),
    },
    Rule {
        name: "banned-words",
        about: "no unfinished work, no hashes that change, no errors as strings",
        check: |it| Ok(text::check_banned_words(it)),
    },
    Rule {
        name: "columns",
        about: "lines of at most 100 columns, except in marked tables",
        check: |it| Ok(text::check_columns(it)),
    },
    Rule {
        name: "ratchet",
        about: "files of at most 400 code lines, functions of at most 70",
        check: |it| Ok(ratchet::check(it)),
    },
    Rule {
        name: "blobs",
        about: "no file over 200 kB outside golden/, raw samples aside",
        check: |it| Ok(text::check_blobs(it)),
    },
    Rule {
        name: "machine-paths",
        about: "no absolute path of one machine",
        check: |it| Ok(text::check_machine_paths(it)),
    },
    Rule {
        name: "golden",
        about: "every reference model is complete",
        check: |it| Ok(golden::check(it)),
    },
    Rule {
        name: "licences",
        about: "every dependency may be shipped",
        check: |it| Ok(licences::check(&it.metadata_with_dependencies()?)),
    },
    Rule {
        name: "figures",
        about: "every figure names results that are there, clean and with samples",
        check: |it| Ok(figures::check(it)),
    },
    Rule {
        name: "specifications",
        about: "every item of a specification has a row that is true",
        check: |it| Ok(specifications::check(it)),
    },
];

/// Something that a rule does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// File or package.
    pub(crate) place: String,
    /// Line, from one, where there is one.
    pub(crate) line: Option<usize>,
    /// What is wrong, and the fix.
    pub(crate) message: String,
}

impl Finding {
    /// About a whole file or package.
    pub(crate) fn whole(place: &str, message: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line: None, message: message.into() }
    }

    /// About one line.
    pub(crate) fn at(place: &str, line: usize, message: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line: Some(line), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.place, self.message),
            None => write!(f, "{}: {}", self.place, self.message),
        }
    }
}

/// Applies every rule and prints what it finds.
pub(crate) fn command(repository: &Repository) -> Result<bool> {
    let mut count = 0;
    for rule in RULES {
        let findings = (rule.check)(repository)?;
        count += findings.len();
        for finding in findings {
            println!("{finding} [{}]", rule.name);
        }
    }
    match count {
        0 => println!("tidy: {} rules hold", RULES.len()),
        1 => println!("tidy: 1 finding"),
        _ => println!("tidy: {count} findings"),
    }
    Ok(count == 0)
}

/// Writes the list of lengths anew.
pub(crate) fn bless(repository: &Repository) -> Result<bool> {
    std::fs::write(repository.root.join(ratchet::LIST), ratchet::blessed(repository))?;
    println!("wrote {}", ratchet::LIST);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_say_where() {
        assert_eq!(Finding::at("a.rs", 3, "no").to_string(), "a.rs:3: no");
        assert_eq!(Finding::whole("a.rs", "no").to_string(), "a.rs: no");
    }

    #[test]
    fn rule_names_are_unique() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(RULES[..index].iter().all(|it| it.name != rule.name), "{}", rule.name);
        }
    }
}
