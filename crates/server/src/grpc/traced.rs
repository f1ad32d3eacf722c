//! Spans of gRPC calls: from the first byte of a call to its trailers, or to its caller's going.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Bytes, Frame, SizeHint};
use tonic::Code;

use crate::service::{Service, Summary};
use crate::traces::{Costs, Outcome, Traced, Traces};

/// Services whose calls are probes and pages, not requests.
const OWN: &str = "grpc.";

/// A call that is under way, for whoever answers its messages.
#[derive(Debug)]
pub(super) struct Call {
    traced: Traced,
    costs: Mutex<Option<Costs>>,
}

impl Call {
    /// A message was answered just now.
    pub(super) fn answered(&self, traces: &Traces, summary: &Summary) {
        traces.steps(&self.traced, summary);
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        costs.get_or_insert_default().add(summary);
    }
}

/// Gives each call its span, where spans are sent.
pub(super) async fn traced(
    State(service): State<Arc<Service>>,
    mut request: Request,
    next: Next,
) -> Response {
    let name = request.uri().path().trim_start_matches('/').to_owned();
    let Some(traces) = service.traces.as_ref().filter(|_| !name.starts_with(OWN)) else {
        return next.run(request).await;
    };
    let traced = traces.begin(request.headers());
    let call = Arc::new(Call { traced, costs: Mutex::default() });
    request.extensions_mut().insert(call.clone());
    let span = OpenSpan { service: service.clone(), call, name, code: Code::Cancelled };
    let response = next.run(request).await;
    match code(response.headers()) {
        Some(code) => {
            span.end(code);
            response
        }
        None => response.map(|body| Body::new(Watched { body, span: Some(span) })),
    }
}

/// A call's span until its end is known; one that is dropped was given up by its caller.
struct OpenSpan {
    service: Arc<Service>,
    call: Arc<Call>,
    name: String,
    code: Code,
}

impl OpenSpan {
    fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        let costs = *self.call.costs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(traces) = &self.service.traces {
            let name = std::mem::take(&mut self.name);
            traces.end(self.call.traced, name, Outcome::Grpc(self.code), costs);
        }
    }
}

/// A body whose trailers say how the call ended.
struct Watched {
    body: Body,
    span: Option<OpenSpan>,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(code) = frame.trailers_ref().and_then(code)
            && let Some(span) = self.span.take()
        {
            span.end(code);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What headers or trailers say about the end of a call.
fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|it| Code::from_bytes(it.as_bytes()))
}
