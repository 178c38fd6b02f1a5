//! The deploy's state machine: at most one transition per call, each with its reason. The diagram is in
//! `gantry_model::deploy`.

use gantry_model::deploy::DeployOrder;
use gantry_model::{
    Deploy, DeployCause, DeployState, InstanceGoal, InstanceId, InstancePhase, Reason, Release, ReleaseNumber, Role,
    Seconds,
};

use crate::DesiredApp;
use crate::instances::{stop_first_blocker, wanted_of};
use crate::scene::{PlanningInput, ReportedState};

/// Step of a deploy in this pass.
enum DeployStep {
    /// The deploy waits, for this reason.
    Wait(Reason),
    /// The deploy enters this state.
    Enter(DeployState),
    /// The deploy fails, for this reason.
    Fail(Reason),
}

/// Advances an app's deploys by at most one step each, and returns the reasons for which deploys wait.
pub(crate) fn advance(app: &mut DesiredApp, scene: &PlanningInput<'_>) -> Vec<Reason> {
    supersede(app, scene);
    let Some(index) = active(app) else {
        start_next(app, scene);
        return Vec::new();
    };
    let mut waits = Vec::new();
    match step(app, index, scene) {
        DeployStep::Wait(reason) => waits.push(reason),
        DeployStep::Enter(state) => enter(app, index, state, scene),
        DeployStep::Fail(reason) => fail(app, index, reason, scene),
    }
    let number = app.deploys[index].number;
    waits.extend(
        app.deploys
            .iter()
            .filter(|deploy| deploy.state == DeployState::Queued)
            .map(|_| Reason::WaitsForDeploy { deploy: number }),
    );
    waits
}

/// Index of the running deploy. At most one deploy runs, because only `start_next` begins a deploy.
fn active(app: &DesiredApp) -> Option<usize> {
    app.deploys.iter().position(|deploy| !deploy.state.is_final() && deploy.state != DeployState::Queued)
}

/// Supersedes all queued deploys except the newest.
fn supersede(app: &mut DesiredApp, scene: &PlanningInput<'_>) {
    // A configuration change needs no deploy of its own beside another queued deploy. The other deploy's release
    // carries the change, or a later rollback restores its old configuration.
    let queued = || app.deploys.iter().filter(|deploy| deploy.state == DeployState::Queued);
    let carries = |deploy: &&Deploy| !matches!(deploy.cause, DeployCause::Config { .. });
    let newest = queued().filter(carries).map(|d| d.number).max().or_else(|| queued().map(|d| d.number).max());
    let Some(newest) = newest else {
        return;
    };
    for deploy in app.deploys.iter_mut().filter(|d| d.state == DeployState::Queued) {
        if app.app.destroying {
            finish(deploy, DeployState::Superseded, Reason::AppDestroyed, scene);
        } else if deploy.order == Some(DeployOrder::Abort) {
            finish(deploy, DeployState::Superseded, Reason::Aborted, scene);
        } else if deploy.number != newest {
            finish(deploy, DeployState::Superseded, Reason::SupersededBy { deploy: newest }, scene);
        }
    }
}

fn finish(deploy: &mut Deploy, state: DeployState, reason: Reason, scene: &PlanningInput<'_>) {
    deploy.enter(state, scene.now);
    deploy.reason = Some(reason);
}

fn start_next(app: &mut DesiredApp, scene: &PlanningInput<'_>) {
    let current = app.app.current;
    if let Some(deploy) = app.deploys.iter_mut().find(|deploy| deploy.state == DeployState::Queued) {
        deploy.previous = current;
        deploy.enter(DeployState::Building, scene.now);
    }
}

fn enter(app: &mut DesiredApp, index: usize, state: DeployState, scene: &PlanningInput<'_>) {
    let deploy = &mut app.deploys[index];
    deploy.enter(state, scene.now);
    match state {
        DeployState::Promoting => app.app.current = deploy.release,
        // A rollback restores its release's configuration only once the rollback can no longer fail: a failed deploy
        // changes nothing.
        DeployState::Done if matches!(deploy.cause, DeployCause::Rollback { .. }) => {
            if let Some(release) = deploy.release.and_then(|number| app.releases.get(&number)) {
                app.app.config.clone_from(&release.config);
            }
        }
        DeployState::Done => {
            if let DeployCause::Image { change, .. } = &deploy.cause {
                app.app.image.apply(change);
            }
        }
        _ => {}
    }
}

/// Starts the revert. Clients keep the previous release; if the deploy has already moved the traffic, the traffic moves
/// back now.
fn fail(app: &mut DesiredApp, index: usize, reason: Reason, scene: &PlanningInput<'_>) {
    let deploy = &mut app.deploys[index];
    let (promoted, previous) = (deploy.has_promoted(), deploy.previous);
    finish(deploy, DeployState::Reverting, reason, scene);
    // Keeps variables that a user changed in the meantime.
    if let Some(release) = deploy.release.and_then(|number| app.releases.get(&number)) {
        app.app
            .config
            .retain(|name, value| !(deploy.brought.contains(name) && release.config.get(name) == Some(value)));
    }
    if promoted {
        app.app.current = previous;
    }
}

fn step(app: &mut DesiredApp, index: usize, scene: &PlanningInput<'_>) -> DeployStep {
    let deploy = &app.deploys[index];
    if deploy.state != DeployState::Reverting {
        if app.app.destroying {
            return DeployStep::Fail(Reason::AppDestroyed);
        }
        if deploy.order == Some(DeployOrder::Abort) {
            return DeployStep::Fail(Reason::Aborted);
        }
    }
    let release = deploy.release.and_then(|number| app.releases.get(&number)).cloned();
    let Some(release) = release else {
        return without_release(deploy);
    };
    let ids: Vec<InstanceId> = wanted_of(&app.app, &release).map(|(id, _)| id).collect();
    let step = match deploy.state {
        DeployState::Placing => place(scene),
        DeployState::Starting => start(&release, &ids, scene),
        DeployState::Verifying => verify(deploy, &ids, scene),
        DeployState::Held => held(deploy, &ids, scene),
        DeployState::Promoting => promote(scene),
        DeployState::Draining => return drain(app, index, &ids, scene),
        DeployState::Reverting => return revert(deploy, scene),
        _ => DeployStep::Wait(Reason::BuildRuns),
    };
    match step {
        DeployStep::Wait(reason) => bound(&mut app.deploys[index], progress(&release, &ids, scene), reason, scene),
        step => step,
    }
}

/// Step of a deploy without a release: the deploy waits for the build executor, or ends its revert.
fn without_release(deploy: &Deploy) -> DeployStep {
    match deploy.state {
        DeployState::Reverting => DeployStep::Enter(DeployState::Reverted),
        _ => DeployStep::Wait(Reason::BuildRuns),
    }
}

fn place(scene: &PlanningInput<'_>) -> DeployStep {
    if scene.observed.machines.is_empty() {
        return DeployStep::Wait(Reason::NoMachine);
    }
    DeployStep::Enter(DeployState::Starting)
}

/// Starts the release step alone, and then the process of every instance.
fn start(release: &Release, ids: &[InstanceId], scene: &PlanningInput<'_>) -> DeployStep {
    if let Some(step) = release_step(release)
        && let Some(outcome) = run_release_step(&step, scene)
    {
        return outcome;
    }
    // A failed instance decides before an instance that is only slow.
    if let Some(step) = failed(ids, scene) {
        return step;
    }
    for id in ids {
        match scene.seen(id) {
            ReportedState::Here(instance) => match instance.phase {
                InstancePhase::Starting | InstancePhase::Ready | InstancePhase::Unhealthy => {}
                _ => return failed_or_waiting(id, scene),
            },
            _ => return DeployStep::Wait(unplaced(id, &release.roles[&id.role], scene)),
        }
    }
    DeployStep::Enter(DeployState::Verifying)
}

/// Why an instance does not exist yet.
fn unplaced(id: &InstanceId, role: &Role, scene: &PlanningInput<'_>) -> Reason {
    match stop_first_blocker(id, role, scene) {
        Some(blocker) => Reason::StopFirst { role: id.role.clone(), instance: blocker },
        None => Reason::NotReady { instance: id.clone(), probe: None },
    }
}

/// Id of a release's release step, if the release has one.
pub(crate) fn release_step(release: &Release) -> Option<InstanceId> {
    let role = release.roles.keys().find(|role| role.is_release_step())?;
    Some(InstanceId { app: release.app.clone(), release: release.number, role: role.clone(), index: 1 })
}

/// Reports whether the release step succeeded, or the release has none.
pub(crate) fn release_step_done(release: &Release, scene: &PlanningInput<'_>) -> bool {
    release_step(release).is_none_or(|id| run_release_step(&id, scene).is_none())
}

/// Step of a deploy with a release step; `None` once the release step has succeeded.
fn run_release_step(id: &InstanceId, scene: &PlanningInput<'_>) -> Option<DeployStep> {
    let waiting = || Some(DeployStep::Wait(Reason::ReleaseStepRuns { instance: id.clone() }));
    let ReportedState::Here(instance) = scene.seen(id) else {
        return waiting();
    };
    match (instance.phase, &instance.exit) {
        (InstancePhase::Exited, Some(exit)) if exit.success() => None,
        (InstancePhase::Exited, Some(exit)) => Some(DeployStep::Fail(Reason::ReleaseStepFailed { exit: exit.clone() })),
        (InstancePhase::Failed, _) => Some(failed_or_waiting(id, scene)),
        _ => waiting(),
    }
}

/// Step of a deploy for one of its instances: an instance that exited or cannot start fails the deploy at once;
/// otherwise the deploy waits.
fn failed_or_waiting(id: &InstanceId, scene: &PlanningInput<'_>) -> DeployStep {
    let ReportedState::Here(instance) = scene.seen(id) else {
        return DeployStep::Wait(Reason::NotReady { instance: id.clone(), probe: None });
    };
    match (instance.phase, &instance.exit) {
        (InstancePhase::Exited, Some(exit)) => {
            DeployStep::Fail(Reason::Exited { instance: id.clone(), exit: exit.clone() })
        }
        (InstancePhase::Failed, _) => DeployStep::Fail(Reason::CannotStart {
            instance: id.clone(),
            message: instance.failure.clone().unwrap_or_default(),
        }),
        _ => DeployStep::Wait(Reason::NotReady { instance: id.clone(), probe: instance.probe.clone().map(Box::new) }),
    }
}

/// The failure of the first instance that exited or cannot start; `None` if there is none.
fn failed(ids: &[InstanceId], scene: &PlanningInput<'_>) -> Option<DeployStep> {
    ids.iter().map(|id| failed_or_waiting(id, scene)).find(|step| matches!(step, DeployStep::Fail(_)))
}

/// The step for the first instance that is not ready; `None` if all are ready.
fn first_unready(ids: &[InstanceId], scene: &PlanningInput<'_>) -> Option<DeployStep> {
    ids.iter()
        .find(|id| !matches!(scene.seen(id), ReportedState::Here(instance) if instance.phase == InstancePhase::Ready))
        .map(|id| failed_or_waiting(id, scene))
}

fn verify(deploy: &Deploy, ids: &[InstanceId], scene: &PlanningInput<'_>) -> DeployStep {
    // A failed instance decides before an instance that is only slow.
    if let Some(step) = failed(ids, scene).or_else(|| first_unready(ids, scene)) {
        return step;
    }
    if deploy.hold && deploy.order != Some(DeployOrder::Promote) {
        return DeployStep::Enter(DeployState::Held);
    }
    DeployStep::Enter(DeployState::Promoting)
}

/// Step of a held deploy. A held release may wait for days, and its instances may restart meanwhile; promotion requires
/// all of them to be ready.
fn held(deploy: &Deploy, ids: &[InstanceId], scene: &PlanningInput<'_>) -> DeployStep {
    if deploy.order != Some(DeployOrder::Promote) {
        return DeployStep::Wait(Reason::HeldForPromotion);
    }
    match first_unready(ids, scene) {
        None => DeployStep::Enter(DeployState::Promoting),
        Some(_) => DeployStep::Enter(DeployState::Verifying),
    }
}

/// Step of a promotion. The previous plan's routing table already names the new release, and every live router must
/// have that table.
fn promote(scene: &PlanningInput<'_>) -> DeployStep {
    match scene.routers_behind(scene.previous.table.generation) {
        Some(behind) => DeployStep::Wait(behind),
        None => DeployStep::Enter(DeployState::Draining),
    }
}

fn drain(app: &DesiredApp, index: usize, ids: &[InstanceId], scene: &PlanningInput<'_>) -> DeployStep {
    let deploy = &app.deploys[index];
    for id in ids {
        if let ReportedState::Here(instance) = scene.seen(id) {
            match instance.phase {
                InstancePhase::Exited | InstancePhase::Failed => return failed_or_waiting(id, scene),
                InstancePhase::Unhealthy => {
                    return DeployStep::Fail(Reason::NotReady {
                        instance: id.clone(),
                        probe: instance.probe.clone().map(Box::new),
                    });
                }
                _ => {}
            }
        }
    }
    if is_watching(deploy, scene) {
        return DeployStep::Wait(Reason::Watching {
            watch: scene.policy.watch,
            standing_by: standing_by(deploy, scene),
        });
    }
    match retiring(deploy, scene) {
        Some(wait) => DeployStep::Wait(wait),
        None => DeployStep::Enter(DeployState::Done),
    }
}

/// Reports whether the deploy is in its bake time: after promotion the old release stands by for a while.
pub(crate) fn is_watching(deploy: &Deploy, scene: &PlanningInput<'_>) -> bool {
    match deploy.state {
        DeployState::Promoting => true,
        // The bake time restarts with the controller: failures from its absence are reported first.
        DeployState::Draining => {
            scene.now.since(deploy.entered.max(scene.observed.began)) < scene.policy.watch.millis()
        }
        _ => false,
    }
}

/// The old release, if one of its service instances still runs. A role with a volume has no such instance, because its
/// old copy ended first.
fn standing_by(deploy: &Deploy, scene: &PlanningInput<'_>) -> Option<ReleaseNumber> {
    let stands_by = |id: &InstanceId, goal: InstanceGoal| {
        id.app == deploy.app
            && Some(id.release) == deploy.previous
            && id.role.is_service()
            && goal != InstanceGoal::Stop
    };
    let stands = scene.previous.assignments().any(|(_, id, assignment)| stands_by(id, assignment.goal));
    deploy.previous.filter(|previous| stands && Some(*previous) != deploy.release)
}

/// Why the deploy waits for an old instance without a stop goal.
fn retiring(deploy: &Deploy, scene: &PlanningInput<'_>) -> Option<Reason> {
    let of_others = |id: &InstanceId| id.app == deploy.app && Some(id.release) != deploy.release;
    scene.previous.assignments().filter(|(_, id, _)| of_others(id)).find_map(|(_, id, a)| not_stopped(id, a, scene))
}

/// Step of a revert: the revert ends once all new instances must stop and the routers have the old routing table.
fn revert(deploy: &Deploy, scene: &PlanningInput<'_>) -> DeployStep {
    let of_new = |id: &InstanceId| id.app == deploy.app && Some(id.release) == deploy.release;
    let unstopped = scene
        .previous
        .assignments()
        .filter(|(_, id, _)| of_new(id))
        .find_map(|(_, id, assignment)| not_stopped(id, assignment, scene));
    match unstopped {
        Some(wait) => DeployStep::Wait(wait),
        None => DeployStep::Enter(DeployState::Reverted),
    }
}

fn not_stopped(id: &InstanceId, assignment: &gantry_model::Assignment, scene: &PlanningInput<'_>) -> Option<Reason> {
    match assignment.goal {
        InstanceGoal::Stop => None,
        InstanceGoal::Run => Some(Reason::Stopping { instance: id.clone() }),
        // A role may finish requests for hours; the next deploy does not wait for them.
        InstanceGoal::Retire { since, .. } if scene.retired_for(since) > scene.policy.drain.millis() => None,
        InstanceGoal::Retire { removed_in, .. } => {
            Some(scene.routers_behind(removed_in).unwrap_or_else(|| match scene.active_requests(id) {
                0 => Reason::Stopping { instance: id.clone() },
                count => Reason::RequestsUnderWay { instance: id.clone(), count },
            }))
        }
    }
}

/// Counts the completed steps of a deploy: its release step, old copies that are gone, and the progress of each
/// instance.
fn progress(release: &Release, ids: &[InstanceId], scene: &PlanningInput<'_>) -> u64 {
    let steps = |id: &InstanceId| match scene.seen(id) {
        ReportedState::Here(instance) => instance.phase.steps(),
        _ => 0,
    };
    let may_begin = |id: &InstanceId| stop_first_blocker(id, &release.roles[&id.role], scene).is_none();
    let of_instances: u64 = ids.iter().map(|id| steps(id) + u64::from(may_begin(id))).sum();
    of_instances + u64::from(release_step_done(release, scene))
}

/// Applies the deadline: a deploy without progress for too long fails.
fn bound(deploy: &mut Deploy, progress: u64, reason: Reason, scene: &PlanningInput<'_>) -> DeployStep {
    if deploy.state == DeployState::Held {
        return DeployStep::Wait(reason);
    }
    if progress > deploy.progress {
        deploy.progress = progress;
        deploy.progressed = scene.now;
    }
    // The release step (such as a migration) has no deadline: every report mentions it, and `gantry abort` ends it.
    let exempt = matches!(reason, Reason::ReleaseStepRuns { .. });
    // An old copy may drain and stop for as long as its role permits.
    let more = match &reason {
        Reason::StopFirst { instance, .. } => scene.assigned(instance).map_or(0, |(_, old)| {
            old.spec.role.drain.unwrap_or(scene.policy.drain).0.saturating_add(old.spec.role.stop_timeout.0)
        }),
        // A role may declare a start time that is longer than the deadline.
        Reason::NotReady { instance, .. } => {
            let start = scene.assigned(instance).and_then(|(_, assignment)| assignment.spec.role.health.start);
            start.map_or(0, |start| start.0.saturating_sub(scene.policy.progress.0))
        }
        _ => 0,
    };
    let deadline = Seconds(scene.policy.progress.0.saturating_add(more));
    // The deadline does not count time while no controller ran.
    let since = deploy.progressed.max(scene.observed.began);
    if !exempt && scene.now.since(since) >= deadline.millis() {
        return DeployStep::Fail(Reason::NoProgress { waited: deadline, on: Some(Box::new(reason)) });
    }
    DeployStep::Wait(reason)
}
