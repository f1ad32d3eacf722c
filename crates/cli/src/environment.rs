//! What the process's surroundings say: read once, passed on as a value.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use calor_weights::{Store, StoreOptions, source::HubOptions};

use crate::exit::Failure;

/// Variables that the command understands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// `CALOR_HOME`, else the platform's folder for data.
    pub(crate) home: Option<PathBuf>,
    /// `CALOR_CACHE_DIR`, else the platform's folder for caches.
    pub(crate) cache: Option<PathBuf>,
    /// The user's cache of hub files.
    pub(crate) hub_cache: Option<PathBuf>,
    /// `HF_TOKEN`, else the token that the hub's own command left.
    pub(crate) hub_token: Option<String>,
    /// `HF_ENDPOINT`.
    pub(crate) hub_endpoint: Option<String>,
    /// `HF_HUB_OFFLINE`.
    pub(crate) offline: bool,
    /// `CUDA_HOME` and `CUDA_PATH`.
    pub(crate) cuda_toolkits: Vec<PathBuf>,
    /// `VIRTUAL_ENV` and `CONDA_PREFIX`: wheels may hold CUDA's libraries.
    pub(crate) python_environments: Vec<PathBuf>,
    /// `CALOR_DIRECT_STORAGE`, as it is written.
    pub(crate) direct_storage: Option<String>,
    /// Variables that decide results or times of what is measured, as they are set.
    pub(crate) measured: BTreeMap<String, String>,
}

/// Variables that are kept with measurements.
static MEASURED: &[&str] = &[
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUDA_VISIBLE_DEVICES",
    "LD_PRELOAD",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "RAYON_NUM_THREADS",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
];

/// Most bytes of one model in the store.
const MODEL_BYTES_MAX: u64 = 64 << 30;

impl Environment {
    /// From the process.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn read() -> Self {
        Self::from(&|name| std::env::var_os(name).filter(|it| !it.is_empty()))
    }

    fn from(get: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| get(name).map(PathBuf::from);
        let text = |name: &str| get(name).and_then(|it| it.into_string().ok());
        let user = path("HOME").or_else(|| path("USERPROFILE"));
        let below = |folder: &str| user.as_ref().map(|it| it.join(folder));
        let data = match std::env::consts::OS {
            "macos" => below("Library/Application Support"),
            "windows" => path("LOCALAPPDATA"),
            _ => path("XDG_DATA_HOME").or_else(|| below(".local/share")),
        };
        let cache = path("XDG_CACHE_HOME").or_else(|| below(".cache"));
        let own_cache = match std::env::consts::OS {
            "macos" => below("Library/Caches/calor"),
            "windows" => path("LOCALAPPDATA").map(|it| it.join("calor/cache")),
            _ => cache.as_ref().map(|it| it.join("calor")),
        };
        let hub_home = path("HF_HOME").or_else(|| cache.map(|it| it.join("huggingface")));
        let left = || {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(hub_home.as_ref()?.join("token")))?;
            let token = std::fs::read_to_string(file).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        };
        Self {
            home: path("CALOR_HOME").or_else(|| data.map(|it| it.join("calor"))),
            cache: path("CALOR_CACHE_DIR").or(own_cache),
            hub_token: text("HF_TOKEN").or_else(left),
            hub_cache: path("HF_HUB_CACHE").or_else(|| hub_home.map(|it| it.join("hub"))),
            hub_endpoint: text("HF_ENDPOINT"),
            offline: text("HF_HUB_OFFLINE").is_some_and(|it| is_yes(&it)),
            cuda_toolkits: ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(path).collect(),
            python_environments: ["VIRTUAL_ENV", "CONDA_PREFIX"]
                .into_iter()
                .filter_map(path)
                .collect(),
            direct_storage: text("CALOR_DIRECT_STORAGE"),
            measured: MEASURED
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), text(name)?)))
                .collect(),
        }
    }

    /// The root of the store.
    ///
    /// # Errors
    /// When nothing says where it may be.
    pub(crate) fn root(&self) -> Result<&Path, Failure> {
        self.home.as_deref().ok_or_else(|| {
            Failure::usage("no folder for models").hint("set CALOR_HOME to a folder of yours")
        })
    }

    /// Where compiled code is kept: where a flag says, else where the surroundings say.
    pub(crate) fn cache_dir<'a>(&'a self, flag: Option<&'a Path>) -> Option<&'a Path> {
        flag.or(self.cache.as_deref())
    }

    /// Opens the store, creating it where it is not there.
    ///
    /// # Errors
    /// When its folder cannot be written.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        let options = StoreOptions { model_bytes_max: MODEL_BYTES_MAX };
        Ok(Store::open(self.root()?, options)?)
    }

    /// How to reach the hub.
    pub(crate) fn hub(&self) -> HubOptions {
        HubOptions {
            token: self.hub_token.clone(),
            endpoint: self.hub_endpoint.clone(),
            cache_dir: self.hub_cache.clone(),
            offline: self.offline,
        }
    }
}

/// The time of day, in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the time comes in at the edge")]
pub(crate) fn now_s() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX))
}

/// As the hub's own client understands flags.
fn is_yes(text: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|it| text.eq_ignore_ascii_case(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Environment {
        Environment::from(&|name| variables.iter().find(|it| it.0 == name).map(|it| it.1.into()))
    }

    #[test]
    fn the_users_own_words_come_first() {
        let found = with(&[("HOME", "/h"), ("CALOR_HOME", "/c"), ("HF_HOME", "/f")]);
        assert_eq!(found.home, Some("/c".into()));
        assert_eq!(found.hub_cache, Some("/f/hub".into()));
        let found = with(&[("HOME", "/h"), ("HF_TOKEN", "t"), ("HF_HUB_OFFLINE", "TRUE")]);
        assert_eq!(found.hub_cache, Some("/h/.cache/huggingface/hub".into()));
        assert_eq!(found.hub_token.as_deref(), Some("t"));
        assert!(found.offline && found.home.is_some());
        assert!(!with(&[("HF_HUB_OFFLINE", "0")]).offline);
        let found = with(&[("CALOR_DIRECT_STORAGE", "off")]);
        assert_eq!(found.direct_storage.as_deref(), Some("off"));
        let found = with(&[("CUDA_PATH", "/cuda"), ("CONDA_PREFIX", "/conda")]);
        assert_eq!(found.cuda_toolkits, [PathBuf::from("/cuda")]);
        assert_eq!(found.python_environments, [PathBuf::from("/conda")]);
        assert!(with(&[]).root().is_err());
        let found = with(&[("HOME", "/h"), ("CALOR_CACHE_DIR", "/k")]);
        assert_eq!(found.cache_dir(None), Some(Path::new("/k")));
        assert_eq!(found.cache_dir(Some(Path::new("/f"))), Some(Path::new("/f")));
        assert!(with(&[("HOME", "/h")]).cache_dir(None).is_some_and(|it| it.starts_with("/h")));
        assert_eq!(with(&[]).cache_dir(None), None);
    }
}
