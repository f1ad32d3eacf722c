//! Devices that fail: who is told, and how the server comes back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use calor_server::Phase;
use serde_json::json;

use crate::double::{Trouble, fused, fused_of};
use crate::fixture::{Running, close, numbers};

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_memory_is_split() {
    let server = Running::start(|_| {}).await;
    let trouble = Trouble::NoMemory { item_count_max: 4 };
    server.knobs.troubles.lock().unwrap().push_back(trouble);
    let texts: Vec<String> = (0..8).map(|it| format!("text {it}")).collect();
    let body = json!({ "inputs": texts }).to_string();
    let rows = server.post("/embed", &body).await.good();
    for (row, text) in rows.as_array().unwrap().iter().zip(&texts) {
        close(&numbers(row), &fused(text));
    }
    assert_eq!(*server.knobs.batches.lock().unwrap(), [4, 4]);
    assert_eq!(server.handle.phase(), Phase::Ready, "want of memory is no loss of the device");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_fails_its_batch_and_is_opened_anew() {
    for trouble in [Trouble::Lost, Trouble::Panic] {
        let server = Running::start(|_| {}).await;
        server.knobs.open_ms.store(200, Ordering::Relaxed);
        server.knobs.bad_opening_count.store(1, Ordering::Relaxed);
        server.knobs.troubles.lock().unwrap().push_back(trouble);
        let failed = server.post("/embed", r#"{"inputs": ["a", "b"]}"#).await;
        let want = if trouble == Trouble::Lost { 424 } else { 500 };
        assert_eq!(failed.status, want, "{:?}", failed.body);
        assert!(server.handle.wait_for(Phase::Recovering).await);
        let refused = server.post("/embed", r#"{"inputs": "a"}"#).await;
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(server.get("/readyz").await.status, 503);
        assert_eq!(server.get("/livez").await.status, 200);
        assert_eq!(server.get("/startupz").await.status, 200);
        // The first attempt fails, the second succeeds.
        assert!(server.handle.wait_for(Phase::Ready).await);
        let again = server.post("/embed", r#"{"inputs": "a"}"#).await.good();
        close(&numbers(&again[0]), &fused_of("a", 1));
        assert_eq!(server.knobs.dropped_count.load(Ordering::Relaxed), 1);
        server.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_behind_a_lost_device_is_told() {
    let server = Running::start(|it| it.batch.max_batch_size = 1).await;
    server.knobs.batch_ms.store(150, Ordering::Relaxed);
    server.knobs.open_ms.store(300, Ordering::Relaxed);
    server.knobs.troubles.lock().unwrap().push_back(Trouble::Lost);
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    let failed = tokio::spawn(async move { first.post("/embed", r#"{"inputs": "a"}"#).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let waited = tokio::spawn(async move { second.post("/embed", r#"{"inputs": "b"}"#).await });
    assert_eq!(failed.await.unwrap().status, 424);
    assert_eq!(waited.await.unwrap().status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_item_does_not_fail_its_neighbours_requests() {
    let server = Running::start(|_| {}).await;
    server.knobs.batch_ms.store(50, Ordering::Relaxed);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(server.connect().await);
    }
    let sent = clients.into_iter().enumerate().map(|(number, mut client)| {
        let text = if number == 3 { "poison".to_owned() } else { format!("text {number}") };
        async move {
            let answer = client.post("/embed", &json!({ "inputs": text }).to_string()).await;
            (text, answer)
        }
    });
    for (text, answer) in futures_util::future::join_all(sent).await {
        match text.as_str() {
            "poison" => assert_eq!(answer.status, 422),
            text => close(&numbers(&answer.good()[0]), &fused(text)),
        }
    }
}
