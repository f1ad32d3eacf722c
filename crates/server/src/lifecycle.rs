//! How models come, go and come back: the start, a swap, a failure of the device, the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use calor_embed::pipeline::LostModel;
use calor_embed::{EmbeddingError, EmbeddingResult, ModelId};

use crate::batcher::Broken;
use crate::engine::{Live, Opened, check_alike};
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

    /// After a failure that the models of a place do not survive: opens them anew until that
    /// succeeds. Where none serve any more, all are opened.
    pub(crate) async fn recover(self: Arc<Self>, broken: Broken) {
        add(&self.metrics.recoveries, 1);
        let mut wait = RETRY_FIRST;
        loop {
            let opened = match broken.others_serve {
                true => self.reopen(broken.place).await,
                false => self.open().await,
            };
            if opened.is_ok() || self.readiness.phase() == Phase::Draining {
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

    /// One opening at a time: models of every place open, warm and serve.
    async fn open(&self) -> EmbeddingResult<()> {
        let _one = self.opening.lock().await;
        let generation = 1 + self.live_generation();
        let places = 0..self.opener.places.len();
        self.progress.begin();
        let opening = places.clone().map(|place| self.open_apart(place));
        let opened = futures_util::future::join_all(opening).await;
        let opened = opened.into_iter().collect::<EmbeddingResult<Vec<Opened>>>()?;
        if let Some((first, others)) = opened.split_first() {
            self.check_kept(&first.lost)?;
            for (it, place) in others.iter().zip(&self.opener.places[1..]) {
                check_alike(&first.lost, place, &it.lost)?;
            }
        }
        let live = Live::of(&opened, generation);
        let engines = places.zip(opened.into_iter().map(|it| it.engine)).collect();
        for swapped in self.batcher.swap(engines) {
            swapped.await.map_err(|_| closing())?;
        }
        if let Some(live) = &live {
            let warm = self.progress.seen().warm;
            let others: Vec<ModelId> =
                live.about.models.iter().copied().filter(|it| !warm.contains_key(it)).collect();
            // Models without programs have nothing to check.
            self.progress.warm(&others, 0);
        }
        self.results.clear();
        if let (1, Some(file), Some(live)) = (generation, &self.options.results_file, &live) {
            self.results.restore(file, live);
        }
        self.set_live(live.map(Arc::new));
        self.readiness.set(Phase::Ready);
        Ok(())
    }

    /// Models that answer now are not given up for others without them.
    fn check_kept(&self, lost: &[LostModel]) -> EmbeddingResult<()> {
        let Ok(live) = self.live() else { return Ok(()) };
        match lost.iter().find(|it| live.about.models.contains(&it.model_id)) {
            None => Ok(()),
            Some(LostModel { model_id, why }) => Err(EmbeddingError::ModelLoadError {
                model_id: Some(*model_id),
                part: "models in the place of those that serve".into(),
                source: why.clone().into(),
            }),
        }
    }

    /// Models of one place beside those of others that serve on.
    async fn reopen(&self, place: usize) -> EmbeddingResult<()> {
        let _one = self.opening.lock().await;
        if self.batcher.serves(place) {
            // A swap was quicker.
            return Ok(());
        }
        let Opened { engine, lost, .. } = self.open_apart(place).await?;
        if let Ok(live) = self.live() {
            check_alike(&live.lost, &self.opener.places[place], &lost)?;
        }
        for swapped in self.batcher.swap(vec![(place, engine)]) {
            swapped.await.map_err(|_| closing())?;
        }
        Ok(())
    }

    /// Runs the opener on a thread of its own: it takes long, and may panic.
    async fn open_apart(&self, place: usize) -> EmbeddingResult<Opened> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let open = self.opener.open.clone();
        // Models of the first place speak for all.
        let progress = if place == 0 { self.progress.clone() } else { Arc::default() };
        let body = move || {
            let panicked =
                |_| EmbeddingError::InternalError { place: "opening of models", source: None };
            let opened =
                catch_unwind(AssertUnwindSafe(|| open(place, &progress))).map_err(panicked);
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

fn closing() -> EmbeddingError {
    EmbeddingError::NotInitialized { what: "a server that shuts down" }
}
