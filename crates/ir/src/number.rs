//! Numbers of an element type: rounding, wrapping, limits and bytes.
//!
//! Everything passes through `f64`, so whole numbers are exact up to 2^53.

use crate::dtype::DType;

/// A binary floating-point format narrower than `f32`.
struct Narrow {
    mantissa_bits: i32,
    exponent_min: i32,
    largest: f64,
    /// What lies beyond the largest value after rounding.
    beyond: f64,
}

const F8E4M3: Narrow = Narrow { mantissa_bits: 3, exponent_min: -6, largest: 448.0, beyond: 448.0 };
const F16: Narrow =
    Narrow { mantissa_bits: 10, exponent_min: -14, largest: 65504.0, beyond: f64::INFINITY };

impl DType {
    /// The float type in which sums over this type are kept: `F32` for narrower floats.
    pub const fn wide(self) -> Self {
        match self {
            Self::F8E4M3 | Self::F16 | Self::BF16 | Self::F32 => Self::F32,
            Self::F64 => Self::F64,
            Self::Bool => Self::Bool,
            Self::U8 => Self::U8,
            Self::I8 => Self::I8,
            Self::I32 => Self::I32,
            Self::U32 => Self::U32,
            Self::I64 => Self::I64,
        }
    }

    /// The value of this type nearest to `x`, ties to even.
    ///
    /// Past the largest value `F8E4M3` saturates, other floats become infinite, and integers
    /// saturate after rounding towards zero; a NaN becomes the integer zero.
    pub fn round(self, x: f64) -> f64 {
        match self {
            Self::Bool => f64::from(u8::from(x != 0.0)),
            Self::U8 => f64::from(x as u8),
            Self::I8 => f64::from(x as i8),
            Self::I32 => f64::from(x as i32),
            Self::U32 => f64::from(x as u32),
            Self::I64 => (x as i64) as f64,
            Self::F8E4M3 => round_narrow(x, &F8E4M3),
            Self::F16 => round_narrow(x, &F16),
            Self::BF16 => round_bf16(x),
            Self::F32 => f64::from(x as f32),
            Self::F64 => x,
        }
    }

    /// The whole number of this type that equals `x` modulo two to the power of its width.
    /// Floats and `bool` are left alone.
    pub fn wrap(self, x: i128) -> f64 {
        match self {
            Self::U8 => f64::from(x as u8),
            Self::I8 => f64::from(x as i8),
            Self::I32 => f64::from(x as i32),
            Self::U32 => f64::from(x as u32),
            Self::I64 => (x as i64) as f64,
            Self::Bool | Self::F8E4M3 | Self::F16 | Self::BF16 | Self::F32 | Self::F64 => x as f64,
        }
    }

    /// The lowest value; minus infinity where there is one.
    pub fn lowest(self) -> f64 {
        match self {
            Self::Bool | Self::U8 | Self::U32 => 0.0,
            Self::I8 => f64::from(i8::MIN),
            Self::I32 => f64::from(i32::MIN),
            Self::I64 => i64::MIN as f64,
            Self::F8E4M3 => -F8E4M3.largest,
            Self::F16 | Self::BF16 | Self::F32 | Self::F64 => f64::NEG_INFINITY,
        }
    }

    /// The highest value; infinity where there is one.
    pub fn highest(self) -> f64 {
        match self {
            Self::Bool => 1.0,
            Self::U8 => f64::from(u8::MAX),
            Self::I8 => f64::from(i8::MAX),
            Self::I32 => f64::from(i32::MAX),
            Self::U32 => f64::from(u32::MAX),
            Self::I64 => i64::MAX as f64,
            Self::F8E4M3 => F8E4M3.largest,
            Self::F16 | Self::BF16 | Self::F32 | Self::F64 => f64::INFINITY,
        }
    }

    /// Appends the little-endian bytes of `x`, rounded to this type.
    pub fn encode(self, x: f64, out: &mut Vec<u8>) {
        match self {
            Self::Bool | Self::U8 => out.push(self.round(x) as u8),
            Self::I8 => out.extend((x as i8).to_le_bytes()),
            Self::I32 => out.extend((x as i32).to_le_bytes()),
            Self::U32 => out.extend((x as u32).to_le_bytes()),
            Self::I64 => out.extend((x as i64).to_le_bytes()),
            Self::F8E4M3 => out.push(narrow_bits(self.round(x), &F8E4M3, 0x7F) as u8),
            Self::F16 => {
                out.extend((narrow_bits(self.round(x), &F16, 0x7E00) as u16).to_le_bytes());
            }
            Self::BF16 => {
                let bits = (self.round(x) as f32).to_bits() >> 16;
                out.extend((bits as u16).to_le_bytes());
            }
            Self::F32 => out.extend((x as f32).to_le_bytes()),
            Self::F64 => out.extend(x.to_le_bytes()),
        }
    }

    /// The value of the first [`DType::size_bytes`] bytes, little-endian.
    ///
    /// # Panics
    /// When there are fewer bytes.
    pub fn decode(self, bytes: &[u8]) -> f64 {
        match self {
            Self::Bool | Self::U8 => f64::from(bytes[0]),
            Self::I8 => f64::from(bytes[0].cast_signed()),
            Self::I32 => f64::from(i32::from_le_bytes(first(bytes))),
            Self::U32 => f64::from(u32::from_le_bytes(first(bytes))),
            Self::I64 => i64::from_le_bytes(first(bytes)) as f64,
            Self::F8E4M3 => match bytes[0] & 0x7F {
                0x7F => f64::NAN,
                bits => narrow_value(u32::from(bits), bytes[0] >> 7 == 1, &F8E4M3),
            },
            Self::F16 => {
                let bits = u16::from_le_bytes(first(bytes));
                let (size, negative) = (bits & 0x7FFF, bits >> 15 == 1);
                match size {
                    0x7C00 if negative => f64::NEG_INFINITY,
                    0x7C00 => f64::INFINITY,
                    0x7C01.. => f64::NAN,
                    _ => narrow_value(u32::from(size), negative, &F16),
                }
            }
            Self::BF16 => {
                let bits = u32::from(u16::from_le_bytes(first(bytes))) << 16;
                f64::from(f32::from_bits(bits))
            }
            Self::F32 => f64::from(f32::from_le_bytes(first(bytes))),
            Self::F64 => f64::from_le_bytes(first(bytes)),
        }
    }
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| bytes[at])
}

fn round_narrow(x: f64, format: &Narrow) -> f64 {
    if x.is_nan() || x == 0.0 {
        return x;
    }
    let rounded = round_at(x, format.mantissa_bits, format.exponent_min);
    if rounded.abs() <= format.largest { rounded } else { format.beyond.copysign(x) }
}

fn round_bf16(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    // Past the largest value the nearest multiple is 2^128, which `f32` calls infinite.
    f64::from(round_at(x, 7, -126) as f32)
}

/// Rounds to a multiple of the last place of a format with these limits. Infinity stays.
fn round_at(x: f64, mantissa_bits: i32, exponent_min: i32) -> f64 {
    let exponent = exponent_of(x).max(exponent_min);
    let last_place = 2.0_f64.powi(exponent - mantissa_bits);
    (x / last_place).round_ties_even() * last_place
}

/// The whole part of the binary logarithm; far below every narrow format for subnormals.
fn exponent_of(x: f64) -> i32 {
    ((x.to_bits() >> 52) & 0x7FF) as i32 - 1023
}

fn narrow_bits(x: f64, format: &Narrow, nan: u32) -> u32 {
    let exponent_bits = if format.mantissa_bits == 3 { 4 } else { 5 };
    let sign = u32::from(x.is_sign_negative()) << (exponent_bits + format.mantissa_bits);
    if x.is_nan() {
        return sign | nan;
    }
    if x.is_infinite() {
        return sign | (((1 << exponent_bits) - 1) << format.mantissa_bits);
    }
    let exponent = exponent_of(x).max(format.exponent_min);
    let units = (x.abs() / 2.0_f64.powi(exponent - format.mantissa_bits)) as u32;
    // A normal number's units carry the hidden bit, which adds one to the exponent field.
    sign | ((((exponent - format.exponent_min) as u32) << format.mantissa_bits) + units)
}

fn narrow_value(size: u32, negative: bool, format: &Narrow) -> f64 {
    let fraction = size & ((1 << format.mantissa_bits) - 1);
    let field = (size >> format.mantissa_bits) as i32;
    let (units, exponent) = match field {
        0 => (fraction, format.exponent_min),
        _ => (fraction | (1 << format.mantissa_bits), format.exponent_min + field - 1),
    };
    let value = f64::from(units) * 2.0_f64.powi(exponent - format.mantissa_bits);
    if negative { -value } else { value }
}

#[test]
fn every_narrow_number_round_trips() {
    for bits in 0..=u16::MAX {
        for dtype in [DType::F16, DType::BF16, DType::F8E4M3] {
            if dtype == DType::F8E4M3 && 255 < bits {
                continue;
            }
            let value = dtype.decode(&bits.to_le_bytes());
            let mut back = Vec::new();
            dtype.encode(value, &mut back);
            if value.is_nan() {
                assert!(dtype.decode(&back).is_nan());
            } else {
                assert_eq!(back[..], bits.to_le_bytes()[..back.len()], "{dtype} {bits:#x}");
                assert_eq!(dtype.round(value), value);
            }
        }
    }
}

#[test]
fn rounding_is_to_nearest_even() {
    assert_eq!(DType::F16.round(65519.9), 65504.0);
    assert_eq!(DType::F16.round(65520.0), f64::INFINITY);
    assert_eq!(DType::F16.round(1.0 + 2.0_f64.powi(-11)), 1.0);
    assert_eq!(DType::F16.round(2.0_f64.powi(-25)), 0.0);
    assert_eq!(DType::BF16.round(1.0 + 3.0 * 2.0_f64.powi(-8)), 1.015625);
    assert_eq!(DType::BF16.round(3.4e38), f64::INFINITY);
    assert_eq!(DType::F8E4M3.round(1000.0), 448.0);
    assert_eq!(DType::F8E4M3.round(f64::NEG_INFINITY), -448.0);
    assert_eq!(DType::F8E4M3.round(1.0625), 1.0);
    assert_eq!(DType::F32.round(0.1), f64::from(0.1_f32));
    assert_eq!(DType::I8.round(-300.0), -128.0);
    assert_eq!(DType::U8.round(f64::NAN), 0.0);
    assert_eq!(DType::I32.wrap(1 << 31), f64::from(i32::MIN));
}
