//! Models that fail at the warm-up: what is served without them, and what is not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use calor_embed::embedding::MissingModels;
use calor_embed::pipeline::{LostModel, PrecisionRule, Ready, Told};
use calor_embed::warmup::ReadyPolicy;
use calor_embed::{EmbeddingError, ModelId, PipelineCore};
use calor_server::options::Secret;
use calor_server::{Opened, Opener, Phase, ServerError};
use serde_json::{Value as Json, json};

use crate::double::{Knobs, opener_of};
use crate::fixture::{Running, numbers};
use crate::pipeline::{build, checkpoints, options};

fn enough(mandatory: ModelId) -> ReadyPolicy {
    ReadyPolicy::Enough { models_min: 8, mandatory: vec![mandatory] }
}

/// Opens the real pipeline under a policy.
fn opener(dir: &Path, missing: MissingModels, policy: ReadyPolicy) -> Opener {
    let dir = dir.to_owned();
    Opener::single("cpu", move |progress| {
        let mut options = options(&dir);
        options.missing = missing;
        let mut told = |it: Told<'_>| match it {
            Told::Warm { model_ids, check_ns } => progress.warm(model_ids, check_ns),
            Told::Lost { lost, again } => progress.lost(lost.each(), again),
        };
        let rule = PrecisionRule::Unchecked;
        let Ready { core, report, lost } =
            PipelineCore::ready(build(), options, &policy, rule, &mut told)?;
        Ok(Opened { engine: Box::new(core), report, lost })
    })
}

/// A server over tiny models, of which E12 has no checkpoint.
async fn without_e12(missing: MissingModels) -> (Running, tempfile::TempDir) {
    without("colbertv2.0", missing, ModelId::Semantic).await
}

/// A server over tiny models without one checkpoint.
async fn without(
    name: &str,
    missing: MissingModels,
    mandatory: ModelId,
) -> (Running, tempfile::TempDir) {
    let dir = checkpoints();
    std::fs::remove_dir_all(dir.path().join(name)).unwrap();
    let open = opener(dir.path(), missing, enough(mandatory));
    let change = |it: &mut calor_server::ServerOptions| it.admin_key = Some(Secret::new("k"));
    let server = Running::with(Arc::new(Knobs::default()), open, change).await;
    assert!(server.handle.wait_for(Phase::Ready).await);
    (server, dir)
}

fn error(json: &Json) -> &str {
    json["error"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_is_named_everywhere_and_the_others_are_served() {
    let (server, _dir) = without_e12(MissingModels::AllowPartial).await;
    let name = "late_interaction";
    for path in ["/readyz", "/startupz", "/warmup", "/status.json"] {
        let body = server.get(path).await.good();
        let lost = body["lost"].as_object().unwrap();
        assert_eq!(lost.len(), 1, "{path}: {lost:?}");
        assert!(lost[name].as_str().unwrap().contains("colbertv2.0"), "{path}: {lost:?}");
    }
    let info = server.get("/info").await.good();
    assert!(info["lost_models"][name].as_str().unwrap().contains("colbertv2.0"), "{info}");
    assert_eq!(info["models"].as_array().unwrap().len(), 11);
    let ready = server.get("/readyz").await.good();
    assert_eq!((&ready["models"][name], &ready["models"]["entity"]), (&false.into(), &true.into()));
    let page = server.get("/metrics").await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    assert!(
        page.contains("calor_server_model_lost{model=\"late_interaction\",reason=\""),
        "{page}"
    );
    assert!(page.contains("calor_server_model_ready{model=\"late_interaction\"} 0"), "{page}");
    // Fused vectors are partial and say so.
    let fused = server.post("/v1/fused", r#"{"inputs": "heat", "slots": ["all"]}"#).await.good();
    let row = &fused["data"][0];
    assert_eq!(numbers(&row["fused"]).len(), 1536);
    assert_eq!(row["missing_models"], json!([name]));
    assert!(row["flags"].as_array().unwrap().contains(&"partial".into()), "{row}");
    assert_eq!(row["slots"].as_object().unwrap().len(), 11);
    server.post("/v1/embeddings", r#"{"input": "heat"}"#).await.good();
    // What was lost is refused by its name.
    let asked = r#"{"input": "heat", "model": "e12"}"#;
    let refused = server.post("/v1/embeddings", asked).await;
    assert_eq!(refused.status, 424);
    let words = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(words.contains("`late_interaction` does not answer"), "{words}");
    assert!(words.contains("colbertv2.0"), "{words}");
    for (path, body) in [
        ("/embed", json!({"inputs": "heat", "model": name})),
        ("/embed_all", json!({"inputs": "heat"})),
        ("/rerank", json!({"query": "heat", "texts": ["cold"]})),
        ("/v1/fused", json!({"inputs": "heat", "slots": ["e12"]})),
        ("/tokenize", json!({"inputs": "heat", "model": name})),
    ] {
        let refused = server.post(path, &body.to_string()).await;
        assert_eq!(refused.status, 424, "{path}");
        let json = refused.json();
        assert!(error(&json).contains("`late_interaction` does not answer"), "{path}: {json}");
    }
    let unknown = server.post("/embed", r#"{"inputs": "heat", "model": "e13"}"#).await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stands_in_for_a_fused_vector_that_cannot_be() {
    let (server, _dir) = without_e12(MissingModels::Refuse).await;
    for (path, body) in [
        ("/embed", r#"{"inputs": "heat"}"#),
        ("/embed", r#"{"inputs": "heat", "model": "fused"}"#),
        ("/embed", r#"{"inputs": "heat", "model": "house-model"}"#),
        ("/v1/fused", r#"{"inputs": "heat"}"#),
    ] {
        let refused = server.post(path, body).await;
        assert_eq!(refused.status, 424, "{body}");
        let json = refused.json();
        let want = "`fused` does not answer: it needs models that failed at the warm-up: \
                    late_interaction (cannot load";
        assert!(error(&json).contains(want), "{json}");
    }
    let slots = r#"{"inputs": "heat", "slots": ["e1", "e2"], "fused": false}"#;
    let row = &server.post("/v1/fused", slots).await.good()["data"][0];
    assert_eq!(row["slots"].as_object().unwrap().len(), 2);
    server.post("/embed", r#"{"inputs": "heat", "model": "e1"}"#).await.good();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_fused_vector_is_refused_without_the_model_that_it_needs() {
    let partial = MissingModels::AllowPartial;
    let (server, _dir) = without("e5-large-v2", partial, ModelId::Entity).await;
    let refused = server.post("/embed", r#"{"inputs": "heat"}"#).await;
    assert_eq!(refused.status, 424);
    let json = refused.json();
    assert!(error(&json).contains("`fused` does not answer"), "{json}");
    assert!(error(&json).contains("semantic (cannot load"), "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_models_keep_the_server_unready_and_end_it() {
    let dir = checkpoints();
    std::fs::remove_dir_all(dir.path().join("colbertv2.0")).unwrap();
    let policy = enough(ModelId::LateInteraction);
    let open = opener(dir.path(), MissingModels::AllowPartial, policy);
    let server = Running::with(Arc::new(Knobs::default()), open, |_| {}).await;
    let err = server.end().await.unwrap_err();
    let ServerError::Models { source } = &err else { panic!("{err}") };
    assert!(matches!(source, EmbeddingError::TooFewModels { warm_count: 11, .. }), "{source:?}");
    let words = source.to_string();
    assert!(
        words.starts_with("11 models are warm, 8 must be, among them late_interaction; lost: ")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_would_lose_a_model_that_answers_is_refused() {
    let (server, dir) = without_e12(MissingModels::AllowPartial).await;
    std::fs::remove_dir_all(dir.path().join("all-MiniLM-L6-v2")).unwrap();
    let headers = [("authorization", "Bearer k")];
    let failed = server.connect().await.send("POST", "/admin/swap", &headers, "").await;
    assert_eq!(failed.status, 424);
    let json = failed.json();
    assert!(error(&json).contains("model entity") && error(&json).contains("all-MiniLM"), "{json}");
    server.post("/embed", r#"{"inputs": "heat", "model": "entity"}"#).await.good();
    let ready = server.get("/readyz").await.good();
    assert_eq!(ready["lost"].as_object().unwrap().len(), 1, "{ready}");
}

fn lost(model_id: ModelId) -> LostModel {
    LostModel { model_id, why: "told to".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_is_told_while_the_others_warm_up() {
    let knobs = Arc::new(Knobs::default());
    knobs.open_ms.store(300, Ordering::Relaxed);
    knobs.lost.lock().unwrap().push(lost(ModelId::Code));
    let server = Running::warming_with(knobs, |_| {}).await;
    let probe = loop {
        let probe = server.get("/startupz").await;
        assert_eq!(probe.status, 503);
        let probe = probe.json();
        if probe["warm"]["semantic"] == true {
            break probe;
        }
    };
    assert_eq!(probe["lost"], json!({"code": "told to"}));
    assert!(server.handle.wait_for(Phase::Ready).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_lose_different_models_do_not_serve_together() {
    let places = [(); 2].map(|()| Arc::new(Knobs::default()));
    places[1].lost.lock().unwrap().push(lost(ModelId::Code));
    let server = Running::with(places[0].clone(), opener_of(&places), |_| {}).await;
    let err = server.end().await.unwrap_err();
    let ServerError::Models { source } = &err else { panic!("{err}") };
    let words = format!("{source:?}");
    assert!(words.contains("double:1 lost code (told to), another place has not"), "{words}");
}
