//! Weights on their way: in order, checked against records, proven on the device, given back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blake3::hazmat::HasherExt;
use calor_device::{BufferId, DeviceError, Driver, FileRead, HostMemory, Memory};
use calor_device_cpu::CpuDriver;
use calor_ir::{CheckedGraph, DType, Fold, Graph, Role, Type};
use calor_kernel::Digest;
use calor_runtime::{
    Build, Choices, MemoryReport, PART_LEN, ProgramId, ProgramSpec, RuntimeError, SourceError,
    Stored, WeightSource,
};
use calor_telemetry::event::Event;
use calor_telemetry::{Counters, Log};

/// Elements of `wide`: more than one job, and no whole number of parts or rows.
const WIDE_LEN: usize = 9 * PART_LEN + 777;
/// Rows of 64 elements in each of the weights that are summed.
const ROW_COUNT: usize = 1000;
const SUM_COUNT: usize = 200;

/// An element of a weight, different in each.
fn element(name: &str, at: usize) -> f32 {
    let salt = name.bytes().fold(7_usize, |salt, it| salt * 31 + usize::from(it));
    ((salt + at * 2_654_435_761) % 251) as f32 - 125.0
}

/// Weights that count their readers' parts, and may refuse.
#[derive(Default)]
struct Numbers {
    part_count: AtomicUsize,
    /// A weight that cannot be read.
    missing: Option<&'static str>,
    /// A weight whose record differs.
    tampered: Option<&'static str>,
    checked: Mutex<Vec<String>>,
    /// A file with `wide` in it, behind so many other bytes.
    file: Option<(File, u64)>,
}

/// Numbers whose `wide` lies in a file too.
fn in_a_file() -> Numbers {
    let mut file = tempfile::tempfile().unwrap();
    let wide: Vec<f32> = (0..WIDE_LEN).map(|at| element("wide", at)).collect();
    file.write_all(&[9; 52]).unwrap();
    file.write_all(bytemuck::cast_slice(&wide)).unwrap();
    Numbers { file: Some((file, 52)), ..Numbers::default() }
}

impl WeightSource for Numbers {
    fn identity(&self) -> Digest {
        Digest([3; 32])
    }

    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), SourceError> {
        if self.missing == Some(name) {
            return Err("it is not there".into());
        }
        out.iter_mut().enumerate().for_each(|(at, it)| *it = element(name, first + at));
        Ok(())
    }

    fn read_part(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<Option<Digest>, SourceError> {
        assert!(first.is_multiple_of(PART_LEN) && out.len() <= PART_LEN);
        self.part_count.fetch_add(1, Ordering::Relaxed);
        self.read(name, first, out)?;
        Ok((name != "wide").then(|| Digest::of(bytemuck::cast_slice(out))))
    }

    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        let (file, at) = self.file.as_ref().filter(|_| name == "wide")?;
        Some(Stored { file, at: *at })
    }

    fn check(&self, name: &str, parts: &[Digest]) -> Result<(), SourceError> {
        if name == "wide" {
            let wide: Vec<f32> = (0..WIDE_LEN).map(|at| element(name, at)).collect();
            let part = |(at, part): (usize, &[f32])| {
                let mut hasher = blake3::Hasher::new();
                hasher.set_input_offset(4 * (at * PART_LEN) as u64);
                Digest(hasher.update(bytemuck::cast_slice(part)).finalize_non_root())
            };
            let want: Vec<Digest> = wide.chunks(PART_LEN).enumerate().map(part).collect();
            self.checked.lock().unwrap().push(name.to_owned());
            return if parts == want { Ok(()) } else { Err("it is not what was recorded".into()) };
        }
        if self.tampered == Some(name) {
            return Err("it was tampered with".into());
        }
        let whole: Vec<f32> = (0..ROW_COUNT * 64).map(|at| element(name, at)).collect();
        assert_eq!(parts, [Digest::of(bytemuck::cast_slice(&whole))], "{name}");
        self.checked.lock().unwrap().push(name.to_owned());
        Ok(())
    }
}

/// Sums over many weights, which are made when they are loaded, and the largest element of one
/// that is kept as it is.
fn graph() -> CheckedGraph {
    let mut g = Graph::new();
    let mut sum = g.input("x", Role::Data, Type::new(DType::F32, &[64]));
    for index in 0..SUM_COUNT {
        let ty = Type::new(DType::F32, &[ROW_COUNT, 64]);
        let weight = g.input(&format!("w{index}"), Role::Weight, ty);
        let folded = g.reduce(Fold::Sum, weight, 0).unwrap();
        sum = g.add(sum, folded).unwrap();
    }
    g.output("sum", sum);
    let ty = Type::new(DType::F32, &[WIDE_LEN]);
    let (x2, wide) = (g.input("x2", Role::Data, ty), g.input("wide", Role::Weight, ty));
    let both = g.add(x2, wide).unwrap();
    let most = g.reduce(Fold::Max, both, 0).unwrap();
    g.output("most", most);
    g.check().unwrap()
}

/// What becomes of a read of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Whole,
    /// A byte changes.
    Damaged,
    /// The file cannot be read so.
    Refused,
}

/// Memory that changes a byte in one of the writes, or reads files by itself.
struct Altered {
    inner: Box<dyn Memory>,
    /// Writes until the one that is damaged, if one is.
    damaged_write: Option<usize>,
    /// How it reads files, if it does.
    way: Option<Way>,
}

impl Memory for Altered {
    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceError> {
        self.inner.alloc(bytes)
    }

    fn free(&mut self, buffer: BufferId) -> Result<(), DeviceError> {
        self.inner.free(buffer)
    }

    fn host(&mut self, count: usize) -> Result<Box<dyn HostMemory>, DeviceError> {
        self.inner.host(count)
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut bytes = bytes.to_vec();
        if let Some(left) = &mut self.damaged_write {
            if *left == 0 {
                let at = bytes.len() * 2 / 3;
                bytes[at] ^= 16;
            }
            *left = left.wrapping_sub(1);
        }
        self.inner.write(buffer, offset, &bytes)
    }

    fn read(&mut self, buffer: BufferId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.read(buffer, offset, out)
    }

    fn reads_file(&self, _file: &File, _at: u64, _len: u64) -> bool {
        self.way.is_some()
    }

    fn read_file(&mut self, file: &File, reads: &[FileRead]) -> Result<(), DeviceError> {
        if self.way == Some(Way::Refused) {
            return Err(DeviceError::File { kind: "cpu", why: "not today".into() });
        }
        for FileRead { at, to } in reads {
            let mut bytes = vec![0; to.len as usize];
            file.read_exact_at(&mut bytes, *at).unwrap();
            if self.way == Some(Way::Damaged) {
                bytes[to.len as usize - 2] ^= 1;
            }
            self.inner.write(to.buffer, to.offset, &bytes)?;
        }
        Ok(())
    }
}

struct Bench {
    build: Build,
    log: Arc<Log>,
}

impl Bench {
    /// On the processor, with a byte changed in a write.
    fn new(damaged_write: Option<usize>) -> Self {
        Self::altered(damaged_write, None)
    }

    /// On the processor, which reads files by itself.
    fn reading(way: Way) -> Self {
        Self::altered(None, Some(way))
    }

    fn altered(damaged_write: Option<usize>, way: Option<Way>) -> Self {
        let driver = CpuDriver { threads: 2, level: None, memory_bytes: None, profile: None };
        let mut device = driver.open(0).unwrap();
        device.memory = Box::new(Altered { inner: device.memory, damaged_write, way });
        let log = Arc::new(Log::new());
        let build = Build::new(device, u64::MAX, Arc::new(Counters::new()), log.clone());
        Self { build, log }
    }

    fn proving(damaged_write: Option<usize>) -> Self {
        let Self { build, log } = Self::new(damaged_write);
        Self { build: build.proving_weights(), log }
    }

    fn program(&mut self, source: &Arc<Numbers>) -> Result<ProgramId, RuntimeError> {
        let lane = self.build.lane();
        self.build.program(&ProgramSpec {
            label: "model",
            token_count_max: ROW_COUNT as u32,
            sequence_count_max: 1,
            lane,
            graph: &graph(),
            source: Some(source.clone()),
            choices: &Choices::default(),
            channels: &[],
        })
    }

    /// What a run gives for inputs of zeros.
    fn run(&mut self, program: ProgramId) -> (Vec<f32>, f32) {
        let plan = self.build.plan(program);
        let inputs = [("x", 64), ("x2", WIDE_LEN)].map(|it| (plan.input_index(it.0), it.1));
        let outputs = ["sum", "most"].map(|it| plan.output_index(it).unwrap());
        for (slot, len) in inputs {
            self.build.write(program, slot.unwrap(), &vec![0; 4 * len]).unwrap();
        }
        self.build.run(program, &[], Duration::from_secs(60)).unwrap();
        let (mut sum, mut most) = (vec![0.0_f32; 64], [0.0_f32]);
        self.build.read(program, outputs[0], bytemuck::cast_slice_mut(&mut sum)).unwrap();
        self.build.read(program, outputs[1], bytemuck::cast_slice_mut(&mut most)).unwrap();
        (sum, most[0])
    }
}

#[test]
fn what_is_loaded_is_what_the_source_has() {
    let mut bench = Bench::proving(None);
    let source = Arc::new(Numbers::default());
    let program = bench.program(&source).unwrap();
    let plan = bench.build.plan(program);
    assert!(SUM_COUNT <= plan.prelude.len(), "{}", plan.prelude.len());
    let (sum, most) = bench.run(program);
    let want = (0..WIDE_LEN).map(|at| element("wide", at)).fold(f32::MIN, f32::max);
    assert_eq!(most, want);
    for column in [0, 1, 63] {
        let of = |index: usize| -> f32 {
            let name = format!("w{index}");
            (0..ROW_COUNT).map(|row| element(&name, row * 64 + column)).sum()
        };
        // Whole numbers of this size are added exactly.
        assert_eq!(sum[column], (0..SUM_COUNT).map(of).sum::<f32>(), "column {column}");
    }

    let bytes = 4 * (SUM_COUNT * ROW_COUNT * 64 + WIDE_LEN) as u64;
    let report = bench.build.weights();
    assert_eq!((report.read_bytes, report.proven_bytes), (bytes, bytes));
    assert_eq!(report.checked_bytes, bytes - 4 * WIDE_LEN as u64, "`wide` has no record");
    assert_eq!(source.checked.lock().unwrap().len(), SUM_COUNT);
    let part_count = source.part_count.load(Ordering::Relaxed);
    assert_eq!(part_count, SUM_COUNT + WIDE_LEN.div_ceil(PART_LEN), "each part is read once");
    let loaded = bench.log.events().into_iter().find_map(|it| match it {
        Event::WeightsLoaded { read_bytes, proven_bytes, .. } => Some((read_bytes, proven_bytes)),
        _ => None,
    });
    assert_eq!(loaded, Some((bytes, bytes)));

    let again = bench.program(&source).unwrap();
    assert_eq!(bench.build.weights(), report, "nothing is loaded twice");
    assert_eq!(bench.run(again), (sum, most));
}

#[test]
fn raw_weights_are_never_all_there_at_once() {
    let mut bench = Bench::new(None);
    bench.program(&Arc::default()).unwrap();
    let raw_bytes = 4 * (SUM_COUNT * ROW_COUNT * 64) as u64;
    let allocated: u64 = bench.log.events().into_iter().fold(0, |all, it| match it {
        Event::Allocated {
            purpose: calor_telemetry::event::Memory::Weights, size_bytes, ..
        } => all + size_bytes,
        _ => all,
    });
    let kept_bytes = bench.build.memory().weights_bytes;
    assert!(allocated < kept_bytes + raw_bytes, "{allocated} for {kept_bytes} and {raw_bytes}");
}

#[test]
fn a_byte_that_changes_on_the_way_is_found() {
    let writes = {
        // As many writes as a whole load has; each one is damaged in turn.
        let mut count = 0;
        while Bench::proving(Some(count)).program(&Arc::default()).is_err() {
            count += 1;
        }
        count
    };
    assert!(3 < writes, "every write of weights was found damaged: {writes}");
    let mut bench = Bench::proving(Some(1));
    let refused = bench.program(&Arc::default()).unwrap_err();
    assert!(matches!(&refused, RuntimeError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("damaged on the device"), "{refused}");
    assert_eq!(bench.build.memory(), MemoryReport::default(), "nothing of it stays");
    let program = bench.program(&Arc::default()).unwrap();
    let mut whole = Bench::new(None);
    let want = whole.program(&Arc::default()).unwrap();
    assert_eq!(bench.run(program), whole.run(want), "the next try is whole");
    Bench::new(Some(1)).program(&Arc::default()).unwrap();
}

#[test]
fn what_cannot_be_read_or_differs_from_its_record_is_refused() {
    for (source, why) in [
        (Numbers { missing: Some("w150"), ..Numbers::default() }, "it is not there"),
        (Numbers { tampered: Some("w150"), ..Numbers::default() }, "it was tampered with"),
    ] {
        let mut bench = Bench::new(None);
        let refused = bench.program(&Arc::new(source)).unwrap_err();
        let RuntimeError::Weight { name, source } = &refused else { panic!("{refused}") };
        assert_eq!((name.as_str(), source.to_string().as_str()), ("w150", why));
        assert_eq!(bench.build.memory(), MemoryReport::default());
        bench.program(&Arc::default()).unwrap();
    }
}

#[test]
fn what_a_device_reads_by_itself_is_what_the_source_has() {
    let mut plain = Bench::new(None);
    let want = plain.program(&Arc::default()).unwrap();
    let want = plain.run(want);
    let wide_bytes = 4 * WIDE_LEN as u64;
    for (way, direct_bytes) in [(Way::Whole, wide_bytes), (Way::Refused, 0)] {
        let mut bench = Bench::reading(way);
        let source = Arc::new(in_a_file());
        let program = bench.program(&source).unwrap();
        assert_eq!(bench.run(program), want, "{way:?}");
        let report = bench.build.weights();
        assert_eq!(report.direct_bytes, direct_bytes, "{way:?}");
        assert_eq!(report.proven_bytes, wide_bytes, "digested where it arrived, {way:?}");
        assert_eq!(report.checked_bytes, report.read_bytes, "{way:?}");
        assert!(source.checked.lock().unwrap().contains(&"wide".to_owned()), "{way:?}");
        let part_count = source.part_count.load(Ordering::Relaxed);
        assert_eq!(part_count, SUM_COUNT, "no reader has touched it, {way:?}");
    }
}

#[test]
fn a_byte_that_changes_between_file_and_device_is_found() {
    let mut bench = Bench::reading(Way::Damaged);
    let refused = bench.program(&Arc::new(in_a_file())).unwrap_err();
    let RuntimeError::Weight { name, source } = &refused else { panic!("{refused}") };
    assert_eq!(
        (name.as_str(), source.to_string().as_str()),
        ("wide", "it is not what was recorded")
    );
    assert_eq!(bench.build.memory(), MemoryReport::default(), "nothing of it stays");
}
