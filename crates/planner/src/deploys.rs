//! The deploy's state machine: at most one transition per call, each with its reason. The diagram is in
//! `gantry_model::deploy`.

use gantry_model::deploy::DeployOrder;
use gantry_model::{
    AllocationId, AppName, Deploy, DeployCause, DeployState, InstanceGoal, InstancePhase, Reason, Release,
    ReleaseNumber, Role, Seconds, Slot,
};

use crate::DesiredApp;
use crate::demand::{CopyCount, release_step, release_step_done};
use crate::input::{PlanningInput, ReportedState};
use crate::instances::is_data_closed;
use crate::loads::{MachineLoads, demand};

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
pub(crate) fn advance(app: &mut DesiredApp, input: &PlanningInput<'_>, loads: &MachineLoads) -> Vec<Reason> {
    supersede(app, input);
    let Some(index) = active(app) else {
        start_next(app, input);
        return Vec::new();
    };
    let mut waits = Vec::new();
    match step(app, index, input, loads) {
        DeployStep::Wait(reason) => waits.push(reason),
        DeployStep::Enter(state) => enter(app, index, state, input),
        DeployStep::Fail(reason) => fail(app, index, reason, input),
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
fn supersede(app: &mut DesiredApp, input: &PlanningInput<'_>) {
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
            finish(deploy, DeployState::Superseded, Reason::AppDestroyed, input);
        } else if deploy.order == Some(DeployOrder::Abort) {
            finish(deploy, DeployState::Superseded, Reason::Aborted, input);
        } else if deploy.number != newest {
            finish(deploy, DeployState::Superseded, Reason::SupersededBy { deploy: newest }, input);
        }
    }
}

fn finish(deploy: &mut Deploy, state: DeployState, reason: Reason, input: &PlanningInput<'_>) {
    deploy.enter(state, input.now);
    deploy.reason = Some(reason);
}

fn start_next(app: &mut DesiredApp, input: &PlanningInput<'_>) {
    let current = app.app.current;
    if let Some(deploy) = app.deploys.iter_mut().find(|deploy| deploy.state == DeployState::Queued) {
        deploy.previous = current;
        deploy.enter(DeployState::Building, input.now);
    }
}

fn enter(app: &mut DesiredApp, index: usize, state: DeployState, input: &PlanningInput<'_>) {
    let deploy = &mut app.deploys[index];
    deploy.enter(state, input.now);
    match state {
        DeployState::Promoting => app.app.current = deploy.release,
        // A rollback restores its release's configuration only once the rollback can no longer fail: a failed deploy
        // changes nothing.
        DeployState::Done if matches!(deploy.cause, DeployCause::Rollback { .. }) => {
            if let Some(release) = deploy.release.and_then(|number| app.releases.get(&number)) {
                app.app.config.clone_from(&*release.config);
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
fn fail(app: &mut DesiredApp, index: usize, reason: Reason, input: &PlanningInput<'_>) {
    let deploy = &mut app.deploys[index];
    let (promoted, release, previous) = (deploy.has_promoted(), deploy.release, deploy.previous);
    finish(deploy, DeployState::Reverting, reason, input);
    // Keeps variables that a user changed in the meantime.
    if let Some(release) = deploy.release.and_then(|number| app.releases.get(&number)) {
        app.app
            .config
            .retain(|name, value| !(deploy.brought.contains(name) && release.config.get(name) == Some(value)));
    }
    // The app's record may name the release already, while the deploy's record of the promotion was never written.
    if promoted || app.app.current == release {
        app.app.current = previous;
    }
}

fn step(app: &mut DesiredApp, index: usize, input: &PlanningInput<'_>, loads: &MachineLoads) -> DeployStep {
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
    let slots = CopyCount { input, loads }.slots_of(&app.app, &release);
    let step = match deploy.state {
        DeployState::Placing => place(input),
        DeployState::Starting => start(app, &release, &slots, input, loads),
        DeployState::Verifying => verify(deploy, &slots, input),
        DeployState::Held => held(deploy, &slots, input),
        DeployState::Promoting => promote(&app.app.name, input),
        DeployState::Draining => return drain(app, index, &slots, input),
        DeployState::Reverting => return revert(deploy, input),
        _ => DeployStep::Wait(Reason::BuildRuns),
    };
    match step {
        DeployStep::Wait(reason) => bound(&mut app.deploys[index], progress(&release, &slots, input), reason, input),
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

fn place(input: &PlanningInput<'_>) -> DeployStep {
    if input.observed.machines.is_empty() {
        return DeployStep::Wait(Reason::NoMachine);
    }
    DeployStep::Enter(DeployState::Starting)
}

/// Starts the release step alone, and then the process of every instance.
fn start(
    app: &DesiredApp,
    release: &Release,
    slots: &[Slot],
    input: &PlanningInput<'_>,
    loads: &MachineLoads,
) -> DeployStep {
    if let Some(step) = release_step(release)
        && let Some(outcome) = run_release_step(&step, input)
    {
        let refused = || no_room(app, &step, &release.roles[&step.role], input, loads);
        return match outcome {
            DeployStep::Wait(reason) => DeployStep::Wait(refused().unwrap_or(reason)),
            outcome => outcome,
        };
    }
    // A failed instance decides before an instance that is only slow.
    if let Some(step) = failed(slots, input) {
        return step;
    }
    for slot in slots {
        match input.reported_state(slot) {
            ReportedState::Here(instance) => match instance.phase {
                InstancePhase::Starting | InstancePhase::Ready | InstancePhase::Unhealthy => {}
                _ => return failed_or_waiting(slot, input),
            },
            _ => return DeployStep::Wait(unplaced(app, slot, &release.roles[&slot.role], input, loads)),
        }
    }
    DeployStep::Enter(DeployState::Verifying)
}

/// Reason why an instance does not exist yet.
fn unplaced(app: &DesiredApp, slot: &Slot, role: &Role, input: &PlanningInput<'_>, loads: &MachineLoads) -> Reason {
    // While the machine with the data takes no new copies, the old copy serves on.
    let blocker = input.stop_first_blocker(slot, role).filter(|_| !is_data_closed(role, &[app], input));
    match blocker {
        Some(blocker) => Reason::StopFirst { role: slot.role.clone(), instance: blocker },
        None => no_room(app, slot, role, input, loads)
            .unwrap_or_else(|| Reason::NotReady { instance: slot.clone(), probe: None }),
    }
}

/// Reason why no machine takes an instance that is not placed; `None` if a machine does.
fn no_room(
    app: &DesiredApp,
    slot: &Slot,
    role: &Role,
    input: &PlanningInput<'_>,
    loads: &MachineLoads,
) -> Option<Reason> {
    if input.current(slot).is_some() {
        return None;
    }
    let mut demand = demand(slot, role);
    demand.pinned.extend(loads.data(role, [Some(app), None]));
    let refusal = loads.refusal(&demand)?;
    Some(Reason::NoRoom { instance: slot.clone(), refusal })
}

/// Step of a deploy with a release step; `None` once the release step has succeeded.
fn run_release_step(slot: &Slot, input: &PlanningInput<'_>) -> Option<DeployStep> {
    let waiting = || Some(DeployStep::Wait(Reason::ReleaseStepRuns { instance: slot.clone() }));
    let ReportedState::Here(instance) = input.reported_state(slot) else {
        return waiting();
    };
    match (instance.phase, &instance.exit) {
        (InstancePhase::Exited, Some(exit)) if exit.success() => None,
        (InstancePhase::Exited, Some(exit)) => {
            let (instance, exit) = (Some(slot.clone()), exit.clone());
            Some(DeployStep::Fail(Reason::ReleaseStepFailed { instance, exit }))
        }
        (InstancePhase::Failed, _) => Some(failed_or_waiting(slot, input)),
        _ => waiting(),
    }
}

/// Step of a deploy for one of its instances: an instance that exited or cannot start fails the deploy at once;
/// otherwise the deploy waits.
fn failed_or_waiting(slot: &Slot, input: &PlanningInput<'_>) -> DeployStep {
    let (Some(placed), ReportedState::Here(instance)) = (input.current(slot), input.reported_state(slot)) else {
        return DeployStep::Wait(Reason::NotReady { instance: slot.clone(), probe: None });
    };
    match (instance.phase, &instance.exit) {
        (InstancePhase::Exited, Some(exit)) => {
            DeployStep::Fail(Reason::Exited { instance: placed.id.clone(), exit: exit.clone() })
        }
        (InstancePhase::Failed, _) => DeployStep::Fail(Reason::CannotStart {
            instance: placed.id.clone(),
            message: instance.failure.clone().unwrap_or_default(),
        }),
        (InstancePhase::Preparing, None) if instance.failure.is_none() => {
            DeployStep::Wait(Reason::PreparesImage { instance: slot.clone() })
        }
        _ => DeployStep::Wait(Reason::NotReady { instance: slot.clone(), probe: instance.probe.clone().map(Box::new) }),
    }
}

/// The failure of the first instance that exited or cannot start; `None` if there is none.
fn failed(slots: &[Slot], input: &PlanningInput<'_>) -> Option<DeployStep> {
    slots.iter().map(|slot| failed_or_waiting(slot, input)).find(|step| matches!(step, DeployStep::Fail(_)))
}

/// The step for the first instance that is not ready; `None` if all are ready.
fn first_unready(slots: &[Slot], input: &PlanningInput<'_>) -> Option<DeployStep> {
    slots
        .iter()
        .find(
            |slot| !matches!(input.reported_state(slot), ReportedState::Here(instance) if instance.phase == InstancePhase::Ready),
        )
        .map(|slot| failed_or_waiting(slot, input))
}

fn verify(deploy: &Deploy, slots: &[Slot], input: &PlanningInput<'_>) -> DeployStep {
    // A failed instance decides before an instance that is only slow.
    if let Some(step) = failed(slots, input).or_else(|| first_unready(slots, input)) {
        return step;
    }
    if deploy.hold && deploy.order != Some(DeployOrder::Promote) {
        return DeployStep::Enter(DeployState::Held);
    }
    DeployStep::Enter(DeployState::Promoting)
}

/// Step of a held deploy. A held release may wait for days, and its instances may restart meanwhile; promotion requires
/// all of them to be ready.
fn held(deploy: &Deploy, slots: &[Slot], input: &PlanningInput<'_>) -> DeployStep {
    if deploy.order != Some(DeployOrder::Promote) {
        return DeployStep::Wait(Reason::HeldForPromotion);
    }
    match first_unready(slots, input) {
        None => DeployStep::Enter(DeployState::Promoting),
        Some(_) => DeployStep::Enter(DeployState::Verifying),
    }
}

/// Step of a promotion. The app's previous routes already name the new release, and every live router must have these
/// routes.
fn promote(app: &AppName, input: &PlanningInput<'_>) -> DeployStep {
    match input.routers_behind(input.routes_revision(app)) {
        Some(behind) => DeployStep::Wait(behind),
        None => DeployStep::Enter(DeployState::Draining),
    }
}

fn drain(app: &DesiredApp, index: usize, slots: &[Slot], input: &PlanningInput<'_>) -> DeployStep {
    let deploy = &app.deploys[index];
    for slot in slots {
        if let ReportedState::Here(instance) = input.reported_state(slot) {
            match instance.phase {
                InstancePhase::Exited | InstancePhase::Failed => return failed_or_waiting(slot, input),
                InstancePhase::Unhealthy => {
                    return DeployStep::Fail(Reason::NotReady {
                        instance: slot.clone(),
                        probe: instance.probe.clone().map(Box::new),
                    });
                }
                _ => {}
            }
        }
    }
    if input.is_baking(deploy) {
        return DeployStep::Wait(Reason::Watching {
            watch: input.policy.watch,
            standing_by: standing_by(deploy, input),
        });
    }
    match retiring(deploy, input) {
        Some(wait) => DeployStep::Wait(wait),
        None => DeployStep::Enter(DeployState::Done),
    }
}

/// The old release, if one of its service instances still runs. A role with a volume has no such instance, because its
/// old copy ended first.
fn standing_by(deploy: &Deploy, input: &PlanningInput<'_>) -> Option<ReleaseNumber> {
    let stands = input.assignments_of(&deploy.app).any(|(id, assignment)| {
        let is_of_previous = Some(id.slot.release) == deploy.previous;
        is_of_previous && assignment.spec.role.is_service() && assignment.goal != InstanceGoal::Stop
    });
    deploy.previous.filter(|previous| stands && Some(*previous) != deploy.release)
}

/// Reason why the deploy waits for an old instance without a stop goal.
fn retiring(deploy: &Deploy, input: &PlanningInput<'_>) -> Option<Reason> {
    let mut of_others = input.assignments_of(&deploy.app).filter(|(id, _)| Some(id.slot.release) != deploy.release);
    of_others.find_map(|(id, assignment)| not_stopped(id, assignment, input))
}

/// Step of a revert: the revert ends once all new instances must stop and the routers have the old routes.
fn revert(deploy: &Deploy, input: &PlanningInput<'_>) -> DeployStep {
    let mut of_new = input.assignments_of(&deploy.app).filter(|(id, _)| Some(id.slot.release) == deploy.release);
    match of_new.find_map(|(id, assignment)| not_stopped(id, assignment, input)) {
        Some(wait) => DeployStep::Wait(wait),
        None => DeployStep::Enter(DeployState::Reverted),
    }
}

fn not_stopped(id: &AllocationId, assignment: &gantry_model::Assignment, input: &PlanningInput<'_>) -> Option<Reason> {
    match assignment.goal {
        InstanceGoal::Stop => None,
        InstanceGoal::Run => Some(Reason::Stopping { instance: id.clone() }),
        // A role may finish requests for hours; the next deploy does not wait for them.
        InstanceGoal::Retire { since, .. } if input.retired_for(since) > input.policy.drain.millis() => None,
        InstanceGoal::Retire { removed_in, .. } => {
            Some(input.routers_behind(removed_in).unwrap_or_else(|| match input.active_requests(id) {
                0 => Reason::Stopping { instance: id.clone() },
                count => Reason::RequestsUnderWay { instance: id.clone(), count },
            }))
        }
    }
}

/// Weight of a completed step. One step outweighs every unpacked image.
const STEP: u64 = 1 << 32;

/// Counts the progress of a deploy: its completed steps (the release step, old copies that are gone, the phases of each
/// instance), and the mebibytes that the instances' machines have unpacked. The unpacking of a large image takes longer
/// than the deadline.
fn progress(release: &Release, slots: &[Slot], input: &PlanningInput<'_>) -> u64 {
    let steps = |slot: &Slot| match input.reported_state(slot) {
        ReportedState::Here(instance) => instance.phase.steps() * STEP + (instance.unpacked >> 20),
        _ => 0,
    };
    let may_begin = |slot: &Slot| input.stop_first_blocker(slot, &release.roles[&slot.role]).is_none();
    let of_instances: u64 = slots.iter().map(|slot| steps(slot) + u64::from(may_begin(slot)) * STEP).sum();
    of_instances + u64::from(release_step_done(release, input)) * STEP
}

/// Applies the deadline: a deploy without progress for too long fails.
fn bound(deploy: &mut Deploy, progress: u64, reason: Reason, input: &PlanningInput<'_>) -> DeployStep {
    if deploy.state == DeployState::Held {
        return DeployStep::Wait(reason);
    }
    if progress > deploy.progress {
        deploy.progress = progress;
        deploy.progressed = input.now;
    }
    // The release step (such as a migration) has no deadline: every report mentions it, and `gantry abort` ends it.
    let exempt = matches!(reason, Reason::ReleaseStepRuns { .. });
    // An old copy may drain and stop for as long as its role permits.
    let more = match &reason {
        Reason::StopFirst { instance, .. } => input.assigned(instance).map_or(0, |old| {
            old.spec.role.drain.unwrap_or(input.policy.drain).0.saturating_add(old.spec.role.stop_timeout.0)
        }),
        // A role may declare a start time that is longer than the deadline.
        Reason::NotReady { instance, .. } | Reason::PreparesImage { instance } => {
            let start = input.current(instance).and_then(|placed| placed.assignment.spec.role.health.start);
            start.map_or(0, |start| start.0.saturating_sub(input.policy.progress.0))
        }
        _ => 0,
    };
    let deadline = Seconds(input.policy.progress.0.saturating_add(more));
    // The deadline does not count time while no server ran.
    let since = deploy.progressed.max(input.observed.began);
    if !exempt && input.now.since(since) >= deadline.millis() {
        return DeployStep::Fail(Reason::NoProgress { waited: deadline, on: Some(Box::new(reason)) });
    }
    DeployStep::Wait(reason)
}
