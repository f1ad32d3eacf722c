//! Checkpoints on several devices: what they want, and that they answer as one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use calor_device::Driver;
use calor_device_cpu::CpuDriver;
use calor_embed::embedding::MissingModels;
use calor_embed::input::ImageFormat;
use calor_embed::pipeline::{PlacedReady, PrecisionRule, Told};
use calor_embed::placement::{DeviceRoom, LayoutKind, PipelineNeed};
use calor_embed::warmup::ReadyPolicy;
use calor_embed::{
    EmbeddingResult, Layout, ModelId, ModelInput, PipelineCore, PipelineOptions, PipelineOutput,
    PlacedPipeline, Profile,
};
use calor_runtime::Build;
use calor_telemetry::{Counters, Null};

use crate::fixture::{NOW_S, cpu_build, options};

fn all() -> PipelineOptions {
    PipelineOptions { batch_tokens_max: 128, ..options(Profile::Random, &ModelId::ALL) }
}

/// A processor with so many bytes, which it does not exceed.
pub(crate) fn limited(memory_bytes: u64) -> Build {
    let driver =
        CpuDriver { threads: 2, level: None, memory_bytes: Some(memory_bytes), profile: None };
    let device = driver.open(0).unwrap();
    Build::new(device, memory_bytes, Arc::new(Counters::new()), Arc::new(Null))
}

fn need(options: &PipelineOptions) -> PipelineNeed {
    PipelineCore::open(cpu_build(), options.clone()).unwrap().need().unwrap()
}

/// Devices with so many bytes.
fn rooms(need: &PipelineNeed, free: &[u64]) -> Vec<DeviceRoom> {
    let room = |(at, free_bytes): (usize, &u64)| DeviceRoom {
        name: format!("{at}:cpu"),
        free_bytes: *free_bytes,
        need: need.clone(),
    };
    free.iter().enumerate().map(room).collect()
}

/// Warms the parts of a layout on devices that have no byte more than it says.
fn placed(layout: &Layout, options: &PipelineOptions, policy: &ReadyPolicy) -> PlacedReady {
    let device = |used_bytes: u64| (limited(used_bytes.max(1)), options.clone());
    let devices = layout.devices.iter().map(|it| device(it.used_bytes)).collect();
    let rule = PrecisionRule::default();
    PlacedPipeline::ready(devices, layout, policy, rule, &mut |_| ()).unwrap()
}

fn inputs() -> Vec<ModelInput> {
    let image = include_bytes!("../data/rgba.png").to_vec();
    vec![
        ModelInput::text("heat is energy in transit").unwrap(),
        ModelInput::image(image, ImageFormat::Png).unwrap(),
        ModelInput::code("fn main() {}", "rust").unwrap(),
        ModelInput::text_with_instruction("cold", Some("role:query".into())).unwrap(),
    ]
}

#[track_caller]
pub(crate) fn same(got: &EmbeddingResult<PipelineOutput>, want: &EmbeddingResult<PipelineOutput>) {
    let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
    let close = |got: &[f32], want: &[f32]| {
        assert_eq!(got.len(), want.len());
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-6, "{worst}");
    };
    for model in ModelId::iter() {
        let slot = |it: &PipelineOutput| it.embeddings.get(model).map(|it| it.vector.clone());
        match (slot(got), slot(want)) {
            (Some(got), Some(want)) => close(&got, &want),
            (got, want) => assert_eq!(got.is_some(), want.is_some(), "{model}"),
        }
    }
    let fused = |it: &PipelineOutput| it.fused.as_ref().map(|it| it.vector.clone());
    match (fused(got), fused(want)) {
        (Some(got), Some(want)) => close(&got, &want),
        (got, want) => assert_eq!(got.is_some(), want.is_some()),
    }
    assert_eq!(got.sparse.is_some(), want.sparse.is_some());
    assert_eq!(got.tokens.is_some(), want.tokens.is_some());
    assert_eq!(got.flags.partial, want.flags.partial);
    assert_eq!(got.embeddings.content_hash(), want.embeddings.content_hash());
}

#[test]
fn parts_on_devices_with_exactly_their_bytes_answer_as_one_device() {
    let options = all();
    let need = need(&options);
    assert_eq!(need.parts.len(), 9, "eight checkpoints and the fusion");
    let one = [need.whole_bytes];
    assert_eq!(Layout::plan(&rooms(&need, &one)).unwrap().kind, LayoutKind::Replicas);
    // The whole fits a device with its bytes.
    let whole = PipelineCore::open(limited(need.whole_bytes), options.clone()).unwrap();
    let (mut whole, _) = whole.warm().unwrap();
    let want = whole.embed_batch(&inputs(), NOW_S).unwrap();
    // Less than all want, and more than the fusion does.
    let largest = need.parts.iter().map(|it| it.bytes.total_bytes()).max().unwrap();
    let free = [(largest + need.whole_bytes) / 2; 3];
    let layout = Layout::plan(&rooms(&need, &free)).unwrap();
    assert_eq!(layout.kind, LayoutKind::Parts);
    assert!(layout.devices.iter().all(|it| !it.parts.is_empty()), "{layout}");
    let PlacedReady { mut placed, report, lost } = placed(&layout, &options, &ReadyPolicy::All);
    assert!(lost.is_empty() && 30 < report.program_count);
    assert!(placed.fuses() && placed.parts().len() == 3);
    assert_eq!(placed.loaded().collect::<Vec<_>>(), ModelId::ALL);
    for part in placed.parts() {
        let programs = part.programs();
        assert!(programs.memory().total_bytes() <= programs.signature().memory_bytes);
    }
    let got = placed.embed_batch(&inputs(), NOW_S).unwrap();
    assert_eq!(got.len(), want.len());
    got.iter().zip(&want).for_each(|(got, want)| same(got, want));
    // Some models, and more inputs than run together.
    let some = BTreeSet::from([ModelId::Semantic, ModelId::TemporalRecent, ModelId::Entity]);
    let many: Vec<ModelInput> =
        (0..70).map(|it| ModelInput::text(format!("text {it}")).unwrap()).collect();
    let got = placed.embed_models(&some, &many, NOW_S).unwrap();
    let want = whole.embed_models(&some, &many, NOW_S).unwrap();
    got.iter().zip(&want).for_each(|(got, want)| same(got, want));
    let got = placed.embed_batch(&many, NOW_S).unwrap();
    let want = whole.embed_batch(&many, NOW_S).unwrap();
    assert_eq!(got.len(), 70);
    got.iter().zip(&want).for_each(|(got, want)| same(got, want));
    // A bad input fails alone.
    let mixed = [
        ModelInput::text("a").unwrap(),
        ModelInput::Text { content: String::new(), instruction: None },
    ];
    let got = placed.embed_batch(&mixed, NOW_S).unwrap();
    assert!(got[0].is_ok() && got[1].is_err());
}

#[test]
fn too_little_for_any_placement_is_refused_before_anything_is_opened() {
    let need = need(&all());
    let largest = need.parts.iter().map(|it| it.bytes.total_bytes()).max().unwrap();
    let refused = Layout::plan(&rooms(&need, &[largest - 1; 4])).unwrap_err().to_string();
    assert!(refused.contains(&format!("wants {largest} bytes and finds no device")), "{refused}");
    assert!(Layout::plan(&rooms(&need, &[largest; 9])).is_ok());
}

#[test]
fn what_all_want_together_with_one_launch_fits_as_well() {
    let options = PipelineOptions { device_slots: true, ..all() };
    let need = need(&options);
    let whole = PipelineCore::open(limited(need.whole_bytes), options.clone()).unwrap();
    let (whole, _) = whole.warm().unwrap();
    assert!(whole.programs().memory().total_bytes() <= need.whole_bytes);
    // Placed, slots are gathered on the host though all models finish theirs on a device.
    let layout = Layout::parts(&rooms(&need, &[need.whole_bytes; 2])).unwrap();
    let mut placed = placed(&layout, &options, &ReadyPolicy::All).placed;
    let mut whole = whole;
    let got = placed.embed_batch(&inputs(), NOW_S).unwrap();
    let want = whole.embed_batch(&inputs(), NOW_S).unwrap();
    for (got, want) in got.iter().zip(&want) {
        let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
        if let (Some(got), Some(want)) = (&got.fused, &want.fused) {
            let cosine = calor_embed::embedding::cosine(&got.vector, &want.vector);
            assert!(0.999_999 < cosine, "{cosine}");
        }
    }
}

#[test]
fn a_device_that_has_not_what_was_planned_loses_its_models_where_that_is_allowed() {
    let options = PipelineOptions { missing: MissingModels::AllowPartial, ..all() };
    let need = need(&options);
    let layout = Layout::parts(&rooms(&need, &[need.whole_bytes; 2])).unwrap();
    let lead = layout.lead();
    let device = |at: usize| {
        let memory_bytes = if at == lead { need.whole_bytes } else { 1 << 10 };
        (limited(memory_bytes), options.clone())
    };
    let ready = |policy: &ReadyPolicy| {
        let told = Mutex::new(Vec::new());
        let mut tell = |it: Told<'_>| {
            if let Told::Lost { lost, .. } = it {
                told.lock().unwrap().extend(lost.model_ids.clone());
            }
        };
        let devices = (0..2).map(device).collect();
        let rule = PrecisionRule::default();
        let ready = PlacedPipeline::ready(devices, &layout, policy, rule, &mut tell);
        (ready, told.into_inner().unwrap())
    };
    let (refused, _) = ready(&ReadyPolicy::All);
    assert!(refused.is_err());
    let enough = |models_min| ReadyPolicy::Enough { models_min, mandatory: Vec::new() };
    let (refused, _) = ready(&enough(12));
    let words = refused.unwrap_err().to_string();
    assert!(words.contains("12 must be; lost: "), "{words}");
    let (degraded, told) = ready(&enough(4));
    let PlacedReady { mut placed, lost, .. } = degraded.unwrap();
    let lost: Vec<ModelId> = lost.iter().map(|it| it.model_id).collect();
    let mut want = layout.devices[1 - lead].model_ids.clone();
    want.sort();
    assert_eq!(lost, want);
    assert_eq!(told, layout.devices[1 - lead].model_ids);
    let output = placed.embed_batch(&inputs()[..1], NOW_S).unwrap().remove(0).unwrap();
    assert_eq!(output.embeddings.missing_models(), want);
    // Without E1 nothing is fused.
    assert!(output.flags.partial && output.fused.is_none() && !placed.fuses());
}
