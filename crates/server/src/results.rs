//! Results of inputs that come again: looked up, or computed once for all who want them now.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use calor_embed::input::ModelInput;
use calor_embed::results::Asked;
use calor_embed::{EmbeddingResult, ModelId, PipelineOutput, ResultKey, ResultsCache};
use calor_telemetry::{Cache, CacheCount, Counter, Counters};
use tokio::sync::watch;

use crate::engine::{Live, Wanted};

/// What is known of an input's result; nothing is kept where there is no room at all.
#[derive(Clone)]
pub(crate) struct Results(Option<Arc<Kept>>);

struct Kept {
    cache: ResultsCache,
    counters: Arc<Counters>,
    flights: Mutex<HashMap<ResultKey, watch::Receiver<Option<Arc<PipelineOutput>>>>>,
}

/// What looking found.
pub(crate) enum Looked {
    /// It is known.
    Found(Arc<PipelineOutput>),
    /// Somebody computes it now.
    Joined(Waiting),
    /// It is to be computed; the promise, where there is one, is for those who come meanwhile.
    Absent(Option<Promise>),
}

/// Waits for what somebody else computes.
pub(crate) struct Waiting(watch::Receiver<Option<Arc<PipelineOutput>>>);

/// Tells others the result. Dropped without one, the others compute it themselves.
pub(crate) struct Promise {
    key: ResultKey,
    kept: Arc<Kept>,
    sender: watch::Sender<Option<Arc<PipelineOutput>>>,
}

impl Results {
    /// At most so many bytes; nothing is kept if it is 0.
    pub(crate) fn new(bytes_max: u64, counters: Arc<Counters>) -> Self {
        let kept = || {
            let cache = ResultsCache::new(bytes_max, counters.clone());
            Arc::new(Kept { cache, counters, flights: Mutex::default() })
        };
        Self((bytes_max != 0).then(kept))
    }

    /// Whether the result of an input is known or on its way: nothing is to be computed then.
    pub(crate) fn knows(&self, live: &Live, wanted: &Wanted, input: &ModelInput) -> bool {
        let Some(kept) = &self.0 else { return false };
        let Some(key) = key(live, wanted, input) else { return false };
        let flights = kept.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.contains_key(&key) || kept.cache.has(&key)
    }

    /// Looks for the result of an input.
    pub(crate) fn look(&self, live: &Live, wanted: &Wanted, input: &ModelInput) -> Looked {
        let Some(kept) = &self.0 else { return Looked::Absent(None) };
        let Some(key) = key(live, wanted, input) else { return Looked::Absent(None) };
        // Looked for under the lock of the flights: what is being computed is either still under
        // way or already kept.
        let mut flights = kept.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(output) = kept.cache.get(&key) {
            return Looked::Found(output);
        }
        if let Some(flight) = flights.get(&key) {
            return Looked::Joined(Waiting(flight.clone()));
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(key, receiver);
        Looked::Absent(Some(Promise { key, kept: kept.clone(), sender }))
    }

    /// Takes over what an earlier process kept, where it is of the same models. A damaged file is
    /// moved aside and counted.
    pub(crate) fn restore(&self, path: &Path, live: &Live) {
        let (Some(kept), Some(revision)) = (&self.0, &live.about.revision) else { return };
        if kept.cache.load(path, revision).is_err() {
            let corrupt = Counter::Cache(Cache::EmbeddingResults, CacheCount::Corrupt);
            kept.counters.add(corrupt, 1);
            let mut aside = path.as_os_str().to_owned();
            aside.push(".damaged");
            // One that cannot be moved is refused again the next time.
            let _ = std::fs::rename(path, aside);
        }
    }

    /// Leaves what is kept to the next process.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn leave(&self, path: &Path, live: &Live) -> EmbeddingResult<()> {
        let (Some(kept), Some(revision)) = (&self.0, &live.about.revision) else { return Ok(()) };
        kept.cache.save(path, revision).map(|_| ())
    }

    /// Forgets everything: other models serve.
    pub(crate) fn clear(&self) {
        if let Some(kept) = &self.0 {
            kept.cache.clear();
        }
    }

    /// Results and bytes held.
    pub(crate) fn held(&self) -> (usize, u64) {
        self.0.as_ref().map_or((0, 0), |it| (it.cache.len(), it.cache.bytes()))
    }
}

/// What a result is kept under; none for inputs whose results are not kept.
fn key(live: &Live, wanted: &Wanted, input: &ModelInput) -> Option<ResultKey> {
    let all;
    let (models, is_fused, own_forms) = match wanted {
        Wanted::Fused { own_forms } => {
            all = live.about.models.iter().copied().collect::<BTreeSet<ModelId>>();
            (&all, true, *own_forms)
        }
        Wanted::Models(models) => (models, false, true),
    };
    let own = live.generation.to_le_bytes();
    let revision = live.about.revision.as_ref().map_or(own.as_slice(), <[u8; 32]>::as_slice);
    let reference_s = live.about.reference_s;
    ResultKey::new(input, &Asked { models, is_fused, own_forms, revision, reference_s })
}

impl Waiting {
    /// The result; none where whoever computed it failed or went away.
    pub(crate) async fn wait(mut self) -> Option<Arc<PipelineOutput>> {
        let found = self.0.wait_for(Option::is_some).await.ok()?;
        found.clone()
    }
}

impl Promise {
    /// Keeps the result, and tells it to whoever waits.
    pub(crate) fn keep(self, output: &Arc<PipelineOutput>) {
        self.kept.cache.insert(self.key, output.clone());
        self.sender.send_replace(Some(output.clone()));
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut flights = self.kept.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(&self.key);
    }
}
