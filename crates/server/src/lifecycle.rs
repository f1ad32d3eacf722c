//! How models come, go and come back: the start, a swap, a failure of the device, the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use calor_embed::{EmbeddingError, EmbeddingResult};

use crate::engine::{Live, Opened};
use crate::metrics::add;
use crate::readiness::Phase;
use crate::service::Service;

/// First wait between attempts to open models after a failure; it doubles up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(30);

impl Service {
    /// Opens the models for the first time.
    ///
    /// # Errors
    /// What the opener says; the phase is [`Phase::Failed`] then.
    pub(crate) async fn bring_up(&self) -> EmbeddingResult<()> {
        let result = self.open().await;
        if result.is_err() {
            self.readiness.set(Phase::Failed);
        }
        result
    }

    /// Opens models beside the ones that serve and puts them in their place.
    ///
    /// # Errors
    /// What the opener says; the old ones serve on then.
    pub(crate) async fn swap(&self) -> EmbeddingResult<()> {
        self.open().await?;
        add(&self.metrics.swaps, 1);
        Ok(())
    }

    /// After a failure that models do not survive: opens them anew until that succeeds.
    pub(crate) async fn recover(self: Arc<Self>) {
        add(&self.metrics.recoveries, 1);
        let mut wait = RETRY_FIRST;
        while self.open().await.is_err() {
            if self.readiness.phase() == Phase::Draining {
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(RETRY_LAST);
        }
    }

    /// The models are gone: nothing is answered until others are there.
    pub(crate) fn broke(&self) {
        self.readiness.set(Phase::Recovering);
        self.set_live(None);
        self.results.clear();
        self.batcher.refuse_all(|| EmbeddingError::NotInitialized {
            what: "a server whose models failed and are opened anew",
        });
    }

    /// One opening at a time: models open, warm and serve.
    async fn open(&self) -> EmbeddingResult<()> {
        let _one = self.opening.lock().await;
        let generation = 1 + self.live_generation();
        let Opened { engine, report } = self.open_apart().await?;
        let live = Live::of(engine.as_ref(), report, generation);
        let swapped = self.batcher.swap(engine);
        if swapped.await.is_err() {
            return Err(EmbeddingError::NotInitialized { what: "a server that shuts down" });
        }
        self.set_live(Some(Arc::new(live)));
        self.results.clear();
        self.readiness.set(Phase::Ready);
        Ok(())
    }

    /// Runs the opener on a thread of its own: it takes long, and may panic.
    async fn open_apart(&self) -> EmbeddingResult<Opened> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let opener = self.opener.clone();
        let body = move || {
            let panicked =
                |_| EmbeddingError::InternalError { place: "opening of models", source: None };
            let opened = catch_unwind(AssertUnwindSafe(|| opener())).map_err(panicked);
            // Whoever waits may have gone; the models go with the value then.
            let _ = sender.send(opened.and_then(|it| it));
        };
        let builder = std::thread::Builder::new().name("calor-opening".into());
        builder.spawn(body).map_err(|source| EmbeddingError::InternalError {
            place: "start of the opening thread",
            source: Some(Box::new(source)),
        })?;
        let lost = |_| EmbeddingError::InternalError { place: "opening of models", source: None };
        receiver.await.map_err(lost)?
    }
}
