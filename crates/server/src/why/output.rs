//! Output of an instance as evidence: whose lines the server reads, and which lines it shows. Pure.
//!
//! An agent reports the last output of an instance that ended. The output of an instance that runs stays on its machine, so
//! the server asks for it when an explanation needs it.

use gantry_api::types::{CauseCode, Explanation, LogLine};
use gantry_control::sessions::LogQuery;
use gantry_model::output::within_a_line;
use gantry_model::{AllocationId, AppName, MachineName, Moment, RequestFailure};

use super::traffic;
use crate::core::ClusterView;

/// Maximum number of lines that are read, of all copies of the role on the machine.
const READ_MAX: usize = 200;

/// Maximum number of lines that are shown.
const SHOWN_MAX: usize = 5;

/// Time in milliseconds before the first failure from which output belongs to the failure.
const BEFORE_FAILURE: u64 = 5_000;

/// Output that an explanation needs as evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputQuery {
    /// The machine that has the output.
    pub(crate) machine: MachineName,
    instance: AllocationId,
    /// The first failure.
    since: Moment,
}

/// Returns the output that an explanation of an app needs: that of the instance whose responses are errors.
pub(crate) fn needed_output(view: &ClusterView, name: &AppName, explanation: &Explanation) -> Option<OutputQuery> {
    if explanation.code != CauseCode::ServerErrors {
        return None;
    }
    let failures = traffic::run(view, name, RequestFailure::ServerError)?;
    let instance = failures.instance?;
    let (machine, _, _) = view.records.plan.assignments_of(name).find(|(_, id, _)| **id == instance)?;
    Some(OutputQuery { machine: machine.clone(), instance, since: failures.since })
}

impl OutputQuery {
    /// The query of the machine's log.
    pub(crate) fn of_log(&self) -> LogQuery {
        let slot = &self.instance.slot;
        LogQuery {
            app: Some(slot.app.clone()),
            role: Some(slot.role.clone()),
            lines: Some(READ_MAX),
            since: None,
            grep: None,
            follow: false,
            after: None,
        }
    }

    /// Chooses the evidence among lines of the log, oldest first: the newest error output since the failures began, or else
    /// the newest output. The heading says which.
    pub(crate) fn evidence(&self, lines: &[LogLine]) -> Vec<String> {
        let own: Vec<&LogLine> = lines.iter().filter(|line| line.instance == self.instance).collect();
        let is_error = |line: &&LogLine| line.error && self.since.since(line.at) <= BEFORE_FAILURE;
        let errors: Vec<&LogLine> = own.iter().copied().filter(is_error).collect();
        let (kind, chosen) = if errors.is_empty() { ("output", own) } else { ("error output", errors) };
        if chosen.is_empty() {
            return Vec::new();
        }
        let shown = &chosen[chosen.len().saturating_sub(SHOWN_MAX)..];
        let heading = format!("the last {kind} of {}:", self.instance);
        std::iter::once(heading).chain(shown.iter().map(|line| within_a_line(&line.text))).collect()
    }
}
