//! Programs: captured into one graph each, or launched step by step.

use std::sync::Arc;
use std::time::Duration;

use calor_device::{CodeId, DeviceError, PreparedId, Profile, Queue, Span, Step, Ticket};
use calor_telemetry::clock::Stopwatch;

use crate::api::{self, CUdeviceptr, CUevent, CUgraph, CUgraphExec, CUstream, Failed};
use crate::code::{Code, Launch};
use crate::device::{Handle, Shared, State};
use crate::gemm::BoundProduct;
use crate::streams::{Branches, Place};

/// Runs in flight whose ends can be told apart. An older one is waited for with a younger.
const RUNS_TOLD_APART: usize = 64;

/// How long a wait looks again and again before it sleeps between looks.
const SPIN_NS: u64 = 2_000_000;

/// The device's work.
pub(crate) struct CudaQueue {
    pub(crate) shared: Arc<Shared>,
    pub(crate) profile: Option<Profile>,
}

/// Bytes that a GPU moves in the time that a small kernel takes.
const BYTES_OF_A_START: u64 = 8 << 20;

/// What a step has to do, about: bytes of its buffers, and as many as its start is worth.
fn step_cost(step: &Step) -> u64 {
    let bytes = match step {
        Step::Launch { args, .. } | Step::Call { args, .. } => args.iter().map(|it| it.len).sum(),
        Step::Copy { from, .. } => 2 * from.len,
        Step::Fill { to, .. } => to.len,
    };
    BYTES_OF_A_START + bytes
}

/// One thing to do, bound to addresses.
#[derive(Debug)]
enum Action {
    Launch(Launch),
    Product(BoundProduct),
    Copy { to: CUdeviceptr, from: CUdeviceptr, bytes: usize },
    Fill { to: CUdeviceptr, byte: u8, bytes: usize },
}

impl Action {
    /// As a profile names it.
    fn name(&self) -> String {
        match self {
            Self::Launch(launch) => launch.name(),
            Self::Product(product) => product.name(),
            Self::Copy { .. } => "copy".into(),
            Self::Fill { .. } => "fill".into(),
        }
    }

    /// `after_wait` says that something else was waited for on the stream just before.
    ///
    /// # Safety
    /// Everything that the action names is alive until it has ended.
    unsafe fn issue(
        &mut self,
        shared: &Shared,
        stream: CUstream,
        after_wait: bool,
    ) -> Result<(), Failed> {
        match self {
            // SAFETY: the caller's promise; this holds for the next ones as well.
            Self::Launch(launch) => unsafe { launch.issue(stream, after_wait) },
            // SAFETY: as above.
            Self::Product(product) => unsafe { product.issue(shared, stream) },
            // SAFETY: as above.
            Self::Copy { to, from, bytes } => unsafe { api::copy_on(*to, *from, *bytes, stream) },
            // SAFETY: as above.
            Self::Fill { to, byte, bytes } => unsafe { api::fill(*to, *byte, *bytes, stream) },
        }
    }
}

/// A prepared program.
#[derive(Debug)]
pub(crate) struct Program {
    actions: Vec<Action>,
    graph: Option<Graph>,
    /// Keeps the code loaded that the graph launches.
    _codes: Vec<Arc<Code>>,
}

/// An instantiated graph.
#[derive(Debug)]
struct Graph {
    exec: Handle<CUgraphExec>,
    source: Handle<CUgraph>,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: whoever drops a program has waited for its runs.
        let _ = unsafe { api::drop_exec(self.exec.0) };
        // SAFETY: as above.
        let _ = unsafe { api::drop_graph(self.source.0) };
    }
}

/// Numbers of runs, and an event for each of the last ones.
#[derive(Debug)]
pub(crate) struct Runs {
    count: u64,
    ends: Vec<Handle<CUevent>>,
}

impl Runs {
    pub(crate) fn new() -> Result<Self, Failed> {
        let mut runs = Self { count: 0, ends: Vec::with_capacity(RUNS_TOLD_APART) };
        for _ in 0..RUNS_TOLD_APART {
            runs.ends.push(Handle(api::event(false)?));
        }
        Ok(runs)
    }

    fn end_of(&self, number: u64) -> CUevent {
        self.ends[(number % RUNS_TOLD_APART as u64) as usize].0
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        for event in &self.ends {
            // SAFETY: nobody else has the events.
            let _ = unsafe { api::drop_event(event.0) };
        }
    }
}

impl CudaQueue {
    fn action(
        &self,
        state: &State,
        index: usize,
        step: &Step,
        live: CUdeviceptr,
        codes: &mut Vec<Arc<Code>>,
    ) -> Result<Action, DeviceError> {
        let wrong = |why| DeviceError::Step { step: index, why };
        let address = |span: &Span| self.shared.address(state, *span);
        match step {
            Step::Launch { code, words, args } | Step::Call { code, words, args } => {
                let code = self.code(state, *code)?;
                let places: Vec<CUdeviceptr> =
                    args.iter().map(address).collect::<Result<_, _>>()?;
                let action = match (&*code, step) {
                    (Code::Kernel(kernel), Step::Launch { .. }) => {
                        Action::Launch(kernel.bind(words, places, live).map_err(wrong)?)
                    }
                    (Code::Product(product), Step::Call { .. }) => {
                        let bound = product.bind(&self.shared, words, args, &places);
                        Action::Product(bound.map_err(wrong)?)
                    }
                    _ => return Err(wrong("the code is of another kind")),
                };
                codes.push(code);
                Ok(action)
            }
            Step::Copy { from, to } => {
                if from.len != to.len {
                    return Err(wrong("lengths differ"));
                }
                let (from_at, to_at) = (address(from)?, address(to)?);
                Ok(Action::Copy { to: to_at, from: from_at, bytes: to.len as usize })
            }
            Step::Fill { to, byte } => {
                Ok(Action::Fill { to: address(to)?, byte: *byte, bytes: to.len as usize })
            }
        }
    }

    fn code(&self, state: &State, code: CodeId) -> Result<Arc<Code>, DeviceError> {
        self.shared.of_this(code.generation, "code")?;
        state.codes.get(code.index).cloned().ok_or(DeviceError::Stale { what: "code" })
    }

    /// One graph of everything that the actions issue, with a stream for each branch.
    fn capture(
        &self,
        state: &mut State,
        actions: &mut [Action],
        step_costs: &[u64],
        edges: &[(u32, u32)],
    ) -> Result<Graph, Failed> {
        let branches = Branches::of(step_costs, edges);
        state.sides.reserve(branches.count)?;
        let stream = self.shared.stream.raw();
        // SAFETY: the stream is alive, and the capture ends below on this thread.
        unsafe { api::begin_capture(stream) }?;
        let issued = self.issue_branches(state, actions, &branches);
        // SAFETY: this thread began the capture. It is ended after a failure, too.
        let source = unsafe { api::end_capture(stream) };
        issued?;
        let source = source?;
        // SAFETY: the graph was just made.
        let exec = match unsafe { api::instantiate(source) } {
            Ok(exec) => exec,
            Err(err) => {
                // SAFETY: nobody has seen the graph.
                let _ = unsafe { api::drop_graph(source) };
                return Err(err);
            }
        };
        let graph = Graph { exec: Handle(exec), source: Handle(source) };
        // SAFETY: graph and stream are alive.
        unsafe { api::upload(exec, stream) }?;
        Ok(graph)
    }

    /// Issues actions on the streams of their branches. The device's own stream is the first
    /// branch's; the others leave it at the start and come back to it at the end.
    fn issue_branches(
        &self,
        state: &State,
        actions: &mut [Action],
        branches: &Branches,
    ) -> Result<(), Failed> {
        let own = self.shared.stream.raw();
        let stream = |branch: usize| match branch {
            0 => own,
            branch => state.sides.stream(branch, branches.longest == branch),
        };
        let mut events = Events::default();
        if 1 < branches.count {
            let start = events.record(own)?;
            for branch in 1..branches.count {
                // SAFETY: both are alive.
                unsafe { api::wait_for(stream(branch), start) }?;
            }
        }
        let mut ends: Vec<Option<CUevent>> = vec![None; actions.len()];
        for (index, (action, place)) in actions.iter_mut().zip(&branches.places).enumerate() {
            let Place { branch, waits, is_first, is_awaited } = place;
            let on = stream(*branch);
            for before in waits {
                if let Some(event) = ends[*before as usize] {
                    // SAFETY: both are alive.
                    unsafe { api::wait_for(on, event) }?;
                }
            }
            let after_wait = !waits.is_empty() || *is_first && 1 < branches.count;
            // SAFETY: nothing runs while it is captured; a run happens while all of it is alive.
            unsafe { action.issue(&self.shared, on, after_wait) }?;
            if *is_awaited {
                ends[index] = Some(events.record(on)?);
            }
        }
        for branch in 1..branches.count {
            let end = events.record(stream(branch))?;
            // SAFETY: both are alive.
            unsafe { api::wait_for(own, end) }?;
        }
        Ok(())
    }

    /// Runs step by step with a clock around each.
    fn run_timed(&self, program: &mut Program) -> Result<Vec<(String, u64)>, Failed> {
        let stream = self.shared.stream.raw();
        let mut marks = Marks::default();
        marks.add(stream)?;
        for action in &mut program.actions {
            // SAFETY: the program's code and buffers are alive; the run is waited for below.
            unsafe { action.issue(&self.shared, stream, false) }?;
            marks.add(stream)?;
        }
        // SAFETY: the stream is alive.
        unsafe { api::synchronize(stream) }?;
        let names = program.actions.iter().map(Action::name);
        Ok(names.zip(marks.steps_ns()?).collect())
    }
}

/// Events of a capture; a graph needs them no more once it is captured.
#[derive(Default)]
struct Events(Vec<CUevent>);

impl Events {
    fn record(&mut self, stream: CUstream) -> Result<CUevent, Failed> {
        let event = api::event(false)?;
        self.0.push(event);
        // SAFETY: both are alive.
        unsafe { api::record(event, stream) }?;
        Ok(event)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for event in &self.0 {
            // SAFETY: nobody else has the events.
            let _ = unsafe { api::drop_event(*event) };
        }
    }
}

/// Events between steps.
#[derive(Default)]
struct Marks(Vec<CUevent>);

impl Marks {
    fn add(&mut self, stream: CUstream) -> Result<(), Failed> {
        let event = api::event(true)?;
        self.0.push(event);
        // SAFETY: both are alive.
        unsafe { api::record(event, stream) }
    }

    fn steps_ns(&self) -> Result<Vec<u64>, Failed> {
        let pairs = self.0.windows(2);
        // SAFETY: the stream was waited for, so both have happened.
        let steps = pairs.map(|it| unsafe { api::elapsed_ms(it[0], it[1]) });
        steps.map(|it| it.map(|ms| (f64::from(ms) * 1e6) as u64)).collect()
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        for event in &self.0 {
            // SAFETY: nobody else has the events.
            let _ = unsafe { api::drop_event(*event) };
        }
    }
}

impl Queue for CudaQueue {
    fn prepare(
        &mut self,
        steps: &[Step],
        edges: &[(u32, u32)],
        live: Option<Span>,
    ) -> Result<PreparedId, DeviceError> {
        let mut state = self.shared.enter()?;
        for (before, after) in edges {
            if after <= before || steps.len() <= *after as usize {
                return Err(DeviceError::Step { step: *after as usize, why: "edge not forward" });
            }
        }
        let live = live.map_or(Ok(0), |it| self.shared.address(&state, it))?;
        let mut codes = Vec::new();
        let mut actions = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            actions.push(self.action(&state, index, step, live, &mut codes)?);
        }
        // A graph of nothing cannot be told from one that failed; it is run as no steps.
        let captured = self.shared.capture && self.profile.is_none() && !actions.is_empty();
        let graph = captured
            .then(|| {
                let step_costs: Vec<u64> = steps.iter().map(step_cost).collect();
                self.capture(&mut state, &mut actions, &step_costs, edges)
            })
            .transpose()
            .map_err(|err| self.shared.failed(&mut state, err, 0))?;
        let index = state.programs.insert(Program { actions, graph, _codes: codes });
        Ok(PreparedId { index, generation: self.shared.generation })
    }

    fn run(&mut self, prepared: PreparedId) -> Result<Ticket, DeviceError> {
        let mut state = self.shared.enter()?;
        self.shared.of_this(prepared.generation, "program")?;
        let stream = self.shared.stream.raw();
        let stale = DeviceError::Stale { what: "program" };
        let program = state.programs.get_mut(prepared.index).ok_or(stale)?;
        let outcome = match (&program.graph, &self.profile) {
            // SAFETY: graph, stream and everything that the graph touches are alive: freeing a
            // buffer or a program waits for the stream.
            (Some(graph), _) => unsafe { api::launch_graph(graph.exec.0, stream) },
            (None, Some(profile)) => {
                self.run_timed(program).map(|steps| profile.keep(prepared, steps))
            }
            (None, None) => program.actions.iter_mut().try_for_each(|action| {
                // SAFETY: as above.
                unsafe { action.issue(&self.shared, stream, false) }
            }),
        };
        outcome.map_err(|err| self.shared.failed(&mut state, err, 0))?;
        let number = state.runs.count + 1;
        // SAFETY: both are alive.
        unsafe { api::record(state.runs.end_of(number), stream) }
            .map_err(|err| self.shared.failed(&mut state, err, 0))?;
        state.runs.count = number;
        Ok(Ticket(number))
    }

    fn wait(&mut self, ticket: Ticket, deadline: Duration) -> Result<(), DeviceError> {
        let mut state = self.shared.enter()?;
        if ticket.0 == 0 || state.runs.count < ticket.0 {
            return Err(DeviceError::Stale { what: "ticket" });
        }
        let watch = Stopwatch::start();
        let event = state.runs.end_of(ticket.0);
        let deadline_ns = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        loop {
            // SAFETY: the event is alive.
            match unsafe { api::has_happened(event) } {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(err) => return Err(self.shared.failed(&mut state, err, 0)),
            }
            let waited_ns = watch.elapsed_ns();
            if deadline_ns <= waited_ns {
                return Err(DeviceError::Deadline { waited_ms: waited_ns / 1_000_000 });
            }
            if SPIN_NS < waited_ns {
                std::thread::sleep(Duration::from_micros(20));
            } else {
                std::hint::spin_loop();
            }
        }
    }
}
