//! Text of every example in every language, kept in `golden/`; `UPDATE=1` writes it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use calor_ir::dtype::DType;
use calor_kernel::examples::{self, Example};
use calor_kernel::{Language, WriteError, write};

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "golden"].iter().collect()
}

#[expect(clippy::disallowed_methods, reason = "a test is told here to rewrite its files")]
fn is_update() -> bool {
    std::env::var_os("UPDATE").is_some_and(|it| it == "1")
}

/// Whether a language cannot say what an example needs.
fn is_refused(example: &Example, language: Language) -> bool {
    language == Language::Wgsl && example.name == "wide_mix"
}

#[test]
fn text_is_as_kept() {
    let mut names = BTreeSet::new();
    for example in examples::all() {
        for language in Language::ALL.into_iter().filter(|it| !is_refused(&example, *it)) {
            let name = format!("{}.{}", example.name, language.extension());
            let text = write(&example.program, language).unwrap().text;
            let path = folder().join(&name);
            if is_update() {
                std::fs::create_dir_all(folder()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let kept = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(kept == text, "{name} is not as kept; UPDATE=1 writes it. Now:\n{text}");
            names.insert(name);
        }
    }
    let files = std::fs::read_dir(folder()).unwrap();
    let kept: BTreeSet<_> =
        files.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(kept, names, "files without an example");
}

#[test]
fn wgsl_is_valid() {
    for example in examples::all().iter().filter(|it| !is_refused(it, Language::Wgsl)) {
        let text = write(&example.program, Language::Wgsl).unwrap().text;
        let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|error| {
            panic!("{}: {}\n{text}", example.name, error.emit_to_string(&text))
        });
        naga::valid::Validator::new(
            naga::valid::ValidationFlags::all(),
            naga::valid::Capabilities::empty(),
        )
        .validate(&module)
        .unwrap_or_else(|error| {
            panic!("{}: {}\n{text}", example.name, error.emit_to_string(&text))
        });
    }
}

#[test]
fn wgsl_refuses_wide_types() {
    let wide = examples::all().into_iter().find(|it| it.name == "wide_mix").unwrap();
    let (language, dtype) = (Language::Wgsl, DType::F64);
    assert_eq!(write(&wide.program, language), Err(WriteError::Lacks { language, dtype }));
}

#[test]
fn a_launch_finds_what_it_needs() {
    for example in examples::all() {
        let kernel = write(&example.program, Language::CudaCpp).unwrap();
        assert!(kernel.text.contains(&format!(" {}(", kernel.entry)), "{}", example.name);
        let rank = usize::from(example.program.rank);
        assert!(1 <= kernel.grid.groups(&example.words[..rank]));
        assert!(kernel.live_words.starts_with(&Vec::from_iter(0..rank as u32)));
    }
}
