//! Repeated starts of a workload.

use std::error::Error;

use gantry_error::ErrorChain;

/// Starts after a failed one. A passing failure, such as a worker that was killed or a link that the kernel is still
/// removing, then fails no deploy, no build and no job.
const RETRIES: u32 = 1;

/// The attempts to start one workload.
#[derive(Debug, Default)]
pub(crate) struct StartAttempts {
    failed: u32,
}

impl StartAttempts {
    /// Takes note of a failed start of the workload `name`. Returns whether another attempt is due.
    pub(crate) fn is_another_due(&mut self, name: &str, error: &dyn Error) -> bool {
        self.failed += 1;
        let is_due = self.failed <= RETRIES;
        if is_due {
            tracing::warn!(name, error = %ErrorChain(error), "cannot start the workload; retrying once");
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_failed_start_is_repeated_once() {
        let mut attempts = StartAttempts::default();
        let error = io::Error::other("the worker ended");
        assert_eq!([(); 3].map(|()| attempts.is_another_due("job-shop-7-1", &error)), [true, false, false]);
    }
}
