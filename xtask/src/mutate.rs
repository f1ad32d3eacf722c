//! `cargo xtask mutate`: does anything notice? Each change of `xtask/mutations.toml` is applied to
//! a copy of the repository, the command is built there, and the gates have to catch it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::measures::{Said, build, checkout, gates, git, pairs};
use crate::repository::root;

/// The list.
const LIST: &str = "xtask/mutations.toml";
/// The case that a slowdown of every kernel shows in.
const OWN_CASE: &str = "machine.flops";
/// Pairs of a batch.
const PAIRS: u32 = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutation: Vec<Mutation>,
}

/// One change that must be caught.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    name: String,
    about: String,
    by: By,
    edit: Vec<Edit>,
    /// How often it is tried.
    #[serde(default = "once")]
    repeats: u32,
    /// How often it has to be caught; always if not given.
    #[serde(default)]
    caught_min: Option<u32>,
}

fn once() -> u32 {
    1
}

/// What has to catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    Gates,
    Pairs,
}

/// One place of a change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: String,
    find: String,
    replace: String,
}

impl Edit {
    fn apply(&self, root: &Path) -> Result<()> {
        let path = root.join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| self.file.clone())?;
        let places = text.matches(&self.find).count();
        ensure!(places == 1, "{} has {places} places of `{}`", self.file, self.find.trim());
        Ok(fs::write(&path, text.replacen(&self.find, self.replace.trim_start_matches('\n'), 1))?)
    }
}

fn list(root: &Path) -> Result<Vec<Mutation>> {
    let text = fs::read_to_string(root.join(LIST))?;
    Ok(toml::from_str::<List>(&text)?.mutation)
}

/// Runs every change whose name holds one of `names`; all if there is none. The unchanged copy
/// has to hold first.
pub(crate) fn command(names: &[&str]) -> Result<bool> {
    let root = root()?;
    let place = root.join("target/mutate");
    let (source, target) = (place.join("source"), place.join("target"));
    let base = place.join("base/calor");
    let revision = git(&["rev-parse", "HEAD"])?;
    let chosen: Vec<Mutation> = list(&root)?
        .into_iter()
        .filter(|it| names.is_empty() || names.iter().any(|name| it.name.contains(name)))
        .collect();
    if chosen.is_empty() {
        bail!("no change of {LIST} has such a name");
    }
    checkout(&revision, &source)?;
    build(&source, &target, &base, false)?;
    ensure!(gates(&base, &place.join("unchanged"))? == Said::Holds, "the gates fail unchanged");
    let mut rows = Vec::new();
    for mutation in &chosen {
        println!("==> {}: {}", mutation.name, mutation.about);
        checkout(&revision, &source)?;
        mutation.edit.iter().try_for_each(|it| it.apply(&source))?;
        let head = place.join("head/calor");
        build(&source, &target, &head, false)?;
        let mut caught = 0;
        for index in 0..mutation.repeats {
            let output = place.join("package");
            let said = match mutation.by {
                By::Gates => gates(&head, &output)?,
                By::Pairs => pairs(&base, &head, PAIRS, &[OWN_CASE], &output)?,
            };
            caught += u32::from(said == Said::Fails);
            println!("    {} of {}: {said:?}", index + 1, mutation.repeats);
        }
        let wanted = mutation.caught_min.unwrap_or(mutation.repeats);
        rows.push((mutation, caught, wanted));
    }
    for (mutation, caught, wanted) in &rows {
        let word = if wanted <= caught { "caught" } else { "MISSED" };
        let (name, repeats) = (&mutation.name, mutation.repeats);
        println!("  {word:<7} {name:<24} {caught} of {repeats}, {wanted} wanted");
    }
    Ok(rows.iter().all(|(_, caught, wanted)| wanted <= caught))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change whose place is gone would be caught by nothing and prove nothing.
    #[test]
    fn every_change_has_its_place() {
        let root = root().unwrap();
        let all = list(&root).unwrap();
        for kind in ["fusion", "cache key", "seal", "wrong", "smaller", "crash", "20 %", "5 %"] {
            assert!(all.iter().any(|it| it.name.contains(kind)), "{kind}");
        }
        for mutation in &all {
            assert!(!mutation.edit.is_empty(), "{}", mutation.name);
            for edit in &mutation.edit {
                let text = fs::read_to_string(root.join(&edit.file)).unwrap();
                let places = text.matches(&edit.find).count();
                assert_eq!(places, 1, "{}: `{}` in {}", mutation.name, edit.find, edit.file);
                assert_ne!(edit.find, edit.replace);
            }
        }
    }

    #[test]
    fn an_edit_needs_exactly_one_place() {
        let folder = std::env::temp_dir().join(format!("calor-mutate-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let edit =
            |find: &str| Edit { file: "a.rs".into(), find: find.into(), replace: "\nb".into() };
        fs::write(folder.join("a.rs"), "a c a").unwrap();
        assert!(edit("a").apply(&folder).is_err() && edit("x").apply(&folder).is_err());
        edit("c").apply(&folder).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a.rs")).unwrap(), "a b a");
        fs::remove_dir_all(&folder).unwrap();
    }
}
