//! Units to artifacts, and artifacts to loaded code.

use std::sync::Arc;

use calor_device::{
    Artifact, ArtifactKey, ArtifactKind, Artifacts, CodeId, Compiled, Compiler, DeviceError, Held,
};
use calor_kernel::{Canonical, Digest, Grid, KernelText, Language, LoopProgram, Unit, WriteError};

use crate::api;
use crate::arch::Arch;
use crate::code::{Code, Kernel};
use crate::device::{KIND, Shared};
use crate::form::{Geometry, KernelForm};
use crate::gemm;
use crate::nvrtc::{OPTIONS, Unmade};
use crate::sources::{self, NoKernel, Written};

/// The device's compiler.
pub(crate) struct CudaCompiler(pub(crate) Arc<Shared>);

impl Compiler for CudaCompiler {
    fn compile(&self, unit: &Unit, kept: &dyn Artifacts) -> Result<Compiled, DeviceError> {
        match unit {
            Unit::Loop(program) => {
                let written = of_loop(program, self.0.arch).map_err(|err| no_kernel(unit, err))?;
                kernel(&self.0, &unit.label(), &written, kept)
            }
            Unit::Source(source) => {
                let written = sources::write(source, self.0.arch, self.0.sm_count)
                    .map_err(|err| no_kernel(unit, err))?;
                kernel(&self.0, &unit.label(), &written, kept)
            }
            Unit::Call(call) => gemm::compile(&self.0, unit, call, kept),
        }
    }

    fn load(&self, artifact: &Artifact) -> Result<CodeId, DeviceError> {
        let code = if gemm::is_product(&artifact.bytes) {
            let product = gemm::load(&self.0, artifact)?;
            Code::Product(Box::new(product))
        } else {
            let kernel = load_kernel(&self.0, &artifact.target, &artifact.bytes)?;
            Code::Kernel(Box::new(kernel))
        };
        let mut state = self.0.enter()?;
        let index = state.codes.insert(Arc::new(code));
        Ok(CodeId { index, generation: self.0.generation })
    }

    fn release(&self, held: Held) -> Result<(), DeviceError> {
        let mut state = self.0.enter()?;
        // SAFETY: the stream is alive. What is released must not be in flight.
        unsafe { api::synchronize(self.0.stream.raw()) }
            .map_err(|err| self.0.failed(&mut state, err, 0))?;
        match held {
            Held::Code(CodeId { index, generation }) => {
                self.0.of_this(generation, "code")?;
                let gone = state.codes.remove(index);
                gone.map(drop).ok_or(DeviceError::Stale { what: "code" })
            }
            Held::Prepared(prepared) => {
                self.0.of_this(prepared.generation, "program")?;
                let gone = state.programs.remove(prepared.index);
                gone.map(drop).ok_or(DeviceError::Stale { what: "program" })
            }
        }
    }
}

fn no_kernel(unit: &Unit, err: NoKernel) -> DeviceError {
    match err {
        NoKernel::Unsupported(what) => DeviceError::Unsupported { kind: KIND, what },
        NoKernel::Wrong(log) => DeviceError::Compile { label: unit.label(), log },
    }
}

/// The text of a loop program and how it is launched.
pub(crate) fn of_loop(program: &LoopProgram, arch: Arch) -> Result<Written, NoKernel> {
    let written = calor_kernel::write(program, Language::CudaCpp).map_err(|err| match err {
        WriteError::Lacks { .. } => NoKernel::Unsupported(err.to_string()),
        _ => NoKernel::Wrong(err.to_string()),
    })?;
    let KernelText { text, entry, workgroup, grid, live_words } = written;
    let geometry = match grid {
        Grid::Fixed { groups } => Geometry::Fixed([groups.max(1), 1, 1]),
        Grid::Points { items_per_point, items_per_group, groups_max } => Geometry::Points {
            extent_count: u32::from(program.rank),
            items_per_point,
            items_per_group,
            groups_max,
        },
    };
    let form = KernelForm {
        entry,
        block: workgroup,
        geometry,
        shared_bytes: 0,
        cluster: 1,
        dependent: 9 <= arch.major,
        buffer_count: program.args.len() as u32,
        word_count: program.word_count,
        live_words,
        align_bytes: 1,
        stride_words: Vec::new(),
        stride_align: 1,
        maps: Vec::new(),
        next: Vec::new(),
        image: Vec::new(),
    };
    Ok(Written { text, form })
}

/// What decides the machine code: text, entry, options, and how it is launched.
fn body(written: &Written) -> Digest {
    let mut out = Canonical::new("cuda kernel", 1);
    out.text(&written.text).count(OPTIONS.len());
    for option in OPTIONS {
        out.text(option);
    }
    // The form without its image holds the entry.
    out.bytes(&written.form.to_bytes());
    Digest::of(&out.finish())
}

/// A kernel's artifact, kept or compiled now.
pub(crate) fn kernel(
    shared: &Shared,
    label: &str,
    written: &Written,
    kept: &dyn Artifacts,
) -> Result<Compiled, DeviceError> {
    let target = shared.arch.to_string();
    let producer = shared.producer.clone();
    let key = ArtifactKey {
        kind: ArtifactKind::Kernel,
        target: target.clone(),
        producer,
        body: body(written),
        label: label.into(),
    };
    let (bytes, found) =
        kept.get_or_make(&key, &mut || make(shared, label, written, shared.arch))?;
    Ok(Compiled { artifact: Artifact { target, bytes }, key: Some(key), found })
}

fn make(
    shared: &Shared,
    label: &str,
    written: &Written,
    arch: Arch,
) -> Result<Vec<u8>, DeviceError> {
    let nvrtc = shared.nvrtc.as_ref().map_err(|why| DeviceError::Absent {
        kind: KIND,
        why: format!("kernel `{label}` must be compiled, and there is no NVRTC: {why}"),
    })?;
    let image = nvrtc
        .compile(&written.text, arch)
        .map_err(|Unmade(log)| DeviceError::Compile { label: label.into(), log })?;
    Ok(KernelForm { image, ..written.form.clone() }.to_bytes())
}

/// A kernel out of an artifact's bytes, for exactly this device.
pub(crate) fn load_kernel(
    shared: &Shared,
    target: &str,
    bytes: &[u8],
) -> Result<Kernel, DeviceError> {
    if !shared.arch.is(target) {
        return Err(DeviceError::WrongTarget {
            wanted: shared.arch.to_string(),
            found: target.into(),
        });
    }
    let form = KernelForm::from_bytes(bytes)?;
    let mut state = shared.enter()?;
    Kernel::load(form).map_err(|err| {
        if err.is_image() {
            return DeviceError::Damaged { why: "the driver refuses the machine code" };
        }
        shared.failed(&mut state, err, 0)
    })
}
