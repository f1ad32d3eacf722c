//! What sentence-transformers says about a checkpoint: pooling, normalisation, token limit.
//!
//! These files are optional. They describe what happens after the encoder and say nothing
//! about the encoder itself.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    FieldProblem, WeightsError,
    checkpoint::{read_text, stays_inside},
};

/// How a text's rows become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first row.
    Cls,
    /// The mean of all rows that are not padding.
    Mean,
    /// The maximum of each element.
    Max,
    /// The sum of the rows over the root of their number.
    MeanSqrtLen,
    /// The last row that is not padding.
    LastToken,
}

/// The recipe of a sentence-transformers directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceConfig {
    /// Pooling; absent when the recipe has no pooling module.
    pub pooling: Option<Pooling>,
    /// Whether vectors are divided by their length at the end.
    pub normalize: bool,
    /// Most tokens of a text, specials included.
    pub max_tokens: Option<usize>,
    /// Class names of modules other than the encoder, pooling and normalisation. A caller
    /// that ignores these computes something else than the model's authors did.
    pub other_modules: Vec<String>,
}

impl SentenceConfig {
    /// Reads modules.json, sentence_bert_config.json and the pooling module's config.json
    /// below `dir`. `None` when none of the first two is there.
    ///
    /// # Errors
    /// [`WeightsError::Json`]; [`WeightsError::Field`] for several pooling modes at once, and
    /// for a module path that leaves the directory.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, WeightsError> {
        let modules_path = dir.join("modules.json");
        let limit_path = dir.join("sentence_bert_config.json");
        if !modules_path.is_file() && !limit_path.is_file() {
            return Ok(None);
        }
        let mut out =
            Self { pooling: None, normalize: false, max_tokens: None, other_modules: Vec::new() };
        if limit_path.is_file() {
            let limit: Limit = parse(&limit_path)?;
            out.max_tokens = limit.max_seq_length.filter(|it| *it != 0);
        }
        if modules_path.is_file() {
            for module in parse::<Vec<Module>>(&modules_path)? {
                out.add(dir, &modules_path, &module)?;
            }
        }
        Ok(Some(out))
    }

    fn add(&mut self, dir: &Path, modules: &Path, module: &Module) -> Result<(), WeightsError> {
        match module.class.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Normalize" => self.normalize = true,
            "Pooling" => {
                if !stays_inside(&module.path) {
                    let problem = FieldProblem::Unsupported { found: module.path.clone() };
                    let (path, field) = (modules.into(), "path".into());
                    return Err(WeightsError::Field { path, field, problem });
                }
                self.pooling = Some(read_pooling(&dir.join(&module.path).join("config.json"))?);
            }
            other => self.other_modules.push(other.into()),
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Limit {
    max_seq_length: Option<usize>,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

// tidy: table
const MODES: &[(&str, &str, Pooling)] = &[
    ("pooling_mode_cls_token", "cls", Pooling::Cls),
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    ("pooling_mode_max_tokens", "max", Pooling::Max),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("pooling_mode_lasttoken", "lasttoken", Pooling::LastToken),
];

/// The one mode that is set: by flags, or by name as newer files do.
fn read_pooling(path: &Path) -> Result<Pooling, WeightsError> {
    let map: serde_json::Map<String, Value> = parse(path)?;
    let named = |it: &Value| map.get("pooling_mode") == Some(it);
    let set: Vec<_> = MODES
        .iter()
        .filter(|(flag, name, _)| {
            map.get(*flag) == Some(&Value::Bool(true)) || named(&Value::from(*name))
        })
        .collect();
    let weighted = map.get("pooling_mode_weightedmean_tokens") == Some(&Value::Bool(true));
    match set[..] {
        [(.., pooling)] if !weighted => Ok(*pooling),
        _ => Err(WeightsError::Field {
            path: path.into(),
            field: "pooling_mode".into(),
            problem: FieldProblem::Unsupported {
                found: set.iter().map(|it| it.1).collect::<Vec<_>>().join("+"),
            },
        }),
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, WeightsError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|source| WeightsError::Json { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(modules: &str, pooling: &str, limit: &str, want: &str) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        std::fs::write(dir.path().join("modules.json"), modules).unwrap();
        std::fs::write(dir.path().join("1_Pooling/config.json"), pooling).unwrap();
        std::fs::write(dir.path().join("sentence_bert_config.json"), limit).unwrap();
        let found = match SentenceConfig::from_dir(dir.path()) {
            Ok(it) => format!("{it:?}"),
            Err(err) => err.to_string(),
        };
        assert!(found.contains(want), "wanted `{want}`, got `{found}`");
    }

    const ALL: &str = r#"[{"path":"","type":"sentence_transformers.models.Transformer"},
        {"path":"1_Pooling","type":"sentence_transformers.models.Pooling"},
        {"path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]"#;
    const MEAN: &str = r#"{"pooling_mode_cls_token":false,"pooling_mode_mean_tokens":true}"#;

    #[test]
    fn the_usual_three_modules() {
        let limit = r#"{"max_seq_length":256}"#;
        check(ALL, MEAN, limit, "pooling: Some(Mean), normalize: true, max_tokens: Some(256)");
        check(ALL, r#"{"pooling_mode":"lasttoken"}"#, "{}", "pooling: Some(LastToken)");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let two = r#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":true}"#;
        check(ALL, two, "{}", "`pooling_mode` is `cls+mean`");
        check(ALL, "{}", "{}", "`pooling_mode` is ``");
        let dense = r#"[{"path":"2_Dense","type":"sentence_transformers.models.Dense"}]"#;
        check(dense, MEAN, "{}", r#"other_modules: ["Dense"]"#);
        let out = r#"[{"path":"../x","type":"sentence_transformers.models.Pooling"}]"#;
        check(out, MEAN, "{}", "`../x`, which is not supported");
    }

    #[test]
    fn a_plain_directory_has_no_recipe() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(SentenceConfig::from_dir(dir.path()).unwrap(), None);
    }
}
