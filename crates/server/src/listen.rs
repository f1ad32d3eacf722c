//! Connections: accepted within a limit, plain or through TLS, and finished at the end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::options::TlsFiles;
use crate::server::ServerError;
use crate::service::Service;

/// Wait after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Streams that one HTTP/2 connection may have open.
const STREAM_COUNT_MAX: u32 = 256;
/// Bytes of a request's head.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Serves until `stop` says so, then takes no more connections, finishes what runs on the open
/// ones, and ends after the time for draining at the latest. Whether everything was finished.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    service: Arc<Service>,
    mut stop: watch::Receiver<bool>,
) -> bool {
    let connections = Arc::new(Semaphore::new(service.options.limits.connection_count_max));
    let graceful = GracefulShutdown::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        // A permit first: what cannot be served waits in the system's queue.
        let next = async {
            let permit = connections.clone().acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let (permit, accepted) = tokio::select! {
            next = next => match next { Some(it) => it, None => break },
            // A sender that is gone wants the end, too.
            _ = stop.wait_for(|it| *it) => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Answers are small and are waited for.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            router: router.clone(),
            service: service.clone(),
            watcher: Some(graceful.watcher()),
            _permit: permit,
        };
        tasks.spawn(connection.run(stream, tls.clone()));
    }
    drop(listener);
    let all = async {
        graceful.shutdown().await;
        while tasks.join_next().await.is_some() {}
    };
    tokio::time::timeout(service.options.times.drain, all).await.is_ok()
}

struct Connection {
    router: Router,
    service: Arc<Service>,
    /// Taken when the connection is served.
    watcher: Option<Watcher>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(mut self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let count = &self.service.connection_count;
        count.fetch_add(1, Ordering::Relaxed);
        let timeout = self.service.options.times.header;
        match tls {
            // A client that connects and says nothing is not waited for.
            None => {
                if tokio::time::timeout(timeout, stream.peek(&mut [0])).await.is_ok() {
                    self.serve(stream).await;
                }
            }
            Some(tls) => {
                if let Ok(Ok(stream)) = tokio::time::timeout(timeout, tls.accept(stream)).await {
                    self.serve(stream).await;
                }
            }
        }
    }

    async fn serve(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.service.options.times.header)
            .max_buf_size(HEADER_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .max_concurrent_streams(STREAM_COUNT_MAX);
        let handler = TowerToHyperService::new(self.router.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), handler).into_owned();
        // How a connection ends is its client's business.
        let _ = match self.watcher.take() {
            Some(watcher) => watcher.watch(connection).await,
            None => connection.await,
        };
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.service.connection_count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Certificate and key as rustls wants them, for HTTP/2 and HTTP/1.1.
///
/// # Errors
/// When a file cannot be read, holds nothing of its kind, or the two do not belong together.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |source: rustls::pki_types::pem::Error| ServerError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificates)
        .map_err(fault(&files.certificates))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(fault(&files.certificates))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(fault(&files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|it| it.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|source| ServerError::Tls { source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A listener on the address of the options.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn bind(hostname: &str, port: u16) -> Result<TcpListener, io::Error> {
    TcpListener::bind((hostname, port)).await
}
