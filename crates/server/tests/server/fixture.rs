//! A running server, and a client for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use calor_embed::batching::BatchConfig;
use calor_server::options::{Limits, Times};
use calor_server::{Ended, Handle, Opener, Phase, Server, ServerError, ServerOptions, Target};
use calor_telemetry::{Counters, Log};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::double::{Knobs, opener};

/// 2024-05-01T12:00:00Z.
pub(crate) const NOW_S: i64 = 1_714_564_800;

/// Options that make nothing wait.
pub(crate) fn options() -> ServerOptions {
    ServerOptions {
        hostname: "127.0.0.1".into(),
        port: 0,
        served_model_names: vec!["house-model".into()],
        default_target: Target::Fused,
        api_key: None,
        admin_key: None,
        tls: None,
        cors_origins: Vec::new(),
        batch: BatchConfig {
            max_wait: Duration::ZERO,
            min_batch_size: 1,
            ..BatchConfig::default()
        },
        limits: Limits {
            payload_bytes_max: 2_000_000,
            client_batch_max: 32,
            request_count_max: 512,
            token_count_max: 1 << 20,
            connection_count_max: 256,
        },
        times: Times {
            request: Duration::from_secs(20),
            header: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            idle: None,
        },
        auto_truncate: true,
        otlp: None,
        device_clock: None,
        results_cache_bytes: 0,
        results_file: None,
    }
}

/// A server at work.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) knobs: Arc<Knobs>,
    /// What it told of itself.
    pub(crate) log: Arc<Log>,
    task: JoinHandle<Result<Ended, ServerError>>,
}

impl Running {
    /// Starts a server over the double and waits until it is ready.
    pub(crate) async fn start(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let running = Self::warming(change).await;
        assert!(running.handle.wait_for(Phase::Ready).await);
        running
    }

    /// Starts a server over the double.
    pub(crate) async fn warming(change: impl FnOnce(&mut ServerOptions)) -> Self {
        Self::warming_with(Arc::new(Knobs::default()), change).await
    }

    /// Starts a server over a double that was told something.
    pub(crate) async fn warming_with(
        knobs: Arc<Knobs>,
        change: impl FnOnce(&mut ServerOptions),
    ) -> Self {
        let open = opener(&knobs);
        Self::with(knobs, open, change).await
    }

    /// Starts a server over any models.
    pub(crate) async fn with(
        knobs: Arc<Knobs>,
        opener: Opener,
        change: impl FnOnce(&mut ServerOptions),
    ) -> Self {
        let mut options = options();
        change(&mut options);
        let counters = Arc::new(Counters::new());
        let log = Arc::new(Log::new());
        let server = Server::bind(options, opener, Arc::new(|| NOW_S), counters, log.clone());
        let server = server.await.unwrap();
        let (address, handle) = (server.address(), server.handle());
        Self { address, handle, knobs, log, task: tokio::spawn(server.run()) }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.connect().await.send("GET", path, &[], "").await
    }

    /// One request on a connection of its own.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.connect().await.post(path, body).await
    }

    /// Stops the server and waits for its end.
    pub(crate) async fn stop(self) -> Result<Ended, ServerError> {
        self.handle.stop();
        self.end().await
    }

    /// Waits for its end.
    pub(crate) async fn end(self) -> Result<Ended, ServerError> {
        self.task.await.unwrap()
    }
}

/// One connection.
pub(crate) struct Client(http1::SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>);

impl Drop for Client {
    fn drop(&mut self) {
        self.1.abort();
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Json {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|err| panic!("{err}: {} {:?}", self.status, self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |it| it.to_str().unwrap())
    }

    /// The body of an answer with status 200.
    #[track_caller]
    pub(crate) fn good(&self) -> Json {
        assert_eq!(self.status, 200, "{:?}", self.body);
        self.json()
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        Self(sender, tokio::spawn(connection))
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_owned()).await
    }

    /// Sends a request and closes the connection a moment later, without its answer.
    pub(crate) async fn post_and_leave(mut self, path: &str, body: &str) {
        let headers = [("content-type", "application/json")];
        let sent = self.try_send("POST", path, &headers, body.to_owned());
        // The connection goes with the future.
        let waited = tokio::time::timeout(Duration::from_millis(50), sent).await;
        assert!(waited.is_err(), "it was answered already");
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    pub(crate) async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.0.ready().await?;
        let response = self.0.send_request(request.body(Full::new(body.into())).unwrap()).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// One HTTP/2 connection, as gRPC uses it.
pub(crate) struct Calls(http2::SendRequest<Full<Bytes>>);

impl Calls {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Calls a method with framed bytes: HTTP's status and gRPC's.
    pub(crate) async fn call(&mut self, path: &str, body: Vec<u8>) -> (StatusCode, i32, Bytes) {
        self.call_with(path, &[], body).await
    }

    /// As [`Calls::call`], with metadata.
    pub(crate) async fn call_with(
        &mut self,
        path: &str,
        metadata: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (StatusCode, i32, Bytes) {
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("http://test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        self.0.ready().await.unwrap();
        let response = self.0.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let collected = body.collect().await.unwrap();
        let code = |it: &HeaderMap| it.get("grpc-status")?.to_str().ok()?.parse().ok();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let grpc = code(&trailers).or_else(|| code(&head.headers)).unwrap_or(-1);
        (head.status, grpc, collected.to_bytes())
    }
}

/// Numbers of a JSON list.
pub(crate) fn numbers(json: &Json) -> Vec<f32> {
    json.as_array().unwrap().iter().map(|it| it.as_f64().unwrap() as f32).collect()
}

#[track_caller]
pub(crate) fn close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-6, "{worst}");
}
