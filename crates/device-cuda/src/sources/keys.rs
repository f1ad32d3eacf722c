//! Keys of hand-written kernels: over a grid of each one's parameters, two sources have one text
//! and one form if and only if they have one digest.
//!
//! A source may hold more than its text: a hint, from which a rule chooses tiles. Two hints that
//! choose the same tiles have two digests and one text; the hints are listed, so that no other
//! parameter becomes one unnoticed. Such sources share their artifact, whose key is the text.

use std::collections::HashMap;

use calor_kernel::{Source, Unit};

use super::{tests::samples, write};
use crate::arch::Arch;

/// Parameters and their values.
type Grid = &'static [(&'static str, &'static [i64])];

/// The bits of 0.125 and of another scale.
const SCALES: &[i64] = &[0x3fc0_0000_0000_0000, 0x3fb6_a09e_667f_3bcd];

/// The bits of 1e-5 and 1e-6.
const EPSILONS: &[i64] = &[0x3ee4_f8b5_88e3_68f1, 0x3eb0_c6f7_a0b5_ed8d];

const GEMM: Grid = &[
    ("n", &[384, 768]),
    ("k", &[256, 768]),
    ("dtype", &[0, 1, 2]),
    ("activation", &[0, 2, 5]),
    ("bias", &[0, 1]),
    ("residual", &[0, 1]),
    ("rows", &[1, 16, 33, 512, 4096]),
];

/// Products of codes of one byte.
const SCALED: Grid = &[
    ("n", &[384, 768]),
    ("k", &[256, 768]),
    ("dtype", &[3, 4]),
    ("activation", &[0, 2]),
    ("bias", &[0, 1]),
    ("residual", &[0, 1]),
    ("rows", &[1, 16, 33, 512, 4096]),
    ("out", &[0, 1, 2]),
];

/// Every source: its name, its grid, its hints.
const GRIDS: &[(&str, Grid, &[&str])] = &[
    (
        "attention_rows",
        &[
            ("heads", &[4, 12]),
            ("kv_heads", &[2, 4]),
            ("d", &[64, 80]),
            ("scale", SCALES),
            ("dtype", &[0, 1, 2]),
        ],
        &[],
    ),
    ("gemm_plain", GEMM, &["rows"]),
    ("gemm_mma", GEMM, &["rows"]),
    ("gemm_wgmma", GEMM, &["rows"]),
    ("gemm_mma", SCALED, &["rows"]),
    ("gemm_wgmma", SCALED, &["rows"]),
    ("quantize_rows", &[("k", &[384, 1024]), ("dtype", &[1, 2]), ("codes", &[3, 4])], &[]),
    (
        "gemm_skinny",
        &[
            ("n", &[384, 768]),
            ("k", &[256, 768]),
            ("dtype", &[0, 1, 2]),
            ("activation", &[0, 2, 5]),
            ("bias", &[0, 1]),
            ("residual", &[0, 1]),
            ("rows", &[1, 16, 33, 512]),
            ("norm", &[0]),
            ("eps", &[0]),
            ("normed", &[0]),
        ],
        &["rows"],
    ),
    (
        "gemm_skinny",
        &[
            ("n", &[384, 768]),
            ("k", &[256, 768]),
            ("dtype", &[2]),
            ("activation", &[0, 2]),
            ("bias", &[0]),
            ("residual", &[0]),
            ("rows", &[1, 16, 33]),
            ("norm", &[1, 2]),
            ("eps", EPSILONS),
            ("normed", &[0, 1]),
        ],
        &["rows"],
    ),
    (
        "fold_norm",
        &[
            ("n", &[384, 768]),
            ("k", &[256, 768]),
            ("dtype", &[1, 2]),
            ("shift", &[0, 1]),
            ("bias", &[0, 1]),
        ],
        &[],
    ),
    (
        "norm",
        &[
            ("k", &[77, 384, 1024]),
            ("in", &[0, 2]),
            ("out", &[0, 1, 2]),
            ("gain", &[0, 2]),
            ("centred", &[0, 1]),
            ("bias", &[0, 1]),
            ("eps", EPSILONS),
            ("terms", &[1, 2]),
            ("tables", &[0, 1]),
            ("sum", &[0, 1]),
            ("early", &[0]),
            ("few", &[0, 1]),
        ],
        &[],
    ),
    // Whether vectors are read early matters where a thread holds its row in one piece.
    (
        "norm",
        &[
            ("k", &[384, 1024]),
            ("in", &[2]),
            ("out", &[1, 2]),
            ("gain", &[0]),
            ("centred", &[0, 1]),
            ("bias", &[0, 1]),
            ("eps", EPSILONS),
            ("terms", &[1]),
            ("tables", &[0]),
            ("sum", &[0, 1]),
            ("early", &[0, 1]),
            ("few", &[1]),
        ],
        &[],
    ),
    (
        "pool",
        &[
            ("d", &[77, 384]),
            ("kind", &[1, 2, 5]),
            ("in", &[0, 2]),
            ("out", &[0, 1]),
            ("unit", &[0]),
            ("eps", &[0]),
        ],
        &[],
    ),
    (
        "pool",
        &[
            ("d", &[77, 384]),
            ("kind", &[1, 2, 5]),
            ("in", &[0, 2]),
            ("out", &[0, 1]),
            ("unit", &[1]),
            ("eps", EPSILONS),
        ],
        &[],
    ),
    (
        "experts",
        &[
            ("e", &[8, 32]),
            ("d", &[72, 768]),
            ("h", &[40, 256]),
            ("o", &[8, 64]),
            ("dtype", &[0, 1, 2]),
            ("rows", &[1, 16, 64, 300]),
        ],
        &[],
    ),
    (
        "splade",
        &[("v", &[77, 30_522]), ("k", &[40, 768]), ("dtype", &[0, 1, 2]), ("rows", &[32, 4096])],
        &[],
    ),
    (
        "gate",
        &[("d", &[768, 8320]), ("e", &[4, 8]), ("temperature", SCALES), ("smoothing", EPSILONS)],
        &[],
    ),
    ("top_k", &[("e", &[4, 8]), ("k", &[1, 4])], &[]),
    (
        "attention",
        &[
            ("heads", &[4, 12]),
            ("kv_heads", &[2, 4]),
            ("d", &[64, 128]),
            ("scale", SCALES),
            ("extra", &[0, 1]),
            ("bias", &[0, 1]),
            ("lse", &[0, 1]),
            ("reach", &[0, 128]),
            ("dtype", &[0, 1, 2]),
            ("rows", &[32, 512, 16_384]),
            ("cores", &[0, 1]),
        ],
        &["rows"],
    ),
    (
        "nf4_plain",
        &[
            ("n", &[77, 192]),
            ("k", &[35, 256]),
            ("dtype", &[0, 1, 2]),
            ("form", &[0, 1, 2]),
            ("transposed", &[0, 1]),
            ("lane_rows", &[1, 4]),
        ],
        &[],
    ),
    (
        "nf4_mma",
        &[
            ("n", &[192, 1536]),
            ("k", &[256, 1536]),
            ("dtype", &[1, 2]),
            ("form", &[0, 1, 2]),
            ("transposed", &[0, 1]),
            ("row_tile", &[64, 128, 256]),
            ("column_tile", &[64, 128]),
            ("warpgroups", &[0, 2]),
            ("split", &[1, 2, 8]),
        ],
        &[],
    ),
    (
        "nf4_skinny",
        &[
            ("n", &[192, 1536]),
            ("k", &[256, 1536]),
            ("dtype", &[1, 2]),
            ("form", &[0, 1, 2]),
            ("transposed", &[0]),
            ("row_tiles", &[1, 2, 5, 8]),
            ("early", &[0, 1]),
        ],
        &[],
    ),
    ("digest_parts", &[("part_bytes", &[1 << 10, 1 << 20])], &[]),
    ("rope", &[("d", &[6, 64, 128]), ("dtype", &[0, 1, 2]), ("interleaved", &[0, 1])], &[]),
];

fn points(name: &'static str, grid: Grid) -> Vec<Source> {
    let mut all = vec![Source { name, params: Vec::new() }];
    for (param, values) in grid {
        let with = |source: Source| {
            values.iter().map(move |value| {
                let mut source = source.clone();
                source.params.push((param, *value));
                source
            })
        };
        all = all.into_iter().flat_map(with).collect();
    }
    all
}

#[test]
fn keys_are_equal_where_texts_are() {
    for arch in [Arch::of_device(9, 0), Arch::of_device(8, 0)] {
        let mut written_count = 0;
        for (name, grid, hints) in GRIDS {
            // The first source of each text, and the first text of each digest.
            let mut by_text: HashMap<(String, Vec<u8>), Source> = HashMap::new();
            let mut digests = HashMap::new();
            for source in points(name, grid) {
                // A point of the grid may be no kernel: then it has no text.
                let Ok(written) = write(&source, arch, 132) else { continue };
                written_count += 1;
                let again = write(&source, arch, 132);
                assert_eq!(again.as_ref(), Ok(&written), "{source:?} is written in two ways");
                let digest = Unit::Source(source.clone()).digest();
                let other = digests.insert(digest, source.clone());
                assert_eq!(other, None, "one digest for two sources");
                let body = (written.text, written.form.to_bytes());
                let first = by_text.entry(body).or_insert_with(|| source.clone());
                for ((param, value), (_, other)) in source.params.iter().zip(&first.params) {
                    let differs = value != other && !hints.contains(param);
                    assert!(!differs, "`{param}` is no part of the text: {source:?}, {first:?}");
                }
            }
            let hinted = by_text.len() < digests.len();
            assert_eq!(hinted, !hints.is_empty() && !digests.is_empty(), "{name} on {arch}");
        }
        assert!(1000 < written_count);
    }
}

#[test]
fn every_source_has_a_grid() {
    for source in samples() {
        let grids = GRIDS.iter().filter(|(name, ..)| *name == source.name);
        let names = grids.map(|(_, it, _)| it.iter().map(|it| it.0).collect());
        let names: Vec<Vec<&str>> = names.collect();
        let params: Vec<&str> = source.params.iter().map(|it| it.0).collect();
        assert!(names.contains(&params), "{params:?} of `{}`, in order", source.name);
    }
}
