//! Overload and open-loop load: refused with a time to come back, never wrong, never lost, and over
//! as soon as the load is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use calor_server::load::{LoadOptions, LoadPoint, run};
use calor_telemetry::Stopwatch;
use serde_json::json;

use crate::double::fused;
use crate::fixture::{Running, close, numbers};

fn bodies(count: usize) -> Vec<String> {
    (0..count).map(|it| json!({ "inputs": format!("text {it}") }).to_string()).collect()
}

/// Load of several rates on a running server.
async fn load(server: &Running, rates: &[f64], seconds: f64) -> Vec<LoadPoint> {
    let options = LoadOptions {
        address: server.address,
        path: "/embed".into(),
        bodies: bodies(4096),
        item_count: 1,
        api_key: None,
        rates: rates.to_vec(),
        duration: Duration::from_secs_f64(seconds),
    };
    tokio::task::spawn_blocking(move || run(&options, |_| {})).await.unwrap().unwrap()
}

/// A server that runs 5 ms for up to 4 items: 800 items a second at most.
async fn slow(change: impl FnOnce(&mut calor_server::ServerOptions)) -> Running {
    let server = Running::start(|it| {
        it.batch.max_batch_size = 4;
        change(it);
    });
    let server = server.await;
    server.knobs.batch_ms.store(5, Ordering::Relaxed);
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curve_rises_until_the_server_is_full() {
    let server = slow(|it| it.limits.request_count_max = 64).await;
    let points = load(&server, &[50.0, 2000.0], 1.0).await;
    let (low, high) = (points[0], points[1]);
    assert_eq!((low.good_count, low.failed_count), (low.sent_count, 0), "{low:?}");
    assert!(5.0 <= low.p50_ms && low.p50_ms < 60.0, "{low:?}");
    assert!(0 < high.refused_count && high.failed_count == 0, "{high:?}");
    assert_eq!(high.good_count + high.refused_count, high.sent_count);
    assert!(low.items_per_s < high.items_per_s && high.items_per_s < 900.0, "{high:?}");
}

/// Ten times as much as can be served: what is answered is right, the rest is refused with 429 at
/// once, nothing is lost or computed twice, memory stays flat, and the server is itself again.
/// `calor load --rates 8000 --seconds 60` does the same to a real server for a minute.
async fn overloaded(seconds: f64) {
    let server = slow(|it| {
        it.limits.request_count_max = 32;
        it.batch.max_queued = 64;
    })
    .await;
    load(&server, &[200.0], 0.5).await;
    let before_bytes = resident_bytes();
    let point = load(&server, &[8000.0], seconds).await[0];
    assert_eq!(point.failed_count, 0, "{point:?}");
    assert_eq!(point.good_count + point.refused_count, point.sent_count);
    assert!(0 < point.good_count && point.good_count < point.refused_count, "{point:?}");
    let grown = resident_bytes().saturating_sub(before_bytes);
    assert!(grown < 128 << 20, "{grown} bytes more");
    let computed = server.knobs.texts.lock().unwrap().len();
    let warm = load(&server, &[50.0], 1.0).await[0];
    assert_eq!(warm.good_count, warm.sent_count, "back to normal: {warm:?}");
    assert!(warm.p50_ms < 60.0, "{warm:?}");
    assert!(computed <= 150 + point.good_count, "{computed} computed");
    let row = server.post("/embed", r#"{"inputs": "heat"}"#).await.good();
    close(&numbers(&row[0]), &fused("heat"));
}

/// Of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages: Option<u64> = pages.and_then(|it| it.split_whitespace().nth(1)?.parse().ok());
    pages.unwrap_or(0) * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_overload_is_refused_and_over_when_it_is_over() {
    overloaded(2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_killed_cost_nobody_else_anything() {
    let server = slow(|_| {}).await;
    server.knobs.batch_ms.store(150, Ordering::Relaxed);
    let body = |it: usize| json!({ "inputs": format!("text {it}") }).to_string();
    let mut stays = Vec::new();
    for number in 0..12 {
        let (mut client, body) = (server.connect().await, body(number));
        if number % 3 == 0 {
            stays.push(tokio::spawn(async move { (number, client.post("/embed", &body).await) }));
        } else {
            client.post_and_leave("/embed", &body).await;
        }
    }
    for stay in stays {
        let (number, answer) = stay.await.unwrap();
        close(&numbers(&answer.good()[0]), &fused(&format!("text {number}")));
    }
    let texts = server.knobs.texts.lock().unwrap().clone();
    let mut once = texts.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), texts.len(), "nothing is computed twice");
    // Whoever went before its turn takes no place.
    assert!(texts.len() < 12, "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slowest_of_a_hundred_during_a_rewarm_waits_for_one_run_at_most() {
    let server = slow(|it| {
        it.admin_key = Some(calor_server::options::Secret::new("k"));
    })
    .await;
    let quiet = load(&server, &[60.0], 1.5).await[0];
    let mut admin = server.connect().await;
    let rewarms = tokio::spawn(async move {
        let watch = Stopwatch::start();
        let mut count = 0;
        while watch.elapsed_ns() < 1_400_000_000 {
            let headers = [("authorization", "Bearer k")];
            admin.send("POST", "/admin/warmup", &headers, "").await.good();
            count += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        count
    });
    let during = load(&server, &[60.0], 1.5).await[0];
    assert!(5 < rewarms.await.unwrap());
    assert_eq!((during.good_count, during.failed_count), (during.sent_count, 0));
    // A re-warm is one run of 5 ms between two batches; the rest is the machine's noise.
    assert!(during.p99_ms <= quiet.p99_ms + 5.0 + 40.0, "{quiet:?} {during:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_drops_has_the_models_run_beside_serving() {
    let mhz = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(1980));
    let own = mhz.clone();
    let read = move |_| Some(own.load(Ordering::Relaxed));
    let server = Running::start(|it| {
        it.device_clock = Some(calor_server::options::DeviceClock(std::sync::Arc::new(read)));
    })
    .await;
    let rewarms = || {
        let texts = server.knobs.texts.lock().unwrap();
        texts.iter().filter(|it| *it == "still warm").count()
    };
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(rewarms(), 0, "nothing has dropped");
    mhz.store(345, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(rewarms(), 1, "once, and not again and again");
    let row = server.post("/embed", r#"{"inputs": "heat"}"#).await.good();
    close(&numbers(&row[0]), &fused("heat"));
}
