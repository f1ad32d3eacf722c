//! What a program's file holds once it is loaded: its code and its data, each by a digest.
//!
//! Two builds whose code is the same at the same addresses cannot differ in how it lies in memory;
//! a difference between their times then has another cause than the code.

use std::path::Path;

use object::{Object as _, ObjectSection as _, SectionKind};
use serde::{Deserialize, Serialize};

/// A program by what is loaded of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Digest of its code with the addresses at which it lies.
    pub code_blake3: String,
    /// Digest of its data likewise: constants, texts, tables, and room for what starts as zero.
    pub data_blake3: String,
}

/// What two programs have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// Code and data.
    Whole,
    /// Code; some of their data differ.
    Code,
    /// Not even that.
    None,
}

impl Program {
    /// Of the program at `path`; nothing where it cannot be read or has no section of code, as a
    /// script has none.
    pub fn read(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let file = object::File::parse(&*bytes).ok()?;
        let (mut code, mut data) = (blake3::Hasher::new(), blake3::Hasher::new());
        let mut code_bytes = 0;
        for section in file.sections() {
            let sum = match section.kind() {
                SectionKind::Text => {
                    code_bytes += section.size();
                    &mut code
                }
                SectionKind::Data
                | SectionKind::ReadOnlyData
                | SectionKind::ReadOnlyDataWithRel
                | SectionKind::ReadOnlyString
                | SectionKind::UninitializedData
                | SectionKind::Tls
                | SectionKind::UninitializedTls
                | SectionKind::TlsVariables => &mut data,
                // Symbols, lines for debuggers, notes: nothing that runs.
                _ => continue,
            };
            let bytes = section.data().ok()?;
            for part in [section.address(), section.size(), bytes.len() as u64] {
                sum.update(&part.to_le_bytes());
            }
            sum.update(bytes);
        }
        let text = |it: blake3::Hasher| it.finalize().to_hex().to_string();
        (0 < code_bytes).then(|| Self { code_blake3: text(code), data_blake3: text(data) })
    }

    /// What it has in common with `other`.
    pub fn likeness(&self, other: &Self) -> Likeness {
        let Self { code_blake3, data_blake3 } = self;
        match (*code_blake3 == other.code_blake3, *data_blake3 == other.data_blake3) {
            (true, true) => Likeness::Whole,
            (true, false) => Likeness::Code,
            (false, _) => Likeness::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_like_itself_and_a_script_is_none() {
        let own = std::env::current_exe().unwrap();
        let program = Program::read(&own).unwrap();
        assert_eq!(program.likeness(&Program::read(&own).unwrap()), Likeness::Whole);
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!(Program::read(&script), None);
        assert_eq!(Program::read(&folder.path().join("gone")), None);
    }

    #[test]
    fn one_byte_of_code_or_data_is_a_difference() {
        let own = std::env::current_exe().unwrap();
        let program = Program::read(&own).unwrap();
        let bytes = std::fs::read(&own).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let at = |name: SectionKind| {
            let mut sections = file.sections();
            let found = sections.find(|it| it.kind() == name && 0 < it.size()).unwrap();
            found.file_range().unwrap().0 as usize
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let changed = |place: usize| {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            program.likeness(&Program::read(&path).unwrap())
        };
        assert_eq!(changed(at(SectionKind::Text)), Likeness::None);
        assert_eq!(changed(at(SectionKind::ReadOnlyData)), Likeness::Code);
    }
}
