//! Spans of requests, as a collector sees them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use calor_server::options::OtlpEndpoint;
use serde_json::Value as Json;

use crate::fixture::{Calls, Running};
use crate::grpc::framed_texts;

type Seen = Arc<Mutex<Vec<Json>>>;

/// A collector that keeps every span.
async fn collector() -> (OtlpEndpoint, Seen) {
    let seen: Seen = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let keep = |State(seen): State<Seen>, body: String| async move {
        let body: Json = serde_json::from_str(&body).unwrap();
        let resource = &body["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "calor");
        let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
        seen.lock().unwrap().extend(spans.iter().cloned());
    };
    let router = Router::new().route("/v1/traces", post(keep)).with_state(seen.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (OtlpEndpoint { authority, path: "/v1/traces".into() }, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_with_its_steps_in_the_callers_trace() {
    let (endpoint, seen) = collector().await;
    let server = Running::start(|it| it.otlp = Some(endpoint)).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let headers = [("content-type", "application/json"), ("traceparent", parent.as_str())];
    let mut client = server.connect().await;
    client.send("POST", "/embed", &headers, r#"{"inputs": "heat"}"#).await.good();
    client.send("GET", "/livez", &[], "").await;
    let refused = client.post("/embed", r#"{"inputs": ""}"#).await;
    assert_eq!(refused.status, 400);
    drop(client);
    // The end sends what waits.
    server.stop().await.unwrap();
    let spans = seen.lock().unwrap().clone();
    let of_trace: Vec<&Json> = spans.iter().filter(|it| it["traceId"] == trace).collect();
    let names: Vec<&str> = of_trace.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["tokenize", "queue", "run", "POST /embed"]);
    let request = of_trace[3];
    assert_eq!(request["parentSpanId"], "b7ad6b7169203331");
    let unix = |it: &Json, name: &str| it[name].as_str().unwrap().parse::<u64>().unwrap();
    for step in &of_trace[..3] {
        assert_eq!(step["parentSpanId"], request["spanId"]);
        assert!(unix(request, "startTimeUnixNano") <= unix(step, "startTimeUnixNano"), "{step}");
        assert!(unix(step, "startTimeUnixNano") <= unix(step, "endTimeUnixNano"));
        assert!(unix(step, "endTimeUnixNano") <= unix(request, "endTimeUnixNano"), "{step}");
    }
    let others: Vec<&Json> = spans.iter().filter(|it| it["traceId"] != trace).collect();
    assert_eq!(others.len(), 1, "a refusal is a span, a probe is none: {others:?}");
    assert_eq!(others[0]["attributes"][0]["value"]["intValue"], "400");
    assert_eq!(others[0]["parentSpanId"], "");
}

fn name(span: &Json) -> &str {
    span["name"].as_str().unwrap()
}

fn count<'a>(span: &'a Json, key: &str) -> Option<&'a str> {
    let all = span["attributes"].as_array().unwrap();
    all.iter().find(|it| it["key"] == key)?["value"]["intValue"].as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_is_a_span_with_the_steps_of_its_messages_in_the_callers_trace() {
    let (endpoint, seen) = collector().await;
    let server = Running::start(|it| it.otlp = Some(endpoint)).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let metadata = [("traceparent", parent.as_str())];
    let mut calls = Calls::connect(server.address).await;
    let one = framed_texts(&["heat"]);
    let (_, code, _) = calls.call_with("/calor.v1.Fused/Fuse", &metadata, one).await;
    assert_eq!(code, 0);
    let several = framed_texts(&["one", "two", "three"]);
    let (_, code, _) = calls.call("/calor.v1.Fused/FuseStream", several).await;
    assert_eq!(code, 0);
    let (_, code, _) = calls.call("/calor.v1.Fused/Fuse", framed_texts(&[""])).await;
    assert_eq!(code, 3);
    let (_, code, _) = calls.call("/tei.v1.Info/Info", vec![0; 5]).await;
    assert_eq!(code, 0);
    let (_, code, _) = calls.call("/grpc.health.v1.Health/Check", vec![0; 5]).await;
    assert_eq!(code, 0);
    drop(calls);
    server.stop().await.unwrap();
    let spans = seen.lock().unwrap().clone();
    // A call stands behind its steps: it ends after them.
    let of_trace: Vec<&Json> = spans.iter().filter(|it| it["traceId"] == trace).collect();
    let names: Vec<&str> = of_trace.iter().map(|it| name(it)).collect();
    assert_eq!(names, ["tokenize", "queue", "run", "calor.v1.Fused/Fuse"]);
    let call = of_trace[3];
    assert_eq!(call["parentSpanId"], "b7ad6b7169203331");
    assert_eq!((&call["kind"], count(call, "rpc.grpc.status_code")), (&2.into(), Some("0")));
    assert_eq!(count(call, "calor.batch_items"), Some("1"));
    let unix = |it: &Json, name: &str| it[name].as_str().unwrap().parse::<u64>().unwrap();
    for step in &of_trace[..3] {
        assert_eq!(step["parentSpanId"], call["spanId"]);
        assert!(unix(call, "startTimeUnixNano") <= unix(step, "startTimeUnixNano"), "{step}");
        assert!(unix(step, "endTimeUnixNano") <= unix(call, "endTimeUnixNano"), "{step}");
    }
    let calls: Vec<&Json> = spans.iter().filter(|it| it["parentSpanId"] == "").collect();
    let names: Vec<&str> = calls.iter().map(|it| name(it)).collect();
    let want = ["calor.v1.Fused/FuseStream", "calor.v1.Fused/Fuse", "tei.v1.Info/Info"];
    assert_eq!(names, want, "and none for the probe");
    let steps = spans.iter().filter(|it| it["parentSpanId"] == calls[0]["spanId"]);
    assert_eq!(steps.count(), 3 * 3, "three steps of each message");
    assert_eq!(count(calls[1], "rpc.grpc.status_code"), Some("3"));
    assert_eq!(calls[1]["status"], serde_json::json!({}), "a bad request is no error of ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_spans_and_nothing_else() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = OtlpEndpoint { authority: gone.to_string(), path: "/v1/traces".into() };
    let server = Running::start(|it| it.otlp = Some(endpoint)).await;
    server.post("/embed", r#"{"inputs": "heat"}"#).await.good();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let page = server.get("/metrics").await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    assert!(page.contains("calor_server_lost_spans_total 4\n"), "{page}");
}
