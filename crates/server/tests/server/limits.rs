//! Batches, queues, deadlines, priorities, overload and the cache of results.

use std::sync::atomic::Ordering;
use std::time::Duration;

use calor_telemetry::Stopwatch;
use futures_util::future::join_all;

use crate::double::fused;
use crate::fixture::{Answer, Client, Running, close, numbers};

const JSON: (&str, &str) = ("content-type", "application/json");

fn text(text: &str) -> String {
    format!("{{\"inputs\": \"{text}\"}}")
}

/// Keeps the models busy with one batch until `ms` are over.
async fn occupy(server: &Running, ms: u64) -> tokio::task::JoinHandle<Answer> {
    server.knobs.batch_ms.store(ms, Ordering::Relaxed);
    let before = server.knobs.batches.lock().unwrap().len();
    let mut client = server.connect().await;
    let task = tokio::spawn(async move { client.post("/embed", &text("occupy")).await });
    // The batch counts once its time is over; until then requests gather behind it.
    tokio::time::sleep(Duration::from_millis(ms / 4)).await;
    assert_eq!(server.knobs.batches.lock().unwrap().len(), before);
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_run_together() {
    let server = Running::start(|_| {}).await;
    let busy = occupy(&server, 200).await;
    let clients = join_all((0..20).map(|_| server.connect())).await;
    let sent = clients.into_iter().enumerate().map(|(number, mut client)| async move {
        let answer = client.post("/embed", &text(&format!("text {number}"))).await.good();
        close(&numbers(&answer[0]), &fused(&format!("text {number}")));
    });
    join_all(sent).await;
    busy.await.unwrap().good();
    let batches = server.knobs.batches.lock().unwrap().clone();
    assert!(batches[0] == 1 && batches[1..].iter().sum::<usize>() == 20, "{batches:?}");
    assert!(batches.len() <= 4, "twenty in few batches: {batches:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_at_once_is_429_with_a_time_to_come_back() {
    let server = Running::start(|it| it.limits.request_count_max = 3).await;
    let busy = occupy(&server, 300).await;
    let clients = join_all((0..6).map(|_| server.connect())).await;
    let sent = clients
        .into_iter()
        .map(|mut client| async move { client.post("/embed", &text("more")).await });
    let answers = join_all(sent).await;
    let refused: Vec<&Answer> = answers.iter().filter(|it| it.status == 429).collect();
    assert_eq!(refused.len(), 4, "one runs, two wait");
    for it in refused {
        let seconds: u64 = it.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&seconds));
        assert_eq!(it.json()["error_type"], "Overloaded");
    }
    busy.await.unwrap().good();
    server.post("/embed", &text("again")).await.good();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_what_room_is_counted_in() {
    let server = Running::start(|it| it.limits.token_count_max = 33).await;
    let busy = occupy(&server, 300).await;
    let long = text(&"go ".repeat(40));
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    let refused = first.post("/embed", &long).await;
    assert_eq!(refused.status, 429);
    let small = tokio::spawn(async move { second.post("/embed", &text("small")).await });
    busy.await.unwrap().good();
    small.await.unwrap().good();
    server.post("/embed", &long).await.good();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_ready_in_time_is_504_and_not_computed() {
    let server = Running::start(|_| {}).await;
    let busy = occupy(&server, 300).await;
    let headers = [JSON, ("x-calor-timeout-ms", "50")];
    let watch = Stopwatch::start();
    let late = server.connect().await.send("POST", "/embed", &headers, text("late")).await;
    assert_eq!(late.status, 504);
    assert!(watch.elapsed_ns() < 200_000_000, "it is told at once");
    busy.await.unwrap().good();
    server.post("/embed", &text("next")).await.good();
    assert!(!server.knobs.texts.lock().unwrap().iter().any(|it| it == "late"));
    let bad = [JSON, ("x-calor-timeout-ms", "soon")];
    let refused = server.connect().await.send("POST", "/embed", &bad, text("a")).await;
    assert_eq!(refused.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_go_before_bulk() {
    let server = Running::start(|it| it.batch.max_batch_size = 1).await;
    let busy = occupy(&server, 100).await;
    let send = |mut client: Client, name: String, priority: &'static str| async move {
        let headers = [JSON, ("x-calor-priority", priority)];
        client.send("POST", "/embed", &headers, text(&name)).await.good();
    };
    let mut sent = Vec::new();
    for number in 0..3 {
        let client = server.connect().await;
        sent.push(tokio::spawn(send(client, format!("bulk {number}"), "bulk")));
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    for number in 0..3 {
        let client = server.connect().await;
        sent.push(tokio::spawn(send(client, format!("query {number}"), "query")));
    }
    for it in sent {
        it.await.unwrap();
    }
    busy.await.unwrap();
    let texts = server.knobs.texts.lock().unwrap().clone();
    let first_bulk = texts.iter().position(|it| it.starts_with("bulk")).unwrap();
    assert_eq!(first_bulk, 4, "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_takes_its_work_along() {
    let server = Running::start(|_| {}).await;
    let busy = occupy(&server, 300).await;
    server.connect().await.post_and_leave("/embed", &text("gone")).await;
    busy.await.unwrap().good();
    server.post("/embed", &text("stays")).await.good();
    let texts = server.knobs.texts.lock().unwrap().clone();
    assert_eq!(texts, ["occupy", "stays"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_come_again_are_not_computed_again() {
    let server = Running::start(|it| it.results_cache_bytes = 1 << 20).await;
    let body = r#"{"inputs": "heat", "model": "e1"}"#;
    let first = server.post("/embed", body).await;
    let second = server.post("/embed", body).await;
    assert_eq!(first.body, second.body, "to the byte");
    assert_eq!(
        (first.header("x-calor-cached-items"), second.header("x-calor-cached-items")),
        ("0", "1")
    );
    assert_eq!(server.knobs.texts.lock().unwrap().len(), 1);
    // A fused vector depends on the time of day unless both times are named.
    for _ in 0..2 {
        server.post("/embed", &text("heat")).await.good();
    }
    assert_eq!(server.knobs.texts.lock().unwrap().len(), 3);
    let status = server.get("/status.json").await.good();
    assert_eq!(status["cache"]["hit_count"], 1);
    assert_eq!(status["cache"]["entry_count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_want_the_same_cause_one_run() {
    let server = Running::start(|it| it.results_cache_bytes = 1 << 20).await;
    let busy = occupy(&server, 200).await;
    let clients = join_all((0..12).map(|_| server.connect())).await;
    let sent = clients.into_iter().map(|mut client| async move {
        client.post("/embed", r#"{"inputs": ["heat", "cold", "heat"], "model": "e1"}"#).await
    });
    let answers = join_all(sent).await;
    for it in &answers {
        assert_eq!((it.status.as_u16(), &it.body), (200, &answers[0].body));
    }
    busy.await.unwrap().good();
    let texts = server.knobs.texts.lock().unwrap().clone();
    assert_eq!(texts.iter().filter(|it| *it == "heat").count(), 1, "{texts:?}");
    assert_eq!(texts.iter().filter(|it| *it == "cold").count(), 1, "{texts:?}");
}

/// Growth of memory that is none: what allocators and the test's own list of texts keep.
const FLAT_BYTES: u64 = 48 << 20;
/// Longest that the server may take to be itself again.
const BACK_NS: u64 = 5_000_000_000;

/// Of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages: Option<u64> = pages.and_then(|it| it.split_whitespace().nth(1)?.parse().ok());
    pages.unwrap_or(0) * 4096
}

/// Asks for texts that nobody else asks for until the time is over: how many were answered, and
/// rightly, and how many refused.
async fn ask_until(
    mut client: Client,
    client_index: usize,
    load: Stopwatch,
    ns: u64,
) -> [usize; 2] {
    let (mut good, mut refused) = (0, 0);
    for number in 0.. {
        if ns <= load.elapsed_ns() {
            break;
        }
        let own = format!("client {client_index} text {number}");
        let answer = client.post("/embed", &text(&own)).await;
        match answer.status.as_u16() {
            200 => {
                close(&numbers(&answer.json()[0]), &fused(&own));
                good += 1;
            }
            429 => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            other => panic!("{other}: {:?}", answer.body),
        }
    }
    [good, refused]
}

/// Ten times as many clients as may be inside: what is answered is right and was computed once, the
/// rest is refused, memory stays flat, and the server is itself again when the load is over.
async fn overloaded(seconds: u64) {
    let server = Running::start(|it| {
        it.limits.request_count_max = 16;
        it.batch.max_batch_size = 4;
    })
    .await;
    server.knobs.batch_ms.store(5, Ordering::Relaxed);
    let clients = join_all((0..160).map(|_| server.connect())).await;
    let (load, load_ns) = (Stopwatch::start(), seconds * 1_000_000_000);
    let sent = clients
        .into_iter()
        .enumerate()
        .map(|(client_index, client)| tokio::spawn(ask_until(client, client_index, load, load_ns)));
    let sent: Vec<_> = sent.collect();
    let mut resident = Vec::new();
    while load.elapsed_ns() < load_ns {
        tokio::time::sleep(Duration::from_millis(250)).await;
        resident.push(resident_bytes());
    }
    let (mut good, mut refused) = (0, 0);
    for counts in join_all(sent).await {
        let [own_good, own_refused] = counts.unwrap();
        good += own_good;
        refused += own_refused;
    }
    assert!(100 < good && 100 < refused, "{good} answered, {refused} refused");
    let mut computed = server.knobs.texts.lock().unwrap().clone();
    assert_eq!(computed.len(), good, "each answer was computed once, and nothing else");
    computed.sort_unstable();
    computed.dedup();
    assert_eq!(computed.len(), good, "no text twice");
    // The first third is how it starts; after that nothing more is wanted.
    let (early, late) = resident.split_at(resident.len() / 3);
    let [early, late] = [early, late].map(|it| it.iter().copied().max().unwrap_or(0));
    let grown_bytes = late.saturating_sub(early);
    assert!(grown_bytes < FLAT_BYTES, "{grown_bytes} bytes more");
    let watch = Stopwatch::start();
    let back_ns = loop {
        let one = Stopwatch::start();
        server.post("/embed", &text("after")).await.good();
        if one.elapsed_ns() < 100_000_000 {
            break watch.elapsed_ns();
        }
        assert!(watch.elapsed_ns() < BACK_NS, "it is not itself again");
    };
    let status = server.get("/status.json").await.good();
    assert_eq!((&status["queue_count"], &status["request_count"]), (&0.into(), &0.into()));
    eprintln!(
        "{seconds} s, 160 clients where 16 may be inside: {good} answered, {refused} refused, \
         resident {} MiB at first and {} MiB more later, itself again after {} ms",
        early >> 20,
        grown_bytes >> 20,
        back_ns / 1_000_000
    );
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "how long a test takes is said in the environment")]
async fn overload_tenfold_loses_and_doubles_nothing_and_ends_with_the_load() {
    // A night takes a minute.
    let seconds = std::env::var("CALOR_TEST_OVERLOAD_S").ok();
    overloaded(seconds.map_or(3, |it| it.parse().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_keeps_its_models_awake() {
    let server = Running::start(|it| it.times.idle = Some(Duration::from_millis(50))).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let kept = server.knobs.texts.lock().unwrap().iter().filter(|it| *it == "still warm").count();
    assert!((2..=9).contains(&kept), "{kept} runs in 400 ms");
}
