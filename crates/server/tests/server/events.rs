//! What a server tells of requests and batches.

use std::sync::atomic::Ordering;

use calor_telemetry::{Event, Log, Outcome};

use crate::double::TOKEN_COUNT_MAX;
use crate::fixture::{Calls, Running};
use crate::grpc::{METHOD, framed, text};

/// Requests that ended, in their order: number, outcome, inputs, known ones and tokens.
fn served(log: &Log) -> Vec<(u64, Outcome, [u64; 3])> {
    let mut out = Vec::new();
    for event in log.events() {
        if let Event::RequestServed {
            request_index,
            outcome,
            item_count,
            hit_count,
            token_count,
            tokenization_ns,
            queue_ns,
            inference_ns,
            wall_ns,
            ..
        } = event
        {
            let parts_ns = tokenization_ns + queue_ns + inference_ns;
            assert!(0 < wall_ns && parts_ns <= wall_ns, "{event:?}");
            out.push((request_index, outcome, [item_count, hit_count, token_count]));
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_and_batch_is_told_of_with_what_ran_for_whom() {
    let server = Running::start(|it| it.results_cache_bytes = 1 << 20).await;
    server.post("/embed", r#"{"inputs": "heat", "model": "e1"}"#).await.good();
    let mut calls = Calls::connect(server.address).await;
    let (_, code, _) = calls.call(METHOD, framed(&text("cold"))).await;
    assert_eq!(code, 0);
    server.post("/v1/fused", r#"{"inputs": ["water", "poison"]}"#).await.good();
    let again = r#"{"inputs": ["heat", "poison"], "model": "e1"}"#;
    assert_eq!(server.post("/embed", again).await.status, 422);
    let many = serde_json::json!({ "inputs": vec!["a"; 40] }).to_string();
    assert_eq!(server.post("/embed", &many).await.status, 422);
    // Nobody can read it, so there is no request to tell of.
    assert_eq!(server.post("/embed", "{").await.status, 400);
    let page = String::from_utf8_lossy(&server.get("/metrics").await.body).into_owned();
    assert!(page.contains("calor_requests_total 4\n"), "{page}");
    assert!(page.contains("calor_refusals_total 2\n"), "{page}");
    let log = server.log.clone();
    drop(calls);
    // The end of a batch is told of after its answers.
    server.stop().await.unwrap();
    let told = served(&log);
    assert_eq!(
        told.iter().map(|it| it.1).collect::<Vec<_>>(),
        [Outcome::Answered, Outcome::Answered, Outcome::Partly, Outcome::Partly, Outcome::Refused]
    );
    assert_eq!(told.iter().map(|it| it.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let known = told.iter().map(|it| [it.2[0], it.2[1]]);
    // One result was kept.
    assert_eq!(known.collect::<Vec<_>>(), [[1, 0], [1, 0], [2, 0], [2, 1], [40, 0]]);
    let events = log.events();
    let mut ran = Vec::new();
    let mut token_counts = [0; 6];
    let (mut item_count, mut refused) = (0, Vec::new());
    for event in events {
        match event {
            Event::ItemRan { request_index, batch_index, token_count, .. } => {
                ran.push((request_index, batch_index));
                token_counts[request_index as usize] += token_count;
            }
            Event::BatchRan { batch_index, item_count: own, place_index: 0, .. } => {
                item_count += own;
                assert_eq!(own, ran.iter().filter(|it| it.1 == batch_index).count() as u64);
            }
            Event::InputRefused { item_index, .. } => refused.push(item_index),
            _ => {}
        }
    }
    assert_eq!(item_count, 5);
    let requests: Vec<u64> = ran.iter().map(|it| it.0).collect();
    assert_eq!(requests, [1, 2, 3, 3, 4], "the kept result ran for nobody");
    assert_eq!(refused, [1, 1]);
    for request in 0..3 {
        assert_eq!(told[request].2[2], token_counts[request + 1], "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_cut_is_told_of_with_its_tokens() {
    let server = Running::start(|it| it.results_cache_bytes = 1 << 20).await;
    let long = "heat ".repeat(TOKEN_COUNT_MAX);
    let inputs = serde_json::json!(["heat", long]);
    let right =
        serde_json::json!({ "inputs": inputs, "model": "e1", "truncate": true }).to_string();
    server.post("/embed", &right).await.good();
    let left = serde_json::json!({
        "inputs": ["cold", "water", long], "model": "e1", "truncate": true,
        "truncation_direction": "Left",
    });
    server.post("/embed", &left.to_string()).await.good();
    // Known by now: nothing is cut for it.
    server.post("/embed", &right).await.good();
    let page = String::from_utf8_lossy(&server.get("/metrics").await.body).into_owned();
    assert!(page.contains("calor_truncations_total 2\n"), "{page}");
    let mut cuts = Vec::new();
    for event in server.log.events() {
        if let Event::InputTruncated { model, item_index, token_count, kept_token_count } = event {
            assert_eq!(kept_token_count, TOKEN_COUNT_MAX as u64);
            cuts.push((model.text(), item_index, token_count));
        }
    }
    let most = TOKEN_COUNT_MAX as u64;
    // Two for each word, and two around all.
    let whole = 2 * most + 2;
    assert_eq!((cuts[0].0, cuts[0].1), ("semantic", 1));
    assert!(most < cuts[0].2 && cuts[0].2 <= whole, "{cuts:?}");
    assert_eq!(cuts[1..], [("semantic", 2, whole)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_late_or_left_is_told_of_as_well() {
    let server = Running::start(|_| {}).await;
    server.knobs.batch_ms.store(300, Ordering::Relaxed);
    let headers = [("content-type", "application/json"), ("x-calor-timeout-ms", "100")];
    let mut client = server.connect().await;
    let late = client.send("POST", "/embed", &headers, r#"{"inputs": "late"}"#).await;
    assert_eq!(late.status, 504);
    server.connect().await.post_and_leave("/embed", r#"{"inputs": "gone"}"#).await;
    server.knobs.batch_ms.store(0, Ordering::Relaxed);
    server.post("/embed", r#"{"inputs": "stays"}"#).await.good();
    let outcomes: Vec<(u64, Outcome)> =
        served(&server.log).into_iter().map(|it| (it.0, it.1)).collect();
    assert_eq!(outcomes, [(1, Outcome::TimedOut), (2, Outcome::Gone), (3, Outcome::Answered)]);
}
