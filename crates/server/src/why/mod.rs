//! Explanations: derives one causal answer from the records and the latest reports. Pure.
//!
//! The first line says why requests fail, or why a role is not as wanted. The causes are checked in this order, and
//! the first match answers:
//! 1. a request by the app's owners: destruction, maintenance, a pause, no copies;
//! 2. a fault of the whole machine: no router, no agent;
//! 3. an instance that is down or fails its checks;
//! 4. failing requests although the checks pass;
//! 5. the open deploy, or a failed deploy;
//! 6. a minor problem of an app that serves;
//! 7. the result of the last deploy.

mod deploy;
mod instance;
mod machine;
mod network;
mod output;
mod owner;
#[cfg(test)]
mod tests;
mod traffic;

use std::time::Duration;

use gantry_api::types::{CauseCode, CauseObject, Explanation, ObjectKind};
use gantry_model::{AllocationId, AppName, AuditAction, Bytes, MachineName, Reason, Release};
use gantry_records::EventRecord;

use crate::core::ClusterView;

pub(crate) use instance::{instance, instance_problem};
pub(crate) use output::needed_output;

/// Facts that an explanation is derived from.
pub(crate) struct WhyInput<'a> {
    pub(crate) view: &'a ClusterView,
    /// The app's running build.
    pub(crate) build: Option<BuildState>,
    /// The disk of the data folder.
    pub(crate) disk: Option<DiskSpace>,
}

/// Progress of a build.
#[derive(Debug, Clone)]
pub(crate) struct BuildState {
    /// Description of the current step; empty while the build waits in the queue.
    pub(crate) step: String,
    /// Duration of the current step so far.
    pub(crate) running: Duration,
    /// The last output line of the app's build programs in this step, and its age.
    pub(crate) last_output: Option<(String, Duration)>,
}

/// Free space on a disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskSpace {
    /// Free bytes.
    pub(crate) free: Bytes,
    /// Bytes that must stay free to accept a build, a pull or an upload.
    pub(crate) reserve: Bytes,
}

/// Explanation without its subject. The headline is the cause with the remedy and the circumstances behind it.
struct FoundCause {
    code: CauseCode,
    object: CauseObject,
    cause: String,
    remedy: Option<String>,
    circumstances: Option<String>,
    evidence: Vec<String>,
}

impl FoundCause {
    fn new(code: CauseCode, object: CauseObject, cause: String) -> Self {
        Self { code, object, cause, remedy: None, circumstances: None, evidence: Vec::new() }
    }

    /// The cause that a reason states.
    fn of_reason(object: CauseObject, reason: &Reason) -> Self {
        let cause = Self::new(reason.into(), object, reason.cause().to_string());
        Self { remedy: reason.remedy(), evidence: reason.evidence(), ..cause }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    fn circumstances(self, circumstances: String) -> Self {
        Self { circumstances: Some(circumstances), ..self }
    }

    fn evidence(self, evidence: Vec<String>) -> Self {
        Self { evidence, ..self }
    }

    /// Puts the name of the instance before the cause.
    fn of_instance(self, id: &AllocationId) -> Self {
        Self { cause: format!("{id} {}", self.cause), ..self }
    }

    fn headline(&self) -> String {
        let parts = [Some(&self.cause), self.remedy.as_ref(), self.circumstances.as_ref()];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    fn with_subject(self, subject: &str) -> Explanation {
        let headline = self.headline();
        let Self { code, object, cause, remedy, evidence, .. } = self;
        Explanation { code, object, cause, remedy, subject: subject.to_owned(), headline, evidence }
    }
}

fn app_object(name: &AppName) -> CauseObject {
    CauseObject::new(ObjectKind::App, name)
}

fn instance_object(id: &AllocationId) -> CauseObject {
    CauseObject::new(ObjectKind::Instance, id)
}

fn machine_object(machine: &MachineName) -> CauseObject {
    CauseObject::new(ObjectKind::Machine, machine)
}

/// Explains an app.
pub(crate) fn app(facts: &WhyInput<'_>, name: &AppName) -> Explanation {
    let view = facts.view;
    let subject = format!("app {name}");
    let open = deploy::under_way(facts, name);
    let fault = owner::requested(view, name)
        .or_else(|| machine::silent_router(view, name))
        .or_else(|| machine::silent_agent(view, name))
        .or_else(|| instance::broken_instance(view, name))
        .or_else(|| traffic::failing_requests(view, name));
    if let Some(mut answer) = fault {
        // Adds the other relevant facts: the copies that no other machine takes, what the machine's network blocks, and
        // the open deploy, which may fix the problem.
        answer.evidence.extend(machine::failing_in_place(view, name).map(|(_, line)| line));
        answer.evidence.extend(network::faults(view, name));
        answer.evidence.extend(open.map(|open| format!("{}: {}", open.subject, open.headline)));
        return answer.with_subject(&subject);
    }
    if let Some(mut open) = open {
        open.evidence.extend(network::faults(view, name));
        return open;
    }
    let unplaced = machine::without_room(view, name);
    if let Some(answer) = unplaced.or_else(|| traffic::unserved(view, name)).or_else(|| instance::unready(view, name)) {
        return answer.with_subject(&subject);
    }
    if let Some(fault) = network::explain(view, name) {
        return fault.with_subject(&subject);
    }
    // A failed last deploy matters more than a minor problem.
    if let Some(failed) = deploy::last_deploy(view, name).filter(|deploy| deploy.reason.is_some()) {
        return deploy::explain_ended(view, failed);
    }
    let problem = instance::minor_problems(view, name)
        .or_else(|| instance::not_stopping(view, name))
        .or_else(|| traffic::limited(view, name))
        .or_else(|| machine::unmoved(view, name))
        .or_else(|| facts.disk.and_then(machine::full_disk));
    match (problem, deploy::last_deploy(view, name)) {
        (Some(answer), _) => answer.with_subject(&subject),
        (None, Some(deploy)) => deploy::explain_ended(view, deploy),
        (None, None) => never_deployed(view, name).with_subject(&subject),
    }
}

/// Explains an app without a deploy. An app may exist for uploaded code alone, which needs none.
fn never_deployed(view: &ClusterView, name: &AppName) -> FoundCause {
    let has_code = view.records.codes.get(name).is_some_and(|codes| !codes.is_empty());
    let (cause, remedy) = if has_code {
        let cause = format!("{name} was never deployed, and has uploaded code for jobs, which needs no deploy");
        (cause, format!("`gantry code ls {name}` lists the code"))
    } else {
        (format!("{name} was never deployed"), format!("run `git push`, or `gantry deploy {name} --image REF`"))
    };
    FoundCause::new(CauseCode::NeverDeployed, app_object(name), cause).remedy(remedy)
}

/// Returns the current release.
fn current<'a>(view: &'a ClusterView, name: &AppName) -> Option<&'a Release> {
    let number = view.records.apps.get(name)?.current?;
    view.records.release(name, number).map(AsRef::as_ref)
}

/// Names who caused the newest event of an app with such an action, and how long ago.
fn requested_by(view: &ClusterView, name: &AppName, is_such: impl Fn(&AuditAction) -> bool) -> Option<String> {
    let of_app = |event: &&std::sync::Arc<EventRecord>| {
        event.app.as_ref() == Some(name) && event.action.as_ref().is_some_and(&is_such)
    };
    let event = view.records.events.values().rev().find(of_app)?;
    Some(format!("requested by {} {} ago", event.by, gantry_model::TimeSpan(view.now.since(event.at))))
}
