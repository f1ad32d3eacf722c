//! A server from its start to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use calor_embed::EmbeddingError;
use calor_embed::handle::Clock;
use calor_telemetry::{Counters, Recorder};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::admission::Admission;
use crate::batcher::{Batcher, Broken, Surroundings};
use crate::engine::Opener;
use crate::metrics::Metrics;
use crate::options::ServerOptions;
use crate::readiness::Phase;
use crate::service::{Observed, Service};
use crate::traces::Traces;
use crate::{grpc, http, listen};

/// Why a server does not start, or ends by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be had.
    #[error("cannot listen on {hostname}:{port}")]
    Bind {
        /// As asked for.
        hostname: String,
        /// As asked for.
        port: u16,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of certificates or keys.
    #[error("{} holds no certificate or key", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate and a key that do not go together.
    #[error("the certificate cannot be used")]
    Tls {
        /// What is wrong.
        source: rustls::Error,
    },
    /// Settings or models.
    #[error("the models cannot be served")]
    Models {
        /// Why.
        source: EmbeddingError,
    },
    /// The system gives no threads.
    #[error("the server cannot start")]
    System {
        /// What the system says.
        source: std::io::Error,
    },
    /// Results cannot be left to the next process; everything was answered.
    #[error("the results cannot be kept")]
    Results {
        /// Why.
        source: EmbeddingError,
    },
    /// The description of the gRPC services cannot be read. A bug of ours.
    #[error("the gRPC services cannot be described")]
    Reflection {
        /// Why.
        source: tonic_reflection::server::Error,
    },
}

/// A server that is bound to its address, and serves once it is run.
pub struct Server {
    service: Arc<Service>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
}

/// Stops a server, and sees where it is.
#[derive(Clone)]
pub struct Handle {
    service: Arc<Service>,
    stop: watch::Sender<bool>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that came in was answered.
    Drained,
    /// The time for that was over first.
    CutOff,
}

impl Server {
    /// Binds the address. Nothing is answered but probes until [`Server::run`] has warm models.
    ///
    /// `clock` gives seconds since 1970; `counters` are those of the builds, shown in metrics;
    /// `recorder` hears of requests and batches.
    ///
    /// # Errors
    /// For an address, certificate or setting that cannot be used.
    pub async fn bind(
        options: ServerOptions,
        opener: Opener,
        clock: Clock,
        counters: Arc<Counters>,
        recorder: Arc<dyn Recorder>,
    ) -> Result<Self, ServerError> {
        let tls = options.tls.as_ref().map(listen::acceptor).transpose()?;
        let (hostname, port) = (options.hostname.clone(), options.port);
        let bound = listen::bind(&hostname, port).await;
        let bound = bound.and_then(|it| Ok((it.local_addr()?, it)));
        let (address, listener) =
            bound.map_err(|source| ServerError::Bind { hostname, port, source })?;
        let metrics = Arc::new(Metrics::new());
        let admission = Arc::new(Admission::new(&options.limits));
        // The thread of batches outlives no server, and a server is made with its thread.
        let back: Arc<OnceLock<Weak<Service>>> = Arc::default();
        let (own, runtime) = (back.clone(), tokio::runtime::Handle::current());
        let on_broken = move |broken: Broken| {
            if let Some(service) = own.get().and_then(Weak::upgrade) {
                if !broken.others_serve {
                    service.broke();
                }
                runtime.spawn(service.recover(broken));
            }
        };
        let surroundings = Surroundings {
            metrics: metrics.clone(),
            recorder: recorder.clone(),
            admission: admission.clone(),
            clock,
            idle: options.times.idle,
            device_clock: options.device_clock.clone(),
            on_broken: Box::new(on_broken),
        };
        let batcher = Batcher::start(options.batch.clone(), opener.places.len(), surroundings)
            .map_err(|source| ServerError::Models { source })?;
        let traces = options.otlp.clone().map(|it| Traces::start(it, metrics.clone()));
        let observed = Observed { metrics, counters, recorder };
        let service = Service::new(options, observed, admission, batcher, opener, traces);
        let service = Arc::new(service);
        // Set once, right here.
        let _ = back.set(Arc::downgrade(&service));
        Ok(Self { service, listener, tls, address, stop: watch::Sender::new(false) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it from elsewhere.
    pub fn handle(&self) -> Handle {
        Handle { service: self.service.clone(), stop: self.stop.clone() }
    }

    /// Opens the models while probes are answered already, then answers requests until the handle
    /// stops it; finishes what came in, and ends.
    ///
    /// # Errors
    /// [`ServerError::Models`] when the models cannot be opened at the start.
    pub async fn run(self) -> Result<Ended, ServerError> {
        let Self { service, listener, tls, stop, .. } = self;
        let router = http::router(service.clone());
        let router = router.merge(grpc::router(service.clone()).await?).fallback(http::nowhere);
        let serving =
            tokio::spawn(listen::serve(listener, tls, router, service.clone(), stop.subscribe()));
        let mut stopped = stop.subscribe();
        let opened = tokio::select! {
            opened = service.bring_up() => opened,
            _ = stopped.wait_for(|it| *it) => Ok(()),
        };
        if opened.is_err() {
            // Probes have said so meanwhile; nothing will be answered.
            stop.send_replace(true);
        }
        let drained = serving.await.unwrap_or(false);
        let batcher = service.batcher.clone();
        // It blocks until the last batch is done.
        let _ = tokio::task::spawn_blocking(move || batcher.stop()).await;
        if let (Some(file), Ok(live)) = (&service.options.results_file, service.live()) {
            let left = service.results.leave(file, &live);
            left.map_err(|source| ServerError::Results { source })?;
        }
        if let Some(traces) = &service.traces {
            traces.finish().await;
        }
        opened.map_err(|source| ServerError::Models { source })?;
        Ok(if drained { Ended::Drained } else { Ended::CutOff })
    }
}

impl Handle {
    /// Says unready from now on, and ends the server once everything that came in is answered.
    pub fn stop(&self) {
        self.service.readiness.set(Phase::Draining);
        self.stop.send_replace(true);
    }

    /// Where the server is.
    pub fn phase(&self) -> Phase {
        self.service.readiness.phase()
    }

    /// Waits until the server is in a phase; whether it ever was.
    pub async fn wait_for(&self, phase: Phase) -> bool {
        self.service.readiness.watch().wait_for(|it| *it == phase).await.is_ok()
    }
}
