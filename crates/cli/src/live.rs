//! A socket on which a running process answers `calor accel-info`.
//!
//! One line asks, one document answers. A reset moves the reading that answers are differences
//! from; no counter is ever set back, so nothing is torn and nothing is lost between readings.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use calor_telemetry::clock;

use crate::exit::{Exit, Failure};
use crate::recording::View;

/// What asks.
const READ: &str = "read";
/// What asks and starts anew.
const RESET: &str = "reset";
/// How long either side may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A socket that is removed when the run ends.
pub(crate) struct Listening(PathBuf);

impl Drop for Listening {
    fn drop(&mut self) {
        // Where it is gone already there is nothing to do.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Answers on `path` until the result is dropped.
///
/// # Errors
/// When the socket cannot be made, a file of that name among that.
pub(crate) fn listen(path: &Path, view: View) -> Result<Listening, Failure> {
    let cannot = |err| {
        Failure::new(Exit::Environment, format!("cannot listen on {}", path.display())).why(err)
    };
    let listener = UnixListener::bind(path).map_err(cannot)?;
    let kept = Listening(path.to_owned());
    // Its user alone may ask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(cannot)?;
    thread::Builder::new()
        .name("telemetry".into())
        .spawn(move || {
            let (mut since, mut since_ns) = (view.snapshot(), 0);
            for stream in listener.incoming().map_while(Result::ok) {
                let now = (view.snapshot(), clock::now_ns());
                let document = view.document(&since, since_ns).to_string();
                // A caller that goes away early only misses its answer.
                if answer(stream, &document).is_ok_and(|resets| resets) {
                    (since, since_ns) = now;
                }
            }
        })
        .map_err(cannot)?;
    Ok(kept)
}

/// Gives the document; whether the caller asked to start anew.
fn answer(stream: UnixStream, document: &str) -> std::io::Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = String::new();
    BufReader::new(Read::take(&stream, 64)).read_line(&mut question)?;
    let question = question.trim();
    if question != READ && question != RESET {
        return Ok(false);
    }
    (&stream).write_all(document.as_bytes())?;
    (&stream).write_all(b"\n")?;
    Ok(question == RESET)
}

/// Asks the process behind `path`.
///
/// # Errors
/// When nobody answers there.
pub(crate) fn ask(path: &Path, resets: bool) -> Result<String, Failure> {
    let cannot = |err| {
        Failure::new(Exit::Environment, format!("nobody answers on {}", path.display()))
            .why(err)
            .hint("a process answers there while it runs with `--telemetry-socket`")
    };
    let mut stream = UnixStream::connect(path).map_err(cannot)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(cannot)?;
    let question = if resets { RESET } else { READ };
    stream.write_all(format!("{question}\n").as_bytes()).map_err(cannot)?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut text).map_err(cannot)?;
    Ok(text)
}
