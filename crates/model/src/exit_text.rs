//! Ends of processes and reached limits in words, with their remedies.

use std::fmt;

use crate::output::{explaining_line, within_a_line};
use crate::remedy;
use crate::{AppName, Bytes, ExitStatus, RoleLimit, StopReason};

impl ExitStatus {
    /// Remedy that the last output of a failed process of an app suggests.
    pub(crate) fn failure_remedy(&self, app: Option<&AppName>) -> Option<String> {
        remedy::of_output(remedy::Program::Process(app), self.code, &self.tail)
    }

    /// The limit of the role that the process reached.
    fn role_limit(&self) -> Option<RoleLimit> {
        let processes = || self.out_of_processes.map(RoleLimit::Processes);
        self.out_of_memory.map(RoleLimit::Memory).or_else(processes)
    }

    /// Reports whether the process reached one of its limits.
    #[must_use]
    pub fn has_reached_limit(&self) -> bool {
        self.role_limit().is_some() || self.out_of_disk.is_some()
    }

    /// The setting that raises the limit that the process reached.
    #[must_use]
    pub fn limit_remedy(&self) -> Option<String> {
        let disk = || self.out_of_disk.map(|_| "raise `disk` of the role, or use a volume");
        self.role_limit().map(RoleLimit::remedy).or_else(disk).map(str::to_owned)
    }

    /// Log line for an instance that a limit of its role ended; `None` for any other end.
    #[must_use]
    pub fn limit_line(&self, instance: &str) -> Option<String> {
        let limit = ExitCause(self).limit().filter(|_| self.stopped.is_none())?;
        let remedy = self.limit_remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        Some(format!("{instance} ended: it {limit}{remedy}"))
    }

    /// True if the exit text itself names the remedy, or the exit needs none.
    pub(crate) fn names_remedy(&self) -> bool {
        self.stopped.is_some() || self.has_reached_limit()
    }

    /// Remedy for the exit of a process of an app that should have kept running; `None` if the exit text already names
    /// the remedy.
    #[must_use]
    pub fn remedy(&self, app: &AppName) -> Option<String> {
        if self.names_remedy() {
            return None;
        }
        if let Some(remedy) = self.failure_remedy(Some(app)) {
            return Some(remedy);
        }
        let logs = format!("`gantry logs {app}` shows its output");
        let text = match (self.code, self.signal.or_else(|| self.code.and_then(signal_in))) {
            (Some(126), _) => "check `command` of the role",
            (Some(127), _) => {
                "check `command` of the role; a script may also name an interpreter that the image lacks, or have carriage returns"
            }
            (Some(0), _) if self.left_processes => {
                "it started a background process, which ended with it; keep that process in the foreground"
            }
            (Some(0), _) => {
                return Some(format!(
                    "it must run until Gantry stops it, or be a role for jobs alone, with `instances: 0`; {logs}"
                ));
            }
            (_, Some(4 | 5 | 6 | 7 | 8 | 11)) => return Some(format!("the program crashed; {logs}")),
            (_, Some(31)) => "it made a system call that containers must not make",
            (_, Some(9)) => {
                "Gantry did not send the signal: a process in the container or on the machine did, or the kernel for lack of memory"
            }
            (_, Some(1 | 2 | 3 | 15)) => {
                "Gantry did not send the signal: a process in the container or on the machine did"
            }
            _ => return Some(format!("it must run until Gantry stops it; {logs}")),
        };
        Some(text.to_owned())
    }
}

/// Names of signals (signal(7)), by number from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// A signal with its number and, if known, its name.
fn named(signal: i32) -> String {
    let name = usize::try_from(signal).ok().and_then(|number| SIGNALS.get(number.checked_sub(1)?));
    name.map_or_else(|| format!("signal {signal}"), |name| format!("signal {signal} (SIG{name})"))
}

/// The signal behind a shell's exit status: shells exit with 128 plus the signal's number.
fn signal_in(code: i32) -> Option<i32> {
    Some(code - 128).filter(|signal| (1..=31).contains(signal))
}

/// Text of an exit.
pub struct ExitText<'a>(pub &'a ExitStatus);

impl fmt::Display for ExitText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ExitCause(self.0))?;
        self.0.limit_remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// Text of an exit, without the setting that raises a reached limit.
pub struct ExitCause<'a>(pub &'a ExitStatus);

impl fmt::Display for ExitCause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stop) = &self.0.stopped {
            write!(f, "{}", StopText(stop))?;
            if let Some(timeout) = self.0.killed_after {
                write!(f, "; it did not end within {timeout} and was killed")?;
            }
            return match self.limit() {
                Some(limit) => write!(f, "; before that it {limit}"),
                None => Ok(()),
            };
        }
        if let Some(limit) = self.limit() {
            return f.write_str(&limit);
        }
        self.status(f)?;
        // The program's last words mostly name the cause.
        let last_output = explaining_line(&self.0.tail).filter(|_| self.0.code != Some(0));
        last_output.map_or(Ok(()), |line| write!(f, " (last output: {})", within_a_line(&line)))
    }
}

impl ExitCause<'_> {
    /// The limit that the process reached.
    fn limit(&self) -> Option<String> {
        if let Some(limit) = self.0.role_limit() {
            return Some(LimitCause(limit).to_string());
        }
        let limit = Bytes(self.0.out_of_disk?);
        Some(format!("wrote more than its limit of {limit} to its disk"))
    }

    fn status(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code, self.0.signal) {
            (Some(127), _) => f.write_str("exited with 127: its command, or the interpreter in the command's first line, was not found in the image"),
            (Some(126), _) => f.write_str("exited with 126: its command could not be executed"),
            (Some(code), _) => match signal_in(code) {
                Some(signal) => write!(f, "exited with {code}, as a shell does after {}", named(signal)),
                None => write!(f, "exited with {code}"),
            },
            (None, Some(signal)) => write!(f, "was killed by {}", named(signal)),
            (None, None) => f.write_str("ended without an exit record; its container was probably killed"),
        }
    }
}

/// Text of a reached limit, with the setting that raises this limit.
pub struct LimitText(pub RoleLimit);

impl fmt::Display for LimitText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", LimitCause(self.0), self.0.remedy())
    }
}

/// Text of a reached limit, without the remedy.
pub struct LimitCause(pub RoleLimit);

impl fmt::Display for LimitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RoleLimit::Memory(limit) => write!(f, "ran out of memory: its limit is {}", Bytes(limit)),
            RoleLimit::Processes(limit) => write!(f, "reached its limit of {limit} processes and threads"),
        }
    }
}

impl RoleLimit {
    /// The setting that raises the limit.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Memory(_) => "raise `memory` of the role",
            Self::Processes(_) => "raise `pids` of the role",
        }
    }
}

/// Text of the reason for which Gantry stopped an instance.
struct StopText<'a>(&'a StopReason);

impl fmt::Display for StopText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            StopReason::FailedChecks { times, probe } => {
                write!(
                    f,
                    "failed its check {} in a row and was stopped: {}",
                    TimesText(u64::from(*times)),
                    probe.brief()
                )
            }
            StopReason::Planned => f.write_str("was stopped by Gantry"),
            StopReason::NetworkChanged => f.write_str("was stopped: the machine has another network now"),
        }
    }
}

/// A count of times: `1 time`, `2 times`.
pub struct TimesText(pub u64);

impl fmt::Display for TimesText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "time" } else { "times" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FailedProbe, Moment, Seconds, output};

    fn shop() -> AppName {
        AppName::parse("shop").expect("a name")
    }

    fn exit(code: Option<i32>, signal: Option<i32>, tail: &[&str]) -> ExitStatus {
        ExitStatus { code, signal, tail: tail.iter().map(|line| (*line).to_owned()).collect(), ..ExitStatus::default() }
    }

    fn failed_check(status: Option<u16>, outcome: &str, body: &str) -> FailedProbe {
        FailedProbe {
            target: "GET http://10.83.0.5:8080/up".into(),
            outcome: outcome.into(),
            body: body.into(),
            at: Moment(0),
            check: "GET /up".into(),
            status,
            remedy: Some("mend it".into()),
        }
    }

    #[test]
    fn a_stop_by_gantry_is_not_reported_as_an_exit() {
        let probe = failed_check(Some(503), "status 503 Service Unavailable", "database is gone\n");
        let stopped = |stop| ExitStatus { stopped: Some(stop), ..exit(Some(0), None, &["FATAL: an old line"]) };
        let hung = failed_check(None, "no answer in 5 s", "");
        let killed = ExitStatus {
            killed_after: Some(Seconds(30)),
            ..stopped(StopReason::FailedChecks { times: 3, probe: hung.clone().into() })
        };
        let full = ExitStatus {
            out_of_processes: Some(64),
            ..stopped(StopReason::FailedChecks { times: 3, probe: hung.into() })
        };
        for (exit, expected) in [
            (
                stopped(StopReason::FailedChecks { times: 2, probe: probe.clone().into() }),
                "failed its check 2 times in a row and was stopped: GET /up: 503: database is gone",
            ),
            (
                stopped(StopReason::FailedChecks { times: 1, probe: probe.into() }),
                "failed its check 1 time in a row and was stopped: GET /up: 503: database is gone",
            ),
            (
                killed,
                "failed its check 3 times in a row and was stopped: GET /up: no answer in 5 s; it did not end within 30 s and was killed",
            ),
            (
                full,
                "failed its check 3 times in a row and was stopped: GET /up: no answer in 5 s; before that it reached its limit of 64 processes and threads; raise `pids` of the role",
            ),
            (stopped(StopReason::Planned), "was stopped by Gantry"),
            (stopped(StopReason::NetworkChanged), "was stopped: the machine has another network now"),
        ] {
            assert_eq!(ExitText(&exit).to_string(), expected);
            assert_eq!(exit.remedy(&shop()), None, "{expected}");
        }
    }

    #[test]
    fn the_log_of_an_instance_says_which_limit_ended_the_instance() {
        let memory = ExitStatus { out_of_memory: Some(48 << 20), ..exit(None, Some(9), &["loading"]) };
        let disk = ExitStatus { out_of_disk: Some(20 << 20), ..exit(None, Some(9), &[]) };
        let pids = ExitStatus { out_of_processes: Some(64), ..exit(Some(1), None, &[]) };
        let stopped = ExitStatus { stopped: Some(StopReason::Planned), ..memory.clone() };
        for (exit, expected) in [
            (memory, Some("web-1 ended: it ran out of memory: its limit is 48M; raise `memory` of the role")),
            (
                disk,
                Some(
                    "web-1 ended: it wrote more than its limit of 20M to its disk; raise `disk` of the role, or use a volume",
                ),
            ),
            (pids, Some("web-1 ended: it reached its limit of 64 processes and threads; raise `pids` of the role")),
            (stopped, None),
            (exit(Some(3), None, &["boom"]), None),
        ] {
            assert_eq!(exit.limit_line("web-1").as_deref(), expected);
        }
    }

    #[test]
    fn an_exit_is_reported_with_its_last_output_and_a_remedy() {
        let crashed = "the program crashed; `gantry logs shop` shows its output";
        let sent = "Gantry did not send the signal: a process in the container or on the machine did";
        let on = "it must run until Gantry stops it; `gantry logs shop` shows its output";
        for (exit, text, remedy) in [
            (
                exit(Some(0), None, &["bye"]),
                "exited with 0",
                "it must run until Gantry stops it, or be a role for jobs alone, with `instances: 0`; `gantry logs shop` shows its output",
            ),
            (exit(Some(3), None, &["boom", ""]), "exited with 3 (last output: boom)", on),
            (exit(None, Some(11), &[]), "was killed by signal 11 (SIGSEGV)", crashed),
            (exit(None, Some(15), &[]), "was killed by signal 15 (SIGTERM)", sent),
            (exit(None, Some(40), &[]), "was killed by signal 40", on),
            (exit(Some(139), None, &[]), "exited with 139, as a shell does after signal 11 (SIGSEGV)", crashed),
            (
                exit(Some(1), None, &["KeyError: 'DATABASE_URL'"]),
                "exited with 1 (last output: KeyError: 'DATABASE_URL')",
                "set DATABASE_URL with `gantry config set shop DATABASE_URL=VALUE`",
            ),
            (
                exit(Some(2), None, &["sh: 1: API_KEY: parameter not set"]),
                "exited with 2 (last output: sh: 1: API_KEY: parameter not set)",
                "set API_KEY with `gantry config set shop API_KEY=VALUE`",
            ),
            (
                exit(Some(126), None, &["sh: 1: exec: bin/server: Permission denied"]),
                "exited with 126: its command could not be executed (last output: sh: 1: exec: bin/server: Permission denied)",
                "make it executable: chmod +x bin/server, or git update-index --chmod=+x bin/server, and push again",
            ),
            (
                exit(Some(126), None, &["sh: 1: two words: Permission denied"]),
                "exited with 126: its command could not be executed (last output: sh: 1: two words: Permission denied)",
                "check `command` of the role",
            ),
            (
                exit(
                    Some(127),
                    None,
                    &["./s: error while loading shared libraries: libpq.so.5: cannot open shared object file"],
                ),
                "exited with 127: its command, or the interpreter in the command's first line, was not found in the image (last output: ./s: error while loading shared libraries: libpq.so.5: cannot open shared object file)",
                "add the package that has this library to the base",
            ),
        ] {
            assert_eq!(ExitText(&exit).to_string(), text);
            assert_eq!(exit.remedy(&shop()).as_deref(), Some(remedy), "{text}");
        }
        let left = ExitStatus { left_processes: true, ..exit(Some(0), None, &[]) };
        assert!(left.remedy(&shop()).is_some_and(|remedy| remedy.contains("foreground")));
        let long = exit(Some(1), None, &[&"x".repeat(1000)]);
        assert!(ExitText(&long).to_string().len() < output::LINE_SHOWN + 60);
    }
}
