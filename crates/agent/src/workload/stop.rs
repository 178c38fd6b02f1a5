//! The stop of a workload: its stop signal, and a grace time. The owner of the workload then kills what is left.

use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_model::role::ShutdownSignal;
use gantry_sandbox::Container;
use rustix::process::Signal;
use tokio::time::Instant;

/// Interval of the steps of a stop.
const STEP: Duration = Duration::from_secs(1);

/// A request to the program of a container to end by itself.
pub(crate) struct StopOrder {
    pub(crate) signal: ShutdownSignal,
    /// Grace time between the signal and the kill.
    pub(crate) timeout: Duration,
    /// True for a program that may not be set up yet: the signal is repeated. Pid 1 may have no handler yet, and the
    /// kernel discards signals that pid 1 does not handle.
    pub(crate) repeats: bool,
}

/// Step of a stop whose container still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopStep {
    /// The grace time is over.
    GiveUp,
    /// Send the signal once more.
    SignalAgain,
    /// Tell that the program has not ended yet.
    Tell,
    Wait,
}

impl StopOrder {
    /// Sends the signal to the container of the workload `name`, and waits for its end, at most for the grace time.
    /// Returns whether the container has ended. After a quarter of the grace time, calls `late` once a second, unless the
    /// signal is repeated.
    pub(crate) async fn carry_out(&self, name: &str, container: &Container, mut late: impl FnMut()) -> bool {
        let begun = Instant::now();
        let deadline = begun + self.timeout;
        self.send(name, container);
        while tokio::time::timeout_at(deadline.min(Instant::now() + STEP), container.ended()).await.is_err() {
            match self.step(begun.elapsed()) {
                StopStep::GiveUp => return false,
                StopStep::SignalAgain => self.send(name, container),
                StopStep::Tell => late(),
                StopStep::Wait => {}
            }
        }
        true
    }

    fn step(&self, waited: Duration) -> StopStep {
        if waited >= self.timeout {
            StopStep::GiveUp
        } else if self.repeats {
            StopStep::SignalAgain
        } else if waited >= self.timeout / 4 {
            StopStep::Tell
        } else {
            StopStep::Wait
        }
    }

    fn send(&self, name: &str, container: &Container) {
        if let Err(error) = container.signal(number_of(self.signal)) {
            tracing::warn!(name, error = %ErrorChain(&error), "cannot send the stop signal to the container");
        }
    }
}

fn number_of(signal: ShutdownSignal) -> Signal {
    match signal {
        ShutdownSignal::Term => Signal::TERM,
        ShutdownSignal::Quit => Signal::QUIT,
        ShutdownSignal::Int => Signal::INT,
        ShutdownSignal::Hup => Signal::HUP,
        ShutdownSignal::Usr1 => Signal::USR1,
        ShutdownSignal::Usr2 => Signal::USR2,
        ShutdownSignal::Winch => Signal::WINCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_the_signal_or_tells_until_the_grace_time_is_over() {
        for (repeats, seconds, step) in [
            (false, 1, StopStep::Wait),
            (false, 7, StopStep::Wait),
            (false, 8, StopStep::Tell),
            (false, 31, StopStep::Tell),
            (false, 32, StopStep::GiveUp),
            (true, 1, StopStep::SignalAgain),
            (true, 31, StopStep::SignalAgain),
            (true, 32, StopStep::GiveUp),
        ] {
            let order = StopOrder { signal: ShutdownSignal::Term, timeout: Duration::from_secs(32), repeats };
            assert_eq!(order.step(Duration::from_secs(seconds)), step, "{seconds} s, repeats: {repeats}");
        }
    }

    #[test]
    fn each_signal_has_the_number_of_its_name() {
        for (signal, number) in ShutdownSignal::ALL.into_iter().zip([15, 3, 2, 1, 10, 12, 28]) {
            assert_eq!(number_of(signal).as_raw(), number, "{}", signal.name());
        }
    }
}
