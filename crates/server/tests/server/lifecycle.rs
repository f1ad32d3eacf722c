//! The start, swaps and the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use calor_server::options::Secret;
use calor_server::{Ended, Phase, ServerError};

use crate::double::{Knobs, fused, fused_of};
use crate::fixture::{Running, close, numbers};

const ONE: &str = r#"{"inputs": "heat"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_while_models_warm_up_and_nothing_else_does() {
    let knobs = Arc::new(Knobs::default());
    knobs.open_ms.store(300, Ordering::Relaxed);
    let server = Running::warming_with(knobs, |_| {}).await;
    assert_eq!(server.get("/livez").await.status, 200);
    for path in ["/health", "/readyz", "/startupz", "/", "/info", "/warmup"] {
        assert_eq!(server.get(path).await.status, 503, "{path}");
    }
    let early = server.post("/embed", ONE).await;
    assert_eq!((early.status.as_u16(), early.header("retry-after")), (503, "1"));
    assert!(early.json()["error"].as_str().unwrap().contains("warming up"));
    let probe = server.get("/startupz").await.json();
    assert_eq!(
        (&probe["status"], &probe["models"]["semantic"]),
        (&"warming up".into(), &false.into())
    );
    // It is warm before it answers.
    assert_eq!((&probe["warm"]["semantic"], &probe["warm"]["code"]), (&true.into(), &false.into()));
    assert!(server.handle.wait_for(Phase::Ready).await);
    for path in ["/health", "/readyz", "/startupz", "/", "/info", "/warmup"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let report = server.get("/warmup").await.json();
    assert_eq!(report["models_ms"]["semantic"], 7.0);
    assert_eq!(report["models_ms"].as_object().unwrap().len(), 12);
    let probe = server.get("/readyz").await.json();
    assert_eq!(probe["models"].as_object().unwrap().values().filter(|it| **it == true).count(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_do_not_open_end_the_server() {
    let knobs = Arc::new(Knobs::default());
    knobs.bad_opening_count.store(1, Ordering::Relaxed);
    let server = Running::warming_with(knobs, |_| {}).await;
    let ended = server.end().await;
    assert!(matches!(ended, Err(ServerError::Models { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_under_load_drops_nothing() {
    let server = Running::start(|it| it.admin_key = Some(Secret::new("k"))).await;
    server.knobs.batch_ms.store(2, Ordering::Relaxed);
    server.knobs.open_ms.store(150, Ordering::Relaxed);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (mut client, stop) = (server.connect().await, stop.clone());
        tasks.push(tokio::spawn(async move {
            let (mut old, mut new) = (0, 0);
            let text = format!("client {number}");
            while !stop.load(Ordering::Relaxed) {
                let answer = client.post("/embed", &format!("{{\"inputs\": \"{text}\"}}")).await;
                let row = numbers(&answer.good()[0]);
                match row[0] == fused(&text)[0] {
                    true => {
                        assert_eq!(new, 0, "the old models do not come back");
                        close(&row, &fused(&text));
                        old += 1;
                    }
                    false => {
                        close(&row, &fused_of(&text, 1));
                        new += 1;
                    }
                }
            }
            (old, new)
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let headers = [("authorization", "Bearer k")];
    let report = server.connect().await.send("POST", "/admin/swap", &headers, "").await.good();
    assert_eq!(report["generation"], 2);
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        let (old, new) = task.await.unwrap();
        assert!(0 < old && 0 < new, "{old} before, {new} after");
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.knobs.dropped_count.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_fails_leaves_the_old_models() {
    let server = Running::start(|it| it.admin_key = Some(Secret::new("k"))).await;
    server.knobs.bad_opening_count.store(1, Ordering::Relaxed);
    let headers = [("authorization", "Bearer k")];
    let failed = server.connect().await.send("POST", "/admin/swap", &headers, "").await;
    assert_eq!(failed.status, 424);
    assert!(failed.json()["error"].as_str().unwrap().contains("will not open"));
    close(&numbers(&server.post("/embed", ONE).await.good()[0]), &fused("heat"));
    assert_eq!(server.handle.phase(), Phase::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_unreadies_drains_and_loses_nothing() {
    let server = Running::start(|_| {}).await;
    server.knobs.batch_ms.store(300, Ordering::Relaxed);
    let mut tasks = Vec::new();
    for number in 0..6 {
        let mut client = server.connect().await;
        tasks.push(tokio::spawn(async move {
            let text = format!("text {number}");
            let answer = client.post("/embed", &format!("{{\"inputs\": \"{text}\"}}")).await;
            close(&numbers(&answer.good()[0]), &fused(&text));
        }));
    }
    tokio::time::sleep(Duration::from_millis(80)).await;
    let mut probe = server.connect().await;
    probe.send("GET", "/readyz", &[], "").await;
    let address = server.address;
    let ended = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "no more connections");
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ended.await.unwrap().unwrap(), Ended::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_takes_too_long_is_cut_off_and_says_so() {
    let server = Running::start(|it| it.times.drain = Duration::from_millis(50)).await;
    server.knobs.batch_ms.store(400, Ordering::Relaxed);
    let mut client = server.connect().await;
    let task = tokio::spawn(async move {
        client.try_send("POST", "/embed", &[("content-type", "application/json")], ONE).await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.stop().await.unwrap(), Ended::CutOff);
    drop(task);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_not_waited_for() {
    let server = Running::start(|it| it.times.header = Duration::from_millis(100)).await;
    let silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let half = tokio::net::TcpStream::connect(server.address).await.unwrap();
    half.try_write(b"POST /embed HTTP/1.1\r\nhost: a\r\n").unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    for (name, stream) in [("silent", silent), ("half", half)] {
        let mut all: Vec<u8> = Vec::new();
        let read = tokio::time::timeout(Duration::from_millis(100), async {
            loop {
                stream.readable().await.unwrap();
                let mut part = [0; 256];
                match stream.try_read(&mut part) {
                    Ok(0) => return,
                    Ok(len) => all.extend(&part[..len]),
                    Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        });
        assert!(read.await.is_ok(), "the {name} connection is open: {all:?}");
    }
    server.post("/embed", ONE).await.good();
}

#[tokio::test(flavor = "multi_thread")]
async fn results_outlive_the_server_and_damage_is_refused() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("results");
    let start = async || {
        let own = file.clone();
        Running::start(move |it| {
            it.results_cache_bytes = 1 << 24;
            it.results_file = Some(own);
        })
        .await
    };
    let one = r#"{"input": "heat", "model": "entity"}"#;
    let ask = async |server: &Running| -> (Vec<f32>, usize) {
        let answer = server.post("/v1/embeddings", one).await.good();
        let computed = server.knobs.texts.lock().unwrap().len();
        (numbers(&answer["data"][0]["embedding"]), computed)
    };
    let first = start().await;
    let (want, computed) = ask(&first).await;
    assert_eq!(computed, 1);
    first.stop().await.unwrap();
    let second = start().await;
    assert_eq!(ask(&second).await, (want.clone(), 0), "it is known");
    second.stop().await.unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&file, &bytes).unwrap();
    let third = start().await;
    assert_eq!(ask(&third).await, (want, 1), "computed anew");
    let aside = dir.path().join("results.damaged");
    assert_eq!(std::fs::read(aside).unwrap(), bytes, "for whoever wants to know");
    third.stop().await.unwrap();
}
