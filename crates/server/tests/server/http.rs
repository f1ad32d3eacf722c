//! Routes: what goes in and what comes out.

use serde_json::json;

use crate::double::{TOKEN_COUNT_MAX, fused, vector};
use crate::fixture::{Running, close, numbers};
use calor_embed::input::ModelInput;

fn slot(text: &str, index: u64, len: usize) -> Vec<f32> {
    vector(&ModelInput::text(text).unwrap(), index, len)
}

#[tokio::test]
async fn embed_gives_one_vector_for_each_input() {
    let server = Running::start(|_| {}).await;
    for path in ["/", "/embed", "/invocations"] {
        let one = server.post(path, r#"{"inputs": "heat"}"#).await.good();
        assert_eq!(one.as_array().unwrap().len(), 1);
        close(&numbers(&one[0]), &fused("heat"));
    }
    let two = server.post("/embed", r#"{"inputs": ["heat", "cold"]}"#).await;
    close(&numbers(&two.good()[1]), &fused("cold"));
    assert_eq!(two.header("x-compute-type"), "cpu");
    let timing = two.header("server-timing");
    assert!(timing.starts_with("tokenize;dur=") && timing.contains(", total;dur="), "{timing}");
    assert_eq!(two.header("x-compute-characters"), "8");
    assert_ne!(two.header("x-compute-tokens"), "");
    let cut = server.post("/embed", r#"{"inputs": "heat", "dimensions": 4}"#).await.good();
    let cut = numbers(&cut[0]);
    assert_eq!(cut.len(), 4);
    assert!((cut.iter().map(|it| it * it).sum::<f32>() - 1.0).abs() < 1e-5, "{cut:?}");
    let model = r#"{"inputs": "heat", "model": "e11"}"#;
    close(&numbers(&server.post("/embed", model).await.good()[0]), &slot("heat", 10, 768 / 2));
    let ids = server.post("/tokenize", r#"{"inputs": "heat", "add_special_tokens": false}"#).await;
    let ids: Vec<_> = ids.good()[0].as_array().unwrap().iter().map(|it| it["id"].clone()).collect();
    let text = server.post("/decode", &json!({ "ids": ids }).to_string()).await.good();
    let by_ids = server.post("/embed", &json!({ "inputs": ids }).to_string()).await.good();
    close(&numbers(&by_ids[0]), &fused(text[0].as_str().unwrap()));
}

#[tokio::test]
async fn openai_gives_floats_and_base64() {
    let server = Running::start(|_| {}).await;
    let body = r#"{"input": ["heat", "cold"], "model": "house-model"}"#;
    let floats = server.post("/v1/embeddings", body).await.good();
    assert_eq!((&floats["object"], &floats["data"][1]["index"]), (&json!("list"), &json!(1)));
    assert_eq!(floats["model"], "fused");
    assert!(floats["usage"]["prompt_tokens"].as_u64().unwrap() >= 6);
    close(&numbers(&floats["data"][1]["embedding"]), &fused("cold"));
    let body = r#"{"input": "heat", "encoding_format": "base64", "dimensions": 2, "user": "u"}"#;
    let text = server.post("/embeddings", body).await.good();
    let text = text["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(text.len(), 12, "eight bytes: {text}");
    let unknown = server.post("/v1/embeddings", r#"{"input": "a", "model": "gpt"}"#).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");
    assert!(unknown.json()["error"]["message"].as_str().unwrap().contains("house-model"));
    let models = server.get("/v1/models").await.good();
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
    assert!(ids.contains(&&json!("house-model")) && ids.contains(&&json!("semantic")));
}

#[tokio::test]
async fn images_are_base64_and_nothing_is_fetched() {
    let server = Running::start(|_| {}).await;
    let png = "iVBORw0KGgoAAAANSUhEUg==";
    let body = json!({ "input": format!("data:image/png;base64,{png}"), "modality": "image" });
    let answer = server.post("/v1/embeddings", &body.to_string()).await.good();
    assert_eq!(answer["model"], "multimodal");
    assert_eq!(numbers(&answer["data"][0]["embedding"]).len(), 768);
    let body = json!({ "input": [png] });
    server.post("/embeddings_image", &body.to_string()).await.good();
    let body = json!({ "input": "http://localhost/a.png", "modality": "image" });
    let refused = server.post("/v1/embeddings", &body.to_string()).await;
    assert_eq!(refused.status, 422);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("nothing is fetched"));
}

#[tokio::test]
async fn sparse_and_token_vectors_have_their_own_forms() {
    let server = Running::start(|_| {}).await;
    let sparse = server.post("/embed_sparse", r#"{"inputs": "heat"}"#).await.good();
    assert_eq!(sparse, json!([[{"index": 7, "value": 1.0}, {"index": 9, "value": 4.0}]]));
    let all = server.post("/embed_all", r#"{"inputs": ["heat is", "cold"]}"#).await.good();
    assert_eq!(all[0].as_array().unwrap().len(), 2);
    close(&numbers(&all[1][0]), &slot("cold", 99, 128));
}

#[tokio::test]
async fn rerank_orders_by_max_sim() {
    let server = Running::start(|_| {}).await;
    let body = r#"{"query": "heat flows", "texts": ["cold stays", "heat stays", "heat flows"],
        "return_text": true}"#;
    let ranks = server.post("/rerank", body).await.good();
    let order: Vec<u64> =
        ranks.as_array().unwrap().iter().map(|it| it["index"].as_u64().unwrap()).collect();
    assert_eq!(order, [2, 1, 0]);
    assert_eq!(ranks[0]["text"], "heat flows");
    assert!((ranks[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    let body = r#"{"query": "heat flows", "texts": ["heat flows"], "raw_scores": true}"#;
    let raw = server.post("/rerank", body).await.good();
    assert!((raw[0]["score"].as_f64().unwrap() - 2.0).abs() < 1e-5);
    assert!(raw[0].get("text").is_none());
    let body = json!({"query": "a", "texts": vec!["b"; 32]}).to_string();
    server.post("/rerank", &body).await.good();
    let body = json!({"query": "a", "texts": vec!["b"; 33]}).to_string();
    assert_eq!(server.post("/rerank", &body).await.status, 422);
}

#[tokio::test]
async fn similarity_is_the_cosine() {
    let server = Running::start(|_| {}).await;
    let body = r#"{"inputs": {"source_sentence": "heat", "sentences": ["heat", "cold"]}}"#;
    let cosines = numbers(&server.post("/similarity", body).await.good());
    assert!((cosines[0] - 1.0).abs() < 1e-5 && cosines[1].abs() < 0.3, "{cosines:?}");
}

#[tokio::test]
async fn fused_gives_what_was_selected_and_a_bad_input_fails_alone() {
    let server = Running::start(|_| {}).await;
    let body = r#"{"inputs": ["heat", {"text": "cold", "instruction": "epoch:5"}, "poison", "",
        {"code": "fn", "language": "rust"}, {"image": "iVBORw0KGgo="}],
        "slots": ["e1", "late_interaction"], "sparse": true, "tokens": true}"#;
    let answer = server.post("/v1/fused", body).await.good();
    let rows = answer["data"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    close(&numbers(&rows[0]["fused"]), &fused("heat"));
    close(&numbers(&rows[0]["slots"]["semantic"]), &slot("heat", 0, 1024));
    assert_eq!(rows[0]["slots"].as_object().unwrap().len(), 2);
    assert_eq!(rows[0]["selected_experts"], json!([0, 1, 2, 3]));
    assert_eq!(rows[0]["sparse"][0]["index"], 7);
    assert_eq!(rows[0]["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(rows[2]["error"]["error_type"], "Validation");
    assert_eq!(rows[3]["error"]["error_type"], "Empty");
    assert!(rows[4]["fused"].is_array());
    assert!(rows[5]["fused"].is_null() && rows[5]["flags"][0] == "partial");
    assert_eq!(answer["untrained"][0], "everything");
    let all = r#"{"inputs": "heat", "slots": ["all"], "fused": false,
        "encoding_format": "base64"}"#;
    let all = server.post("/v1/fused", all).await.good();
    assert_eq!(all["data"][0]["slots"].as_object().unwrap().len(), 12);
    assert!(all["data"][0]["fused"].is_null());
    let bad = server.post("/v1/fused", r#"{"inputs": "a", "slots": ["e13"]}"#).await;
    assert_eq!(bad.status, 422);
}

#[tokio::test]
async fn long_texts_are_cut_or_refused_with_both_numbers() {
    let server = Running::start(|_| {}).await;
    let long = (0..60).map(|it| if it < 40 { "go" } else { "in" }).collect::<Vec<_>>().join(" ");
    let body = json!({ "inputs": long }).to_string();
    server.post("/embed", &body).await.good();
    let body = json!({ "inputs": [long, "a"], "truncate": false }).to_string();
    let refused = server.post("/embed", &body).await;
    assert_eq!(refused.status, 422);
    let words = refused.json()["error"].as_str().unwrap().to_owned();
    let limit = format!("the limit is {TOKEN_COUNT_MAX}");
    assert!(words.starts_with("input 0:") && words.contains(&limit), "{words}");
    let body = json!({ "inputs": long, "truncation_direction": "Left" }).to_string();
    server.post("/embed", &body).await.good();
    let seen = server.knobs.texts.lock().unwrap().last().unwrap().clone();
    assert!(seen.ends_with("in") && seen.len() < long.len() && long.ends_with(&seen), "{seen}");
}

#[tokio::test]
async fn refusals_say_what_is_wrong_in_each_protocols_words() {
    let server = Running::start(|_| {}).await;
    let native = |answer: crate::fixture::Answer| {
        let json = answer.json();
        (answer.status.as_u16(), json["error_type"].as_str().unwrap().to_owned())
    };
    let post = |body: &'static str| server.post("/embed", body);
    assert_eq!(native(post(r#"{"inputs": ""}"#).await), (400, "Empty".into()));
    assert_eq!(native(post(r#"{"inputs": []}"#).await), (400, "Empty".into()));
    assert_eq!(native(post(r#"{"inputs": "#).await), (400, "Validation".into()));
    assert_eq!(native(post(r#"{"inputs": 7}"#).await), (422, "Validation".into()));
    assert_eq!(native(post(r#"{"input": "a"}"#).await), (422, "Validation".into()));
    assert_eq!(native(post(r#"{"inputs": "a\u0000"}"#).await), (422, "Validation".into()));
    let prompt = r#"{"inputs": "a", "prompt_name": "poem"}"#;
    assert_eq!(native(post(prompt).await), (422, "Validation".into()));
    let body = json!({ "inputs": vec!["a"; 33] }).to_string();
    let many = server.post("/embed", &body).await;
    assert_eq!(many.status, 422);
    assert!(many.json()["error"].as_str().unwrap().contains("33"));
    let json_kind = [("content-type", "text/plain")];
    let kind = server.connect().await.send("POST", "/embed", &json_kind, "{}").await;
    assert_eq!(kind.status, 415);
    let large = format!("{{\"inputs\": \"{}\"}}", "a".repeat(2_000_001));
    assert_eq!(server.post("/embed", &large).await.status, 413);
    let poison = server.post("/v1/embeddings", r#"{"input": ["a", "poison"]}"#).await;
    assert_eq!(poison.status, 422);
    let words = poison.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(words.starts_with("input 1:"), "{words}");
    assert_eq!(server.get("/nowhere").await.status, 404);
    assert_eq!(server.get("/embed").await.status, 405);
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("te_request_failure{err=\"empty\"} 2"), "{metrics}");
}

#[tokio::test]
async fn keys_are_wanted_everywhere_but_at_probes() {
    let key = calor_server::options::Secret::new("k1");
    let server = Running::start(|it| {
        it.api_key = Some(key);
        it.admin_key = Some(calor_server::options::Secret::new("k2"));
    })
    .await;
    for path in ["/health", "/livez", "/readyz", "/startupz", "/metrics", "/openapi.json", "/docs"]
    {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    for path in ["/info", "/status.json", "/v1/models", "/warmup"] {
        assert_eq!(server.get(path).await.status, 401, "{path}");
    }
    let mut client = server.connect().await;
    let body = r#"{"inputs": "a"}"#;
    for (key, want) in [
        ("Bearer k1", 200),
        ("bearer k1", 200),
        ("Bearer k2", 401),
        ("Bearer", 401),
        ("Basic k1", 401),
    ] {
        let headers = [("content-type", "application/json"), ("authorization", key)];
        assert_eq!(client.send("POST", "/embed", &headers, body).await.status, want, "{key}");
        let admin = if key == "Bearer k2" { 200 } else { 401 };
        let answer = client.send("POST", "/admin/warmup", &headers, "").await;
        assert_eq!(answer.status, admin, "{key}");
    }
    let refused = server.post("/v1/embeddings", r#"{"input": "a"}"#).await;
    assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
}

#[tokio::test]
async fn without_an_admin_key_there_are_no_admin_routes() {
    let server = Running::start(|_| {}).await;
    assert_eq!(server.post("/admin/swap", "").await.status, 404);
}

#[tokio::test]
async fn pages_and_reports_are_there() {
    let server = Running::start(|_| {}).await;
    server.post("/embed", r#"{"inputs": "a"}"#).await.good();
    let html = [("accept", "text/html,*/*")];
    let page = server.connect().await.send("GET", "/", &html, "").await;
    assert!(page.status == 200 && page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    assert_eq!(server.get("/").await.body.len(), 0);
    let info = server.get("/info").await.good();
    assert_eq!(info["model_id"], "calor-double");
    assert_eq!(info["max_client_batch_size"], 32);
    let status = server.get("/status.json").await.good();
    assert_eq!((&status["status"], &status["item_count"]), (&json!("ready"), &json!(1)));
    assert_eq!(status["first"]["count"], 1);
    assert_eq!(server.get("/warmup").await.good()["generation"], 1);
    let document = server.get("/openapi.json").await.good();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            if path.starts_with("/admin/") {
                continue; // There is no key, so there are none.
            }
            let method = method.to_uppercase();
            let answer = server.connect().await.send(&method, path, &[], "").await;
            let described = answer.status != 404 && answer.status != 405;
            assert!(described, "{method} {path} is described and not there");
        }
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_call_where_that_is_allowed() {
    let server = Running::start(|it| it.cors_origins = vec!["https://a.example".into()]).await;
    let headers = [
        ("origin", "https://a.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type"),
    ];
    let answer = server.connect().await.send("OPTIONS", "/embed", &headers, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://a.example");
    let other = [("origin", "https://b.example"), ("access-control-request-method", "POST")];
    let answer = server.connect().await.send("OPTIONS", "/embed", &other, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn a_body_that_does_not_say_how_long_it_is_ends_at_the_limit() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Running::start(|it| it.limits.payload_bytes_max = 100).await;
    for (count, want) in [(20, "HTTP/1.1 200"), (200, "HTTP/1.1 413")] {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let head = "POST /embed HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                    content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let body = format!("{{\"inputs\": \"{}\"}}", "a".repeat(count));
        for part in body.as_bytes().chunks(16) {
            let chunk = format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part));
            // A server that has refused already may not listen any more.
            let _ = stream.write_all(chunk.as_bytes()).await;
        }
        let _ = stream.write_all(b"0\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(want), "{count}: {answer}");
    }
}
