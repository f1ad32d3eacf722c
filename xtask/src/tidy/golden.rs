//! Rule: every reference model can be opened and has something to be compared with.

use std::collections::BTreeSet;

use super::Finding;
use crate::repository::Repository;

/// What a reference model consists of.
static PARTS: &[&str] =
    &["config.json", "tokenizer.json", "model.safetensors", "expected.safetensors", "case.json"];

/// Folders of `golden/` that lack a part.
pub(crate) fn check(repository: &Repository) -> Vec<Finding> {
    let inside = |path: &str| {
        let (model, _) = path.strip_prefix("golden/")?.split_once('/')?;
        Some(model.to_owned())
    };
    let models: BTreeSet<String> =
        repository.files.iter().filter_map(|it| inside(&it.path)).collect();
    if models.is_empty() {
        return vec![Finding::whole("golden", "no reference model: nothing proves the outputs")];
    }
    let mut findings = Vec::new();
    for model in models {
        for part in PARTS {
            let path = format!("golden/{model}/{part}");
            if repository.file(&path).is_none() {
                findings.push(Finding::whole(&path, "is absent: export the reference model whole"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_whole() {
        let paths: Vec<String> = PARTS.iter().map(|it| format!("golden/bert/{it}")).collect();
        let mut files: Vec<(&str, &str)> = paths.iter().map(|it| (it.as_str(), "")).collect();
        assert_eq!(check(&Repository::of(&files)), []);
        files.remove(1);
        let findings = check(&Repository::of(&files));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "golden/bert/tokenizer.json");
    }

    #[test]
    fn no_model_at_all_is_a_finding() {
        assert_eq!(check(&Repository::of(&[])).len(), 1);
    }
}
