//! Builds of the command that may be compared: every one is made of files at one and the same
//! place, with one folder of cargo's output.
//!
//! Builds of other folders have other names of symbols and lie otherwise in memory; two that
//! differed only in words were seen to differ by 5 % in a short case. Builds from one place differ
//! where their sources do and nowhere else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::repository::{Repository, cargo, output, root};

/// Files by their paths, relative to the root.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Where sources lie while they are built, and what is built from them.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The sources.
    source: PathBuf,
    /// Cargo's output. The repository's own, so that dependencies are built once.
    target: PathBuf,
    /// Package and program.
    package: &'static str,
    program: &'static str,
    /// Arguments of cargo behind these.
    arguments: &'static [&'static str],
    /// Whether its own packages are compiled quickly instead of well.
    is_quick: bool,
}

impl Place {
    /// The one of this repository, for the command.
    pub(crate) fn open() -> Result<Self> {
        let target = root()?.join("target");
        let source = target.join("measured/source");
        let (package, program) = ("calor-cli", "calor");
        Ok(Self { source, target, package, program, arguments: &["--locked"], is_quick: false })
    }

    /// The same for a program that counts what a call asks of the host: for exact gates, as
    /// counting costs time. Nobody looks at its times, so it is built quickly.
    pub(crate) fn counting(self) -> Self {
        Self { arguments: &["--locked", "--features", "counts"], is_quick: true, ..self }
    }

    /// Builds `files` and copies the program to `to`, unless it was built of just these.
    pub(crate) fn build(&self, files: &Files, to: &Path) -> Result<()> {
        let mark = to.with_extension("sources");
        let sum = self.sum(files)?;
        if to.is_file() && fs::read_to_string(&mark).is_ok_and(|it| it == sum) {
            return Ok(());
        }
        lay(files, &self.source)?;
        let above = self.source.parent().context("sources lie in a folder")?;
        let mut command = Command::new(cargo());
        if self.is_quick {
            // Of the profile's own packages; what is optimised for its own sake stays so.
            command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0").env("CARGO_PROFILE_DEV_DEBUG", "0");
        }
        let status = command
            .args(["build", "--package", self.package, "--bin", self.program])
            .args(self.arguments)
            .current_dir(&self.source)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", "0")
            // Copies have no history; the one of the folders above is not theirs.
            .env("GIT_CEILING_DIRECTORIES", above)
            .status()
            .context("cargo does not start")?;
        ensure!(status.success(), "{} does not build in {}", self.program, self.source.display());
        fs::create_dir_all(to.parent().context("a program lies in a folder")?)?;
        // Beside its place first: a program that runs cannot be written over.
        let beside = to.with_extension("new");
        fs::copy(self.target.join("debug").join(self.program), &beside)?;
        fs::rename(&beside, to)?;
        Ok(fs::write(mark, sum)?)
    }

    /// Digest of everything that a build is made of.
    fn sum(&self, files: &Files) -> Result<String> {
        let mut sum = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            sum.update(&(bytes.len() as u64).to_le_bytes());
            sum.update(bytes);
        };
        add(output(Command::new("rustc").arg("-vV"))?.as_bytes());
        self.arguments.iter().for_each(|it| add(it.as_bytes()));
        for (path, bytes) in files {
            add(path.as_bytes());
            add(bytes);
        }
        Ok(sum.finalize().to_hex().to_string())
    }
}

/// Files of `revision`.
pub(crate) fn revision(revision: &str) -> Result<Files> {
    let place = root()?.join("target/measured/archive");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::create_dir_all(&place)?;
    let mut archive = Command::new("git")
        .args(["archive", revision])
        .current_dir(root()?)
        .stdout(Stdio::piped())
        .spawn()?;
    let pipe = archive.stdout.take().context("git has no output")?;
    let unpacked = Command::new("tar").arg("-x").current_dir(&place).stdin(pipe).status()?;
    ensure!(archive.wait()?.success(), "git cannot archive `{revision}`");
    ensure!(unpacked.success(), "tar cannot unpack `{revision}`");
    let mut files = Files::new();
    for path in below(&place, "")? {
        let bytes = fs::read(place.join(&path))?;
        files.insert(path, bytes);
    }
    fs::remove_dir_all(&place)?;
    Ok(files)
}

/// Files as they are: what git tracks or would track.
pub(crate) fn as_is() -> Result<Files> {
    let root = root()?;
    let read = |path: String| Some((path.clone(), fs::read(root.join(path)).ok()?));
    Ok(Repository::paths(&root)?.into_iter().filter_map(read).collect())
}

/// Makes `to` hold just `files`. What is right already is not touched: cargo goes by the times of
/// files, so what is written is built anew and what is kept is not.
fn lay(files: &Files, to: &Path) -> Result<()> {
    for path in below(to, "")? {
        if !files.contains_key(&path) {
            fs::remove_file(to.join(path))?;
        }
    }
    for (path, bytes) in files {
        let path = to.join(path);
        if fs::read(&path).is_ok_and(|it| it == *bytes) {
            continue;
        }
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Paths of all files below `folder`, with `before` in front of them.
fn below(folder: &Path, before: &str) -> Result<Vec<String>> {
    let mut out = Vec::new();
    if !folder.is_dir() {
        return Ok(out);
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a name that is no text")?;
        let path = format!("{before}{name}");
        match entry.file_type()?.is_dir() {
            true => out.extend(below(&entry.path(), &format!("{path}/"))?),
            false => out.push(path),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use calor_measure::program::{Likeness, Program};

    fn files(main: &str) -> Files {
        let manifest = "[package]\nname = \"small\"\nedition = \"2024\"\n[workspace]\n";
        let all = [("Cargo.toml", manifest), ("src/main.rs", main)];
        all.iter().map(|it| (it.0.to_owned(), it.1.as_bytes().to_vec())).collect()
    }

    fn place(folder: &Path) -> Place {
        let (source, target) = (folder.join("source"), folder.join("target"));
        let (package, program, is_quick) = ("small", "small", false);
        Place { source, target, package, program, arguments: &["--offline"], is_quick }
    }

    const MAIN: &str =
        "fn main() {\n    let n = std::env::args().count();\n    assert!(n != 7, \"seven\");\n}\n";

    /// What pairs rest on: the same code is the same program, and another one is noticed.
    #[test]
    fn builds_of_the_same_code_have_the_same_code_and_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let built = |main: &str, name: &str| {
            let to = folder.path().join(name);
            place.build(&files(main), &to).unwrap();
            Program::read(&to).unwrap()
        };
        let base = built(MAIN, "base");
        // Other code in between, so that the second build is really made.
        let other = built(&MAIN.replace("n != 7", "n != 7 && n != 9"), "other");
        let again = built(MAIN, "again");
        assert_eq!(base.likeness(&again), Likeness::Whole);
        assert_eq!(base.likeness(&other), Likeness::None);
        let words = built(&format!("//! Words.\n\n// More words.\n{MAIN}"), "words");
        assert_ne!(base.likeness(&words), Likeness::None, "lines moved, and code did not");
    }

    #[test]
    fn what_was_built_of_the_same_files_is_not_built_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let to = folder.path().join("program");
        place.build(&files(MAIN), &to).unwrap();
        fs::write(&to, "kept").unwrap();
        place.build(&files(MAIN), &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "kept");
        place.build(&files(&MAIN.replace('7', "8")), &to).unwrap();
        assert_ne!(fs::read(&to).unwrap(), b"kept");
    }

    #[test]
    fn only_what_differs_is_written_and_what_is_gone_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("source");
        let of = |all: &[(&str, &str)]| -> Files {
            all.iter().map(|it| (it.0.to_owned(), it.1.as_bytes().to_vec())).collect()
        };
        lay(&of(&[("a/b.rs", "1"), ("c.rs", "2"), ("d.rs", "3")]), &to).unwrap();
        let time = |name: &str| fs::metadata(to.join(name)).unwrap().modified().unwrap();
        let before = (time("a/b.rs"), time("c.rs"));
        std::thread::sleep(std::time::Duration::from_millis(20));
        lay(&of(&[("a/b.rs", "1"), ("c.rs", "4")]), &to).unwrap();
        assert_eq!(time("a/b.rs"), before.0);
        assert!(before.1 < time("c.rs"), "a file that went back is newer than what was built");
        assert_eq!(fs::read_to_string(to.join("c.rs")).unwrap(), "4");
        let mut left = below(&to, "").unwrap();
        left.sort();
        assert_eq!(left, ["a/b.rs", "c.rs"]);
    }
}
