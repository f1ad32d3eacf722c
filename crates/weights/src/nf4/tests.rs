//! NF4 against its definition, and against what bitsandbytes stored. Not the kernels.

use std::path::PathBuf;

use rand_core::{Rng, SeedableRng};

use super::*;
use crate::Checkpoint;
use crate::WeightsError;

/// Numbers from -1 to 1, with some zeros and a changing size.
fn drawn(seed: u64, count: usize) -> Vec<f32> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut next = || random.next_u32() as f32 / u32::MAX as f32;
    (0..count)
        .map(|at| match at % 11 {
            0 => 0.0,
            _ => (2.0 * next() - 1.0) * 10_f32.powi((at / 100 % 7) as i32 - 3),
        })
        .collect()
}

#[test]
fn every_element_is_near() {
    for (seed, rows, columns) in [(1, 8, 64), (2, 9, 7), (3, 10, 44), (4, 1, 1), (5, 300, 129)] {
        let values = drawn(seed, rows * columns);
        let packed = Nf4::quantize(&values, &[rows, columns], Dtype::F32).unwrap();
        let got = packed.dequantize();
        let blocks = values.chunks(BLOCK).zip(got.chunks(BLOCK)).zip(packed.block_scales());
        for ((values, got), scale) in blocks {
            let most = values.iter().fold(0.0, |most: f32, it| most.max(it.abs()));
            assert_eq!(scale, most);
            for (value, got) in values.iter().zip(got) {
                assert!((value - got).abs() <= 0.152 * most, "{value} {got} of {most}");
            }
        }
        // What is quantised once is not changed by a second time.
        let again = Nf4::quantize(&got, &[rows, columns], Dtype::F32).unwrap();
        assert_eq!(again, packed);
        // With quantised scales an element moves by no more than its scale does.
        let nested = packed.clone().nest();
        assert_eq!(nested.codes(), packed.codes());
        let offsets = packed.block_scales().into_iter().zip(nested.block_scales());
        let moved = offsets.fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()));
        for (a, b) in got.iter().zip(nested.dequantize()) {
            assert!((a - b).abs() <= moved * 1.0001, "{a} {b}");
        }
    }
}

#[test]
fn the_code_is_that_of_the_nearest_entry() {
    for at in 0..=20_000 {
        let unit = at as f32 / 10_000.0 - 1.0;
        let packed = Nf4::quantize(&[unit, 1.0], &[2], Dtype::F32).unwrap();
        let code = usize::from(packed.codes()[0] >> 4);
        let distance = |code: usize| (unit - CODEBOOK[code]).abs();
        let least = (0..16).map(distance).fold(f32::INFINITY, f32::min);
        // Both entries beside a midpoint are nearest within a rounding of it.
        assert!(distance(code) <= least + f32::EPSILON, "{unit}");
    }
    // On a midpoint the lower entry is taken.
    for (code, midpoint) in MIDPOINTS.into_iter().enumerate() {
        let packed = Nf4::quantize(&[midpoint, 1.0], &[2], Dtype::F32).unwrap();
        assert_eq!(usize::from(packed.codes()[0] >> 4), code);
        let middle = f64::midpoint(f64::from(CODEBOOK[code]), f64::from(CODEBOOK[code + 1]));
        assert!((middle - f64::from(midpoint)).abs() < 1e-7, "{midpoint}");
    }
}

#[test]
fn the_book_is_that_of_the_graph() {
    assert_eq!(CODEBOOK, calor_ir::composite::nf4::CODEBOOK);
    assert_eq!(BLOCK, calor_ir::composite::nf4::BLOCK);
    // Ten decimal digits less would be another number.
    assert_eq!(CODEBOOK[6].to_bits(), (-0.091_050_036_251_545_f64 as f32).to_bits());
}

#[test]
fn zeros_stay_zeros() {
    let mut values = vec![0.0; 130];
    values[129] = -2.0;
    let packed = Nf4::quantize(&values, &[130], Dtype::F32).unwrap();
    assert_eq!(packed.block_scales(), [0.0, 0.0, 2.0]);
    assert!(packed.codes()[..64].iter().all(|it| *it == 0x77));
    assert_eq!(packed.dequantize(), values);
    // The smallest number has an infinite inverse.
    let least = f32::from_bits(1);
    let packed = Nf4::quantize(&[least, -least, 0.0], &[3], Dtype::F32).unwrap();
    assert_eq!(packed.dequantize(), [least, -least, 0.0]);
}

#[test]
fn what_is_not_finite_is_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let refused = Nf4::quantize(&[0.0, bad], &[2], Dtype::F32);
        assert_eq!(refused, Err(Nf4Problem::NotFinite { index: 1 }));
    }
}

#[test]
fn both_orders_are_read() {
    let values = drawn(9, 63);
    let packed = Nf4::quantize(&values, &[9, 7], Dtype::F16).unwrap();
    let (scales, shape) = (packed.scales().clone(), packed.shape().to_vec());
    for order in [NibbleOrder::HighFirst, NibbleOrder::LowFirst] {
        let codes = packed.codes_in(order);
        let again = Nf4::from_parts(order, codes, scales.clone(), &shape, Dtype::F16).unwrap();
        assert_eq!(again, packed);
    }
    assert_ne!(packed.codes_in(NibbleOrder::LowFirst), packed.codes());
    let few = Nf4::from_parts(NibbleOrder::HighFirst, vec![0; 31], scales, &shape, Dtype::F16);
    assert!(matches!(few, Err(Nf4Problem::Count { want: 32, found: 31, .. })));
}

fn fixture() -> Checkpoint {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nf4"));
    Checkpoint::open(folder).unwrap()
}

const STORED: [&str; 4] = ["nested.weight", "plain.weight", "small.weight", "across.weight"];

#[test]
fn what_bitsandbytes_stored_is_read_and_written_back_bit_for_bit() {
    let checkpoint = fixture();
    for name in STORED {
        assert!(checkpoint.is_nf4(name));
        let read = checkpoint.read_nf4(name).unwrap();
        let mut want = vec![0.0; read.element_count()];
        checkpoint.read_f32(&format!("{name}.unpacked"), &mut want).unwrap();
        let bits = |values: &[f32]| values.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read.dequantize()), bits(&want), "{name}");

        let stored = read.stored(name);
        let beside = checkpoint.tensors().filter(|(it, _)| {
            it.starts_with(name) && !it.ends_with(".source") && !it.ends_with(".unpacked")
        });
        assert_eq!(stored.len(), beside.count(), "{name}");
        for (tensor, dtype, shape, bytes) in stored {
            let info = checkpoint.tensor(&tensor).unwrap();
            assert_eq!((dtype, &shape), (info.dtype, &info.shape), "{tensor}");
            let mut want = vec![0; bytes.len()];
            checkpoint.read_bytes(&tensor, &mut want).unwrap();
            assert_eq!(bytes, want, "{tensor}");
        }
    }
    assert!(!checkpoint.is_nf4("nested.weight.source"));
}

#[test]
fn we_quantise_as_bitsandbytes_does() {
    let checkpoint = fixture();
    for name in STORED {
        let read = checkpoint.read_nf4(name).unwrap();
        let mut source = vec![0.0; read.element_count()];
        checkpoint.read_f32(&format!("{name}.source"), &mut source).unwrap();
        let ours = Nf4::quantize(&source, read.shape(), read.dtype()).unwrap();
        assert_eq!(ours.codes(), read.codes(), "{name}");
        let Scales::Nested(theirs) = read.scales() else {
            assert_eq!(ours, read);
            continue;
        };
        let nested = ours.nest();
        let Scales::Nested(ours) = nested.scales() else { unreachable!() };
        assert_eq!(ours.map, theirs.map, "{name}");
        // The mean is summed in another order, so the codes may differ where two are as near.
        assert!((ours.offset - theirs.offset).abs() <= 2e-7 * theirs.offset, "{name}");
        let apart = ours.codes.iter().zip(&theirs.codes).filter(|(a, b)| a != b).count();
        assert!(apart * 100 <= ours.codes.len(), "{name}: {apart} codes differ");
    }
}

/// Writes a checkpoint of these tensors and reads one of them.
fn through_a_file(tensors: &[stored::StoredTensor]) -> Result<Nf4, WeightsError> {
    let folder = tempfile::tempdir().unwrap();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let dtype = match dtype {
            Dtype::U8 => safetensors::Dtype::U8,
            Dtype::F32 => safetensors::Dtype::F32,
            other => panic!("{other:?}"),
        };
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    Checkpoint::open(folder.path()).unwrap().read_nf4("w")
}

#[test]
fn what_we_store_is_read() {
    let plain = Nf4::quantize(&drawn(5, 9 * 70), &[9, 70], Dtype::Bf16).unwrap();
    assert_eq!(through_a_file(&plain.stored("w")).unwrap(), plain);
    let nested = plain.nest();
    assert_eq!(through_a_file(&nested.stored("w")).unwrap(), nested);
}

#[test]
fn relatives_are_refused() {
    let packed = Nf4::quantize(&drawn(6, 640), &[10, 64], Dtype::F32).unwrap().nest();
    let refused = |ending: &str, change: &dyn Fn(&mut stored::StoredTensor)| {
        let mut tensors = packed.stored("w");
        let tensor = tensors.iter_mut().find(|it| it.0 == format!("w{ending}")).unwrap();
        change(tensor);
        match through_a_file(&tensors).unwrap_err() {
            WeightsError::Nf4 { tensor, problem } if tensor == "w" => problem,
            other => panic!("{other}"),
        }
    };
    let state = ".quant_state.bitsandbytes__nf4";
    let with_state = |from: &str, to: &str| {
        refused(state, &|it| {
            it.3 = String::from_utf8(it.3.clone()).unwrap().replace(from, to).into_bytes();
            it.2 = vec![it.3.len()];
        })
    };
    for (from, to, field) in [
        ("\"nf4\"", "\"fp4\"", "quant_type"),
        ("\"blocksize\": 64", "\"blocksize\": 128", "blocksize"),
        ("\"nested_blocksize\": 256", "\"nested_blocksize\": 64", "nested_blocksize"),
        ("\"dtype\": \"float32\"", "\"dtype\": \"float64\"", "dtype"),
        ("[10, 64]", "[4294967296, 4294967296]", "shape"),
    ] {
        let problem = with_state(from, to);
        assert!(
            matches!(&problem, Nf4Problem::Format { field: it, .. } if *it == field),
            "{problem}"
        );
    }
    assert!(matches!(with_state("{", "["), Nf4Problem::State { line: 1, .. }));
    assert!(matches!(with_state("[10, 64]", "[10, 65]"), Nf4Problem::Count { want: 325, .. }));
    let book = refused(".quant_map", &|it| it.3[4] ^= 1);
    assert_eq!(book, Nf4Problem::Codebook { tensor: "w.quant_map".into() });
    let retyped = refused(".nested_absmax", &|it| {
        (it.1, it.2) = (Dtype::U8, vec![it.3.len()]);
    });
    let (want, found) = (Dtype::F32, Dtype::U8);
    assert_eq!(retyped, Nf4Problem::Type { tensor: "w.nested_absmax".into(), want, found });
}
