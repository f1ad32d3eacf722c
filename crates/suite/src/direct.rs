//! Weights that a device reads out of their file by itself: the same vectors, and every changed
//! byte found by the digests that it takes of what arrived.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use blake3::hazmat::HasherExt;
use calor_device::Driver;
use calor_ir::{CheckedGraph, DType, Fold, Graph, Role, Type};
use calor_kernel::Digest;
use calor_runtime::{
    Build, Choices, PART_LEN, ProgramSpec, RuntimeError, SourceError, Stored, WeightSource,
    WeightsReport,
};
use calor_telemetry::{Counters, Null};

/// Elements of the weights: whole parts, a part that ends inside a chunk, and more chunks than a
/// power of two.
const LENS: [usize; 4] =
    [2 * PART_LEN, 3 * PART_LEN + 777, 5 * PART_LEN + 256 * 3, 9 * PART_LEN + 1];

/// Bytes in front of the first weight.
const HEAD_BYTES: u64 = 1021 * 4;

/// A file of weights and what was recorded of it.
struct Stash {
    file: File,
    values: Vec<f32>,
}

/// The weight of a name, by its place in the file.
fn place(name: &str) -> usize {
    name.trim_start_matches('w').parse().expect("a number behind the letter")
}

impl Stash {
    fn new() -> Self {
        let mut file = tempfile::tempfile().unwrap();
        let count: usize = LENS.iter().sum();
        let value = |at: usize| (at.wrapping_mul(2_654_435_761) % 8191) as f32 / 64.0 - 60.0;
        let values: Vec<f32> = (0..count).map(value).collect();
        file.write_all(&[3; HEAD_BYTES as usize]).unwrap();
        file.write_all(bytemuck::cast_slice(&values)).unwrap();
        file.sync_all().unwrap();
        Self { file, values }
    }

    fn first(index: usize) -> usize {
        LENS[..index].iter().sum()
    }
}

impl WeightSource for Stash {
    fn identity(&self) -> Digest {
        Digest([8; 32])
    }

    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), SourceError> {
        let at = HEAD_BYTES + 4 * (Self::first(place(name)) + first) as u64;
        self.file.read_exact_at(bytemuck::cast_slice_mut(out), at)?;
        Ok(())
    }

    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        let at = HEAD_BYTES + 4 * Self::first(place(name)) as u64;
        Some(Stored { file: &self.file, at })
    }

    fn check(&self, name: &str, parts: &[Digest]) -> Result<(), SourceError> {
        let first = Self::first(place(name));
        let values = &self.values[first..first + LENS[place(name)]];
        let part = |(at, part): (usize, &[f32])| {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(4 * (at * PART_LEN) as u64);
            Digest(hasher.update(bytemuck::cast_slice(part)).finalize_non_root())
        };
        let want: Vec<Digest> = values.chunks(PART_LEN).enumerate().map(part).collect();
        if parts == want { Ok(()) } else { Err("it is not what was recorded".into()) }
    }
}

/// The largest element of each weight, so that every byte decides something.
fn graph() -> CheckedGraph {
    let mut g = Graph::new();
    for (index, len) in LENS.into_iter().enumerate() {
        let ty = Type::new(DType::F32, &[len]);
        let x = g.input(&format!("x{index}"), Role::Data, ty);
        let weight = g.input(&format!("w{index}"), Role::Weight, ty);
        let both = g.add(x, weight).unwrap();
        let most = g.reduce(Fold::Max, both, 0).unwrap();
        g.output(&format!("most{index}"), most);
    }
    g.check().unwrap()
}

/// What is loaded, and the largest elements that a run then finds.
fn load(driver: &dyn Driver, stash: Stash) -> Result<(WeightsReport, Vec<f32>), RuntimeError> {
    let device = driver.open(0).unwrap();
    let mut build = Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
    let lane = build.lane();
    let program = build.program(&ProgramSpec {
        label: "direct",
        token_count_max: 1,
        sequence_count_max: 1,
        lane,
        graph: &graph(),
        source: Some(Arc::new(stash)),
        choices: &Choices::default(),
        channels: &[],
    })?;
    let report = build.weights();
    let mut session = build.seal()?;
    for (index, len) in LENS.into_iter().enumerate() {
        let slot = session.plan(program).input_index(&format!("x{index}")).unwrap();
        session.write(program, slot, &vec![0; 4 * len])?;
    }
    session.run(program, &[], Duration::from_secs(60))?;
    let mut most = vec![[0.0_f32]; LENS.len()];
    for (index, most) in most.iter_mut().enumerate() {
        let slot = session.plan(program).output_index(&format!("most{index}")).unwrap();
        session.read(program, slot, bytemuck::cast_slice_mut(most))?;
    }
    Ok((report, most.into_iter().flatten().collect()))
}

/// Loads weights by a driver that reads files by itself, or tries to: then their bytes come through
/// the host and are digested on the device all the same.
///
/// # Panics
/// When vectors differ or a changed byte is not found.
pub fn check_direct(driver: &dyn Driver) {
    let stash = Stash::new();
    let most = |index: usize| {
        let own = &stash.values[Stash::first(index)..][..LENS[index]];
        own.iter().copied().fold(f32::MIN, f32::max)
    };
    let want: Vec<f32> = (0..LENS.len()).map(most).collect();
    let (report, found) = load(driver, Stash::new()).unwrap();
    assert_eq!(found, want);
    let bytes = 4 * LENS.iter().sum::<usize>() as u64;
    assert_eq!((report.read_bytes, report.checked_bytes), (bytes, bytes));
    assert_eq!(report.proven_bytes, bytes, "digested on the device");
    assert!(report.direct_bytes == 0 || report.direct_bytes == bytes, "{report:?}");
    // The first bytes of a weight, the last ones, and those around the end of a part.
    let around = [0, 4 * PART_LEN - 1, 4 * PART_LEN, 4 * LENS[1] - 1];
    for at in around {
        let stash = Stash::new();
        let at = HEAD_BYTES + (4 * Stash::first(1) + at) as u64;
        let mut byte = [0];
        stash.file.read_exact_at(&mut byte, at).unwrap();
        stash.file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let refused = load(driver, stash).unwrap_err();
        let RuntimeError::Weight { name, source } = &refused else { panic!("{refused}") };
        assert_eq!(name, "w1", "byte {at}");
        assert_eq!(source.to_string(), "it is not what was recorded", "byte {at}");
    }
}
