//! WGSL, the WebGPU shading language.
//!
//! Narrow types live in buffers of 32-bit words and go through two functions for each buffer.
//! Floats narrower than `f32` are `f32` in registers, 8-bit integers `i32` and `u32`.

use std::collections::BTreeMap;

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Fold, Unary};

use crate::dialect::{Dialect, Packs, Unroll, called_pieces, fold_op};
use crate::layout::Layout;
use crate::nest;
use crate::program::{Access, Arg, InstrOp, LoopProgram};
use crate::wgsl_scalar::{self, narrow_type, register};

const LIBRARY: &str = include_str!("prelude/wgsl.wgsl");

/// The whole source.
pub(crate) fn text(program: &LoopProgram, layout: &Layout, entry: &str) -> String {
    let wgsl = Wgsl { word_count: program.word_count };
    let body = nest::body(program, layout, &wgsl);
    let mut own = buffers(program);
    if 1 < layout.team {
        own += &team_functions(program, layout, &wgsl);
    }
    let pieces = called_pieces(LIBRARY, &format!("{own}{body}"));
    let int_count = program.word_count as usize + 2 * program.live_words().len();
    let vector_count = int_count.div_ceil(4).max(1);
    let (next, last) = (program.args.len(), program.args.len() + 1);
    format!(
        "@group(0) @binding({next}) var<uniform> words: array<vec4<i32>, {vector_count}>;
@group(0) @binding({last}) var<storage, read> live: array<u32>;
{own}
{pieces}@compute @workgroup_size({})
fn {entry}(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {{
{body}}}
",
        layout.workgroup
    )
}

/// Declarations of the buffers, with the functions that reach into packed ones.
fn buffers(program: &LoopProgram) -> String {
    let mut text = String::new();
    for (at, Arg { dtype, access }) in program.args.iter().enumerate() {
        let head = format!("@group(0) @binding({at}) var<storage, read_write> a{at}");
        let Some((decode, encode)) = narrow_type(*dtype) else {
            text += &format!("{head}: array<{}>;\n", register(*dtype));
            continue;
        };
        let bits = 8 * dtype.size_bytes();
        let (per_word, mask) = (32 / bits, (1_u64 << bits) - 1);
        let place = format!("a{at}[at / {per_word}]");
        let (element, word) = match access {
            Access::Read => ("u32", place.clone()),
            Access::Write => ("atomic<u32>", format!("atomicLoad(&{place})")),
        };
        let value = decode(&format!("(({word} >> shift) & {mask:#x}u)"));
        let ty = register(*dtype);
        text += &format!(
            "{head}: array<{element}>;
fn load_a{at}(at: i32) -> {ty} {{
    let shift = u32(at % {per_word}) * {bits}u;
    return {value};
}}
"
        );
        if *access == Access::Write {
            text += &format!(
                "fn store_a{at}(at: i32, value: {ty}) {{
    let shift = u32(at % {per_word}) * {bits}u;
    atomicAnd(&{place}, ~({mask:#x}u << shift));
    atomicOr(&{place}, ({} & {mask:#x}u) << shift);
}}
",
                encode("value")
            );
        }
    }
    text
}

/// Functions that fold over the threads of a team, which is a whole workgroup.
fn team_functions(program: &LoopProgram, layout: &Layout, wgsl: &Wgsl) -> String {
    let team = layout.team;
    let mut folds = BTreeMap::new();
    for instr in &program.body {
        if let InstrOp::FoldLanes(fold, _) = instr.op {
            folds.insert((instr.dtype, fold), fold_name(fold, instr.dtype));
        }
    }
    let mut text = String::new();
    if program.bounds.is_some() {
        text += "var<workgroup> agreed_value: i32;
fn agreed(value: i32, local: u32) -> i32 {
    if (local == 0u) { agreed_value = value; }
    return workgroupUniformLoad(&agreed_value);
}
";
    }
    for ((dtype, fold), name) in folds {
        let (space, ty) = (format!("{name}_values"), register(dtype));
        let (here, there) = (format!("{space}[t]"), format!("{space}[t + distance]"));
        let joined = wgsl.binary(fold_op(fold, dtype), dtype, &here, &there);
        text += &format!(
            "var<workgroup> {space}: array<{ty}, {team}>;
fn {name}(x: {ty}, t: i32) -> {ty} {{
    {here} = x;
    for (var distance = {}; 0 < distance; distance /= 2) {{
        workgroupBarrier();
        if (t < distance) {{ {here} = {joined}; }}
    }}
    return workgroupUniformLoad(&{space}[0]);
}}
",
            team / 2
        );
    }
    text
}

fn fold_name(fold: Fold, dtype: DType) -> String {
    format!("fold_{}_{}", fold.name(), dtype.name())
}

/// WGSL, for one program.
struct Wgsl {
    word_count: u32,
}

impl Dialect for Wgsl {
    fn value(&self, dtype: DType, name: &str, value: &str) -> String {
        format!("let {name}: {} = {value};", register(dtype))
    }

    fn variable(&self, dtype: DType, name: &str, value: Option<&str>) -> String {
        let start = value.map(|it| format!(" = {it}")).unwrap_or_default();
        format!("var {name}: {}{start};", register(dtype))
    }

    fn array(&self, dtype: DType, name: &str, len: u32) -> String {
        format!("var {name}: array<{}, {len}>;", register(dtype))
    }

    fn int(&self, name: &str, value: &str) -> String {
        format!("let {name}: i32 = {value};")
    }

    fn wide(&self, name: &str, value: &str) -> String {
        self.int(name, value)
    }

    fn range(&self, name: &str, from: &str, below: &str, _: Unroll) -> String {
        format!("for (var {name}: i32 = {from}; {name} < {below}; {name}++)")
    }

    fn items(&self, layout: &Layout, count: &str) -> String {
        let (first, distance) = match layout.teams_per_group() {
            1 => ("group.x".into(), "groups.x".into()),
            teams => (format!("group.x * {teams}u + local"), format!("groups.x * {teams}u")),
        };
        format!(
            "let item_count = u32({count});
for (var item = {first}; item < item_count; item += {distance})"
        )
    }

    fn points(&self, count: &str) -> String {
        format!(
            "let point_count = u32({count});
for (var point = 0u; point < point_count; point++)"
        )
    }

    fn divide(&self, dividend: &str, divisor: &str) -> [String; 2] {
        ["/", "%"].map(|op| format!("{dividend} {op} u32({divisor})"))
    }

    fn count(&self, name: &str, value: &str) -> String {
        format!("let {name}: u32 = {value};")
    }

    fn narrow(&self, value: &str) -> String {
        format!("i32({value})")
    }

    fn teammate(&self, _: &Layout) -> String {
        "i32(local)".into()
    }

    fn thread(&self, layout: &Layout) -> String {
        format!("i32(group.x * {}u + local)", layout.workgroup)
    }

    fn word(&self, word: u32) -> String {
        let part = ["x", "y", "z", "w"][word as usize % 4];
        format!("words[{}].{part}", word / 4)
    }

    fn live_word(&self, word: u32, at: usize) -> String {
        let pair = self.word_count + 2 * at as u32;
        let [word, count, scale] = [word, pair, pair + 1].map(|it| self.word(it));
        format!("live_word({word}, {count}, {scale})")
    }

    fn agreed(&self, layout: &Layout, value: &str) -> String {
        if 1 < layout.team { format!("agreed({value}, local)") } else { value.into() }
    }

    fn clamped(&self, index: &str, extent: &str) -> String {
        format!("clamp(i32({index}), 0, {extent} - 1)")
    }

    fn constant(&self, dtype: DType, value: f64) -> String {
        wgsl_scalar::constant(dtype, value)
    }

    fn unary(&self, op: Unary, dtype: DType, x: &str) -> String {
        wgsl_scalar::unary(op, dtype, x)
    }

    fn binary(&self, op: Binary, dtype: DType, a: &str, b: &str) -> String {
        wgsl_scalar::binary(op, dtype, a, b)
    }

    fn select(&self, condition: &str, a: &str, b: &str) -> String {
        format!("select({b}, {a}, {condition})")
    }

    fn cast(&self, from: DType, to: DType, x: &str) -> String {
        wgsl_scalar::cast(from, to, x)
    }

    fn philox(&self, key0: &str, key1: &str, counter: &str) -> String {
        format!("philox({key0}, {key1}, {counter})")
    }

    fn load(&self, arg: u8, dtype: DType, index: &str) -> String {
        match narrow_type(dtype) {
            Some(_) => format!("load_a{arg}({index})"),
            None => format!("a{arg}[{index}]"),
        }
    }

    fn store(&self, arg: u8, dtype: DType, index: &str, value: &str) -> String {
        match narrow_type(dtype) {
            Some(_) => format!("store_a{arg}({index}, {value});"),
            None => format!("a{arg}[{index}] = {value};"),
        }
    }

    fn combine(&self, fold: Fold, dtype: DType, value: &str) -> String {
        format!("{}({value}, t)", fold_name(fold, dtype))
    }

    fn packs(&self) -> Option<&dyn Packs> {
        None
    }
}
