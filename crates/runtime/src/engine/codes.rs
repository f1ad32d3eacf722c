//! Code that is loaded: found by what it computes, made where it is not there, released when no
//! program uses it and room is wanted.
//!
//! Where compiled code outlives the build is the business of whoever keeps artifacts.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use calor_device::{Artifacts, CodeId, Compiled, Compiler, DeviceError, Found, Held};
use calor_kernel::Unit;
use calor_telemetry::Label;
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::counter::{CacheCount, Counter, Plain};
use calor_telemetry::event::{Cache, Event, Origin};

use super::Engine;
use crate::error::RuntimeError;
use crate::kernel::{KernelHandle, KernelKey};

/// Most bytes of loaded code that no program uses.
pub(crate) const UNUSED_CODE_BYTES_MAX: u64 = 64 << 20;
/// Threads are started when compiling takes longer than they do.
const ALONE_NS_MAX: u64 = 1_000_000;

/// Loaded code.
#[derive(Clone, Debug)]
struct Code {
    /// What it computes: a key is compared with it before its code is given.
    unit: Unit,
    /// Handles share its pin: it stays while there is one.
    handle: KernelHandle,
    size_bytes: u64,
    /// Programs that use it: it stays while there is one.
    pin_count: usize,
    /// When it was wanted last, in steps of [`Codes::clock`].
    wanted: u64,
}

/// Loaded code by what it computes.
#[derive(Debug, Default)]
pub(super) struct Codes {
    by_key: HashMap<KernelKey, Code>,
    clock: u64,
}

impl Codes {
    /// Whether code of this key is there. That it is another kernel's is an error: a key is made
    /// of everything that decides the code, so somebody forgot a part of it.
    fn want(&mut self, key: KernelKey, unit: &Unit) -> Result<bool, RuntimeError> {
        self.clock += 1;
        let Some(code) = self.by_key.get_mut(&key) else { return Ok(false) };
        if code.unit != *unit {
            return Err(RuntimeError::KeyTaken { wanted: unit.label(), held: code.unit.label() });
        }
        code.wanted = self.clock;
        Ok(true)
    }

    /// Code of this key, found without a look at what it computes.
    pub(super) fn handle(&self, key: KernelKey) -> Option<KernelHandle> {
        self.by_key.get(&key).map(|it| it.handle.clone())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = KernelKey> {
        self.by_key.keys().copied()
    }

    fn insert(&mut self, key: KernelKey, unit: Unit, id: CodeId, size_bytes: u64) {
        self.clock += 1;
        let handle = KernelHandle::new(key, id);
        let code = Code { unit, handle, size_bytes, pin_count: 0, wanted: self.clock };
        self.by_key.insert(key, code);
    }

    /// Holds code for a program.
    pub(super) fn pin(&mut self, codes: &[CodeId]) {
        self.each(codes, |it| it.pin_count += 1);
    }

    /// A program lets go of its code.
    pub(super) fn unpin(&mut self, codes: &[CodeId]) {
        self.each(codes, |it| it.pin_count -= 1);
    }

    fn each(&mut self, codes: &[CodeId], change: impl Fn(&mut Code)) {
        let codes: HashSet<CodeId> = codes.iter().copied().collect();
        let used = |it: &&mut Code| codes.contains(&it.handle.code());
        self.by_key.values_mut().filter(used).for_each(change);
    }

    /// Code to release so that at most `bytes_max` of unused code stay: wanted longest ago first.
    fn past(&self, bytes_max: u64) -> Vec<KernelKey> {
        let is_unused = |it: &Code| it.pin_count == 0 && !it.handle.is_shared();
        let unused = self.by_key.iter().filter(|it| is_unused(it.1));
        let mut unused: Vec<(&KernelKey, &Code)> = unused.collect();
        unused.sort_by_key(|it| it.1.wanted);
        let mut held_bytes: u64 = unused.iter().map(|it| it.1.size_bytes).sum();
        let mut past = Vec::new();
        for (key, code) in unused {
            if held_bytes <= bytes_max {
                break;
            }
            held_bytes -= code.size_bytes;
            past.push(*key);
        }
        past
    }
}

/// What compiling one unit gave, and how long it took.
type Made = (Result<Compiled, DeviceError>, u64);

/// What loading code gave, and how long it took.
type Loading = (Result<CodeId, DeviceError>, u64);

/// Loads code. Of code for another target the device does not even see the bytes.
fn load(compiler: &dyn Compiler, arch: &str, compiled: &Compiled) -> Loading {
    let target = &compiled.artifact.target;
    if arch != target {
        let (wanted, found) = (arch.to_owned(), target.clone());
        return (Err(DeviceError::WrongTarget { wanted, found }), 0);
    }
    let watch = Stopwatch::start();
    let loaded = compiler.load(&compiled.artifact);
    (loaded, watch.elapsed_ns())
}

impl Engine {
    /// Loaded code for each unit. What is not there is compiled and loaded, on several threads
    /// where that pays.
    pub(crate) fn codes_of<'a>(
        &mut self,
        units: impl IntoIterator<Item = &'a Unit>,
    ) -> Result<Vec<KernelHandle>, RuntimeError> {
        let units: Vec<&Unit> = units.into_iter().collect();
        let keys: Vec<KernelKey> = units.iter().map(|it| KernelKey::of(it)).collect();
        let mut missing: Vec<(KernelKey, &Unit)> = Vec::new();
        let mut seen = HashSet::new();
        for (key, unit) in keys.iter().zip(units) {
            let known = self.codes.want(*key, unit)? || !seen.insert(*key);
            self.counters.cache_asked(Cache::KernelStructural, known);
            if !known {
                missing.push((*key, unit));
            }
        }
        let units: Vec<&Unit> = missing.iter().map(|it| it.1).collect();
        let made = compile_all(&*self.device.compiler, &*self.artifacts, &units);
        let mut fresh = Vec::with_capacity(missing.len());
        for ((key, unit), (compiled, wall_ns)) in missing.into_iter().zip(made) {
            let label = Label::of(&unit.label());
            let compiled = self.compiled(label, compiled?, wall_ns);
            fresh.push((key, unit, label, compiled));
        }
        let (compiler, arch) = (&*self.device.compiler, &*self.device.signature.arch);
        let loadings = on_threads(&fresh, |it| load(compiler, arch, &it.3));
        let mut outcome = Ok(());
        // All are taken in before a failure is told, so that nothing is loaded and forgotten.
        for ((key, unit, label, compiled), loading) in fresh.into_iter().zip(loadings) {
            match self.loaded(label, unit, compiled, loading) {
                Ok((id, size_bytes)) => {
                    self.codes.insert(key, unit.clone(), id, size_bytes);
                    self.count_code(CacheCount::Inserts);
                    self.counters.add(USAGE, size_bytes);
                }
                Err(err) => outcome = outcome.and(Err(err)),
            }
        }
        outcome?;
        let found = keys.iter().map(|it| self.codes.handle(*it));
        Ok(found.collect::<Option<Vec<_>>>().expect("every unit was there or was made"))
    }

    fn compiled(&self, kernel: Label, compiled: Compiled, wall_ns: u64) -> Compiled {
        let origin = match compiled.found {
            Found::Made => Origin::Made,
            Found::Kept => Origin::Disk,
        };
        if origin == Origin::Made {
            self.counters.increment(Plain::Compiles);
        }
        let code_bytes = compiled.artifact.bytes.len() as u64;
        let device = self.device_label;
        self.recorder.record(Event::Compiled { kernel, device, origin, code_bytes, wall_ns });
        compiled
    }

    /// Loads code. Kept code that the device refuses is made once more; it may be of a compiler
    /// or a driver that told a lie about itself.
    fn loaded(
        &mut self,
        label: Label,
        unit: &Unit,
        compiled: Compiled,
        loading: Loading,
    ) -> Result<(CodeId, u64), RuntimeError> {
        let refused = match self.counted(label, &compiled, loading) {
            Ok(loaded) => return Ok(loaded),
            Err(err) => err,
        };
        let is_bad =
            matches!(refused, DeviceError::Damaged { .. } | DeviceError::WrongTarget { .. });
        let Some(key) = compiled.key.as_ref().filter(|_| is_bad) else {
            return Err(refused.into());
        };
        self.artifacts.reject(key, &refused);
        if compiled.found == Found::Made {
            return Err(refused.into());
        }
        let watch = Stopwatch::start();
        let compiled = self.device.compiler.compile(unit, &*self.artifacts)?;
        let compiled = self.compiled(label, compiled, watch.elapsed_ns());
        let loading = load(&*self.device.compiler, &self.device.signature.arch, &compiled);
        self.counted(label, &compiled, loading).map_err(|err| {
            if let Some(key) = &compiled.key {
                self.artifacts.reject(key, &err);
            }
            err.into()
        })
    }

    fn counted(
        &self,
        kernel: Label,
        compiled: &Compiled,
        (loaded, wall_ns): Loading,
    ) -> Result<(CodeId, u64), DeviceError> {
        let code = loaded?;
        self.counters.increment(Plain::Loads);
        let code_bytes = compiled.artifact.bytes.len() as u64;
        let device = self.device_label;
        self.recorder.record(Event::ModuleLoaded { kernel, device, code_bytes, wall_ns });
        Ok((code, code_bytes))
    }

    /// Releases code that no program uses, past the bound.
    pub(super) fn release_unused_code(&mut self) -> Result<(), RuntimeError> {
        for key in self.codes.past(UNUSED_CODE_BYTES_MAX) {
            let Some(code) = self.codes.by_key.remove(&key) else { continue };
            self.count_code(CacheCount::Evictions);
            self.counters.lower(USAGE, code.size_bytes);
            self.device.compiler.release(Held::Code(code.handle.code()))?;
        }
        Ok(())
    }

    fn count_code(&self, count: CacheCount) {
        self.counters.increment(Counter::Cache(Cache::KernelStructural, count));
    }
}

const USAGE: Counter = Counter::Cache(Cache::KernelStructural, CacheCount::Bytes);

/// Compiles units, each once, in any order; the results are in the order of `units`.
fn compile_all(compiler: &dyn Compiler, artifacts: &dyn Artifacts, units: &[&Unit]) -> Vec<Made> {
    on_threads(units, |unit| {
        let watch = Stopwatch::start();
        let compiled = compiler.compile(unit, artifacts);
        (compiled, watch.elapsed_ns())
    })
}

/// What `work` makes of each item, in order, on as many threads as there are processors once it
/// takes longer than starting them does.
pub(super) fn on_threads<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let watch = Stopwatch::start();
    let mut made = Vec::with_capacity(items.len());
    while made.len() < items.len() && watch.elapsed_ns() < ALONE_NS_MAX {
        made.push(work(&items[made.len()]));
    }
    let rest = &items[made.len()..];
    let next = AtomicUsize::new(0);
    let slots: Vec<Mutex<Option<R>>> = rest.iter().map(|_| Mutex::new(None)).collect();
    let take = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = rest.get(at) else { return };
            let done = work(item);
            *slots[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..processors.min(rest.len()) {
            scope.spawn(take);
        }
        take();
    });
    let rest = slots.into_iter().map(|it| it.into_inner().unwrap_or_else(PoisonError::into_inner));
    made.extend(rest.map(|it| it.expect("a worker took each item")));
    made
}

#[test]
fn a_key_of_another_kernel_is_refused() {
    let [one, other] = &calor_kernel::examples::all()[..2] else { panic!("two examples") };
    let [one, other] = [one, other].map(|it| Unit::Loop(it.program.clone()));
    let mut codes = Codes::default();
    // As if the key had forgotten what tells the two apart.
    codes.insert(KernelKey::of(&other), one.clone(), CodeId { index: 0, generation: 0 }, 1);
    let said = codes.want(KernelKey::of(&other), &other);
    assert!(matches!(said, Err(RuntimeError::KeyTaken { held, .. }) if held == one.label()));
    assert!(codes.want(KernelKey::of(&other), &one).is_ok_and(|it| it));
    assert!(codes.want(KernelKey::of(&one), &one).is_ok_and(|it| !it));
}
