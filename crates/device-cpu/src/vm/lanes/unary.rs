//! Operations of one argument.

use calor_ir::{DType, Unary};

use super::{BLOCK, Kept, Operands, Run, map};
use crate::simd::{self, Kernel, Level, Simd};
use crate::vm::elementary;

/// `op` on an argument of `dtype`; nothing where it is not defined.
///
/// Results of narrow floats still have to be rounded.
pub(in crate::vm) fn unary(op: Unary, dtype: DType) -> Option<Run> {
    if !op.accepts(dtype) {
        return None;
    }
    if dtype == DType::Bool {
        return Some(map!(u8 => u8, |x| x ^ 1));
    }
    match Kept::of(dtype) {
        Kept::U8 => of_u8(op),
        Kept::I8 => of_i8(op),
        Kept::I32 => of_i32(op),
        Kept::U32 => of_u32(op),
        Kept::I64 => of_i64(op),
        Kept::F32 => of_f32(op),
        Kept::F64 => of_f64(op),
    }
}

macro_rules! of_int {
    ($name:ident, $t:ty, |$x:ident| $abs:expr) => {
        fn $name(op: Unary) -> Option<Run> {
            Some(match op {
                Unary::Neg => map!($t => $t, |x| x.wrapping_neg()),
                Unary::Abs => map!($t => $t, |$x| $abs),
                Unary::Not => map!($t => $t, |x| !x),
                Unary::Exp
                | Unary::Log
                | Unary::Sqrt
                | Unary::Sin
                | Unary::Cos
                | Unary::Tanh
                | Unary::Erf
                | Unary::Floor => return None,
            })
        }
    };
}

of_int!(of_u8, u8, |x| x);
of_int!(of_i8, i8, |x| x.wrapping_abs());
of_int!(of_i32, i32, |x| x.wrapping_abs());
of_int!(of_u32, u32, |x| x);
of_int!(of_i64, i64, |x| x.wrapping_abs());

fn of_f32(op: Unary) -> Option<Run> {
    Some(match op {
        Unary::Neg => map!(f32 => f32, |x| -x),
        Unary::Abs => map!(f32 => f32, |x| x.abs()),
        Unary::Exp => vector::<Exp> as Run,
        Unary::Log => map!(f32 => f32, |x| elementary::log(x)),
        Unary::Sqrt => map!(f32 => f32, |x| x.sqrt()),
        Unary::Sin => periodic::<false> as Run,
        Unary::Cos => periodic::<true> as Run,
        Unary::Tanh => vector::<Tanh> as Run,
        Unary::Erf => vector::<Erf> as Run,
        Unary::Floor => map!(f32 => f32, |x| x.floor()),
        Unary::Not => return None,
    })
}

fn of_f64(op: Unary) -> Option<Run> {
    Some(match op {
        Unary::Neg => map!(f64 => f64, |x| -x),
        Unary::Abs => map!(f64 => f64, |x| x.abs()),
        Unary::Exp => map!(f64 => f64, |x| x.exp()),
        Unary::Log => map!(f64 => f64, |x| x.ln()),
        Unary::Sqrt => map!(f64 => f64, |x| x.sqrt()),
        Unary::Sin => map!(f64 => f64, |x| x.sin()),
        Unary::Cos => map!(f64 => f64, |x| x.cos()),
        Unary::Tanh => map!(f64 => f64, |x| x.tanh()),
        Unary::Erf => map!(f64 => f64, |x| elementary::erf(x)),
        Unary::Floor => map!(f64 => f64, |x| x.floor()),
        Unary::Not => return None,
    })
}

/// A function of vectors.
trait VectorFn {
    fn of<S: Simd>(simd: S, x: S::F) -> S::F;
}

struct Exp;
struct Tanh;
struct Erf;

impl VectorFn for Exp {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::F) -> S::F {
        simd::exp(simd, x)
    }
}

impl VectorFn for Tanh {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::F) -> S::F {
        simd::tanh(simd, x)
    }
}

impl VectorFn for Erf {
    #[inline(always)]
    fn of<S: Simd>(simd: S, x: S::F) -> S::F {
        simd::erf(simd, x)
    }
}

struct Vector<'a, F> {
    operands: &'a Operands,
    f: std::marker::PhantomData<F>,
}

impl<F: VectorFn> Kernel for Vector<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Operands { to, from: [a, ..], steps: [step, ..], block_count } = *self.operands;
        for block in 0..block_count {
            let from = a.wrapping_add(block * step).cast::<f32>();
            let to = to.cast::<f32>().wrapping_add(block * BLOCK);
            for lane in (0..BLOCK).step_by(S::LANES) {
                // SAFETY: the promise of `Run`; vectors divide a block.
                let x = unsafe { simd.load(from.wrapping_add(lane)) };
                // SAFETY: as above.
                unsafe { simd.store(to.wrapping_add(lane), F::of(simd, x)) };
            }
        }
    }
}

unsafe fn vector<F: VectorFn>(level: Level, operands: &Operands) {
    level.run(Vector::<F> { operands, f: std::marker::PhantomData });
}

struct Periodic<'a, const COS: bool>(&'a Operands);

impl<const COS: bool> Kernel for Periodic<'_, COS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Operands { to, from: [a, ..], steps: [step, ..], block_count } = *self.0;
        for block in 0..block_count {
            // SAFETY: the promise of `Run`.
            let x = unsafe { a.wrapping_add(block * step).cast::<[f32; BLOCK]>().read() };
            let y = elementary::sin_cos::<COS, BLOCK>(x);
            // SAFETY: the promise of `Run`.
            unsafe { to.cast::<[f32; BLOCK]>().wrapping_add(block).write(y) };
        }
    }
}

unsafe fn periodic<const COS: bool>(level: Level, operands: &Operands) {
    level.run(Periodic::<COS>(operands));
}
