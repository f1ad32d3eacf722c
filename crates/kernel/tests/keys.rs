//! What decides a kernel's text: the canonical bytes and nothing else.

use std::collections::HashMap;

use calor_kernel::examples;
use calor_kernel::{InstrOp, Language, LoopProgram, Unit, write};

fn texts(program: &LoopProgram) -> Vec<Option<String>> {
    Language::ALL.iter().map(|it| write(program, *it).ok().map(|kernel| kernel.text)).collect()
}

/// Every example, and variants of it that other numbers make.
fn variants() -> Vec<(String, LoopProgram)> {
    let mut programs = Vec::new();
    for example in examples::all() {
        programs.push((example.name.to_string(), example.program.clone()));
        let mut wider = example.program.clone();
        wider.width *= 3;
        programs.push((format!("{} wider", example.name), wider));
        for at in 0..example.program.body.len() {
            let mut other = example.program.clone();
            if let InstrOp::Const(value) = &mut other.body[at].op {
                *value += 2.0;
                programs.push((format!("{} constant {at}", example.name), other));
            }
        }
    }
    programs
}

#[test]
fn equal_keys_have_equal_text() {
    let mut seen: HashMap<Vec<u8>, Vec<Option<String>>> = HashMap::new();
    for (name, program) in variants().into_iter().chain(variants()) {
        let text = texts(&program);
        let known = seen.entry(program.canonical()).or_insert_with(|| text.clone());
        assert!(*known == text, "{name}");
    }
    assert_eq!(seen.len(), variants().len());
}

#[test]
fn other_numbers_have_other_text_and_keys() {
    let mut seen: HashMap<String, String> = HashMap::new();
    for (name, program) in variants() {
        let text = texts(&program).into_iter().flatten().next().unwrap();
        if let Some(other) = seen.insert(text, name.clone()) {
            panic!("{name} and {other} have one text");
        }
    }
}

#[test]
fn a_label_is_not_text() {
    for example in examples::all() {
        let label = Unit::Loop(example.program.clone()).label();
        for text in texts(&example.program).into_iter().flatten() {
            assert!(!text.contains(&label) && !text.contains(example.name), "{}", example.name);
        }
    }
}

#[test]
fn launch_words_are_not_text() {
    // A launch has other extents and strides than its example: the program does not know them.
    let marker = 987_654_321;
    for mut example in examples::all() {
        let before = texts(&example.program);
        example.words.fill(marker);
        assert_eq!(texts(&example.program), before);
        assert!(before.iter().flatten().all(|it| !it.contains("987654321")));
    }
}

#[test]
fn skeletons_lose_numbers_alone() {
    for example in examples::all() {
        let (skeleton, constants) = example.program.skeleton();
        let mut other = example.program.clone();
        let mut changed = Vec::new();
        for instr in &mut other.body {
            if let InstrOp::Const(value) = &mut instr.op {
                changed.push(*value);
                *value += 1.0;
            }
        }
        other.width += 1;
        assert_eq!(constants, changed);
        assert_eq!(other.skeleton().0, skeleton);
        let printed = example.program.to_string();
        assert!(printed.contains(&format!("{} lanes", example.program.width)));
    }
    let softmax = examples::all().into_iter().find(|it| it.name == "softmax").unwrap();
    assert_eq!(
        softmax.program.skeleton().0,
        "rank 1; W; a0 f32, a1 mut f32; r0 lane f32 = load a0 +1; r1 row f32 = lanes.max r0; \
         r2 lane f32 = sub r0 r1; r3 lane f32 = exp r2; r4 row f32 = lanes.sum r3; \
         r5 lane f32 = div r3 r4; store a1 +1 = r5"
    );
}
