//! CUDA C++ for NVRTC, without headers.
//!
//! Floats narrower than `f32` are `float` in registers, and rounded where they are cast or
//! stored. Conversions that the architecture has are inline PTX; for older ones they are done on
//! bits, so that one text serves every architecture from sm_75.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Fold, Unary};

use crate::cuda_scalar;
use crate::dialect::{Dialect, Packs, Unroll, called_pieces};
use crate::layout::Layout;
use crate::nest;
use crate::program::{Access, Arg, LoopProgram};

const LIBRARY: &str = include_str!("prelude/cuda.cu");

/// The whole source.
pub(crate) fn text(program: &LoopProgram, layout: &Layout, entry: &str) -> String {
    let cuda = Cuda { pack: layout.pack, team: layout.team };
    let body = nest::body(program, layout, &cuda);
    let mut args = String::new();
    for (at, Arg { dtype, access }) in program.args.iter().enumerate() {
        let constant = if *access == Access::Read { "const " } else { "" };
        args += &format!("    {constant}{}* a{at},\n", stored(*dtype));
    }
    let pieces = called_pieces(LIBRARY, &body);
    let word_count = program.word_count.max(1);
    let rule_count = program.live_words().len().max(1);
    let workgroup = layout.workgroup;
    format!(
        "{pieces}struct Words {{ long long w[{word_count}]; }};
struct Rule {{ long long count, scale; }};
struct Rules {{ Rule at[{rule_count}]; }};

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {{
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}}

extern \"C\" __global__ void __launch_bounds__({workgroup}) {entry}(
{args}    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {{
#if 900 <= __CUDA_ARCH__
    // The next kernel may be set up already; this one reads nothing before the last has ended.
    asm volatile(\"griddepcontrol.launch_dependents;\");
    asm volatile(\"griddepcontrol.wait;\" ::: \"memory\");
#endif
{body}}}
"
    )
}

/// CUDA C++, for one layout.
struct Cuda {
    pack: u32,
    team: u32,
}

/// The type of an element in memory.
fn stored(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool | DType::U8 | DType::F8E4M3 => "unsigned char",
        DType::I8 => "signed char",
        DType::F16 | DType::BF16 => "unsigned short",
        DType::I32 => "int",
        DType::U32 => "unsigned",
        DType::I64 => "long long",
        DType::F32 => "float",
        DType::F64 => "double",
    }
}

/// A stored element as a register.
fn widened(dtype: DType, element: &str) -> String {
    match dtype {
        DType::Bool => format!("({element} != 0)"),
        DType::F8E4M3 => format!("f8_value({element})"),
        DType::F16 => format!("f16_value({element})"),
        DType::BF16 => format!("bf16_value({element})"),
        DType::U8 | DType::I8 | DType::I32 | DType::U32 | DType::I64 | DType::F32 | DType::F64 => {
            element.into()
        }
    }
}

/// A register as a stored element.
fn narrowed(dtype: DType, value: &str) -> String {
    match dtype {
        DType::Bool => format!("({value} ? 1 : 0)"),
        DType::F8E4M3 => format!("f8_bits({value})"),
        DType::F16 => format!("f16_bits({value})"),
        DType::BF16 => format!("bf16_bits({value})"),
        DType::U8 | DType::I8 | DType::I32 | DType::U32 | DType::I64 | DType::F32 | DType::F64 => {
            value.into()
        }
    }
}

impl Dialect for Cuda {
    fn value(&self, dtype: DType, name: &str, value: &str) -> String {
        format!("const {} {name} = {value};", cuda_scalar::register(dtype))
    }

    fn variable(&self, dtype: DType, name: &str, value: Option<&str>) -> String {
        let start = value.map(|it| format!(" = {it}")).unwrap_or_default();
        format!("{} {name}{start};", cuda_scalar::register(dtype))
    }

    fn array(&self, dtype: DType, name: &str, len: u32) -> String {
        format!("{} {name}[{len}];", cuda_scalar::register(dtype))
    }

    fn int(&self, name: &str, value: &str) -> String {
        format!("const int {name} = {value};")
    }

    fn wide(&self, name: &str, value: &str) -> String {
        format!("const long long {name} = {value};")
    }

    fn range(&self, name: &str, from: &str, below: &str, unroll: Unroll) -> String {
        let unroll = match unroll {
            Unroll::Whole => "#pragma unroll\n",
            Unroll::Some => "#pragma unroll 8\n",
            Unroll::No => "",
        };
        format!("{unroll}for (int {name} = {from}; {name} < {below}; ++{name})")
    }

    fn items(&self, layout: &Layout, count: &str) -> String {
        let teams = layout.teams_per_group();
        let (first, distance) = match (teams, layout.team) {
            (1, _) => ("blockIdx.x".into(), "gridDim.x".into()),
            (_, 1) => (
                format!("blockIdx.x * {teams}ull + threadIdx.x"),
                format!("gridDim.x * {teams}ull"),
            ),
            (_, team) => (
                format!("blockIdx.x * {teams}ull + threadIdx.x / {team}"),
                format!("gridDim.x * {teams}ull"),
            ),
        };
        format!(
            "const unsigned long long item_count = (unsigned long long)({count});
for (unsigned long long item = {first}; item < item_count; item += {distance})"
        )
    }

    fn points(&self, count: &str) -> String {
        format!(
            "const unsigned long long point_count = (unsigned long long)({count});
for (unsigned long long point = 0; point < point_count; ++point)"
        )
    }

    fn divide(&self, dividend: &str, divisor: &str) -> [String; 2] {
        [format!("{dividend} / {divisor}"), format!("{dividend} % {divisor}")]
    }

    fn count(&self, name: &str, value: &str) -> String {
        format!("const unsigned long long {name} = {value};")
    }

    fn narrow(&self, value: &str) -> String {
        format!("(int)({value})")
    }

    fn teammate(&self, layout: &Layout) -> String {
        if layout.team == layout.workgroup {
            return "(int)threadIdx.x".into();
        }
        format!("(int)(threadIdx.x % {})", layout.team)
    }

    fn thread(&self, layout: &Layout) -> String {
        format!("(int)(blockIdx.x * {} + threadIdx.x)", layout.workgroup)
    }

    fn word(&self, word: u32) -> String {
        format!("words.w[{word}]")
    }

    fn live_word(&self, word: u32, at: usize) -> String {
        format!("live_word(words.w[{word}], rules.at[{at}], live)")
    }

    fn agreed(&self, _: &Layout, value: &str) -> String {
        value.into()
    }

    fn clamped(&self, index: &str, extent: &str) -> String {
        format!("clamp_index({index}, {extent})")
    }

    fn constant(&self, dtype: DType, value: f64) -> String {
        cuda_scalar::constant(dtype, value)
    }

    fn unary(&self, op: Unary, dtype: DType, x: &str) -> String {
        cuda_scalar::unary(op, dtype, x)
    }

    fn binary(&self, op: Binary, dtype: DType, a: &str, b: &str) -> String {
        cuda_scalar::binary(op, dtype, a, b)
    }

    fn select(&self, condition: &str, a: &str, b: &str) -> String {
        format!("({condition} ? {a} : {b})")
    }

    fn cast(&self, from: DType, to: DType, x: &str) -> String {
        cuda_scalar::cast(from, to, x)
    }

    fn philox(&self, key0: &str, key1: &str, counter: &str) -> String {
        format!("philox({key0}, {key1}, {counter})")
    }

    fn load(&self, arg: u8, dtype: DType, index: &str) -> String {
        widened(dtype, &format!("a{arg}[{index}]"))
    }

    fn store(&self, arg: u8, dtype: DType, index: &str, value: &str) -> String {
        format!("a{arg}[{index}] = {};", narrowed(dtype, value))
    }

    fn combine(&self, fold: Fold, _: DType, value: &str) -> String {
        let fold = match fold {
            Fold::Sum => "Sum",
            Fold::Max => "Max",
            Fold::Min => "Min",
        };
        format!("fold_team<{fold}, {}>({value})", self.team)
    }

    fn packs(&self) -> Option<&dyn Packs> {
        Some(self)
    }
}

impl Packs for Cuda {
    fn load(&self, name: &str, arg: u8, index: &str, guard: Option<&str>) -> String {
        let load = format!("load_pack<{}>(a{arg} + ({index}))", self.pack);
        match guard {
            Some(guard) => format!("const auto {name} = {guard} ? {load} : decltype({load}){{}};"),
            None => format!("const auto {name} = {load};"),
        }
    }

    fn get(&self, name: &str, dtype: DType, at: &str) -> String {
        widened(dtype, &format!("{name}.at[{at}]"))
    }

    fn declare(&self, name: &str, dtype: DType) -> String {
        format!("Pack<{}, {}> {name};", stored(dtype), self.pack)
    }

    fn set(&self, name: &str, dtype: DType, at: &str, value: &str) -> String {
        format!("{name}.at[{at}] = {};", narrowed(dtype, value))
    }

    fn store(&self, name: &str, arg: u8, index: &str) -> String {
        format!("store_pack(a{arg} + ({index}), {name});")
    }
}
