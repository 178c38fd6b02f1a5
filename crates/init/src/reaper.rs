//! Pid 1 of a container: starts the shim, reaps children, forwards signals, and writes the log and the exit record.
//!
//! A fenced container has a lease. The agent writes the end of the lease, as time since boot, into the modification time of
//! the exit record. Pid 1 ends the container at that time, even if the agent has ended or stands still.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_linux::process::{ForkSide, SingleThreaded};
use gantry_linux::signals::SignalReader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fchmod, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, kill_process, set_dumpable_behavior, wait,
};
use rustix::time::{ClockId, clock_gettime};

use crate::arguments::{Application, InitSettings};
use crate::log::{LineSplitter, LogSource, SegmentedLog};
use crate::shim;

/// Signals that pid 1 handles: the end of a child, and those that it forwards to the application.
const HANDLED: [Signal; 8] =
    [Signal::CHILD, Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH];

/// Pid of the application: the first child of the shim.
const APPLICATION: Option<Pid> = Pid::from_raw(3);

/// Pid of the shim: the first child of pid 1.
const SHIM: Option<Pid> = Pid::from_raw(2);

/// Poll interval for the lease of a fenced container.
const LEASE_POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

pub(crate) fn run(settings: &InitSettings) -> io::Result<ExitCode> {
    // Hides the open files and the memory of pid 1 and its fork from the application, which may run as the same user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let _ = rustix::thread::set_name(c"init");
    let record = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let segments = [io::stdout().as_fd().try_clone_to_owned()?, io::stderr().as_fd().try_clone_to_owned()?];
    let log = SegmentedLog::open(segments, settings.segment)?;
    let signals = SignalReader::block(&HANDLED)?;
    let idle = settings.application.command.is_empty();
    let streams = if idle { Vec::new() } else { start(&settings.application)? };
    Reaper { log, signals, streams, record, fenced: settings.fenced, durable: settings.durable }.run(idle)
}

/// Starts the shim, which starts the application. Returns the two streams of the application's output.
fn start(application: &Application) -> io::Result<Vec<OutputPipe>> {
    let (out, out_end) = io::pipe()?;
    let (err, err_end) = io::pipe()?;
    // The application reopens the pipes by name (`/dev/stdout`). A pipe belongs to its creator, here root, so every
    // user gets access.
    for end in [&out_end, &err_end] {
        fchmod(end, Mode::from_raw_mode(0o666))?;
    }
    // The shim changes to the application's user, because `Command` cannot set supplementary groups. A failure in the
    // shim concerns the application only, and appears in its log.
    if let ForkSide::Child = SingleThreaded::prove()?.fork()? {
        shim::become_shim(application, &out_end, &err_end);
    }
    Ok(vec![OutputPipe::new(out, LogSource::Out)?, OutputPipe::new(err, LogSource::Err)?])
}

/// An output stream of the application.
struct OutputPipe {
    pipe: PipeReader,
    lines: LineSplitter,
}

impl OutputPipe {
    fn new(pipe: PipeReader, stream: LogSource) -> io::Result<Self> {
        let flags = fcntl_getfl(&pipe)?;
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
        Ok(Self { pipe, lines: LineSplitter::new(stream) })
    }

    /// Reads the available output in a bounded number of reads, so that signals and exits are served in between.
    /// Returns false at the end of the stream.
    fn drain(&mut self, log: &mut SegmentedLog) -> bool {
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

struct Reaper {
    log: SegmentedLog,
    signals: SignalReader,
    streams: Vec<OutputPipe>,
    record: File,
    fenced: bool,
    durable: bool,
}

impl Reaper {
    fn run(mut self, idle: bool) -> io::Result<ExitCode> {
        loop {
            self.wait_for_anything()?;
            if self.fenced && is_lease_over(&self.record) {
                return self.end_at_fence();
            }
            let log = &mut self.log;
            self.streams.retain_mut(|source| {
                source.drain(log) || {
                    source.lines.finish(log);
                    false
                }
            });
            for signal in self.signals.take() {
                if signal == Signal::CHILD {
                    let (ended, left) = reap_children();
                    if let Some(status) = ended {
                        return self.end(status, left);
                    }
                } else if idle {
                    return Ok(ExitCode::SUCCESS);
                } else if let Some(application) = APPLICATION {
                    // The application may have ended already; the reaped exit reports the end.
                    let _ = kill_process(application, signal);
                }
            }
        }
    }

    fn wait_for_anything(&self) -> io::Result<()> {
        let pipes = self.streams.iter().map(|source| source.pipe.as_fd());
        let all: Vec<BorrowedFd<'_>> = std::iter::once(self.signals.as_fd()).chain(pipes).collect();
        let mut polled: Vec<_> = all.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut polled, self.fenced.then_some(&LEASE_POLL)) {
            Err(rustix::io::Errno::INTR) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Finishes after the application's end: writes its last output and the exit record. Processes that the application
    /// left running end with this process.
    fn end(mut self, status: WaitStatus, left: bool) -> io::Result<ExitCode> {
        for source in &mut self.streams {
            source.drain(&mut self.log);
            source.lines.finish(&mut self.log);
        }
        if left {
            self.log.record(
                LogSource::Own,
                true,
                b"gantry: the command ended; processes that it left running are killed",
            );
        }
        self.write_record(status.exit_status(), status.terminating_signal(), left)?;
        if self.durable {
            self.record.sync_all()?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Ends the container because its lease is over. All processes end with pid 1, so pid 1 does not wait for the disk.
    fn end_at_fence(mut self) -> io::Result<ExitCode> {
        if let Some(application) = APPLICATION {
            let _ = kill_process(application, Signal::KILL);
        }
        let why = b"gantry: killed: the lease of this single copy is over, because this machine reached no server";
        self.log.record(LogSource::Own, true, why);
        self.write_record(None, Some(Signal::KILL.as_raw()), false)?;
        Ok(ExitCode::SUCCESS)
    }

    fn write_record(&mut self, code: Option<i32>, signal: Option<i32>, left: bool) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let number = |number: Option<i32>| number.map_or("null".to_owned(), |n| n.to_string());
        let (code, signal) = (number(code), number(signal));
        let text = format!("{{\"code\":{code},\"signal\":{signal},\"at\":{now},\"left\":{left}}}\n");
        self.record.write_all(text.as_bytes())
    }
}

/// Reports whether the time since boot has reached the end of the lease, or the end cannot be read.
fn is_lease_over(record: &File) -> bool {
    let modified = record.metadata().and_then(|metadata| metadata.modified());
    let end = modified.ok().and_then(|end| end.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(u64::MAX), nanos.unwrap_or_default()) >= end
}

/// Reaps every child that ended. Returns the shim's status if the shim was among them, and whether other children still
/// run. Every process that the application left behind is a child of pid 1 by then, or descends from one. A process that
/// `gantry exec` brought in from outside is no child.
fn reap_children() -> (Option<WaitStatus>, bool) {
    let mut ended = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if Some(pid) == SHIM && !status.stopped() => ended = Some(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return (ended, true),
            Err(_) => return (ended, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, UNIX_EPOCH};

    use super::is_lease_over;

    #[test]
    fn a_lease_is_over_at_the_time_since_boot_in_the_exit_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = File::create(folder.path().join("exit")).expect("a file");
        let lease = |end: Duration| record.set_modified(UNIX_EPOCH + end).expect("set");
        let uptime = std::fs::read_to_string("/proc/uptime").expect("the uptime");
        let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
        lease(Duration::from_secs_f64(seconds + 60.0));
        assert!(!is_lease_over(&record));
        lease(Duration::from_secs_f64(seconds));
        assert!(is_lease_over(&record));
        lease(Duration::ZERO);
        assert!(is_lease_over(&record));
    }
}
