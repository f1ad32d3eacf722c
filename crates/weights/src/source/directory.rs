//! A model in a local directory, for instance a snapshot of the Hugging Face cache.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{Progress, Source, Staging, pick};
use crate::WeightsError;

/// A directory with config.json and safetensors files. Links in it are followed.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The directory.
    pub path: PathBuf,
}

impl Source for Directory {
    fn describe(&self) -> String {
        format!("directory {}", self.path.display())
    }

    fn fetch(
        &self,
        staging: &mut Staging,
        progress: &mut dyn Progress,
    ) -> Result<(), WeightsError> {
        let mut names = list(&self.path, "")?;
        names.sort();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for name in pick(&self.describe(), &names)? {
            let path = self.path.join(name);
            let io = |source| WeightsError::io("read", &path, source);
            let mut file = File::open(&path).map_err(io)?;
            let total_bytes = file.metadata().map_err(io)?.len();
            staging.write(name, Some(total_bytes), &mut file, progress)?;
        }
        Ok(())
    }
}

/// Names of the files in `dir` and in the folders directly below it.
fn list(dir: &Path, prefix: &str) -> Result<Vec<String>, WeightsError> {
    let io = |source| WeightsError::io("list", dir, source);
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        // A name that is not UTF-8 is no part of a model.
        let Some(name) = path.file_name().and_then(|it| it.to_str()) else { continue };
        if path.is_file() {
            out.push(format!("{prefix}{name}"));
        } else if path.is_dir() && prefix.is_empty() {
            out.extend(list(&path, &format!("{name}/"))?);
        }
    }
    Ok(out)
}
