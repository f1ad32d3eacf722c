//! What warming up promises, checked at a device's doors: code before payload, a run before the
//! first request, nothing made afterwards, and no code that nobody launches.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use calor_device::{
    Artifact, Artifacts, BufferId, CodeId, Compiled, Compiler, Device, DeviceError, FileRead, Held,
    HostMemory, Memory, PreparedId, Queue, Span, Step, Ticket,
};
use calor_kernel::Unit;
use calor_runtime::{KernelKey, Plan, PlanStep};

/// Something that went through a device's doors, or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// A unit was compiled, or found in a store.
    Compile,
    /// Code was loaded.
    Load,
    /// Memory was allocated.
    Allocate,
    /// Bytes went in.
    Write,
    /// Steps were turned into a program.
    Prepare(PreparedId),
    /// A program was run.
    Run(PreparedId),
    /// A program was given back.
    Release(PreparedId),
    /// A request came; nothing of the device.
    Request,
}

/// Remembers what went through the doors of a device, in order.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<Mutex<Vec<Door>>>);

impl Doors {
    /// The device, watched.
    pub fn watch(&self, device: Device) -> Device {
        let Device { memory, compiler, queue, claims, signature } = device;
        Device {
            memory: Box::new(Watched { inner: memory, doors: self.clone() }),
            compiler: Arc::new(Watched { inner: compiler, doors: self.clone() }),
            queue: Box::new(Watched { inner: queue, doors: self.clone() }),
            claims,
            signature,
        }
    }

    /// A request comes now.
    pub fn request(&self) {
        self.pass(Door::Request);
    }

    /// What happened so far.
    pub fn log(&self) -> Vec<Door> {
        self.lock().clone()
    }

    fn pass(&self, door: Door) {
        self.lock().push(door);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Door>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watched<T> {
    doors: Doors,
    inner: T,
}

impl Memory for Watched<Box<dyn Memory>> {
    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceError> {
        self.doors.pass(Door::Allocate);
        self.inner.alloc(bytes)
    }

    fn free(&mut self, buffer: BufferId) -> Result<(), DeviceError> {
        self.inner.free(buffer)
    }

    fn host(&mut self, count: usize) -> Result<Box<dyn HostMemory>, DeviceError> {
        self.inner.host(count)
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.doors.pass(Door::Write);
        self.inner.write(buffer, offset, bytes)
    }

    fn read(&mut self, buffer: BufferId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.read(buffer, offset, out)
    }

    fn reads_file(&self, file: &File, at: u64, len: u64) -> bool {
        self.inner.reads_file(file, at, len)
    }

    fn read_file(&mut self, file: &File, reads: &[FileRead]) -> Result<(), DeviceError> {
        self.doors.pass(Door::Write);
        self.inner.read_file(file, reads)
    }
}

impl Compiler for Watched<Arc<dyn Compiler>> {
    fn compile(&self, unit: &Unit, kept: &dyn Artifacts) -> Result<Compiled, DeviceError> {
        self.doors.pass(Door::Compile);
        self.inner.compile(unit, kept)
    }

    fn load(&self, artifact: &Artifact) -> Result<CodeId, DeviceError> {
        self.doors.pass(Door::Load);
        self.inner.load(artifact)
    }

    fn release(&self, held: Held) -> Result<(), DeviceError> {
        if let Held::Prepared(prepared) = held {
            self.doors.pass(Door::Release(prepared));
        }
        self.inner.release(held)
    }
}

impl Queue for Watched<Box<dyn Queue>> {
    fn prepare(
        &mut self,
        steps: &[Step],
        edges: &[(u32, u32)],
        live: Option<Span>,
    ) -> Result<PreparedId, DeviceError> {
        let prepared = self.inner.prepare(steps, edges, live)?;
        self.doors.pass(Door::Prepare(prepared));
        Ok(prepared)
    }

    fn run(&mut self, prepared: PreparedId) -> Result<Ticket, DeviceError> {
        self.doors.pass(Door::Run(prepared));
        self.inner.run(prepared)
    }

    fn wait(&mut self, ticket: Ticket, deadline: Duration) -> Result<(), DeviceError> {
        self.inner.wait(ticket, deadline)
    }
}

/// What contradicts C-PREWARM-001 in a log with at least one request; a line for each.
pub fn order_faults(log: &[Door]) -> Vec<String> {
    let mut faults = Vec::new();
    let place = |wanted: Door| log.iter().position(|it| *it == wanted);
    let Some(request) = place(Door::Request) else {
        return vec!["no request came".into()];
    };
    let payload = place(Door::Write).unwrap_or(request);
    let mut ready: BTreeSet<(PreparedId, bool)> = BTreeSet::new();
    for (at, door) in log.iter().enumerate() {
        let late = match door {
            Door::Compile | Door::Load => payload.min(request) < at,
            Door::Allocate | Door::Prepare(_) => request < at,
            Door::Write | Door::Run(_) | Door::Release(_) | Door::Request => false,
        };
        if late {
            let after = if request < at { "the first request" } else { "the first payload" };
            faults.push(format!("{door:?} after {after}, at {at}"));
        }
        if request < at {
            continue;
        }
        match door {
            Door::Prepare(it) => _ = ready.insert((*it, false)),
            Door::Run(it) => {
                ready.remove(&(*it, false));
                ready.insert((*it, true));
            }
            Door::Release(it) => ready.retain(|(ready, _)| ready != it),
            Door::Compile | Door::Load | Door::Allocate | Door::Write | Door::Request => {}
        }
    }
    let idle = ready.iter().filter(|(_, ran)| !ran);
    faults.extend(idle.map(|(it, _)| format!("{it:?} had not run before the first request")));
    if ready.is_empty() {
        faults.push("nothing was ready before the first request".into());
    }
    faults
}

/// What contradicts F-BLACKWELL-CUBLAS-PREWARM-001: code that is loaded and not launched, and
/// code that is launched and not loaded; a line for each.
pub fn module_faults(modules: &[KernelKey], plans: &[&Plan]) -> Vec<String> {
    let mut launched = BTreeSet::new();
    for plan in plans {
        for step in plan.prelude.iter().chain(&plan.steps) {
            if let PlanStep::Run { unit, .. } = step {
                launched.insert(KernelKey::of(&plan.units[*unit as usize]));
            }
        }
    }
    let loaded: BTreeSet<KernelKey> = modules.iter().copied().collect();
    let only = |a: &BTreeSet<KernelKey>, b: &BTreeSet<KernelKey>, what: &str| -> Vec<String> {
        a.difference(b).map(|it| format!("{it} is {what}")).collect()
    };
    let idle = only(&loaded, &launched, "loaded, and nothing launches it");
    [idle, only(&launched, &loaded, "launched, and was not loaded")].concat()
}
