//! `cargo xtask mutate`: does anything notice? Each change of `xtask/mutations.toml` is applied to
//! a copy of the repository, the command is built there, and the gates have to catch it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::builds::{Files, Place, as_is};
use crate::measures::{Said, gates, measured, pairs};
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
    /// Words of the row in which it is caught.
    shows: String,
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
    fn apply(&self, files: &mut Files) -> Result<()> {
        let bytes = files.get(&self.file).with_context(|| self.file.clone())?;
        let text = std::str::from_utf8(bytes).with_context(|| self.file.clone())?;
        let places = text.matches(&self.find).count();
        ensure!(places == 1, "{} has {places} places of `{}`", self.file, self.find.trim());
        let text = text.replacen(&self.find, self.replace.trim_start_matches('\n'), 1);
        files.insert(self.file.clone(), text.into_bytes());
        Ok(())
    }
}

fn list(root: &Path) -> Result<Vec<Mutation>> {
    let text = fs::read_to_string(root.join(LIST))?;
    Ok(toml::from_str::<List>(&text)?.mutation)
}

/// Runs every change whose name holds one of `names`; all if there is none. What is unchanged has
/// to pass first.
pub(crate) fn command(names: &[&str]) -> Result<bool> {
    let root = root()?;
    let output = measured()?.join("mutate");
    let chosen: Vec<Mutation> = list(&root)?
        .into_iter()
        .filter(|it| names.is_empty() || names.iter().any(|name| it.name.contains(name)))
        .collect();
    if chosen.is_empty() {
        bail!("no change of {LIST} has such a name");
    }
    let (place, files) = (Place::open()?, as_is()?);
    // What `gates` and `pairs` measure, and one program for each change, at paths of one length.
    let [gated, base, head] =
        ["gate", "head", "copy"].map(|it| measured().map(|at| at.join(it).join("calor")));
    let (gated, base, head) = (gated?, base?, head?);
    if chosen.iter().any(|it| it.by == By::Gates) {
        place.clone().counting().build(&files, &gated)?;
        let unchanged = output.join("unchanged");
        ensure!(gates(&gated, &unchanged)? == Said::Holds, "the gates fail unchanged");
    }
    if chosen.iter().any(|it| it.by == By::Pairs) {
        place.build(&files, &base)?;
    }
    let mut rows = Vec::new();
    for mutation in &chosen {
        println!("==> {}: {}", mutation.name, mutation.about);
        let mut changed = files.clone();
        mutation.edit.iter().try_for_each(|it| it.apply(&mut changed))?;
        match mutation.by {
            By::Gates => place.clone().counting().build(&changed, &head)?,
            By::Pairs => place.build(&changed, &head)?,
        }
        let mut caught = 0;
        for index in 0..mutation.repeats {
            let folder = output.join("package");
            let said = match mutation.by {
                By::Gates => gates(&head, &folder)?,
                By::Pairs => pairs(&base, &head, PAIRS, &[OWN_CASE], &folder)?,
            };
            let table = fs::read_to_string(folder.with_extension("md"))?;
            let is_caught = said == Said::Fails && is_shown(&table, &mutation.shows);
            caught += u32::from(is_caught);
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

/// Whether a row that failed holds `words`: a change that fails something else was not caught.
fn is_shown(markdown: &str, words: &str) -> bool {
    markdown.lines().any(|it| it.starts_with("| FAILED |") && it.contains(words))
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
            assert!(!mutation.edit.is_empty() && !mutation.shows.is_empty(), "{}", mutation.name);
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
        let edit =
            |find: &str| Edit { file: "a.rs".into(), find: find.into(), replace: "\nb".into() };
        let mut files = Files::from([("a.rs".to_owned(), b"a c a".to_vec())]);
        assert!(edit("a").apply(&mut files).is_err() && edit("x").apply(&mut files).is_err());
        edit("c").apply(&mut files).unwrap();
        assert_eq!(files["a.rs"], b"a b a");
        files.clear();
        assert!(edit("c").apply(&mut files).is_err(), "a file that is gone");
    }

    #[test]
    fn what_fails_for_another_reason_is_not_caught() {
        let table = "| FAILED | every process | ends well | no such file | exact |\n\
                     | ok | c, calor: compiles | exactly 0 | 0 | exact |\n";
        assert!(is_shown(table, "no such file"));
        assert!(!is_shown(table, "compiles") && !is_shown("", "compiles"));
    }
}
