//! Blocks of decoders: served in the order that was promised, and the same with and without the
//! vendor's library.

use std::sync::Arc;
use std::time::Duration;

use calor_device::Driver;
use calor_ir::{CheckedGraph, DecoderBlock, LowRank, Tensor};
use calor_runtime::cache::{ArtifactStore, MEMORY_BYTES_MAX, StoreOptions};
use calor_telemetry::{Counters, Null};
use calor_testkit::decoders::{Order, Output, REAL, SMALL, Served, serve};
use calor_testkit::prewarm::order_faults;

/// C-PREWARM-001 and F-BLACKWELL-CUBLAS-PREWARM-001 on two openings of one machine: `with` the
/// vendor's library and `without` it.
///
/// # Panics
/// When either is broken.
pub fn check_decoders(with: &dyn Driver, without: &dyn Driver) {
    let exact = [SMALL.forward().unwrap(), SMALL.backward().unwrap()];
    let both = [with, without].map(|it| served(it, &exact, SMALL.token_count_max));
    close("small", &both[0], &both[1], 1e-4);
    let block = DecoderBlock { low_rank: LowRank { rank: 16, alpha: 32.0 }, ..REAL[0].1 };
    let forward = [block.forward().unwrap()];
    let both = [with, without].map(|it| served(it, &forward, block.token_count_max));
    close(REAL[0].0, &both[0], &both[1], 3e-2);
}

/// Serves the graphs in the promised order and in another one, which must change no bit.
fn served(driver: &dyn Driver, graphs: &[CheckedGraph], tokens: usize) -> Vec<Output> {
    let options = StoreOptions {
        folder: None,
        layers: Vec::new(),
        disk_bytes_max: 0,
        memory_bytes_max: MEMORY_BYTES_MAX,
        lock_wait_max: Duration::ZERO,
    };
    let store = ArtifactStore::open(options, Arc::new(Counters::new()), Arc::new(Null));
    let store = Arc::new(store);
    let warmed: Served = serve(driver, graphs, tokens, Order::Manifest, store.clone()).unwrap();
    assert_eq!(order_faults(&warmed.log), [""; 0]);
    assert_eq!(warmed.module_faults, [""; 0]);
    assert_eq!(warmed.late_compiles, 0, "something was compiled after the seal");
    let cold = serve(driver, graphs, tokens, Order::Unrun, store).unwrap();
    for (a, b) in warmed.outputs.iter().zip(&cold.outputs) {
        assert!(a == b, "`{}` has other bits when nothing ran before", a.0);
    }
    warmed.outputs
}

/// Compares numbers with the largest of their output.
fn close(name: &str, a: &[Output], b: &[Output], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{name}");
    for ((output, ty, a), (_, _, b)) in a.iter().zip(b) {
        let [a, b] = [a, b].map(|it| Tensor::from_bytes(*ty, it).data);
        let largest = a.iter().fold(0.0_f64, |most, it| most.max(it.abs()));
        assert!(a.iter().chain(&b).all(|it| it.is_finite()), "{name}, {output}: not finite");
        assert!(0.0 < largest, "{name}, {output}: nothing but zeros");
        for (at, (a, b)) in a.iter().zip(&b).enumerate() {
            let apart = (a - b).abs();
            assert!(apart <= tolerance * largest, "{name}, {output}[{at}]: {a} {b} of {largest}");
        }
    }
}

#[test]
fn numbers_that_differ_are_noticed() {
    use calor_ir::DType;
    let output = |last: f64| {
        let ty = calor_ir::Type::new(DType::F32, &[2]);
        let mut bytes = Vec::new();
        [1.0, last].iter().for_each(|it| DType::F32.encode(*it, &mut bytes));
        vec![("y".to_owned(), ty, bytes)]
    };
    close("two", &output(2.0), &output(2.0001), 1e-4);
    for other in [2.001, f64::NAN] {
        let compare = || close("two", &output(2.0), &output(other), 1e-4);
        assert!(std::panic::catch_unwind(compare).is_err(), "{other}");
    }
}
