//! Models in several places: shared work, a lost device, and swaps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calor_server::Phase;
use calor_server::options::Secret;
use serde_json::json;

use crate::double::{Knobs, Trouble, fused, fused_of, opener_of};
use crate::fixture::{Running, close, numbers};

/// A server over two places, one item a batch, so that each item may run in either.
async fn two(batch_ms: u64) -> (Running, [Arc<Knobs>; 2]) {
    let places = [(); 2].map(|()| {
        let knobs = Arc::new(Knobs::default());
        knobs.batch_ms.store(batch_ms, Ordering::Relaxed);
        knobs
    });
    let change = |it: &mut calor_server::ServerOptions| {
        it.batch.max_batch_size = 1;
        it.admin_key = Some(Secret::new("k"));
    };
    let server = Running::with(places[0].clone(), opener_of(&places), change).await;
    assert!(server.handle.wait_for(Phase::Ready).await);
    (server, places)
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|it| format!("text {it}")).collect()
}

/// Embeds texts in one request; each has to be answered, once and rightly.
async fn all_good(server: &Running, texts: &[String]) {
    let rows = server.post("/embed", &json!({ "inputs": texts }).to_string()).await.good();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), texts.len());
    for (row, text) in rows.iter().zip(texts) {
        close(&numbers(row), &fused(text));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_share_the_work() {
    let (server, places) = two(10).await;
    let texts = texts(24);
    all_good(&server, &texts).await;
    let counts = places.each_ref().map(|it| it.texts.lock().unwrap().len());
    assert_eq!(counts.iter().sum::<usize>(), 24, "nothing is computed twice");
    assert!(counts.iter().all(|it| 6 <= *it), "{counts:?}");
    let page = server.get("/metrics").await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    for line in ["place_ready{place=\"double:0\"} 1", "place_ready{place=\"double:1\"} 1"] {
        assert!(page.contains(line), "{line}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_drains_to_the_others_and_comes_back() {
    for trouble in [Trouble::Lost, Trouble::Panic] {
        let (server, places) = two(5).await;
        places[1].open_ms.store(300, Ordering::Relaxed);
        places[1].bad_opening_count.store(1, Ordering::Relaxed);
        places[1].troubles.lock().unwrap().push_back(trouble);
        let texts = texts(32);
        all_good(&server, &texts).await;
        assert_eq!(server.handle.phase(), Phase::Ready, "the other serves on");
        assert!(places[1].texts.lock().unwrap().is_empty(), "{trouble:?} at once");
        let page = server.get("/metrics").await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        assert!(page.contains("place_ready{place=\"double:1\"} 0"), "{page}");
        assert!(page.contains("calor_server_moved_items_total 1\n"), "{page}");
        while places[1].opened_count.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The second opening of this place has numbers of its own.
        let mut known = 0;
        for _ in 0..200 {
            let row = server.post("/embed", r#"{"inputs": "heat"}"#).await.good();
            known += usize::from(numbers(&row[0])[0] == fused_of("heat", 1)[0]);
        }
        assert!(0 < known, "the place serves again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_loses_two_devices_is_answered_with_the_error() {
    let (server, places) = two(0).await;
    // A place that was opened anew may be there before the other one takes the item.
    for place in &places {
        place.troubles.lock().unwrap().extend([Trouble::Lost, Trouble::Lost]);
    }
    let failed = server.post("/embed", r#"{"inputs": "a"}"#).await;
    assert_eq!(failed.status, 424);
    for place in &places {
        place.troubles.lock().unwrap().clear();
    }
    // How often each place was opened since depends on which was lost first.
    let mut tries = 0;
    loop {
        let answer = server.post("/embed", r#"{"inputs": "heat"}"#).await;
        if answer.status == 200 {
            let first = numbers(&answer.json()[0])[0];
            let again = (1..4).any(|revision| fused_of("heat", revision)[0] == first);
            return assert!(again, "the places were opened anew");
        }
        assert_eq!(answer.status, 503);
        tries += 1;
        assert!(tries < 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_takes_every_place_and_drops_nothing() {
    let (server, places) = two(3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for number in 0..6 {
        let (mut client, stop) = (server.connect().await, stop.clone());
        tasks.push(tokio::spawn(async move {
            let text = format!("client {number}");
            let mut new = 0;
            while !stop.load(Ordering::Relaxed) {
                let answer = client.post("/embed", &json!({ "inputs": text }).to_string()).await;
                let row = numbers(&answer.good()[0]);
                if row[0] == fused(&text)[0] {
                    assert_eq!(new, 0, "the old models do not come back in any place");
                } else {
                    close(&row, &fused_of(&text, 1));
                    new += 1;
                }
            }
            new
        }));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let headers = [("authorization", "Bearer k")];
    server.connect().await.send("POST", "/admin/swap", &headers, "").await.good();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        assert!(0 < task.await.unwrap());
    }
    for place in &places {
        assert_eq!(place.opened_count.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_does_not_open_ends_the_server() {
    let places = [(); 2].map(|()| Arc::new(Knobs::default()));
    places[1].bad_opening_count.store(1, Ordering::Relaxed);
    let server = Running::with(places[0].clone(), opener_of(&places), |_| {}).await;
    assert!(server.end().await.is_err());
}
