//! Spans as OTLP over HTTP has them in JSON.

use serde_json::{Value as Json, json};

/// One span.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) parent_id: Option<u64>,
    pub(crate) name: String,
    /// A request, or a step of one.
    pub(crate) is_server: bool,
    pub(crate) start_unix_ns: u64,
    pub(crate) end_unix_ns: u64,
    pub(crate) is_error: bool,
    /// Attributes.
    pub(crate) counts: Vec<(&'static str, u64)>,
}

/// The body of a request to `/v1/traces`.
pub(crate) fn body(spans: &[Span]) -> String {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let resource =
        [text("service.name", "calor"), text("service.version", env!("CARGO_PKG_VERSION"))];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{
            "scope": { "name": "calor-server" },
            "spans": spans.iter().map(span).collect::<Vec<_>>(),
        }],
    }] })
    .to_string()
}

// 64-bit numbers are strings in this form, and ids are hexadecimal.
fn span(it: &Span) -> Json {
    let number = |value: u64| json!({ "intValue": value.to_string() });
    let count = |(key, value): &(&str, u64)| json!({ "key": key, "value": number(*value) });
    json!({
        "traceId": format!("{:032x}", it.trace_id),
        "spanId": format!("{:016x}", it.span_id),
        "parentSpanId": it.parent_id.map_or(String::new(), |it| format!("{it:016x}")),
        "name": it.name,
        "kind": if it.is_server { 2 } else { 1 },
        "startTimeUnixNano": it.start_unix_ns.to_string(),
        "endTimeUnixNano": it.end_unix_ns.to_string(),
        "attributes": it.counts.iter().map(count).collect::<Vec<_>>(),
        "status": if it.is_error { json!({ "code": 2 }) } else { json!({}) },
    })
}
