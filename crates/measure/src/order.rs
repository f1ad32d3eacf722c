//! A whole run in one call: read the suite, look at the machine, run, seal. What the command and
//! the checks for GPU machines have in common.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::environment::{Told, capture};
use crate::error::MeasureError;
use crate::harness::{Job, Progress, run};
use crate::package::{Package, seal};
use crate::pair::as_pair;
use crate::program::Program;
use crate::suite::Suite;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The suite's file.
    pub suite: PathBuf,
    /// Folder of the package.
    pub output: PathBuf,
    /// Folder that processes start in, and that relative paths of the suite are from.
    pub root: PathBuf,
    /// Values of words in commands.
    pub words: BTreeMap<String, String>,
    /// These cases alone.
    pub cases: Vec<String>,
    /// These arms alone.
    pub arms: Vec<String>,
    /// So many pairs of `{base}` and `{head}` in place of the suite's arms.
    pub pairs: Option<u32>,
    /// What is measured.
    pub revision: Revision,
    /// Variables of the environment that decide results or times.
    pub variables: BTreeMap<String, String>,
}

/// What is measured, as its caller knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// The commit.
    pub commit: Option<String>,
    /// Whether files differ from it; nothing where nobody looked.
    pub dirty: Option<bool>,
    /// Digest of the program, if it is one.
    pub program_blake3: Option<String>,
    /// What base and head hold, where two programs are compared and what they have in common is
    /// to be heard.
    pub sides: Option<[Program; 2]>,
}

impl Revision {
    /// The commit that is checked out in `root` and whether its code differs, where git knows;
    /// else what the caller says.
    pub fn of_repository(root: &Path) -> Self {
        let git = |arguments: &[&str]| {
            let out =
                std::process::Command::new("git").arg("-C").arg(root).args(arguments).output();
            let out = out.ok().filter(|it| it.status.success())?;
            Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        let commit = git(&["rev-parse", "HEAD"]);
        let code = ["crates", "Cargo.toml", "Cargo.lock", "bench/baselines", "bench/suites"];
        let changed = git(&[&["status", "--porcelain", "--"], &code[..]].concat());
        Self { dirty: changed.map(|it| !it.is_empty()), commit, program_blake3: None, sides: None }
    }

    /// With the digest of the program at `path`.
    #[must_use]
    pub fn with_program(mut self, path: &Path) -> Self {
        let bytes = std::fs::read(path).ok();
        self.program_blake3 = bytes.map(|it| blake3::hash(&it).to_hex().to_string());
        self
    }

    fn to_json(&self) -> Json {
        let Self { commit, dirty, program_blake3, sides } = self;
        let mut out = json!({ "commit": commit, "dirty": dirty, "program_blake3": program_blake3 });
        if let Some([base, head]) = sides {
            out["sides"] = json!({ "base": base, "head": head });
        }
        out
    }
}

impl Order {
    /// Runs it, or what is left of it, and seals the package.
    ///
    /// # Errors
    /// As [`run`] and [`seal`].
    pub fn execute(&self, progress: &mut dyn Progress) -> Result<Package, MeasureError> {
        let (mut suite, text) = Suite::read(&self.suite)?;
        let mut words = self.words.clone();
        if let Some(pairs) = self.pairs {
            suite = as_pair(&suite, pairs);
            words.insert("pairs".into(), pairs.to_string());
        }
        for name in &self.cases {
            if suite.case(name).is_none() {
                return Err(MeasureError::description(&self.suite, format!("no case `{name}`")));
            }
        }
        for name in &self.arms {
            if !suite.arms.contains_key(name) {
                return Err(MeasureError::description(&self.suite, format!("no arm `{name}`")));
            }
        }
        let environment = capture(&Told {
            code: self.revision.to_json(),
            variables: &self.variables,
            options: json!({ "cases": self.cases, "arms": self.arms, "seed": suite.seed }),
        });
        let job = Job {
            suite: &suite,
            suite_text: &text,
            words: &words,
            cases: &self.cases,
            arms: &self.arms,
            output: &self.output,
            root: &self.root,
            revision: self.revision.to_json(),
            is_pair: self.pairs.is_some(),
            environment: &environment,
        };
        run(&job, progress)?;
        seal(&self.output)
    }
}
