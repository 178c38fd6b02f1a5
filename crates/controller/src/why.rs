//! Why: one causal answer out of a view. Pure.

use gantry_api::types::{Event, Explanation};
use gantry_model::reason::ExitText;
use gantry_model::{AppName, Deploy, DeployState, Exit, InstanceId, Moment, ObservedInstance, Phase, Reason};

use crate::core::View;
use crate::network;

/// Explains an app: its deploy under way, else what is wrong with it, else how its last deploy ended.
pub(crate) fn app(view: &View, name: &AppName) -> Explanation {
    let subject = format!("app {name}");
    if let Some(deploy) = view.mirror.open_deploys(name).find(|deploy| deploy.state != DeployState::Queued) {
        return under_way(view, deploy);
    }
    if let Some(trouble) = trouble(view, name, trouble_with).or_else(|| kept_from(view, name)) {
        let mut evidence = trouble.evidence;
        evidence.extend(network::faults(view, name));
        return Explanation { subject, evidence, ..trouble };
    }
    if let Some(fault) = network::explain(view, name) {
        return Explanation { subject, ..fault };
    }
    let last = view.mirror.deploys.get(name).and_then(|deploys| deploys.values().next_back());
    // That the last deploy failed is more than what is only not quite well.
    if last.is_none_or(|deploy| deploy.reason.is_none())
        && let Some(worry) = trouble(view, name, worry_about).or_else(|| lingering(view, name))
    {
        return Explanation { subject, ..worry };
    }
    match last {
        Some(deploy) => ended(deploy, view),
        None => Explanation {
            subject,
            headline: format!("{name} was never deployed; push to it, or `gantry deploy {name} --image REF`"),
            evidence: Vec::new(),
        },
    }
}

/// Its owners keep requests from it.
fn kept_from(view: &View, name: &AppName) -> Option<Explanation> {
    let traffic = &view.mirror.apps.get(name)?.traffic;
    let headline = match (&traffic.maintenance, traffic.paused) {
        (Some(message), _) => {
            format!("in maintenance, clients are told {message:?}; `gantry maintenance off {name}` ends it")
        }
        (None, true) => format!("paused, its requests wait; `gantry resume {name}` lets them go on"),
        (None, false) => return None,
    };
    let about = format!("requests of {name}:");
    let said = view.mirror.events.values().rev().find(|event| event.what.starts_with(&about));
    let ago = |event: &Event| format!("{} said so {} s ago", event.by, view.now.since(event.at) / 1000);
    let evidence = said.map(|event| ago(event)).into_iter().collect();
    Some(Explanation { subject: String::new(), headline, evidence })
}

fn under_way(view: &View, deploy: &Deploy) -> Explanation {
    let subject = format!("deploy {} of {}", deploy.number, deploy.app);
    if let Some(reason) = &deploy.reason {
        return Explanation { subject, headline: format!("{}: {reason}", deploy.state), evidence: reason.evidence() };
    }
    let wait = view.report.waits.get(&deploy.app).and_then(|waits| waits.first());
    let seconds = view.now.since(deploy.entered) / 1000;
    let headline = match wait {
        Some(wait) => format!("{} for {seconds} s: {wait}", deploy.state),
        None => format!("{} for {seconds} s", deploy.state),
    };
    let mut evidence = wait.map(Reason::evidence).unwrap_or_default();
    evidence.extend(network::faults(view, &deploy.app));
    Explanation { subject, headline, evidence }
}

fn ended(deploy: &Deploy, view: &View) -> Explanation {
    let subject = format!("deploy {} of {}", deploy.number, deploy.app);
    let serving = match view.mirror.apps.get(&deploy.app).and_then(|app| app.current) {
        Some(release) => format!("{release} serves"),
        None => "nothing serves".to_owned(),
    };
    match &deploy.reason {
        Some(reason) => Explanation {
            subject,
            headline: format!("{}: {reason}; {serving}", deploy.outcome()),
            evidence: reason.evidence(),
        },
        None => Explanation {
            subject,
            headline: format!("{} ({}); {serving}", deploy.state, deploy.cause),
            evidence: Vec::new(),
        },
    }
}

/// The first instance of what serves that is not as it should be.
fn trouble(
    view: &View,
    name: &AppName,
    with: impl Fn(&View, &InstanceId, &ObservedInstance) -> Option<Explanation>,
) -> Option<Explanation> {
    let current = view.mirror.apps.get(name)?.current?;
    view.mirror.plan.assignments().filter(|(_, id, _)| &id.app == name && id.release == current).find_map(
        |(machine, id, _)| match view.observed.machines.get(machine) {
            None => Some(Explanation {
                subject: String::new(),
                headline: format!(
                    "machine {machine} has not reported; what `gantry up` prints says what keeps its agent"
                ),
                evidence: Vec::new(),
            }),
            Some(report) => report.instances.get(id).and_then(|seen| with(view, id, seen)),
        },
    )
}

/// An instance of an old release that does not go.
fn lingering(view: &View, name: &AppName) -> Option<Explanation> {
    let instances = view.observed.machines.values().flat_map(|report| &report.instances);
    let mut leaving = instances.filter(|(id, seen)| &id.app == name && seen.phase == Phase::Stopping);
    leaving.find_map(|(id, seen)| trouble_with(view, id, seen).filter(|_| seen.failure.is_some()))
}

/// An instance that ended this long ago and was started again is told of though it runs, in milliseconds.
const RECENT: u64 = 600_000;

/// How an instance ended last, and how often that was.
fn ended_before(id: &InstanceId, seen: &ObservedInstance, exit: &Exit, now: Moment) -> String {
    let remedy = exit.remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    let (ago, times) = (now.since(exit.at) / 1000, seen.restarts);
    format!("{id} {}{remedy}; that was {ago} s ago, it was started again {times} times so far", ExitText(exit))
}

fn trouble_with(view: &View, id: &InstanceId, seen: &ObservedInstance) -> Option<Explanation> {
    let explain = |headline, evidence| Some(Explanation { subject: String::new(), headline, evidence });
    match (seen.phase, &seen.exit, &seen.probe) {
        (Phase::Exited, Some(exit), _) => explain(ended_before(id, seen, exit, view.now), exit.tail.clone()),
        (Phase::Failed, _, _) => {
            let why = seen.failure.clone().unwrap_or_default();
            explain(format!("{id} could not be started: {why}"), Vec::new())
        }
        (Phase::Stopping, _, _) if seen.failure.is_some() => {
            let why = seen.failure.clone().unwrap_or_default();
            explain(format!("{id} {why}"), Vec::new())
        }
        (Phase::Unhealthy, _, Some(probe)) => explain(
            format!("{id} fails its checks: {}: {}", probe.target, probe.outcome),
            probe.body.lines().map(str::to_owned).collect(),
        ),
        (Phase::Preparing | Phase::Starting, Some(exit), _) if seen.restarts > 0 => {
            explain(ended_before(id, seen, exit, view.now), exit.tail.clone())
        }
        (Phase::Ready, _, _) => None,
        (phase, _, _) => explain(format!("{id} is {}", phase.word()), Vec::new()),
    }
}

/// What is not quite well with one that serves.
fn worry_about(view: &View, id: &InstanceId, seen: &ObservedInstance) -> Option<Explanation> {
    let recent = |exit: &&Exit| seen.restarts > 0 && view.now.since(exit.at) < RECENT;
    let (headline, evidence) = match (seen.exit.as_ref().filter(recent), &seen.warning) {
        _ if seen.phase != Phase::Ready => return None,
        (Some(exit), _) => (ended_before(id, seen, exit, view.now), exit.tail.clone()),
        (None, warning) => (format!("{id} {}", warning.as_ref()?), Vec::new()),
    };
    Some(Explanation { subject: String::new(), headline, evidence })
}

/// Explains an instance.
pub(crate) fn instance(view: &View, id: &InstanceId) -> Option<Explanation> {
    let subject = format!("instance {id}");
    let (machine, _, _) = view.mirror.plan.assignments().find(|(_, other, _)| *other == id)?;
    let seen = view.observed.machines.get(machine).and_then(|report| report.instances.get(id));
    Some(match seen {
        None => {
            Explanation { subject, headline: format!("machine {machine} has not told of it yet"), evidence: Vec::new() }
        }
        Some(seen) => match trouble_with(view, id, seen).or_else(|| worry_about(view, id, seen)) {
            Some(explanation) => Explanation { subject, ..explanation },
            None => {
                let seconds = view.now.since(seen.since) / 1000;
                let headline = format!("{} for {seconds} s on {machine}", seen.phase.word());
                Explanation { subject, headline, evidence: Vec::new() }
            }
        },
    })
}
