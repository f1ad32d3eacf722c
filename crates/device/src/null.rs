//! The null device: takes every step, computes nothing, and remembers what it was given.
//!
//! It prepares every plan on any machine, and counts what a real device would have done.
//! A backend is started from this file.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use calor_kernel::Unit;

use crate::artifact::{Artifact, ArtifactKey, ArtifactKind, Artifacts, Compiled};
use crate::claim::Claim;
use crate::contract::{
    BufferId, CodeId, Compiler, Device, Driver, FileRead, Held, HostMemory, Memory, PreparedId,
    Queue, Signature, Ticket, plain_host_memory,
};
use crate::error::DeviceError;
use crate::step::{Span, Step};

/// Opens null devices, as many as wanted.
#[derive(Clone, Copy, Debug)]
pub struct NullDriver {
    /// The claims that its devices make; none for a device on which everything is generated.
    pub claims: &'static [Claim],
    /// Bytes that it pretends to have.
    pub memory_bytes: u64,
}

impl Driver for NullDriver {
    fn count(&self) -> Result<usize, DeviceError> {
        Ok(1)
    }

    fn open(&self, _ordinal: usize) -> Result<Device, DeviceError> {
        let lens = Arc::new(Mutex::new(HashMap::new()));
        Ok(Device {
            memory: Box::new(NullMemory {
                lens: lens.clone(),
                next: 0,
                left_bytes: self.memory_bytes,
            }),
            compiler: Arc::new(NullCompiler::default()),
            queue: Box::new(NullQueue { lens, prepared_count: 0, run_count: 0 }),
            claims: self.claims,
            signature: Signature {
                kind: "null",
                model: "null".into(),
                arch: ARCH.into(),
                versions: Vec::new(),
                memory_bytes: self.memory_bytes,
                parallel_count: 1,
            },
        })
    }
}

const ARCH: &str = "null";

type Lens = Arc<Mutex<HashMap<BufferId, u64>>>;

struct NullMemory {
    lens: Lens,
    next: u32,
    left_bytes: u64,
}

fn len_of(lens: &Lens, buffer: BufferId) -> Result<u64, DeviceError> {
    let lens = lens.lock().unwrap_or_else(PoisonError::into_inner);
    lens.get(&buffer).copied().ok_or(DeviceError::Stale { what: "buffer" })
}

fn inside(lens: &Lens, span: Span) -> Result<(), DeviceError> {
    let len = len_of(lens, span.buffer)?;
    match span.offset.checked_add(span.len) {
        Some(end) if end <= len => Ok(()),
        end => Err(DeviceError::Span { offset: span.offset, end: end.unwrap_or(u64::MAX), len }),
    }
}

impl Memory for NullMemory {
    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceError> {
        if self.left_bytes < bytes {
            return Err(DeviceError::OutOfMemory {
                want_bytes: bytes,
                left_bytes: self.left_bytes,
            });
        }
        self.left_bytes -= bytes;
        let id = BufferId { index: self.next, generation: 0 };
        self.next += 1;
        self.lens.lock().unwrap_or_else(PoisonError::into_inner).insert(id, bytes);
        Ok(id)
    }

    fn free(&mut self, buffer: BufferId) -> Result<(), DeviceError> {
        let mut lens = self.lens.lock().unwrap_or_else(PoisonError::into_inner);
        self.left_bytes += lens.remove(&buffer).ok_or(DeviceError::Stale { what: "buffer" })?;
        Ok(())
    }

    fn host(&mut self, count: usize) -> Result<Box<dyn HostMemory>, DeviceError> {
        Ok(plain_host_memory(count))
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        inside(&self.lens, Span { buffer, offset, len: bytes.len() as u64 })
    }

    fn read(&mut self, buffer: BufferId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        inside(&self.lens, Span { buffer, offset, len: out.len() as u64 })?;
        out.fill(0);
        Ok(())
    }

    fn reads_file(&self, _file: &File, _at: u64, _len: u64) -> bool {
        false
    }

    fn read_file(&mut self, _file: &File, _reads: &[FileRead]) -> Result<(), DeviceError> {
        Err(DeviceError::File { kind: "null", why: "it reads none".into() })
    }
}

#[derive(Default)]
struct NullCompiler {
    next: AtomicU32,
}

impl Compiler for NullCompiler {
    fn compile(&self, unit: &Unit, kept: &dyn Artifacts) -> Result<Compiled, DeviceError> {
        if let Unit::Loop(program) = unit {
            program.check().map_err(|err| DeviceError::Compile {
                label: unit.label(),
                log: err.to_string(),
            })?;
        }
        let key = ArtifactKey {
            kind: ArtifactKind::Kernel,
            target: ARCH.into(),
            producer: concat!("null ", env!("CARGO_PKG_VERSION")).into(),
            body: unit.digest(),
            label: unit.label(),
        };
        let (bytes, found) = kept.get_or_make(&key, &mut || Ok(unit.canonical()))?;
        let artifact = Artifact { target: ARCH.into(), bytes };
        Ok(Compiled { artifact, key: Some(key), found })
    }

    fn load(&self, artifact: &Artifact) -> Result<CodeId, DeviceError> {
        if artifact.target != ARCH {
            return Err(DeviceError::WrongTarget {
                wanted: ARCH.into(),
                found: artifact.target.clone(),
            });
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(CodeId { index, generation: 0 })
    }

    fn release(&self, _held: Held) -> Result<(), DeviceError> {
        Ok(())
    }
}

struct NullQueue {
    lens: Lens,
    prepared_count: u32,
    run_count: u64,
}

impl Queue for NullQueue {
    fn prepare(
        &mut self,
        steps: &[Step],
        edges: &[(u32, u32)],
        live: Option<Span>,
    ) -> Result<PreparedId, DeviceError> {
        for (index, step) in steps.iter().enumerate() {
            match step {
                Step::Launch { args, .. } | Step::Call { args, .. } => {
                    args.iter().try_for_each(|span| inside(&self.lens, *span))?;
                }
                Step::Copy { from, to } => {
                    inside(&self.lens, *from)?;
                    inside(&self.lens, *to)?;
                    if from.len != to.len {
                        return Err(DeviceError::Step { step: index, why: "lengths differ" });
                    }
                }
                Step::Fill { to, .. } => inside(&self.lens, *to)?,
            }
        }
        for (before, after) in edges {
            if after <= before || steps.len() <= *after as usize {
                return Err(DeviceError::Step { step: *after as usize, why: "edge not forward" });
            }
        }
        if let Some(span) = live {
            inside(&self.lens, span)?;
        }
        self.prepared_count += 1;
        Ok(PreparedId { index: self.prepared_count - 1, generation: 0 })
    }

    fn run(&mut self, prepared: PreparedId) -> Result<Ticket, DeviceError> {
        if self.prepared_count <= prepared.index {
            return Err(DeviceError::Stale { what: "program" });
        }
        self.run_count += 1;
        Ok(Ticket(self.run_count))
    }

    fn wait(&mut self, ticket: Ticket, _deadline: Duration) -> Result<(), DeviceError> {
        if ticket.0 == 0 || self.run_count < ticket.0 {
            return Err(DeviceError::Stale { what: "ticket" });
        }
        Ok(())
    }
}

#[test]
fn spans_are_checked() {
    let driver = NullDriver { claims: &[], memory_bytes: 1000 };
    let mut device = driver.open(0).unwrap();
    let buffer = device.memory.alloc(600).unwrap();
    assert!(matches!(device.memory.alloc(600), Err(DeviceError::OutOfMemory { .. })));
    assert!(device.memory.write(buffer, 590, &[0; 11]).is_err());
    let fill = |len| Step::Fill { to: Span { buffer, offset: 8, len }, byte: 0 };
    assert!(device.queue.prepare(&[fill(600)], &[], None).is_err());
    let prepared = device.queue.prepare(&[fill(592)], &[], None).unwrap();
    let ticket = device.queue.run(prepared).unwrap();
    device.queue.wait(ticket, Duration::ZERO).unwrap();
    device.memory.free(buffer).unwrap();
    assert!(matches!(device.memory.free(buffer), Err(DeviceError::Stale { .. })));
}
