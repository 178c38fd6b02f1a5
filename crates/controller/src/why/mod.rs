//! Why: one causal answer out of what is known. Pure.
//!
//! The first line says why requests fail, or why a role is not as wanted. What is asked in turn, until something answers:
//! 1. what the app's owners asked for: destruction, maintenance, a pause, no copies;
//! 2. what the whole machine lacks: a router, an agent;
//! 3. an instance that is down, or fails its checks;
//! 4. requests that fail though the checks pass;
//! 5. the deploy under way, or one that failed;
//! 6. what is not quite well with something that serves;
//! 7. how the last deploy ended.

mod deploy;
mod instance;
mod machine;
mod owner;
#[cfg(test)]
mod tests;
mod traffic;

use std::time::Duration;

use gantry_api::types::{Event, Explanation};
use gantry_model::{AppName, Bytes, Release};

use crate::core::View;
use crate::network;

pub(crate) use deploy::has_web;
pub(crate) use instance::{instance, note};

/// What an answer rests on.
pub(crate) struct Facts<'a> {
    pub(crate) view: &'a View,
    /// The app's build under way.
    pub(crate) build: Option<BuildState>,
    /// The disk of the data folder.
    pub(crate) disk: Option<Disk>,
}

/// How far a build is.
#[derive(Debug, Clone)]
pub(crate) struct BuildState {
    /// Its step, in words; empty while it waits for its turn.
    pub(crate) step: String,
    /// For how long the step has run.
    pub(crate) running: Duration,
    /// The last line that a program of the app's printed in it, and how long ago.
    pub(crate) said: Option<(String, Duration)>,
}

/// The room on a disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    /// What is free.
    pub(crate) free: Bytes,
    /// What has to be free for a build, a pull or an upload.
    pub(crate) reserve: Bytes,
}

/// An answer, before it is said what it is about.
struct Answer {
    headline: String,
    evidence: Vec<String>,
}

impl Answer {
    fn new(headline: String) -> Self {
        Self { headline, evidence: Vec::new() }
    }

    fn about(self, subject: &str) -> Explanation {
        Explanation { subject: subject.to_owned(), headline: self.headline, evidence: self.evidence }
    }
}

/// Explains an app.
pub(crate) fn app(facts: &Facts<'_>, name: &AppName) -> Explanation {
    let view = facts.view;
    let subject = format!("app {name}");
    let open = deploy::under_way(facts, name);
    let trouble = owner::asked(view, name)
        .or_else(|| machine::silent_router(view, name))
        .or_else(|| machine::silent_agent(view, name))
        .or_else(|| instance::broken(view, name))
        .or_else(|| traffic::failing(view, name));
    if let Some(mut answer) = trouble {
        // All are news to whoever asks: what is wrong now, what the machine's network keeps out, and the deploy that may mend it.
        answer.evidence.extend(network::faults(view, name));
        answer.evidence.extend(open.map(|open| format!("{}: {}", open.subject, open.headline)));
        return answer.about(&subject);
    }
    if let Some(mut open) = open {
        open.evidence.extend(network::faults(view, name));
        return open;
    }
    if let Some(answer) = traffic::unserved(view, name).or_else(|| instance::unready(view, name)) {
        return answer.about(&subject);
    }
    if let Some(fault) = network::explain(view, name) {
        return Explanation { subject, ..fault };
    }
    // That the last deploy failed is more than what is only not quite well.
    if let Some(failed) = deploy::last(view, name).filter(|deploy| deploy.reason.is_some()) {
        return deploy::ended(view, failed);
    }
    let worry = instance::worrying(view, name)
        .or_else(|| instance::lingering(view, name))
        .or_else(|| traffic::limited(view, name))
        .or_else(|| facts.disk.and_then(machine::full_disk));
    match (worry, deploy::last(view, name)) {
        (Some(answer), _) => answer.about(&subject),
        (None, Some(deploy)) => deploy::ended(view, deploy),
        (None, None) => {
            let push = format!("{name} was never deployed; push to it, or `gantry deploy {name} --image REF`");
            Answer::new(push).about(&subject)
        }
    }
}

/// The release that serves.
fn current<'a>(view: &'a View, name: &AppName) -> Option<&'a Release> {
    let number = view.mirror.apps.get(name)?.current?;
    view.mirror.release(name, number).map(AsRef::as_ref)
}

/// Who said something of an app last, by the beginning of what was said, and how long ago.
fn said_by(view: &View, name: &AppName, about: &str) -> Option<String> {
    let of_app = |event: &&std::sync::Arc<Event>| event.app.as_ref() == Some(name) && event.what.starts_with(about);
    let event = view.mirror.events.values().rev().find(of_app)?;
    Some(format!("{} said so {} ago", event.by, gantry_model::Span(view.now.since(event.at))))
}
