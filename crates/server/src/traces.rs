//! Spans of requests on their way to a collector: OTLP over HTTP in JSON, where one is configured.
//!
//! A request never waits for it: what the queue has no room for, or the collector does not take, is
//! counted and gone.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use crate::metrics::{Metrics, add};
use crate::options::OtlpEndpoint;
use crate::service::Summary;
use crate::wire::trace::{Span, body};

/// Spans that may wait.
const QUEUE_COUNT_MAX: usize = 4096;
/// Spans that are sent together.
const SEND_COUNT_MAX: usize = 512;
/// How long spans gather.
const GATHER: Duration = Duration::from_millis(500);
/// Longest that the collector may take, and longest that is waited for it at the end.
const SEND: Duration = Duration::from_secs(2);

/// The way to the collector.
pub(crate) struct Traces {
    sender: Mutex<Option<Sender<Span>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    metrics: Arc<Metrics>,
    /// No two processes give the same ids.
    salt: u64,
    count: AtomicU64,
}

/// A request that is under way: its trace, its own span, and the span that it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traced {
    trace_id: u128,
    span_id: u64,
    parent_id: Option<u64>,
    start_unix_ns: u64,
}

/// How a request ended, as its protocol says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Http(StatusCode),
    Grpc(tonic::Code),
}

/// What a request cost; of a stream, all its messages together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Costs {
    token_count: usize,
    batch_count: usize,
    hit_count: usize,
}

impl Traces {
    /// Starts the task that sends, on the executor of the caller.
    pub(crate) fn start(endpoint: OtlpEndpoint, metrics: Arc<Metrics>) -> Self {
        let (sender, receiver) = channel(QUEUE_COUNT_MAX);
        let task = tokio::spawn(send_all(endpoint, receiver, metrics.clone()));
        let salt = std::collections::hash_map::RandomState::new().build_hasher().finish();
        Self {
            sender: Mutex::new(Some(sender)),
            task: Mutex::new(Some(task)),
            metrics,
            salt,
            count: AtomicU64::new(0),
        }
    }

    /// A request begins, perhaps as part of a caller's trace.
    pub(crate) fn begin(&self, headers: &HeaderMap) -> Traced {
        let given = headers.get("traceparent").and_then(|it| it.to_str().ok()).and_then(parent);
        let (trace_id, parent_id) = match given {
            Some((trace_id, parent_id)) => (trace_id, Some(parent_id)),
            None => (u128::from(self.id()) << 64 | u128::from(self.id()), None),
        };
        Traced { trace_id, span_id: self.id(), parent_id, start_unix_ns: unix_ns() }
    }

    /// A request ended: its span. Its steps were told before.
    pub(crate) fn end(&self, traced: Traced, name: String, outcome: Outcome, costs: Option<Costs>) {
        let Traced { trace_id, span_id, parent_id, start_unix_ns } = traced;
        let counts = costs.map(|it| {
            [
                ("calor.tokens", it.token_count as u64),
                ("calor.batch_items", it.batch_count as u64),
                ("calor.cached_items", it.hit_count as u64),
            ]
        });
        let mut counts: Vec<(&'static str, u64)> = counts.into_iter().flatten().collect();
        counts.push(outcome.count());
        self.send(Span {
            trace_id,
            span_id,
            parent_id,
            name,
            is_server: true,
            start_unix_ns,
            end_unix_ns: unix_ns().max(start_unix_ns),
            is_error: outcome.is_error(),
            counts,
        });
    }

    /// A request, or a message of a stream, was answered just now: its steps one after the other.
    pub(crate) fn steps(&self, traced: &Traced, summary: &Summary) {
        let mut at_ns = unix_ns().saturating_sub(summary.total_ns).max(traced.start_unix_ns);
        for (name, wall_ns) in [
            ("tokenize", summary.tokenization_ns),
            ("queue", summary.queue_ns),
            ("run", summary.inference_ns),
        ] {
            self.send(Span {
                trace_id: traced.trace_id,
                span_id: self.id(),
                parent_id: Some(traced.span_id),
                name: name.into(),
                is_server: false,
                start_unix_ns: at_ns,
                end_unix_ns: at_ns + wall_ns,
                is_error: false,
                counts: Vec::new(),
            });
            at_ns += wall_ns;
        }
    }

    /// Sends what waits, and no more after that.
    pub(crate) async fn finish(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // A collector that is slow is not waited for.
            let _ = tokio::time::timeout(SEND, task).await;
        }
    }

    fn send(&self, span: Span) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.as_ref().is_none_or(|it| it.try_send(span).is_err()) {
            add(&self.metrics.lost_spans, 1);
        }
    }

    /// An id that is not 0.
    fn id(&self) -> u64 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut bits = self.salt.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)).max(1)
    }
}

impl Outcome {
    fn count(self) -> (&'static str, u64) {
        match self {
            Self::Http(status) => ("http.response.status_code", u64::from(status.as_u16())),
            Self::Grpc(code) => ("rpc.grpc.status_code", code as u64),
        }
    }

    /// Whether it is the server's fault.
    fn is_error(self) -> bool {
        use tonic::Code;
        match self {
            Self::Http(status) => status.is_server_error(),
            Self::Grpc(code) => matches!(
                code,
                Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::Unimplemented
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss
            ),
        }
    }
}

impl Costs {
    /// And of another message.
    pub(crate) fn add(&mut self, summary: &Summary) {
        self.token_count += summary.token_count;
        self.batch_count = self.batch_count.max(summary.batch_count);
        self.hit_count += summary.hit_count;
    }

    pub(crate) fn of(summary: &Summary) -> Self {
        let mut costs = Self::default();
        costs.add(summary);
        costs
    }
}

async fn send_all(endpoint: OtlpEndpoint, mut receiver: Receiver<Span>, metrics: Arc<Metrics>) {
    let mut spans = Vec::new();
    loop {
        let Some(first) = receiver.recv().await else { return };
        spans.push(first);
        let gathering = async {
            while spans.len() < SEND_COUNT_MAX {
                let Some(more) = receiver.recv().await else { return };
                spans.push(more);
            }
        };
        // What came by then goes.
        let _ = tokio::time::timeout(GATHER, gathering).await;
        let sent = tokio::time::timeout(SEND, post(&endpoint, body(&spans))).await;
        if sent.ok().flatten().is_none_or(|it| !it.is_success()) {
            add(&metrics.lost_spans, spans.len() as u64);
        }
        spans.clear();
    }
}

/// What the collector says; nothing where it is not there.
async fn post(endpoint: &OtlpEndpoint, body: String) -> Option<StatusCode> {
    let stream = TcpStream::connect(&endpoint.authority).await.ok()?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = Request::post(&endpoint.path)
        .header(header::HOST, &endpoint.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .ok()?;
    let status = sender.send_request(request).await.ok().map(|it| it.status());
    connection.abort();
    status
}

/// The trace and span of a caller, as W3C writes them.
fn parent(text: &str) -> Option<(u128, u64)> {
    let mut parts = text.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |it: &str, len| it.len() == len && it.bytes().all(|it| it.is_ascii_hexdigit());
    let is_known = is_hex(version, 2) && version != "ff" && is_hex(trace, 32) && is_hex(span, 16);
    let trace = u128::from_str_radix(trace, 16).ok().filter(|it| is_known && *it != 0)?;
    Some((trace, u64::from_str_radix(span, 16).ok().filter(|it| *it != 0)?))
}

#[expect(clippy::disallowed_methods, reason = "a span's time is the world's")]
fn unix_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX))
}

#[test]
fn a_callers_trace_is_read_as_the_standard_writes_it() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let want = (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331);
    assert_eq!(parent(good), Some(want));
    for bad in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319+-b7ad6b7169203331-01",
    ] {
        assert_eq!(parent(bad), None, "{bad}");
    }
}
