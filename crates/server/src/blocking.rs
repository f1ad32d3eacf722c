//! A server for callers that have no executor of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use calor_embed::handle::Clock;
use calor_telemetry::{Counters, Recorder};

use crate::engine::Opener;
use crate::options::ServerOptions;
use crate::readiness::Phase;
use crate::server::{Ended, Server, ServerError};

/// How often the caller is asked whether to stop.
const POLL: Duration = Duration::from_millis(25);

/// What the caller is asked and told.
pub trait Watch {
    /// The address is had; probes are answered.
    fn bound(&mut self, address: SocketAddr);

    /// The server is in another phase.
    fn phase(&mut self, phase: Phase);

    /// Whether the server is to end.
    fn is_stopped(&mut self) -> bool;
}

/// Serves on threads of its own, and blocks until the server has ended.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub fn serve(
    options: ServerOptions,
    opener: Opener,
    clock: Clock,
    counters: Arc<Counters>,
    recorder: Arc<dyn Recorder>,
    watch: &mut dyn Watch,
) -> Result<Ended, ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("calor-server")
        .build()
        .map_err(|source| ServerError::System { source })?;
    let ended = runtime.block_on(async {
        let server = Server::bind(options, opener, clock, counters, recorder).await?;
        watch.bound(server.address());
        let handle = server.handle();
        let mut running = tokio::spawn(server.run());
        let mut told = Phase::Warming;
        loop {
            tokio::select! {
                ended = &mut running => {
                    let broken = |err| ServerError::System { source: std::io::Error::other(err) };
                    return ended.map_err(broken)?;
                }
                () = tokio::time::sleep(POLL) => {}
            }
            let phase = handle.phase();
            if phase != told {
                watch.phase(phase);
                told = phase;
            }
            if phase != Phase::Draining && watch.is_stopped() {
                handle.stop();
                // Said before the end can come, which may be at once.
                told = Phase::Draining;
                watch.phase(told);
            }
        }
    });
    // Nothing that still runs is waited for: the time for that was the drain.
    runtime.shutdown_background();
    ended
}
