//! The Hugging Face hub, through its client library.
//!
//! Files are downloaded to the staging's scratch folder and moved, so that nothing lies on the
//! disk twice. A cache that the user already has is looked at first.

use std::{fs::File, ops::ControlFlow, path::PathBuf};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};

use super::{Progress, ProgressStep, Source, Staging, pick};
use crate::WeightsError;

/// How to reach the hub. The caller reads these from wherever users put them.
#[derive(Clone)]
pub struct HubOptions {
    /// Access token for private models.
    pub token: Option<String>,
    /// Another server than the public one.
    pub endpoint: Option<String>,
    /// The user's own cache of hub files, which is only read.
    pub cache_dir: Option<PathBuf>,
    /// Refuse at once instead of using the network.
    pub offline: bool,
}

/// The token stays out of messages and logs.
impl std::fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { token, endpoint, cache_dir, offline } = self;
        f.debug_struct("HubOptions")
            .field("token", &token.as_ref().map(|_| "…"))
            .field("endpoint", endpoint)
            .field("cache_dir", cache_dir)
            .field("offline", offline)
            .finish()
    }
}

/// A model repository on the hub.
#[derive(Clone, Debug)]
pub struct Hub {
    /// `owner/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// How to reach the hub.
    pub options: HubOptions,
}

impl Source for Hub {
    fn describe(&self) -> String {
        format!("hub {}@{}", self.repository, self.revision)
    }

    fn fetch(
        &self,
        staging: &mut Staging,
        progress: &mut dyn Progress,
    ) -> Result<(), WeightsError> {
        let HubOptions { token, endpoint, cache_dir, offline } = &self.options;
        if *offline {
            return Err(WeightsError::Offline { origin: self.describe() });
        }
        let repo =
            || Repo::with_revision(self.repository.clone(), RepoType::Model, self.revision.clone());
        let mut builder = ApiBuilder::from_cache(Cache::new(staging.scratch_dir().join("hub")))
            .with_token(token.clone())
            .with_progress(false)
            .with_retries(3);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let api = builder.build().map_err(|it| self.err("client", it))?.repo(repo());
        let info = api.info().map_err(|it| self.err("info", it))?;
        let names: Vec<&str> = info.siblings.iter().map(|it| it.rfilename.as_str()).collect();
        let cache = cache_dir.as_ref().map(|dir| {
            let repo =
                Repo::with_revision(self.repository.clone(), RepoType::Model, info.sha.clone());
            Cache::new(dir.clone()).repo(repo)
        });
        for name in pick(&self.describe(), &names)? {
            match cache.as_ref().and_then(|it| it.get(name)) {
                Some(path) => {
                    let io = |source| WeightsError::io("read", &path, source);
                    let mut file = File::open(&path).map_err(io)?;
                    let total_bytes = file.metadata().map_err(io)?.len();
                    staging.write(name, Some(total_bytes), &mut file, progress)?;
                }
                None => self.download(&api, name, staging, progress)?,
            }
        }
        Ok(())
    }
}

impl Hub {
    fn download(
        &self,
        api: &ApiRepo,
        name: &str,
        staging: &mut Staging,
        progress: &mut dyn Progress,
    ) -> Result<(), WeightsError> {
        let relay = Relay { name, done_bytes: 0, total_bytes: None, progress };
        let link = api.download_with_progress(name, relay).map_err(|it| self.err(name, it))?;
        let blob = link.canonicalize().map_err(|it| WeightsError::io("read", &link, it))?;
        staging.adopt(name, &blob)?;
        let done_bytes = staging.files().last().map_or(0, |it| it.file_bytes);
        let step = ProgressStep { file: name, done_bytes, total_bytes: Some(done_bytes) };
        staging.report(&step, progress) // The client cannot stop within a file.
    }

    fn err(&self, file: &str, source: ApiError) -> WeightsError {
        match source {
            ApiError::IoError(source) => WeightsError::io("write", file, source),
            source => WeightsError::Hub {
                origin: self.describe(),
                file: file.into(),
                source: Box::new(source),
            },
        }
    }
}

/// Hands the client's reports on.
struct Relay<'a> {
    name: &'a str,
    done_bytes: u64,
    total_bytes: Option<u64>,
    progress: &'a mut dyn Progress,
}

impl Relay<'_> {
    fn tell(&mut self) {
        let Self { name, done_bytes, total_bytes, progress } = self;
        let step = ProgressStep { file: name, done_bytes: *done_bytes, total_bytes: *total_bytes };
        let _: ControlFlow<()> = progress.step(&step);
    }
}

impl hf_hub::api::Progress for Relay<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        self.total_bytes = Some(size as u64);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.done_bytes += size as u64;
        self.tell();
    }

    fn finish(&mut self) {
        self.tell();
    }
}

#[test]
fn offline_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let mut staging = Staging::create(&root.path().join("s"), "o".into(), 100).unwrap();
    let options = HubOptions {
        token: Some("hf_secret".into()),
        endpoint: None,
        cache_dir: None,
        offline: true,
    };
    let hub = Hub { repository: "a/b".into(), revision: "main".into(), options };
    let err = hub.fetch(&mut staging, &mut ()).unwrap_err();
    assert_eq!(err.to_string(), "hub a/b@main needs the network, and offline was asked for");
    assert!(!format!("{hub:?}").contains("secret"));
}
