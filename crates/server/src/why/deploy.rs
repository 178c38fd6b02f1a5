//! Explains the state of an open deploy and the result of an ended deploy.

use gantry_api::types::{CauseCode, CauseObject, Explanation, ObjectKind};
use gantry_model::{AppName, Deploy, DeployState, Reason, TimeSpan, instances_of};

use super::{BuildState, FoundCause, WhyInput, current};
use crate::core::ClusterView;

/// Returns the app's newest deploy.
pub(super) fn last_deploy<'a>(view: &'a ClusterView, name: &AppName) -> Option<&'a Deploy> {
    view.records.deploys.get(name)?.values().next_back().map(AsRef::as_ref)
}

/// Explains the open deploy and the condition that the deploy waits for.
pub(super) fn under_way(facts: &WhyInput<'_>, name: &AppName) -> Option<Explanation> {
    let view = facts.view;
    let deploy = view.records.open_deploys(name).find(|deploy| deploy.state != DeployState::Queued)?;
    let subject = format!("deploy {} of {}", deploy.number, deploy.app);
    if let Some(reason) = &deploy.reason {
        let found = FoundCause::of_reason(object(deploy), reason);
        let cause = format!("{}: {}", deploy.state, found.cause);
        return Some(FoundCause { cause, ..found }.with_subject(&subject));
    }
    let state = format!("{} for {}", deploy.state, TimeSpan(view.now.since(deploy.entered)));
    let wait = view.report.waits.get(&deploy.app).and_then(|waits| waits.first());
    let code = wait.map_or(CauseCode::DeployRuns, CauseCode::from);
    let found = FoundCause::new(code, object(deploy), state.clone());
    let found = found.evidence(wait.map(Reason::evidence).unwrap_or_default());
    let found = match wait {
        Some(Reason::BuildRuns) => {
            FoundCause { cause: format!("{state}: {}", building(facts.build.as_ref())), ..found }
        }
        Some(Reason::HeldForPromotion) => {
            let orders = format!("`gantry promote {name}` moves the traffic, `gantry abort {name}` takes it back");
            let serving = serving(view, name);
            let headline = format!("{state}: {orders}; {serving}");
            let found = FoundCause { cause: format!("{state}; {serving}"), ..found }.remedy(orders);
            return Some(Explanation { headline, ..found.with_subject(&subject) });
        }
        Some(wait @ Reason::ReleaseStepRuns { instance }) => {
            let reports = view.observed.machines.values();
            let seen = reports.flat_map(|report| instances_of(&report.instances, &instance.app));
            let newest = seen.filter(|(id, _)| id.slot == *instance).max_by_key(|(id, _)| id.number);
            let last_output = match newest.and_then(|(_, seen)| seen.last_output.as_ref()) {
                Some(output) => {
                    format!("its last output, {} ago: {}", TimeSpan(view.now.since(output.at)), output.line)
                }
                None => "no output yet".to_owned(),
            };
            FoundCause { cause: format!("{state}: {}", wait.cause()), ..found }.circumstances(last_output)
        }
        Some(wait) => FoundCause { cause: format!("{state}: {}", wait.cause()), remedy: wait.remedy(), ..found },
        None => found,
    };
    Some(found.with_subject(&subject))
}

fn object(deploy: &Deploy) -> CauseObject {
    CauseObject::new(ObjectKind::Deploy, deploy.number.0)
}

/// Describes the progress of a build.
fn building(build: Option<&BuildState>) -> String {
    let span = |duration: std::time::Duration| TimeSpan(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    match build {
        None => Reason::BuildRuns.to_string(),
        Some(build) if build.step.is_empty() => "the build waits for other builds to end".to_owned(),
        Some(BuildState { step, running, last_output: Some((line, ago)) }) => {
            format!("{step}, for {}; its last output, {} ago: {line}", span(*running), span(*ago))
        }
        Some(BuildState { step, running, last_output: None }) => {
            format!("{step}, for {}; no output yet", span(*running))
        }
    }
}

/// Explains the result of a deploy, and which release serves now.
pub(super) fn explain_ended(view: &ClusterView, deploy: &Deploy) -> Explanation {
    let subject = format!("deploy {} of {}", deploy.number, deploy.app);
    let found = match &deploy.reason {
        Some(reason) => {
            let found = FoundCause::of_reason(object(deploy), reason);
            FoundCause { cause: format!("{}: {}", deploy.outcome(), found.cause), ..found }
        }
        None => FoundCause::new(CauseCode::DeployDone, object(deploy), format!("{} ({})", deploy.state, deploy.cause)),
    };
    found.circumstances(serving(view, &deploy.app)).with_subject(&subject)
}

/// Describes which release serves, or at least runs.
pub(super) fn serving(view: &ClusterView, name: &AppName) -> String {
    let Some(number) = view.records.apps.get(name).and_then(|app| app.current) else {
        return "nothing serves".to_owned();
    };
    let Some(release) = current(view, name) else {
        return format!("{number} serves");
    };
    let scale = view.records.apps.get(name).map(|app| &app.scale);
    let copies = |role, settings: &gantry_model::Role| {
        scale.and_then(|scale| scale.get(role)).copied().unwrap_or(settings.instances)
    };
    let services = || release.services();
    let none: Vec<&str> =
        services().filter(|(role, settings)| copies(role, settings) == 0).map(|(role, _)| role.as_str()).collect();
    let verb = match (release.speaks_http(), services().count()) {
        (true, _) => format!("{number} serves"),
        (false, 0) => format!("{number} is the release; none of its roles keeps running"),
        (false, _) => format!("{number} runs; none of its roles serves HTTP"),
    };
    if none.is_empty() { verb } else { format!("{verb}; scaled to 0: {}", none.join(", ")) }
}
