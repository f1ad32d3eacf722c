//! Loaded code: kernels with their handles, and products of the library.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use calor_device::Word;

use crate::api::{
    self, CUdeviceptr, CUfunction, CUmodule, CUstream, Failed, FunctionAttribute, LaunchShape,
    MapElement, Matrix, TensorMap,
};
use crate::device::Handle;
use crate::form::{KernelForm, MapForm};
use crate::gemm::Product;

/// Loaded code of either kind.
#[derive(Debug)]
pub(crate) enum Code {
    /// A kernel of ours.
    Kernel(Box<Kernel>),
    /// A product of the library, with the kernel that ends it, if any.
    Product(Box<Product>),
}

/// A kernel whose module is loaded and whose handle is fetched.
#[derive(Debug)]
pub(crate) struct Kernel {
    name: Arc<str>,
    /// How it is launched; the image has been given to the driver.
    form: KernelForm,
    /// Of the kernel, then of each that follows it.
    functions: Vec<Handle<CUfunction>>,
    _module: Module,
}

#[derive(Debug)]
struct Module(Handle<CUmodule>);

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: programs hold the code that they launch, so nobody uses it any more.
        let _ = unsafe { api::unload_module(self.0.0) };
    }
}

/// Most dynamic shared memory without asking for more.
const SHARED_BYTES_PLAIN: u32 = 48 << 10;

impl Kernel {
    pub(crate) fn load(mut form: KernelForm) -> Result<Self, Failed> {
        let image = std::mem::take(&mut form.image);
        // SAFETY: the form's reader has seen that the ELF file is whole.
        let module = Module(Handle(unsafe { api::load_module(&image) }?));
        let next = form.next.iter().map(|it| (it.entry.as_str(), it.shared_bytes));
        let entries = std::iter::once((form.entry.as_str(), form.shared_bytes)).chain(next);
        let mut functions = Vec::new();
        for (entry, shared_bytes) in entries {
            let entry = CString::new(entry).unwrap_or_default();
            // SAFETY: the module lives as long as the kernel.
            let function = unsafe { api::function(module.0.0, &entry) }?;
            if SHARED_BYTES_PLAIN < shared_bytes {
                let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // SAFETY: the function was just fetched.
                unsafe { api::set_function(function, attribute, shared_bytes as i32) }?;
            }
            functions.push(Handle(function));
        }
        let name = form.entry.strip_prefix("calor_").unwrap_or(&form.entry).into();
        Ok(Self { name, form, functions, _module: module })
    }

    /// A launch of it, or what does not fit. `live` is null where there are no live counts.
    pub(crate) fn bind(
        &self,
        words: &[Word],
        buffers: Vec<CUdeviceptr>,
        live: CUdeviceptr,
    ) -> Result<Launch, &'static str> {
        let form = &self.form;
        if words.len() != form.word_count as usize {
            return Err("the kernel takes another number of words");
        }
        if buffers.len() != form.buffer_count as usize {
            return Err("the kernel takes another number of buffers");
        }
        let mut values: Vec<i64> = words.iter().map(|it| most(*it)).collect();
        if buffers.iter().any(|it| it % u64::from(form.align_bytes) != 0) {
            return Err("a buffer's address is not aligned as the kernel needs it");
        }
        let aligned = |index: &u32| values[*index as usize] % i64::from(form.stride_align) == 0;
        if !form.stride_words.iter().all(aligned) {
            return Err("a stride is not aligned as the kernel needs it");
        }
        let maps = form.maps.iter().map(|it| map_of(it, &buffers, &values));
        let maps = maps.collect::<Result<Vec<_>, _>>()?;
        let grid = form.geometry.grid(&values);
        let mut rules = Vec::with_capacity(2 * form.live_words.len().max(1));
        for index in &form.live_words {
            let (count, scale) = match words[*index as usize] {
                Word::Fixed(_) => (-1, 0),
                Word::Live { count, scale, .. } => (i64::from(count), scale),
            };
            rules.extend([count, scale]);
        }
        for (index, word) in words.iter().enumerate() {
            let may = form.live_words.iter().any(|it| *it as usize == index);
            match word {
                Word::Live { .. } if !may => return Err("a word that the kernel fixes is live"),
                Word::Live { .. } if live == 0 => return Err("there are no live counts"),
                Word::Live { .. } | Word::Fixed(_) => {}
            }
        }
        // Without words or rules the kernel still takes a place for one.
        if values.is_empty() {
            values.push(0);
        }
        if rules.is_empty() {
            rules.extend([-1, 0]);
        }
        let first = LaunchShape {
            grid,
            block: form.block,
            shared_bytes: form.shared_bytes,
            dependent: form.dependent,
            cluster: form.cluster,
        };
        let next = form.next.iter().map(|it| LaunchShape {
            grid: it.geometry.grid(&values),
            block: [it.threads, 1, 1],
            shared_bytes: it.shared_bytes,
            ..first
        });
        let shapes = std::iter::once(first).chain(next);
        let kernels = self.functions.iter().copied().zip(shapes).collect();
        let name = Arc::clone(&self.name);
        Ok(Launch { name, kernels, buffers, values, live, rules, maps })
    }
}

/// The bucket's extent, or the number.
pub(crate) fn most(word: Word) -> i64 {
    match word {
        Word::Fixed(value) => value,
        Word::Live { max, .. } => max,
    }
}

/// One launch, or several in a row, with everything that they are given.
#[derive(Debug)]
pub(crate) struct Launch {
    name: Arc<str>,
    kernels: Vec<(Handle<CUfunction>, LaunchShape)>,
    buffers: Vec<CUdeviceptr>,
    values: Vec<i64>,
    live: CUdeviceptr,
    rules: Vec<i64>,
    maps: Vec<TensorMap>,
}

/// A matrix for the copy engine, encoded.
fn map_of(
    form: &MapForm,
    buffers: &[CUdeviceptr],
    words: &[i64],
) -> Result<TensorMap, &'static str> {
    let element_bytes = if form.element == 4 { 1 } else { 2 };
    let rows = form.rows.of(words).max(1);
    let stride_bytes = form.stride.of(words) * element_bytes;
    let element = match form.element {
        1 => MapElement::F16,
        2 => MapElement::Bf16,
        _ => MapElement::Byte,
    };
    let matrix = Matrix {
        at: buffers[form.buffer as usize],
        element,
        cols: form.cols.into(),
        rows,
        // A single row has no next one, and the engine wants a stride all the same.
        stride_bytes: stride_bytes.max(u64::from(form.cols) * element_bytes).next_multiple_of(16),
        tile: form.tile,
        promoted: form.promoted,
    };
    api::tensor_map(&matrix).map_err(|_| "the driver does not take a matrix of the kernel")
}

impl Launch {
    /// The kernel, the blocks of its grid, and the words that it is given.
    pub(crate) fn name(&self) -> String {
        let blocks: u64 =
            self.kernels.iter().map(|it| it.1.grid.map(u64::from).iter().product::<u64>()).sum();
        let words: Vec<String> = self.values.iter().map(i64::to_string).collect();
        format!("{} of {blocks} blocks, words {}", self.name, words.join(" "))
    }

    /// Behind a wait for another stream the kernel does not begin early: the whole wait counts.
    ///
    /// # Safety
    /// The buffers are alive until the kernel has ended, and as long as the kernel takes them to
    /// be; the kernel is loaded.
    pub(crate) unsafe fn issue(
        &mut self,
        stream: CUstream,
        after_wait: bool,
    ) -> Result<(), Failed> {
        let mut params: Vec<*mut c_void> =
            self.buffers.iter_mut().map(|it| std::ptr::from_mut(it).cast()).collect();
        params.push(self.values.as_mut_ptr().cast());
        params.push(std::ptr::from_mut(&mut self.live).cast());
        params.push(self.rules.as_mut_ptr().cast());
        params.extend(self.maps.iter_mut().map(|it| std::ptr::from_mut(it).cast::<c_void>()));
        for (index, (function, shape)) in self.kernels.iter().enumerate() {
            let dependent = shape.dependent && (0 < index || !after_wait);
            let shape = LaunchShape { dependent, ..*shape };
            // SAFETY: one pointer for each parameter, to a value that outlives the call; the rest
            // is the caller's promise.
            unsafe { api::launch(function.0, &shape, &mut params, stream) }?;
        }
        Ok(())
    }
}
