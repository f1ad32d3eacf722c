//! One process from its start to its end: its lines as they come, its last words, its time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use calor_telemetry::Stopwatch;

use crate::answer::{Answer, Line, read_line};
use crate::record::Outcome;

/// What is started.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
    pub(super) timeout: Duration,
}

/// How it went.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    pub(super) outcome: Outcome,
    pub(super) why: Option<String>,
    pub(super) process_ns: u64,
    pub(super) to_first_ns: Option<u64>,
    pub(super) answer: Option<Answer>,
}

/// Last words that are kept of a process that failed.
const COMPLAINT_BYTES_MAX: usize = 2_000;
/// Longest line that is looked at; a longer one is no answer.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// Starts a process and waits until it ends or its time is over.
pub(super) fn run(start: &Start) -> Ran {
    let watch = Stopwatch::start();
    let failed = |why: String| Ran {
        outcome: Outcome::Failed,
        why: Some(why),
        process_ns: watch.elapsed_ns(),
        to_first_ns: None,
        answer: None,
    };
    let Some((program, arguments)) = start.command.split_first() else {
        return failed("no program is named".into());
    };
    let spawned = Command::new(program)
        .args(arguments)
        .envs(&start.environment)
        .current_dir(&start.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(it) => it,
        Err(err) => return failed(format!("{program} does not start: {err}")),
    };
    let (sender, lines) = mpsc::channel();
    let complaint = child.stderr.take().map(|it| thread::spawn(move || last_words(it)));
    let reader = child.stdout.take().map(|out| {
        thread::spawn(move || {
            let mut out = BufReader::new(out);
            loop {
                let mut line = Vec::new();
                let read = Read::take(&mut out, LINE_BYTES_MAX).read_until(b'\n', &mut line);
                if !read.is_ok_and(|it| 0 < it) || sender.send((watch.elapsed_ns(), line)).is_err()
                {
                    break;
                }
            }
        })
    });
    let mut heard = Heard::default();
    let in_time = heard.listen(&lines, start.timeout, watch);
    let ended = end(&mut child, in_time, start.timeout, watch);
    let process_ns = watch.elapsed_ns();
    // Threads that read end with their pipes; a grandchild that keeps one open is not waited for.
    let complaint = complaint.filter(|it| in_time || it.is_finished());
    let complaint = complaint.and_then(|it| it.join().ok()).unwrap_or_default();
    drop(reader);
    let Heard { to_first_ns, answer, fault } = heard;
    let (outcome, why) = match (ended, fault, &answer) {
        (None, ..) => (Outcome::Timeout, Some(format!("no end after {:?}", start.timeout))),
        (Some(status), ..) if !status.success() => {
            (Outcome::Failed, Some(format!("{status}: {}", complaint.trim())))
        }
        (_, Some(fault), _) => (Outcome::Failed, Some(fault)),
        (_, None, None) => (Outcome::Failed, Some("it gave no answer".into())),
        (_, None, Some(_)) => (Outcome::Ok, None),
    };
    let answer = answer.filter(|_| outcome == Outcome::Ok);
    Ran { outcome, why, process_ns, to_first_ns, answer }
}

/// What a process said.
#[derive(Default)]
struct Heard {
    to_first_ns: Option<u64>,
    answer: Option<Answer>,
    fault: Option<String>,
}

impl Heard {
    /// Listens until the process says no more; whether that was in time.
    fn listen(
        &mut self,
        lines: &mpsc::Receiver<(u64, Vec<u8>)>,
        timeout: Duration,
        watch: Stopwatch,
    ) -> bool {
        loop {
            let left = timeout.saturating_sub(Duration::from_nanos(watch.elapsed_ns()));
            match lines.recv_timeout(left) {
                Ok((at_ns, line)) => self.line(at_ns, &line),
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    fn line(&mut self, at_ns: u64, line: &[u8]) {
        match read_line(&String::from_utf8_lossy(line)) {
            Ok(None) => {}
            Ok(Some(Line::First)) => {
                self.to_first_ns.get_or_insert(at_ns);
            }
            Ok(Some(Line::Done(answer))) if self.answer.is_none() => self.answer = Some(*answer),
            Ok(Some(Line::Done(_))) => self.fault = Some("it gave two answers".into()),
            Err(garbled) => self.fault = Some(garbled.to_string()),
        }
    }
}

/// Waits for the end, or makes it; nothing if the process had to be ended.
fn end(
    child: &mut Child,
    in_time: bool,
    timeout: Duration,
    watch: Stopwatch,
) -> Option<std::process::ExitStatus> {
    let mut patience = Duration::from_micros(200);
    while in_time && Duration::from_nanos(watch.elapsed_ns()) < timeout {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => thread::sleep(patience),
            Err(_) => break,
        }
        patience = (patience * 2).min(Duration::from_millis(20));
    }
    // Ending one that has just ended fails, and that is as good.
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn last_words(mut pipe: impl Read) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut part = [0; 4096];
    while let Ok(len) = pipe.read(&mut part) {
        if len == 0 {
            break;
        }
        kept.extend(&part[..len]);
        let excess = kept.len().saturating_sub(COMPLAINT_BYTES_MAX);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
