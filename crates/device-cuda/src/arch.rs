//! Architectures: what code is compiled for, and what it may be loaded on.

use std::fmt;

/// A compute capability, and whether its own features are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Features of exactly this version (`sm_90a`): such code runs on no other.
    pub specific: bool,
}

impl Arch {
    /// Every architecture that kernels are written for.
    pub const ALL: [Self; 10] = [
        Self::plain(7, 5),
        Self::plain(8, 0),
        Self::plain(8, 6),
        Self::plain(8, 9),
        Self::plain(9, 0),
        Self { major: 9, minor: 0, specific: true },
        Self { major: 10, minor: 0, specific: true },
        Self { major: 10, minor: 3, specific: true },
        Self { major: 12, minor: 0, specific: true },
        Self { major: 12, minor: 1, specific: true },
    ];

    const fn plain(major: u32, minor: u32) -> Self {
        Self { major, minor, specific: false }
    }

    /// The target for a device of this compute capability: with its own features from 9.0.
    pub const fn of_device(major: u32, minor: u32) -> Self {
        Self { major, minor, specific: 9 <= major }
    }

    /// Whether it has products of four warps together.
    pub const fn has_wgmma(self) -> bool {
        self.major == 9 && self.minor == 0 && self.specific
    }

    /// Whether its tensor cores multiply fp8.
    pub const fn has_fp8(self) -> bool {
        9 <= self.major || (self.major == 8 && 9 <= self.minor)
    }

    /// The same version without its own features, whose code later minor versions run too.
    pub const fn without_features(self) -> Self {
        Self::plain(self.major, self.minor)
    }

    /// Whether its name is `name`.
    pub fn is(self, name: &str) -> bool {
        self.to_string() == name
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, specific } = self;
        write!(f, "sm_{major}{minor}{}", if *specific { "a" } else { "" })
    }
}

#[test]
fn names_are_those_of_the_compiler() {
    assert_eq!(Arch::of_device(7, 5).to_string(), "sm_75");
    assert_eq!(Arch::of_device(9, 0).to_string(), "sm_90a");
    assert!(Arch::of_device(12, 1).is("sm_121a"));
    assert!(!Arch::of_device(9, 0).is("sm_90"));
    let plain = Arch::of_device(9, 0).without_features();
    assert!(plain.is("sm_90") && !plain.has_wgmma() && plain.has_fp8());
}
