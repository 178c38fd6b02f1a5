//! Pid 1.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, fchmod, fcntl_getfl, fcntl_setfl};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, kill_process, set_dumpable_behavior, wait,
};

use crate::arguments::{Application, Settings};
use crate::log::{Lines, Log, Stream};

/// What is handed on to the application.
const FORWARDED: [Signal; 7] =
    [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH];

/// The application: the first child of pid 1's first child.
const APPLICATION: Option<Pid> = Pid::from_raw(3);

/// The shim: pid 1's first child.
const SHIM: Option<Pid> = Pid::from_raw(2);

pub(crate) fn run(settings: &Settings) -> io::Result<ExitCode> {
    // Kept from the application, which may have the same user: what pid 1 has open, and its memory.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let record = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let segments = [io::stdout().as_fd().try_clone_to_owned()?, io::stderr().as_fd().try_clone_to_owned()?];
    let log = Log::open(segments, settings.segment)?;
    let signals = Signals::register()?;
    let idle = settings.application.command.is_empty();
    let streams = if idle { Vec::new() } else { start(&settings.application)? };
    Reaper { log, signals, streams, record }.run(idle)
}

/// Starts the shim with the application behind it; its output comes through what is returned.
fn start(application: &Application) -> io::Result<Vec<Source>> {
    let (out, out_end) = io::pipe()?;
    let (err, err_end) = io::pipe()?;
    // Any user may open them again by name (`/dev/stdout`). A pipe belongs to whoever made it: root, here.
    for end in [&out_end, &err_end] {
        fchmod(end, Mode::from_raw_mode(0o666))?;
    }
    let program = std::env::args_os().next().unwrap_or_default();
    // The shim becomes the application's user: supplementary groups are not for `Command` to set. What fails there is the
    // application's trouble, and said in its log.
    Command::new(program)
        .arg("shim")
        .args(application.words())
        .stdin(Stdio::null())
        .stdout(out_end)
        .stderr(err_end)
        .spawn()?;
    Ok(vec![Source::new(out, Stream::Out)?, Source::new(err, Stream::Err)?])
}

/// One stream of the application's output.
struct Source {
    pipe: PipeReader,
    lines: Lines,
}

impl Source {
    fn new(pipe: PipeReader, stream: Stream) -> io::Result<Self> {
        let flags = fcntl_getfl(&pipe)?;
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
        Ok(Self { pipe, lines: Lines::new(stream) })
    }

    /// Reads what is there, but not for ever: signals and children come in between. False at its end.
    fn drain(&mut self, log: &mut Log) -> bool {
        let mut buffer = [0; 64 << 10];
        for _ in 0..16 {
            match self.pipe.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.lines.push(&buffer[..count], log),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

/// A socket per signal, readable when it came.
struct Signals {
    sockets: Vec<(Signal, UnixStream)>,
}

impl Signals {
    fn register() -> io::Result<Self> {
        let mut sockets = Vec::new();
        for signal in FORWARDED.into_iter().chain([Signal::CHILD]) {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            write.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal.as_raw(), OwnedFd::from(write))?;
            sockets.push((signal, read));
        }
        Ok(Self { sockets })
    }

    /// Those that came since the last call.
    fn take(&self) -> impl Iterator<Item = Signal> {
        self.sockets.iter().filter_map(|(signal, socket)| {
            let mut buffer = [0; 64];
            matches!((&mut &*socket).read(&mut buffer), Ok(1..)).then_some(*signal)
        })
    }
}

struct Reaper {
    log: Log,
    signals: Signals,
    streams: Vec<Source>,
    record: File,
}

impl Reaper {
    fn run(mut self, idle: bool) -> io::Result<ExitCode> {
        loop {
            self.wait_for_anything()?;
            let log = &mut self.log;
            self.streams.retain_mut(|source| {
                source.drain(log) || {
                    source.lines.finish(log);
                    false
                }
            });
            let came: Vec<Signal> = self.signals.take().collect();
            for signal in came {
                if signal == Signal::CHILD {
                    if let Some(status) = reap() {
                        return self.end(status);
                    }
                } else if idle {
                    return Ok(ExitCode::SUCCESS);
                } else if let Some(application) = APPLICATION {
                    // It may be gone already, which its exit will tell.
                    let _ = kill_process(application, signal);
                }
            }
        }
    }

    fn wait_for_anything(&self) -> io::Result<()> {
        let sockets = self.signals.sockets.iter().map(|(_, socket)| socket.as_fd());
        let pipes = self.streams.iter().map(|source| source.pipe.as_fd());
        let all: Vec<BorrowedFd<'_>> = sockets.chain(pipes).collect();
        let mut polled: Vec<_> = all.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The application ended: keep its last words and how it went. What it left running ends with this process.
    fn end(mut self, status: WaitStatus) -> io::Result<ExitCode> {
        for source in &mut self.streams {
            source.drain(&mut self.log);
            source.lines.finish(&mut self.log);
        }
        let left = leaves_something();
        if left {
            self.log.record(Stream::Own, true, b"gantry: the command ended, and what it left running is ended with it");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let number = |number: Option<i32>| number.map_or("null".to_owned(), |n| n.to_string());
        let (code, signal) = (status.exit_status(), status.terminating_signal());
        let text =
            format!("{{\"code\":{},\"signal\":{},\"at\":{now},\"left\":{left}}}\n", number(code), number(signal));
        self.record.write_all(text.as_bytes())?;
        self.record.sync_all()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether any process runs besides this one. Those that were brought in from outside (`gantry exec`) have no parent here.
fn leaves_something() -> bool {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != 1)
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .any(|stat| is_left(&stat).unwrap_or(false))
}

/// By a line of `/proc/<pid>/stat` (proc_pid_stat(5)): number, name in parentheses, state, parent.
fn is_left(stat: &str) -> Option<bool> {
    // A name may have anything in it, a parenthesis too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?);
    Some(!["Z", "X"].contains(&state) && parent != "0")
}

/// Reaps every child that ended; the shim's status, if it was among them.
fn reap() -> Option<WaitStatus> {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if Some(pid) == SHIM && !status.stopped() {
            return Some(status);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::is_left;

    #[test]
    fn what_runs_on_is_told_from_what_ended_and_what_came_from_outside() {
        assert_eq!(is_left("7 (sleep) S 1 1 1 0 -1"), Some(true));
        assert_eq!(is_left("7 (odd) Z 0) R 1 1 1"), Some(true));
        assert_eq!(is_left("7 (sleep) Z 1 1 1"), Some(false));
        assert_eq!(is_left("7 (sh) S 0 7 7"), Some(false));
        assert_eq!(is_left("7 (sh"), None);
    }
}
