//! The forward kernel cache of the specification, as a view of a [`Build`].
//!
//! It keeps nothing that a build does not keep: kernels come from plans, keys from kernels, code
//! from the build's table and the store behind it. What it adds is the specification's names, a
//! hold on what was compiled ahead, and one build for each context.

use std::collections::BTreeMap;

use calor_ir::{CheckedGraph, DecoderBlock};
use calor_kernel::Unit;

use crate::error::RuntimeError;
use crate::kernel::{KernelHandle, KernelKey};
use crate::plan::{Choices, Plan};
use crate::session::Build;

/// The architecture that a context's code is made for, and the only one that it may be loaded on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SmTarget(String);

impl SmTarget {
    /// Whether code that names this target may be loaded: only where the two are the same, so
    /// never where it names none.
    pub fn admits(&self, target: &str) -> bool {
        self.0 == target
    }
}

impl std::fmt::Display for SmTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Kernels of one context, compiled and loaded before any payload.
#[derive(Debug)]
pub struct ForwardKernelCache {
    build: Build,
    /// Held, so that they stay loaded until programs hold them.
    warmed: BTreeMap<KernelKey, KernelHandle>,
}

impl ForwardKernelCache {
    /// The cache of a build's context. The build should hold no weights yet: what compiles and
    /// loads needs room.
    pub fn new(build: Build) -> Self {
        Self { build, warmed: BTreeMap::new() }
    }

    /// What the device said when it was opened; a device that cannot say it does not open.
    pub fn sm_target(&self) -> SmTarget {
        SmTarget(self.build.signature().arch.clone())
    }

    /// The vendor's library of products with its version, where the device uses one. It has one
    /// handle for each context; its stream is that of the step that calls it, and its workspace
    /// is memory of the plan, whose length goes with every call. So there is nothing to set
    /// before a capture.
    pub fn cublas(&self) -> Option<&str> {
        let versions = &self.build.signature().versions;
        versions.iter().find(|(name, _)| name == "products").map(|(_, version)| version.as_str())
    }

    /// Loaded code by its key: no text is made and nothing is allocated.
    pub fn get_cached(&self, key: KernelKey) -> Option<KernelHandle> {
        self.build.kernel(key)
    }

    /// Code of a kernel: loaded before, kept in the store, or compiled now. Its key is made of
    /// the kernel itself.
    ///
    /// # Errors
    /// [`RuntimeError::KeyTaken`] when another kernel has its key,
    /// [`calor_device::DeviceError::WrongTarget`] when the code is for another architecture, and
    /// what the device says.
    pub fn get_or_compile(&mut self, kernel: &Unit) -> Result<KernelHandle, RuntimeError> {
        self.build.kernel_of(kernel)
    }

    /// Compiles and loads what the forward program of a model's blocks launches with this
    /// device's claims, and nothing else. Gives the number of modules.
    ///
    /// # Errors
    /// When the block has no plan, and as [`ForwardKernelCache::get_or_compile`].
    pub fn pre_warm_for_model(&mut self, block: &DecoderBlock) -> Result<usize, RuntimeError> {
        let graph = block.forward().map_err(calor_ir::GradError::from)?;
        self.pre_warm(&graph)
    }

    /// As [`ForwardKernelCache::pre_warm_for_model`], for the gradients of the block's rows and of
    /// its factors of low rank. Without factors it is the rest that stays.
    ///
    /// # Errors
    /// As [`ForwardKernelCache::pre_warm_for_model`].
    pub fn pre_warm_lora_backward(&mut self, block: &DecoderBlock) -> Result<usize, RuntimeError> {
        self.pre_warm(&block.backward()?)
    }

    fn pre_warm(&mut self, graph: &CheckedGraph) -> Result<usize, RuntimeError> {
        let handles = self.build.kernels_of(&self.plan(graph)?)?;
        let modules: BTreeMap<_, _> = handles.into_iter().map(|it| (it.key(), it)).collect();
        let count = modules.len();
        self.warmed.extend(modules);
        Ok(count)
    }

    /// The plan that a program of this graph gets here.
    ///
    /// # Errors
    /// When the graph has none.
    pub fn plan(&self, graph: &CheckedGraph) -> Result<Plan, RuntimeError> {
        self.build.planned(graph, &Choices::default())
    }

    /// Keys of all code that is loaded, in order.
    pub fn modules(&self) -> Vec<KernelKey> {
        self.build.kernel_keys()
    }

    /// The build, to add programs while what was compiled ahead is held.
    pub fn build_mut(&mut self) -> &mut Build {
        &mut self.build
    }

    /// The build, to seal it.
    pub fn into_build(self) -> Build {
        self.build
    }
}

/// A device of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContextId {
    /// Kind of device.
    pub kind: &'static str,
    /// Its number.
    pub ordinal: usize,
}

/// One cache for each context.
#[derive(Debug, Default)]
pub struct ForwardKernelCaches(BTreeMap<ContextId, ForwardKernelCache>);

impl ForwardKernelCaches {
    /// Opens the cache of a context. One that is open stays, and `open` is not called.
    ///
    /// # Errors
    /// What `open` says.
    pub fn init_forward_kernel_cache(
        &mut self,
        context: ContextId,
        open: impl FnOnce() -> Result<Build, RuntimeError>,
    ) -> Result<&mut ForwardKernelCache, RuntimeError> {
        match self.0.entry(context) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                Ok(entry.insert(ForwardKernelCache::new(open()?)))
            }
        }
    }

    /// The cache of a context.
    ///
    /// # Errors
    /// [`RuntimeError::NoContext`] when none was opened.
    pub fn of(&mut self, context: ContextId) -> Result<&mut ForwardKernelCache, RuntimeError> {
        let ContextId { kind, ordinal } = context;
        self.0.get_mut(&context).ok_or(RuntimeError::NoContext { kind, ordinal })
    }

    /// [`ForwardKernelCache::pre_warm_for_model`] of a context.
    ///
    /// # Errors
    /// [`RuntimeError::NoContext`], and as there.
    pub fn pre_warm_forward_kernels(
        &mut self,
        context: ContextId,
        block: &DecoderBlock,
    ) -> Result<usize, RuntimeError> {
        self.of(context)?.pre_warm_for_model(block)
    }

    /// [`ForwardKernelCache::pre_warm_lora_backward`] of a context.
    ///
    /// # Errors
    /// [`RuntimeError::NoContext`], and as there.
    pub fn pre_warm_lora_backward_kernels(
        &mut self,
        context: ContextId,
        block: &DecoderBlock,
    ) -> Result<usize, RuntimeError> {
        self.of(context)?.pre_warm_lora_backward(block)
    }
}
