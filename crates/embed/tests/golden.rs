//! Every reference model on the processor.

use std::path::Path;

use calor_device_cpu::CpuDriver;
use calor_embed::InferencePrecision;
use calor_suite::Golden;

const DRIVER: CpuDriver = CpuDriver { threads: 2, level: None, memory_bytes: None, profile: None };

fn golden() -> Golden<'static> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    Golden { driver: &DRIVER, dir, tolerance: 1e-4, cosine_min: 0.99999 }
}

#[test]
fn vectors_are_those_of_the_reference() {
    golden().vectors_are_those_of_the_reference();
}

#[test]
fn token_rows_are_those_of_the_reference() {
    golden().token_rows_are_those_of_the_reference();
}

#[test]
fn late_interaction_scores_are_those_of_the_reference() {
    golden().late_interaction_scores_are_those_of_the_reference();
}

#[test]
fn images_are_those_of_the_reference() {
    golden().images_are_those_of_the_reference();
}

#[test]
fn short_vectors_are_close_in_bf16() {
    let golden = Golden { cosine_min: 0.999, ..golden() };
    golden.short_vectors_are_close_in(InferencePrecision::BF16, &[]);
}

#[test]
fn short_vectors_are_close_in_f16() {
    let golden = Golden { cosine_min: 0.999, ..golden() };
    golden.short_vectors_are_close_in(InferencePrecision::FP16, &["t5-gated", "codet5p"]);
}
