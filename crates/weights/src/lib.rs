//! Checkpoints: files, names, precisions as stored, and the model store.
//!
//! A [`Checkpoint`] is a Hugging Face directory whose tensors are read by positioned reads. A
//! [`ModelConfig`] says what the encoder is, whatever family published it. [`Weights`] puts
//! the two together under one set of tensor names. A [`Store`] keeps pulled models, and
//! [`synth`](mod@synth) writes checkpoints of real size with seeded values.
//!
//! This crate knows no device, no graph and no environment variable: everything that a process
//! reads from its surroundings is passed in.
#![forbid(unsafe_code)]

mod checkpoint;
pub mod config;
pub mod container;
mod digest;
mod dtype;
mod error;
mod names;
pub mod nf4;
mod sentence;
pub mod source;
mod store;
pub mod synth;
mod weights;

pub use checkpoint::{Checkpoint, FileDigest, TensorInfo};
pub use config::{
    Activation, EncoderConfig, Family, ModelConfig, Norm, Position, RelativeBias, SpecialIds,
    VisionConfig,
};
pub use digest::digest_of;
pub use dtype::Dtype;
pub use error::{FieldProblem, RangeProblem, WeightsError};
pub use nf4::{Nf4, Nf4Problem};
pub use sentence::{Pooling, SentenceConfig};
pub use source::{Attempt, Outcome, Progress, ProgressStep, Source, Staging};
pub use store::{Manifest, Pulled, Store, StoreOptions};
pub use synth::{SYNTH_MODELS, SynthModel, SynthOptions, SynthProfile, synth};
pub use weights::{Head, Source as TensorSource, Weights};
