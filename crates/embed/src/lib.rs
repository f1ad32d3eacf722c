//! Twelve embedding models and their fusion: the half that needs no device.
//!
//! Identity and sizes ([`model_id`]), what a caller hands in ([`input`], [`image_input`],
//! [`tokenizer`]), how ragged work becomes rows of a bucket ([`packing`]), the four embedders
//! that are arithmetic ([`temporal`], [`hdc`]), projections and the slot rule ([`projection`],
//! [`embedding`]), the fusion's weights and its f64 reference ([`fusion`]), and exact search
//! over the results ([`search`]).
//!
//! No clock, no environment and no device is known here: time comes in as epoch seconds.
#![forbid(unsafe_code)]

pub mod batching;
pub mod checkpoint_source;
pub mod closeness;
pub mod embedder;
pub mod embedding;
pub mod encoder;
pub mod error;
pub mod fuser;
pub mod fusion;
pub mod handle;
pub mod hdc;
pub mod image_input;
pub mod image_tower;
pub mod input;
pub mod lexical;
pub mod model;
pub mod model_id;
pub mod packing;
mod pieces;
pub mod pipeline;
pub mod placement;
pub mod pooling;
pub mod precision;
pub mod profile;
pub mod programs;
pub mod projection;
pub mod registry;
pub mod replicas;
pub mod results;
pub mod search;
mod slots;
pub mod streams;
pub mod temporal;
pub mod tensor_file;
pub mod tokenizer;
pub mod tower;
pub mod warmup;

pub use batching::{BatchAccumulator, BatchConfig, BatchResult, BatchSizeOptimizer};
pub use closeness::Closeness;
pub use embedder::{
    CheckpointEmbedder, EmbedItem, EmbedOutput, Embedded, EmbedderOptions, PoolingChoice,
};
pub use embedding::{
    ConcatenatedEmbedding, FusedEmbedding, ModelEmbedding, SparseVector, TokenMatrix,
};
pub use error::{EmbeddingError, EmbeddingResult, Fault, Recovery};
pub use fuser::FuseMoE;
pub use handle::{EmbeddingPipeline, HealthReport, HealthState, PipelineMetrics};
pub use input::{InputKind, ModelInput};
pub use model::EmbeddingModel;
pub use model_id::{CONCATENATED_LEN, FUSED_LEN, ModelId};
pub use pipeline::{PipelineCore, PipelineFront, PipelineOptions, PipelineOutput, PlacedPipeline};
pub use placement::Layout;
pub use precision::{InferencePrecision, PrecisionConvert};
pub use profile::{Need, Profile};
pub use programs::Programs;
pub use registry::{ModelRegistry, RegistryStats};
pub use replicas::{MultiGpuBalancer, MultiGpuEmbedder, MultiGpuPipeline};
pub use results::{ResultKey, ResultsCache};
pub use streams::{OverlappedExecutor, StreamPool};
pub use warmup::{
    ModelWarmupResult, PipelineWarmup, SyntheticDataGenerator, WarmupConfig, WarmupReport,
};
