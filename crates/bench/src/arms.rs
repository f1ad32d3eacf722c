//! The registry of arms, in the order in which they are listed. A case is a row and a function.

mod arrays;
mod encoder;
mod program;

use crate::arm::ArmRow;

/// Every arm.
// tidy: table
pub static ARMS: &[ArmRow] = &[
    ArmRow {
        name: "vectors.search",
        about: "exact search: scores of 64 queries against SIZE vectors of 384, the best ten of each",
        open: arrays::search,
    },
    ArmRow {
        name: "pooling.mean",
        about: "mean and length one of texts of 32 rows of 384; SIZE is rows",
        open: arrays::pooling,
    },
    ArmRow {
        name: "fusion.mix",
        about: "SIZE items: softmax gate over twelve slots of 256, their mix, layer norm, length one",
        open: arrays::fusion,
    },
    ArmRow {
        name: "machine.bandwidth",
        about: "one pass over SIZE numbers: what the machine moves",
        open: arrays::bandwidth,
    },
    ArmRow {
        name: "machine.flops",
        about: "a product of SIZE by SIZE by SIZE: what the machine computes",
        open: arrays::flops,
    },
    ArmRow {
        name: "embed.checkpoint",
        about: "SIZE texts of given ids through a checkpoint: vectors",
        open: encoder::embed,
    },
    ArmRow {
        name: "pipeline.mini",
        about: "SIZE short texts through twelve models on one trunk and their fusion",
        open: encoder::pipeline,
    },
];

#[test]
fn names_are_unique() {
    for (index, row) in ARMS.iter().enumerate() {
        assert!(ARMS[..index].iter().all(|it| it.name != row.name), "{}", row.name);
    }
}
