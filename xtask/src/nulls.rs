//! `cargo xtask nulls`: one build in pairs with itself, again and again: a real run that says how
//! often the rule of pairs cries wolf.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::measures::{head, measured, pairs};

/// The case: kernel time and little else, and short.
const CASE: &str = "machine.flops";

/// What a comparison may come to; of one build with itself, `slower` and `faster` are alarms.
const VERDICTS: [&str; 6] = ["slower", "faster", "same", "unproven", "contaminated", "invalid"];

/// Runs comparisons until `count` of this build are kept, prints each, and says whether at most
/// one in twenty was an alarm. One that was stopped goes on with the next.
pub(crate) fn command(count: u32, pairs_of: u32) -> Result<bool> {
    let program = head()?;
    let place = measured()?;
    // The build's sources name the run: another build starts another one.
    let sources = fs::read_to_string(program.with_extension("sources"))?;
    let kept = place.join(format!("nulls-{}-{pairs_of}.txt", &sources[..12]));
    let mut found = verdicts(&kept)?;
    if !found.is_empty() {
        println!("nulls: {} are there already, in {}", found.len(), kept.display());
    }
    while found.len() < count as usize {
        let output = place.join("null");
        pairs(&program, &program, pairs_of, &[CASE], &output)?;
        let verdict = verdict_of(&fs::read_to_string(output.with_extension("md"))?)?;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&kept)?;
        writeln!(file, "{verdict}")?;
        found.push(verdict.to_owned());
        println!("null {} of {count}: {}", found.len(), counted(&found));
    }
    found.truncate(count as usize);
    println!("nulls: {} in {count} comparisons of {pairs_of} pairs", counted(&found));
    ensure!(found.iter().all(|it| it != "invalid"), "a process failed or its result was wrong");
    Ok(holds(&found))
}

/// Whether at most one in twenty is an alarm.
fn holds(found: &[String]) -> bool {
    let alarms = found.iter().filter(|it| ["slower", "faster"].contains(&it.as_str())).count();
    alarms * 20 <= found.len()
}

/// How often each verdict is there.
fn counted(found: &[String]) -> String {
    let of = |word: &&str| match found.iter().filter(|it| it == word).count() {
        0 => None,
        count => Some(format!("{count} {word}")),
    };
    VERDICTS.iter().filter_map(of).collect::<Vec<_>>().join(", ")
}

/// The verdicts of an earlier run; a line that was cut off is none.
fn verdicts(path: &Path) -> Result<Vec<String>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path)?;
    let whole = text.split_inclusive('\n').filter_map(|it| it.strip_suffix('\n'));
    Ok(whole.filter(|it| VERDICTS.contains(it)).map(str::to_owned).collect())
}

/// The verdict of a table with one comparison.
fn verdict_of(markdown: &str) -> Result<&'static str> {
    let mut found = VERDICTS.iter().filter(|it| markdown.contains(&format!("| {it}: ")));
    let verdict = found.next().with_context(|| format!("no verdict in {markdown}"))?;
    ensure!(found.next().is_none(), "more than one verdict in {markdown}");
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(all: &[(&str, usize)]) -> Vec<String> {
        all.iter().flat_map(|it| std::iter::repeat_n(it.0.to_owned(), it.1)).collect()
    }

    #[test]
    fn five_alarms_of_a_hundred_hold_and_six_do_not() {
        assert!(holds(&words(&[("same", 90), ("slower", 3), ("faster", 2), ("unproven", 5)])));
        assert!(!holds(&words(&[("same", 94), ("slower", 3), ("faster", 3)])));
        let said = counted(&words(&[("unproven", 2), ("slower", 1)]));
        assert_eq!(said, "1 slower, 2 unproven");
    }

    #[test]
    fn verdicts_are_read_from_tables_and_from_what_was_kept() {
        let table = |word: &str| format!("| ok | a at 1 | not slower | {word}: +0.1 % | x |\n");
        assert_eq!(verdict_of(&table("unproven")).unwrap(), "unproven");
        assert!(verdict_of("nothing").is_err());
        assert!(verdict_of(&[table("same"), table("slower")].concat()).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        assert!(verdicts(&path).unwrap().is_empty());
        fs::write(&path, "same\nunproven\nfas").unwrap();
        assert_eq!(verdicts(&path).unwrap(), ["same", "unproven"]);
    }
}
