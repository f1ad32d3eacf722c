//! Artifacts: a unit's canonical bytes behind a format word; code is made when they are loaded.

use std::sync::Arc;

use calor_device::{Artifact, Artifacts, CodeId, Compiled, Compiler, DeviceError, Held};
use calor_kernel::Unit;

use crate::code::{NoCode, code_of};
use crate::decode;
use crate::device::{KIND, Shared};

/// What an artifact starts with; the last digit counts formats.
const FORMAT: &[u8; 8] = b"calcpu01";

/// The device's compiler.
pub(crate) struct CpuCompiler(pub(crate) Arc<Shared>);

impl Compiler for CpuCompiler {
    /// Keeps nothing: making code again is a look into a table.
    fn compile(&self, unit: &Unit, _kept: &dyn Artifacts) -> Result<Compiled, DeviceError> {
        code_of(unit).map_err(|err| match err {
            NoCode::Unsupported(what) => DeviceError::Unsupported { kind: KIND, what },
            NoCode::Wrong(log) => DeviceError::Compile { label: unit.label(), log },
        })?;
        let bytes = [&FORMAT[..], &unit.canonical()].concat();
        Ok(Compiled::unkept(Artifact { target: self.0.arch.into(), bytes }))
    }

    fn load(&self, artifact: &Artifact) -> Result<CodeId, DeviceError> {
        if artifact.target != self.0.arch {
            return Err(DeviceError::WrongTarget {
                wanted: self.0.arch.into(),
                found: artifact.target.clone(),
            });
        }
        let damaged = |why: &'static str| DeviceError::Damaged { why };
        let canonical = artifact.bytes.strip_prefix(FORMAT.as_slice());
        let canonical = canonical.ok_or(damaged("it does not start with the format"))?;
        let unit = decode::unit(canonical).ok_or(damaged("the bytes are no unit"))?;
        let code = code_of(&unit).map_err(|_| damaged("the unit does not compile"))?;
        let index = self.0.lock().codes.insert(Arc::from(code));
        Ok(CodeId { index, generation: self.0.generation })
    }

    fn release(&self, held: Held) -> Result<(), DeviceError> {
        let mut state = self.0.lock();
        let (what, found) = match held {
            Held::Code(CodeId { index, generation }) => {
                self.0.of_this(generation, "code")?;
                ("code", state.codes.remove(index).is_some())
            }
            Held::Prepared(prepared) => {
                self.0.of_this(prepared.generation, "program")?;
                ("program", state.programs.remove(prepared.index).is_some())
            }
        };
        if found { Ok(()) } else { Err(DeviceError::Stale { what }) }
    }
}
