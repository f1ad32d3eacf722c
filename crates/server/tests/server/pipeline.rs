//! The real pipeline behind the server, with tiny seeded weights on the processor.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use calor_device::Driver;
use calor_device_cpu::CpuDriver;
use calor_embed::embedding::{MissingModels, cosine};
use calor_embed::input::InputLimits;
use calor_embed::profile::PUBLISHED;
use calor_embed::tokenizer::LongTokens;
use calor_embed::{
    InferencePrecision, ModelId, ModelInput, PipelineCore, PipelineOptions, Profile,
};
use calor_runtime::Build;
use calor_server::{Opened, Opener, Phase};
use calor_telemetry::{Counters, Null};
use calor_weights::{Dtype, SYNTH_MODELS, SynthModel, SynthOptions, SynthProfile, synth};
use serde_json::json;
use tempfile::TempDir;

use crate::double::Knobs;
use crate::fixture::{NOW_S, Running, numbers};

/// Every checkpoint, tiny.
pub(crate) fn checkpoints() -> TempDir {
    seeded(7)
}

fn seeded(seed: u64) -> TempDir {
    let dir = TempDir::new().unwrap();
    let models: Vec<&SynthModel> = SYNTH_MODELS
        .iter()
        .filter(|it| PUBLISHED.iter().any(|need| need.name == it.name))
        .collect();
    let options =
        SynthOptions { profile: SynthProfile::Tiny, seed, dtype: Dtype::F32, models: &models };
    synth(&options, dir.path(), &mut ()).unwrap();
    dir
}

pub(crate) fn options(dir: &Path) -> PipelineOptions {
    let places: HashMap<String, _> =
        PUBLISHED.iter().map(|it| (it.name.into(), dir.join(it.name))).collect();
    PipelineOptions {
        profile: Profile::Random,
        models: ModelId::ALL.to_vec(),
        checkpoints: places,
        absent: HashMap::new(),
        fusion_file: dir.join("fusion.safetensors"),
        projection_file: None,
        missing: MissingModels::Refuse,
        limits: InputLimits::STANDARD,
        long_text: LongTokens::Truncate,
        batch_tokens_max: 128,
        reference_s: None,
        precision: InferencePrecision::FP32,
        device_slots: true,
        own_forms: true,
    }
}

pub(crate) fn build() -> Build {
    let driver = CpuDriver { threads: 2, level: None, memory_bytes: None, profile: None };
    Build::new(driver.open(0).unwrap(), u64::MAX, Arc::new(Counters::new()), Arc::new(Null))
}

fn opener(dir: &Path) -> Opener {
    let dir = dir.to_owned();
    Opener::single("cpu", move |progress| {
        let core = PipelineCore::open(build(), options(&dir))?;
        let (core, report) = core.warm_telling(&mut |models, ns| progress.warm(models, ns))?;
        Ok(Opened { engine: Box::new(core), report, lost: Vec::new() })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_pipeline_answers_every_route_as_it_does_without_a_server() {
    let dir = checkpoints();
    let (mut alone, _) = PipelineCore::open(build(), options(dir.path())).unwrap().warm().unwrap();
    let server = Running::with(Arc::new(Knobs::default()), opener(dir.path()), |_| {}).await;
    assert!(server.handle.wait_for(Phase::Ready).await);
    let texts = ["heat is energy in transit", "it never rests", "cold"];
    let inputs: Vec<ModelInput> = texts.iter().map(|it| ModelInput::text(*it).unwrap()).collect();
    let want: Vec<_> =
        alone.embed_batch(&inputs, NOW_S).unwrap().into_iter().map(Result::unwrap).collect();
    let body = json!({"inputs": texts, "slots": ["all"], "sparse": true, "tokens": true});
    let answer = server.post("/v1/fused", &body.to_string()).await.good();
    for (row, want) in answer["data"].as_array().unwrap().iter().zip(&want) {
        let fused = numbers(&row["fused"]);
        assert!(0.999_999 < cosine(&fused, &want.fused.as_ref().unwrap().vector));
        for model in ModelId::iter() {
            let slot = numbers(&row["slots"][model.as_str()]);
            let want = &want.embeddings.get(model).unwrap().vector;
            assert!(0.999_999 < cosine(&slot, want), "{model}");
        }
        let terms = row["sparse"].as_array().unwrap().len();
        assert_eq!(terms, want.sparse.as_ref().unwrap().indices().len());
        let rows = row["tokens"].as_array().unwrap().len();
        assert_eq!(rows, want.tokens.as_ref().unwrap().rows().count());
    }
    for model in ModelId::iter() {
        let body = json!({"inputs": texts, "model": model.as_str()}).to_string();
        let rows = server.post("/embed", &body).await.good();
        for (row, want) in rows.as_array().unwrap().iter().zip(&want) {
            let want = &want.embeddings.get(model).unwrap().vector;
            assert!(0.999_99 < cosine(&numbers(row), want), "{model}");
        }
    }
    let sparse = server.post("/embed_sparse", &json!({"inputs": texts[0]}).to_string()).await;
    assert!(!sparse.good()[0].as_array().unwrap().is_empty());
    let all = server.post("/embed_all", &json!({"inputs": texts[0]}).to_string()).await.good();
    assert_eq!(numbers(&all[0][0]).len(), 128);
    let body = json!({"query": texts[2], "texts": texts}).to_string();
    let ranks = server.post("/rerank", &body).await.good();
    assert_eq!(ranks.as_array().unwrap().len(), 3);
    let body = json!({"inputs": texts[0], "model": "code"}).to_string();
    let tokens = server.post("/tokenize", &body).await.good();
    assert!(tokens[0][0]["special"].as_bool().unwrap());
    let report = server.get("/warmup").await.good();
    assert!(30 < report["program_count"].as_u64().unwrap());
    assert_eq!(report["counters"]["calor_allocations_sealed"], 0);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_there_keeps_the_server_unready_and_is_named() {
    let dir = checkpoints();
    std::fs::remove_dir_all(dir.path().join("colbertv2.0")).unwrap();
    let server = Running::with(Arc::new(Knobs::default()), opener(dir.path()), |_| {}).await;
    let err = server.end().await.unwrap_err();
    let calor_server::ServerError::Models { source } = &err else { panic!("{err}") };
    assert!(format!("{source:?} {source}").contains("colbertv2.0"), "{source:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_batches_overlap_and_say_the_same() {
    let dir = checkpoints();
    let (mut alone, _) = PipelineCore::open(build(), options(dir.path())).unwrap().warm().unwrap();
    let change = |it: &mut calor_server::ServerOptions| {
        it.batch.max_batch_size = 8;
        it.limits.client_batch_max = 64;
    };
    let open = opener(dir.path());
    let server = Running::with(Arc::new(Knobs::default()), open, change).await;
    assert!(server.handle.wait_for(Phase::Ready).await);
    let words = ["heat", "never", "rests", "for", "long", "in", "transit"];
    let text = |at: usize| format!("{} {at} {}", words[at % 7], words[at % 5]);
    let texts: Vec<String> = (0..64).map(text).collect();
    let inputs: Vec<ModelInput> = texts.iter().map(|it| ModelInput::text(it).unwrap()).collect();
    let want: Vec<_> =
        alone.embed_batch(&inputs, NOW_S).unwrap().into_iter().map(Result::unwrap).collect();
    let body = json!({"inputs": texts}).to_string();
    let rows = server.post("/embed", &body).await.good();
    for (row, want) in rows.as_array().unwrap().iter().zip(&want) {
        let want = &want.fused.as_ref().unwrap().vector;
        assert!(0.999_999 < cosine(&numbers(row), want));
    }
    let page = server.get("/metrics").await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let line = page.lines().find(|it| it.starts_with("calor_server_overlapped_batches_total "));
    let count: f64 = line.and_then(|it| it.split(' ').next_back()?.parse().ok()).unwrap();
    // The last batches find no full one behind them.
    assert!((4.0..=8.0).contains(&count), "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_file_that_is_swapped_under_load_changes_no_answer_until_it_is_opened() {
    let (dir, others) = (checkpoints(), seeded(8));
    let server = Running::with(Arc::new(Knobs::default()), opener(dir.path()), |it| {
        it.admin_key = Some(calor_server::options::Secret::new("k"));
    })
    .await;
    assert!(server.handle.wait_for(Phase::Ready).await);
    let name = "all-MiniLM-L6-v2";
    let body = json!({"input": "heat is energy in transit", "model": "entity"}).to_string();
    let ask = async || -> Vec<f32> {
        let answer = server.post("/v1/embeddings", &body).await.good();
        numbers(&answer["data"][0]["embedding"])
    };
    let before = ask().await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (mut client, own, load) = (server.connect().await, stop.clone(), body.clone());
    let want = before.clone();
    let busy = tokio::spawn(async move {
        let mut count = 0;
        while !own.load(std::sync::atomic::Ordering::Relaxed) {
            let answer = client.post("/v1/embeddings", &load).await.good();
            let got = numbers(&answer["data"][0]["embedding"]);
            assert!(0.999_999 < cosine(&got, &want), "an answer of half a file");
            count += 1;
        }
        count
    });
    // Half of another file, in the place of the one that serves.
    let (file, other) = (dir.path().join(name).join("model.safetensors"), others.path().join(name));
    let whole = std::fs::read(other.join("model.safetensors")).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let headers = [("authorization", "Bearer k")];
    let failed = server.connect().await.send("POST", "/admin/swap", &headers, "").await;
    assert_eq!(failed.status, 424, "{:?}", failed.body);
    assert_eq!(server.handle.phase(), Phase::Ready);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(0 < busy.await.unwrap());
    assert!(0.999_999 < cosine(&ask().await, &before), "the old models serve on");
    // All of it, and opened: the new models answer.
    for entry in std::fs::read_dir(&other).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            continue;
        }
        std::fs::copy(entry.path(), dir.path().join(name).join(entry.file_name())).unwrap();
    }
    server.connect().await.send("POST", "/admin/swap", &headers, "").await.good();
    let (mut alone, _) = PipelineCore::open(build(), options(dir.path())).unwrap().warm().unwrap();
    let input = ModelInput::text("heat is energy in transit").unwrap();
    let want = alone.embed_model(ModelId::Entity, &[input], NOW_S).unwrap().remove(0).unwrap();
    let after = ask().await;
    assert!(0.999_999 < cosine(&after, &want.vector) && cosine(&after, &before) < 0.9);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_adds_to_a_program_is_measured() {
    let dir = checkpoints();
    let open = opener(dir.path());
    let server = Running::with(Arc::new(Knobs::default()), open, |_| {}).await;
    assert!(server.handle.wait_for(Phase::Ready).await);
    let body = |it: usize| json!({"input": format!("text {it}"), "encoding_format": "base64"});
    let options = calor_server::load::LoadOptions {
        address: server.address,
        path: "/v1/embeddings".into(),
        bodies: (0..64).map(|it| body(it).to_string()).collect(),
        item_count: 1,
        api_key: None,
        rates: vec![20.0],
        duration: std::time::Duration::from_secs(2),
    };
    let load = move || calor_server::load::run(&options, |_| {});
    let point = tokio::task::spawn_blocking(load).await.unwrap().unwrap()[0];
    assert_eq!(point.good_count, point.sent_count, "{point:?}");
    // More than nothing, and less than the whole request.
    let outside_us = point.overhead_p50_us.unwrap();
    assert!(0.0 < outside_us && outside_us < 1e3 * point.p50_ms, "{point:?}");
}
