//! Pipelines on several devices that share bulk work.

use std::sync::Arc;

use calor_embed::{
    EmbeddingError, ModelId, ModelInput, MultiGpuBalancer, MultiGpuPipeline, PipelineCore, Profile,
};
use calor_runtime::Build;

use crate::fixture::{NOW_S, cpu_build, options};
use crate::placed::{limited, same};

/// Too little for any program.
const NO_BYTES: u64 = 4096;

fn core(build: Build) -> PipelineCore {
    let models = [ModelId::Graph, ModelId::TemporalRecent, ModelId::Entity];
    PipelineCore::open(build, options(Profile::Random, &models)).unwrap()
}

fn shared(builds: Vec<Build>) -> MultiGpuPipeline {
    let places: Vec<usize> = (0..builds.len()).collect();
    let balancer = Arc::new(MultiGpuBalancer::new(&places).unwrap());
    MultiGpuPipeline::new(balancer, builds.into_iter().map(core).collect()).unwrap()
}

fn inputs(count: usize) -> Vec<ModelInput> {
    (0..count).map(|it| ModelInput::text(format!("text {it}")).unwrap()).collect()
}

#[test]
fn replicas_share_a_batch_and_answer_in_order() {
    let inputs = inputs(100);
    let want = core(cpu_build()).embed_batch(&inputs, NOW_S).unwrap();
    let mut shared = shared(vec![cpu_build(), cpu_build(), cpu_build()]);
    let got = shared.embed_batch(&inputs, NOW_S).unwrap();
    assert_eq!(got.len(), want.len());
    got.iter().zip(&want).for_each(|(got, want)| same(got, want));
    // Each builds its programs with its first piece, so that none has it all.
    assert!(shared.item_counts().iter().all(|it| 0 < *it), "{:?}", shared.item_counts());
    assert_eq!(shared.item_counts().iter().sum::<u64>(), 100);
    assert!(shared.embed_batch(&[], NOW_S).unwrap().is_empty());
}

#[test]
fn a_pipeline_that_fails_leaves_its_piece_to_the_others() {
    let inputs = inputs(30);
    let mut shared = shared(vec![limited(NO_BYTES), cpu_build()]);
    let got = shared.embed_batch(&inputs, NOW_S).unwrap();
    let want = core(cpu_build()).embed_batch(&inputs, NOW_S).unwrap();
    got.iter().zip(&want).for_each(|(got, want)| same(got, want));
    assert_eq!(shared.item_counts(), [0, 30]);
    let [Some(fault), None] = shared.faults() else { panic!("{:?}", shared.faults()) };
    assert!(fault.contains("bytes"), "{fault}");
    assert!(shared.balancer().is_lost(0) && !shared.balancer().is_lost(1));
}

#[test]
fn without_any_device_the_last_fault_is_reported() {
    let mut shared = shared(vec![limited(NO_BYTES), limited(NO_BYTES)]);
    assert!(shared.embed_batch(&inputs(3), NOW_S).is_err());
    let refused = shared.embed_batch(&inputs(3), NOW_S).unwrap_err();
    assert!(matches!(refused, EmbeddingError::NotInitialized { .. }), "{refused:?}");
    assert_eq!(shared.balancer().live_count(), 0);
}
