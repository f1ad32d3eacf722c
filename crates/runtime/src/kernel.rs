//! Names of kernels: keys that only a kernel can make, and handles to loaded code.

use std::sync::Arc;

use calor_device::CodeId;
use calor_kernel::{Digest, Unit};

/// What code is found by: everything that decides it, and nothing that a run passes in.
///
/// Nobody writes one by hand, so what is compiled ahead and what is asked for later agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelKey(Digest);

impl KernelKey {
    /// The key of a kernel.
    pub fn of(unit: &Unit) -> Self {
        Self(unit.digest())
    }
}

impl std::fmt::Display for KernelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Loaded code. It stays loaded while a handle to it, or a program that uses it, is there.
#[derive(Clone, Debug)]
pub struct KernelHandle {
    key: KernelKey,
    code: CodeId,
    pin: Arc<()>,
}

impl KernelHandle {
    pub(crate) fn new(key: KernelKey, code: CodeId) -> Self {
        Self { key, code, pin: Arc::new(()) }
    }

    /// The kernel's key.
    pub fn key(&self) -> KernelKey {
        self.key
    }

    /// The device's id of the code.
    pub fn code(&self) -> CodeId {
        self.code
    }

    /// Whether somebody else holds it too.
    pub(crate) fn is_shared(&self) -> bool {
        1 < Arc::strong_count(&self.pin)
    }
}
