//! Every reference model on the processor.

use std::path::Path;
use std::sync::LazyLock;

use calor_device::{Claim, Device, DeviceError, Driver};
use calor_device_cpu::{CLAIMS, CpuDriver};
use calor_embed::InferencePrecision;
use calor_ir::composite::{scaled_linear, tf32_linear};
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

/// The processor, as if it had code for every precision: claims that offer nothing, so that the
/// products are computed by their definition.
struct ByDefinition;

static ALL_CLAIMS: LazyLock<Vec<Claim>> = LazyLock::new(|| {
    let narrow =
        [&tf32_linear::TF32_LINEAR, &scaled_linear::FP8_LINEAR, &scaled_linear::INT8_LINEAR];
    let own = CLAIMS.iter().map(|it| Claim { composite: it.composite, offer: it.offer });
    own.chain(narrow.map(|composite| Claim { composite, offer: |_| None })).collect()
});

impl Driver for ByDefinition {
    fn count(&self) -> Result<usize, DeviceError> {
        DRIVER.count()
    }

    fn open(&self, ordinal: usize) -> Result<Device, DeviceError> {
        Ok(Device { claims: &ALL_CLAIMS, ..DRIVER.open(ordinal)? })
    }
}

/// Two forms of layers are enough here: a GPU is asked for all models.
#[track_caller]
fn check_by_definition(precision: InferencePrecision, cosine_min: f64, large_min: f64) {
    let golden = Golden { driver: &ByDefinition, cosine_min, ..golden() };
    golden.vectors_are_close_in(precision, large_min, &["colbert", "t5-gated"]);
}

#[test]
fn vectors_by_definition_are_close_in_tf32() {
    check_by_definition(InferencePrecision::TF32, 0.9999, 0.999);
}

#[test]
fn vectors_by_definition_are_close_in_fp8() {
    check_by_definition(InferencePrecision::FP8, 0.99, 0.9);
}

#[test]
fn vectors_by_definition_are_close_in_int8() {
    check_by_definition(InferencePrecision::INT8, 0.99, 0.99);
}

#[test]
fn the_processor_refuses_what_it_cannot_multiply() {
    for precision in [InferencePrecision::TF32, InferencePrecision::FP8, InferencePrecision::INT8] {
        golden().device_refuses(precision);
    }
}
