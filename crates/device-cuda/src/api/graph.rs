//! Streams, events, and graphs that streams are captured into.

use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUresult};

use super::{CUevent, CUgraph, CUgraphExec, CUstream, Failed, Outcome, done};

pub(crate) fn stream(priority: i32) -> Outcome<CUstream> {
    let mut stream = ptr::null_mut();
    let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuStreamCreateWithPriority(&raw mut stream, flags, priority) })?;
    Ok(stream)
}

/// # Safety
/// The stream is alive and not used any more.
pub(crate) unsafe fn drop_stream(stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuStreamDestroy_v2(stream) })
}

/// # Safety
/// The stream is alive.
pub(crate) unsafe fn synchronize(stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuStreamSynchronize(stream) })
}

/// # Safety
/// The stream is alive. The same thread ends the capture.
pub(crate) unsafe fn begin_capture(stream: CUstream) -> Outcome<()> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) })
}

/// # Safety
/// The stream is being captured by this thread.
pub(crate) unsafe fn end_capture(stream: CUstream) -> Outcome<CUgraph> {
    let mut graph = ptr::null_mut();
    // SAFETY: the caller's promise; the pointer is valid for a write.
    done(unsafe { sys::cuStreamEndCapture(stream, &raw mut graph) })?;
    Ok(graph)
}

/// # Safety
/// The graph is alive.
pub(crate) unsafe fn instantiate(graph: CUgraph) -> Outcome<CUgraphExec> {
    let mut exec = ptr::null_mut();
    // Nodes keep the priorities of the streams that they were captured from.
    let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
    // SAFETY: the caller's promise; the pointer is valid for a write.
    done(unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, flags.0.into()) })?;
    Ok(exec)
}

/// # Safety
/// The graph is alive and not used any more.
pub(crate) unsafe fn drop_graph(graph: CUgraph) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuGraphDestroy(graph) })
}

/// # Safety
/// The graph is alive and not in flight.
pub(crate) unsafe fn drop_exec(exec: CUgraphExec) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuGraphExecDestroy(exec) })
}

/// # Safety
/// Graph and stream are alive.
pub(crate) unsafe fn upload(exec: CUgraphExec, stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuGraphUpload(exec, stream) })
}

/// # Safety
/// Graph and stream are alive, and so is everything that the graph touches until it has run.
pub(crate) unsafe fn launch_graph(exec: CUgraphExec, stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuGraphLaunch(exec, stream) })
}

/// An event; with times, or cheaper without.
pub(crate) fn event(timed: bool) -> Outcome<CUevent> {
    let mut event = ptr::null_mut();
    let flags = match timed {
        true => sys::CUevent_flags_enum::CU_EVENT_DEFAULT,
        false => sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING,
    };
    // SAFETY: the pointer is valid for a write.
    done(unsafe { sys::cuEventCreate(&raw mut event, flags as u32) })?;
    Ok(event)
}

/// # Safety
/// The event is alive and not used any more.
pub(crate) unsafe fn drop_event(event: CUevent) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuEventDestroy_v2(event) })
}

/// # Safety
/// Both are alive.
pub(crate) unsafe fn record(event: CUevent, stream: CUstream) -> Outcome<()> {
    // SAFETY: the caller's promise.
    done(unsafe { sys::cuEventRecord(event, stream) })
}

/// What comes later on the stream waits for the event.
///
/// # Safety
/// Both are alive, and the event was recorded.
pub(crate) unsafe fn wait_for(stream: CUstream, event: CUevent) -> Outcome<()> {
    // SAFETY: the caller's promise; the flags must be 0.
    done(unsafe { sys::cuStreamWaitEvent(stream, event, 0) })
}

/// The priority of the least and of the most urgent streams.
pub(crate) fn priorities() -> Outcome<[i32; 2]> {
    let (mut least, mut most) = (0, 0);
    // SAFETY: the pointers are valid for a write.
    done(unsafe { sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut most) })?;
    Ok([least, most])
}

/// Whether an event has happened.
///
/// # Safety
/// The event is alive.
pub(crate) unsafe fn has_happened(event: CUevent) -> Outcome<bool> {
    // SAFETY: the caller's promise.
    match done(unsafe { sys::cuEventQuery(event) }) {
        Ok(()) => Ok(true),
        Err(Failed(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
        Err(failed) => Err(failed),
    }
}

/// Milliseconds between two events.
///
/// # Safety
/// Both are alive, have times and have happened.
pub(crate) unsafe fn elapsed_ms(from: CUevent, to: CUevent) -> Outcome<f32> {
    type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    static ELAPSED: OnceLock<Option<Elapsed>> = OnceLock::new();
    // The bindings have only a newer name, which drivers before 12.8 do not know.
    let found = ELAPSED.get_or_init(|| {
        // SAFETY: the function has had this type in every driver.
        let symbol = unsafe { sys::culib().get::<Elapsed>(b"cuEventElapsedTime") };
        symbol.ok().map(|it| *it)
    });
    let elapsed = found.ok_or(Failed(CUresult::CUDA_ERROR_NOT_SUPPORTED))?;
    let mut ms = 0.0;
    // SAFETY: the caller's promise; the pointer is valid for a write.
    done(unsafe { elapsed(&raw mut ms, from, to) })?;
    Ok(ms)
}
