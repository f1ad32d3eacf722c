//! Artifacts and failures: what is refused, with which error, and that the device lives on.

use std::time::Duration;

use calor_device::{Artifact, Device, DeviceError, Driver, Held, NoArtifacts, Span, Step, Word};
use calor_device_cpu::{CpuDriver, Level};
use calor_ir::DType;
use calor_kernel::{Call, Unit, examples};

fn open() -> Device {
    let driver = CpuDriver { threads: 2, level: None, memory_bytes: Some(1 << 20), profile: None };
    driver.open(0).expect("one device")
}

fn pack(dtype: DType) -> Unit {
    Unit::Call(Call::Pack { n: 3, k: 4, dtype })
}

#[test]
fn another_architectures_code_is_refused_with_both_names() {
    let device = open();
    let mut artifact = device.compiler.compile(&pack(DType::F32), &NoArtifacts).unwrap().artifact;
    assert_eq!(artifact.target, device.signature.arch);
    artifact.target = "sm_90".into();
    let error = device.compiler.load(&artifact).unwrap_err().to_string();
    assert!(error.contains("sm_90") && error.contains(&device.signature.arch), "{error}");
}

#[test]
fn every_level_has_its_own_architecture() {
    let mut seen = Vec::new();
    for level in Level::available() {
        let driver =
            CpuDriver { threads: 1, level: Some(level), memory_bytes: None, profile: None };
        let arch = driver.open(0).unwrap().signature.arch;
        assert!(!seen.contains(&arch), "{arch} twice");
        seen.push(arch);
    }
}

#[test]
fn damaged_artifacts_are_refused() {
    let device = open();
    let Artifact { target, bytes } =
        device.compiler.compile(&pack(DType::F32), &NoArtifacts).unwrap().artifact;
    for len in 0..bytes.len() {
        let cut = Artifact { target: target.clone(), bytes: bytes[..len].to_vec() };
        assert!(matches!(device.compiler.load(&cut), Err(DeviceError::Damaged { .. })), "{len}");
    }
}

#[test]
fn products_of_other_types_are_unsupported() {
    let device = open();
    let error = device.compiler.compile(&pack(DType::BF16), &NoArtifacts).unwrap_err();
    assert_eq!(error.to_string(), "cpu does not do matrix products in bf16");
}

#[test]
fn memory_says_what_is_left() {
    let mut device = open();
    let first = device.memory.alloc(1000 << 10).unwrap();
    match device.memory.alloc(25 << 10).unwrap_err() {
        DeviceError::OutOfMemory { want_bytes, left_bytes } => {
            assert_eq!((want_bytes, left_bytes), (25 << 10, 24 << 10));
        }
        error => panic!("{error}"),
    }
    device.memory.free(first).unwrap();
    device.memory.alloc(1 << 20).unwrap();
}

#[test]
fn ids_of_another_device_are_stale() {
    let (mut one, mut other) = (open(), open());
    let buffer = one.memory.alloc(64).unwrap();
    other.memory.alloc(64).unwrap();
    assert!(matches!(other.memory.free(buffer), Err(DeviceError::Stale { what: "buffer" })));
}

#[test]
fn a_prepared_program_keeps_its_buffers() {
    let mut device = open();
    let buffer = device.memory.alloc(256).unwrap();
    let to = Span { buffer, offset: 0, len: 256 };
    let prepared = device.queue.prepare(&[Step::Fill { to, byte: 7 }], &[], None).unwrap();
    device.memory.free(buffer).unwrap();
    let ticket = device.queue.run(prepared).unwrap();
    device.queue.wait(ticket, Duration::ZERO).unwrap();
    device.compiler.release(Held::Prepared(prepared)).unwrap();
    assert!(device.queue.run(prepared).is_err());
    device.memory.alloc(1 << 20).unwrap();
}

#[test]
fn a_step_that_leaves_its_buffer_fails_and_the_device_lives() {
    let mut device = open();
    let example = examples::all().swap_remove(0);
    let unit = Unit::Loop(example.program.clone());
    let artifact = device.compiler.compile(&unit, &NoArtifacts).unwrap().artifact;
    let code = device.compiler.load(&artifact).unwrap();
    let mut args = Vec::new();
    for (arg, elements) in example.program.args.iter().zip(&example.buffers) {
        let len = (elements.len() * arg.dtype.size_bytes()) as u64;
        args.push(Span { buffer: device.memory.alloc(len).unwrap(), offset: 0, len });
    }
    let words: Vec<Word> = example.words.iter().map(|it| Word::Fixed(*it)).collect();
    let mut short = args.clone();
    for span in &mut short {
        span.len = 0;
    }
    let mut run = |args: &[Span]| {
        let step = Step::Launch { code, words: words.clone(), args: args.to_vec() };
        let prepared = device.queue.prepare(&[step], &[], None).unwrap();
        let ticket = device.queue.run(prepared).unwrap();
        device.queue.wait(ticket, Duration::ZERO)
    };
    match run(&short).unwrap_err() {
        DeviceError::Failed { step: 0, why } => assert!(why.contains("of a buffer of 0"), "{why}"),
        error => panic!("{error}"),
    }
    run(&args).unwrap();
}
