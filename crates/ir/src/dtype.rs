//! Element types of tensors. Not formats of weights: NF4 is codes and scales, not a type.

use std::fmt;

/// The type of one tensor element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// One byte, zero or one.
    Bool,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 64 bits.
    I64,
    /// OCP 8-bit float with 4 exponent and 3 mantissa bits, largest value 448.
    F8E4M3,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an `F32`.
    BF16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
}

impl DType {
    /// Every type, in declaration order.
    pub const ALL: [Self; 11] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::I32,
        Self::U32,
        Self::I64,
        Self::F8E4M3,
        Self::F16,
        Self::BF16,
        Self::F32,
        Self::F64,
    ];

    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// The name used in text forms, keys and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::F8E4M3 => "f8e4m3",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// The type called `name`, as [`DType::name`] writes it.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Whether the type holds fractions.
    pub const fn is_float(self) -> bool {
        match self {
            Self::F8E4M3 | Self::F16 | Self::BF16 | Self::F32 | Self::F64 => true,
            Self::Bool | Self::U8 | Self::I8 | Self::I32 | Self::U32 | Self::I64 => false,
        }
    }

    /// Whether the type holds whole numbers; `Bool` is not one of them.
    pub const fn is_int(self) -> bool {
        match self {
            Self::U8 | Self::I8 | Self::I32 | Self::U32 | Self::I64 => true,
            Self::Bool | Self::F8E4M3 | Self::F16 | Self::BF16 | Self::F32 | Self::F64 => false,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[test]
fn names_round_trip() {
    for dtype in DType::ALL {
        assert_eq!(DType::by_name(dtype.name()), Some(dtype));
    }
    assert_eq!(DType::by_name("float"), None);
}
