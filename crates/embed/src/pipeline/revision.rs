//! What decides a pipeline's results besides their inputs, as one digest that outlives the process.

use std::path::Path;
use std::time::UNIX_EPOCH;

use calor_device::Signature;
use calor_kernel::Canonical;

use super::{PipelineCore, PipelineOptions};
use crate::input::InputLimits;

impl PipelineCore {
    /// A digest that changes with models, weights, settings, precision, device and version. Large
    /// files count by name, length and time of change, small ones by their bytes. None where the
    /// models were not opened together and warmed, or a file changed or could not be looked at
    /// meanwhile: then nothing is known to be the same.
    pub fn revision(&self) -> Option<[u8; 32]> {
        self.revision.filter(|_| self.programs.is_sealed())
    }
}

/// The revision of what these options open on a device, as the files are now.
pub(super) fn of(options: &PipelineOptions, signature: &Signature) -> Option<[u8; 32]> {
    let PipelineOptions {
        profile,
        models,
        checkpoints,
        // Without one there is no revision.
        absent: _,
        fusion_file,
        projection_file,
        missing,
        limits,
        long_text,
        batch_tokens_max: _,
        reference_s: _,
        precision,
        device_slots,
        own_forms: _,
    } = options;
    let mut out = Canonical::new("pipeline revision", 1);
    out.text(env!("CARGO_PKG_VERSION")).text(profile.name()).text(precision.word());
    let Signature { kind, model, arch, versions, memory_bytes: _, parallel_count: _ } = signature;
    out.text(kind).text(model).text(arch).count(versions.len());
    for (name, version) in versions {
        out.text(name).text(version);
    }
    let InputLimits { text_bytes_max, media_bytes_max, long_text: cut, nul } = *limits;
    out.count(text_bytes_max).count(media_bytes_max).u8(cut as u8).u8(nul as u8);
    out.u8(*long_text as u8).u8(*missing as u8).u8(u8::from(*device_slots)).count(models.len());
    for model in models {
        out.u8(model.index() as u8);
    }
    for need in profile.needs(models) {
        out.text(need.name);
        add_folder(&mut out, checkpoints.get(need.name)?)?;
    }
    for file in [Some(fusion_file), projection_file.as_ref()] {
        let file = file.filter(|it| it.exists());
        out.u8(u8::from(file.is_some()));
        if let Some(file) = file {
            add_file(&mut out, file)?;
        }
    }
    Some(*blake3::hash(&out.finish()).as_bytes())
}

/// Files beyond this many bytes are not read.
const SMALL_BYTES: u64 = 4 << 20;

fn add_folder(out: &mut Canonical, folder: &Path) -> Option<()> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).ok()? {
        paths.push(entry.ok()?.path());
    }
    paths.sort();
    out.count(paths.len());
    for path in paths {
        match path.is_dir() {
            true => add_folder(out, &path)?,
            false => add_file(out, &path)?,
        }
    }
    Some(())
}

fn add_file(out: &mut Canonical, path: &Path) -> Option<()> {
    let about = std::fs::metadata(path).ok()?;
    out.text(&path.file_name()?.to_string_lossy()).i64(i64::try_from(about.len()).ok()?);
    if about.len() <= SMALL_BYTES {
        out.bytes(&std::fs::read(path).ok()?);
        return Some(());
    }
    let changed = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    out.bytes(&changed.as_nanos().to_le_bytes());
    Some(())
}

#[test]
fn a_file_that_changes_is_another_revision() {
    let dir = tempfile::TempDir::new().unwrap();
    let digest = || {
        let mut out = Canonical::new("test", 1);
        add_folder(&mut out, dir.path()).map(|()| out.finish())
    };
    std::fs::create_dir(dir.path().join("inside")).unwrap();
    std::fs::write(dir.path().join("inside/config.json"), "{}").unwrap();
    let first = digest().unwrap();
    assert_eq!(digest().unwrap(), first);
    std::fs::write(dir.path().join("inside/config.json"), "[]").unwrap();
    let second = digest().unwrap();
    assert_ne!(second, first, "the same length, other bytes");
    let large = std::fs::File::create(dir.path().join("weights")).unwrap();
    large.set_len(SMALL_BYTES + 1).unwrap();
    let third = digest().unwrap();
    assert_ne!(third, second);
    large.set_modified(UNIX_EPOCH).unwrap();
    assert_ne!(digest().unwrap(), third, "the same length, another time");
}
