//! Bodies that nobody sent on purpose: none may end in a failure of the server.

use serde_json::{Value as Json, json};

use crate::fixture::{Calls, Running};

/// Numbers that a seed decides.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() >> 11) as usize % count
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Requests that are good, to be spoilt.
fn seeds() -> Vec<(&'static str, Json)> {
    let png = "iVBORw0KGgoAAAANSUhEUg==";
    vec![
        ("/embed", json!({"inputs": ["heat", "é 東"], "truncate": false, "dimensions": 4})),
        ("/", json!({"inputs": [101, 7592, 102], "normalize": false, "prompt_name": "query"})),
        ("/embed_sparse", json!({"inputs": "heat", "truncation_direction": "Left"})),
        ("/embed_all", json!({"inputs": [[101, 102], [7592]]})),
        ("/rerank", json!({"query": "a", "texts": ["b", "c"], "raw_scores": true})),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": "a", "sentences": ["b"]},
            "parameters": {"truncate": true}}),
        ),
        ("/tokenize", json!({"inputs": ["a b"], "add_special_tokens": false})),
        ("/decode", json!({"ids": [[1, 2], [3]], "skip_special_tokens": true})),
        (
            "/v1/embeddings",
            json!({"input": "a", "model": "fused", "encoding_format": "base64",
            "dimensions": 3, "user": "u", "modality": "text"}),
        ),
        ("/v1/embeddings", json!({"input": [png], "modality": "image"})),
        (
            "/v1/fused",
            json!({"inputs": ["a", {"text": "b", "instruction": "epoch:5"},
            {"code": "fn", "language": "rust"}, {"image": png}], "slots": ["e1", "all"],
            "sparse": true, "tokens": true, "encoding_format": "float"}),
        ),
    ]
}

/// A value that fits nowhere in particular.
fn odd(random: &mut Random) -> Json {
    match random.below(12) {
        0 => Json::Null,
        1 => json!(random.below(2) == 0),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1e308),
        5 => json!(""),
        6 => json!("\u{0}"),
        7 => json!("x".repeat(random.below(3_000))),
        8 => json!([]),
        9 => json!({}),
        10 => json!(vec![json!("a"); random.below(40)]),
        _ => json!(String::from_utf8_lossy(&random.bytes(24))),
    }
}

/// Puts something odd somewhere into a value.
fn spoil(value: &mut Json, random: &mut Random) {
    match value {
        Json::Object(fields) if !fields.is_empty() && random.below(4) != 0 => {
            let names: Vec<String> = fields.keys().cloned().collect();
            let name = random.pick(&names).clone();
            match random.below(4) {
                0 => drop(fields.remove(&name)),
                1 => drop(fields.insert(odd(random).to_string(), json!(1))),
                _ => spoil(fields.get_mut(&name).unwrap(), random),
            }
        }
        Json::Array(items) if !items.is_empty() && random.below(4) != 0 => {
            let index = random.below(items.len());
            match random.below(3) {
                0 => items.push(odd(random)),
                _ => spoil(&mut items[index], random),
            }
        }
        other => *other = odd(random),
    }
}

/// Changes single bytes, or cuts.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.next() as u8),
            2 => drop(bytes.remove(at)),
            _ => bytes[at] = random.next() as u8,
        }
    }
}

const REQUEST_COUNT: usize = 50_000;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_bodies_of_http_end_in_no_failure_of_the_server() {
    let server = Running::start(|_| {}).await;
    let seeds = seeds();
    let mut tasks = Vec::new();
    for worker in 0..4_u64 {
        let (mut client, seeds) = (server.connect().await, seeds.clone());
        tasks.push(tokio::spawn(async move {
            let mut random = Random(0x9e37_79b9 + worker);
            let mut good_count = 0;
            for _ in 0..REQUEST_COUNT / 4 {
                let (path, seed) = random.pick(&seeds);
                let mut value = seed.clone();
                let body = match random.below(8) {
                    0 => random.bytes(64),
                    1..4 => {
                        let mut bytes = value.to_string().into_bytes();
                        damage(&mut bytes, &mut random);
                        bytes
                    }
                    _ => {
                        spoil(&mut value, &mut random);
                        value.to_string().into_bytes()
                    }
                };
                let shown = String::from_utf8_lossy(&body).into_owned();
                let headers = [("content-type", "application/json")];
                let answer = client.send("POST", path, &headers, body).await;
                let status = answer.status.as_u16();
                assert!(status < 500 || status == 503, "{status} {path} {shown}");
                assert!(
                    status == 200
                        || answer.json()["error"].is_string()
                        || answer.json()["error"]["message"].is_string(),
                    "{path} {shown}"
                );
                good_count += usize::from(status == 200);
            }
            good_count
        }));
    }
    let mut good_count = 0;
    for task in tasks {
        good_count += task.await.unwrap();
    }
    assert!(REQUEST_COUNT / 50 < good_count, "{good_count} were good: the seeds are spoilt");
    server.post("/embed", r#"{"inputs": "heat"}"#).await.good();
}

/// A message of a protocol that fits some field of some request.
fn message(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..random.below(5) {
        let field = 1 + random.below(8) as u8;
        match random.below(4) {
            0 => out.extend([field << 3, random.below(3) as u8]),
            1 => {
                let count = random.below(20);
                out.extend([field << 3 | 2, count as u8]);
                out.extend(random.bytes(count));
            }
            2 => out.extend([field << 3 | 2, 4, b'h', b'e', b'a', b't']),
            _ => {
                let count = random.below(12);
                out.extend(random.bytes(count));
            }
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_bodies_of_grpc_end_in_no_failure_of_the_server() {
    let server = Running::start(|_| {}).await;
    let methods = [
        "Info/Info",
        "Embed/Embed",
        "Embed/EmbedSparse",
        "Embed/EmbedAll",
        "Embed/EmbedStream",
        "Embed/EmbedAllStream",
        "Predict/Predict",
        "Predict/PredictStream",
        "Rerank/Rerank",
        "Rerank/RerankStream",
        "Tokenize/Tokenize",
        "Tokenize/DecodeStream",
        "Tokenize/Decode",
        "Nothing/There",
    ];
    let mut tasks = Vec::new();
    for worker in 0..4_u64 {
        let mut calls = Calls::connect(server.address).await;
        tasks.push(tokio::spawn(async move {
            let mut random = Random(0xdead_beef + worker);
            let mut good_count = 0;
            for _ in 0..REQUEST_COUNT / 4 {
                let message = message(&mut random);
                let mut body = vec![u8::from(random.below(40) == 0)];
                let stated = if random.below(20) == 0 { random.below(99) } else { message.len() };
                body.extend((stated as u32).to_be_bytes());
                body.extend(&message);
                if random.below(10) == 0 {
                    damage(&mut body, &mut random);
                }
                let path = format!("/tei.v1.{}", random.pick(&methods));
                let (status, code, _) = calls.call(&path, body.clone()).await;
                // 13 is what gRPC itself says of a frame that is none; 2 would be a panic.
                let is_ours = code == 2 || code == 14 || code == -1;
                assert!(status == 200 && !is_ours, "{status} {code} {path} {body:?}");
                good_count += usize::from(code == 0);
            }
            good_count
        }));
    }
    let mut good_count = 0;
    for task in tasks {
        good_count += task.await.unwrap();
    }
    assert!(REQUEST_COUNT / 50 < good_count, "{good_count} were good: the seeds are spoilt");
    server.post("/embed", r#"{"inputs": "heat"}"#).await.good();
}
