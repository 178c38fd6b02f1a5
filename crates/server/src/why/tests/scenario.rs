//! A healthy app, and the means to break it.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::types::{CauseCode, Explanation};
use gantry_model::{
    AllocationId, App, AppName, Assignment, Deploy, DeployCause, DeployNumber, DeployState, Digest, ExitStatus,
    Exposure, FailedProbe, FailureRun, InstanceGoal, InstancePhase, InstanceSpec, Kind, MachineName, MachineRefusal,
    Moment, ObservedCluster, ObservedInstance, ObservedMachine, ObservedRouter, PlacementRefusal, Reason,
    RefusingMachines, Release, ReleaseConfig, ReleaseNumber, RequestFailure, Role, RoleCommand, RoleName, RouterId,
};
use gantry_records::{CodeRecord, RecordIndex, StoreRecord};

use crate::core::ClusterView;
use crate::why::{BuildState, DiskSpace, WhyInput, app, instance};

/// Time of all explanations in milliseconds: a little over an hour after the start.
pub(super) const NOW: u64 = 4_000_000;

/// A healthy app for a test to break: two web copies, a worker, a release step, and a finished first deploy.
pub(super) struct AppScenario {
    pub(super) app: App,
    pub(super) deploys: Vec<Deploy>,
    pub(super) roles: BTreeMap<RoleName, Role>,
    pub(super) seen: BTreeMap<AllocationId, ObservedInstance>,
    pub(super) router: Option<ObservedRouter>,
    pub(super) machine: Option<Moment>,
    pub(super) waits: Vec<Reason>,
    pub(super) build: Option<BuildState>,
    pub(super) disk: Option<DiskSpace>,
    pub(super) codes: Vec<CodeRecord>,
}

pub(super) fn shop() -> AppName {
    AppName::parse("shop").expect("a name")
}

pub(super) fn id(short: &str) -> AllocationId {
    AllocationId::parse(&format!("shop.v1.{short}")).expect("an id")
}

pub(super) fn role(name: &str) -> RoleName {
    RoleName::parse(name).expect("a role")
}

pub(super) fn well() -> ObservedInstance {
    let since = Moment(NOW - 3_000_000);
    ObservedInstance { started: Some(since), ..ObservedInstance::new(InstancePhase::Ready, since) }
}

pub(super) fn deploy(number: u64, state: DeployState) -> Deploy {
    let cause = DeployCause::Config { keys: vec!["A".into()] };
    let mut deploy = Deploy::new(shop(), DeployNumber(number), cause, "test".into(), false, Moment(NOW - 3_500_000));
    deploy.enter(state, Moment(NOW - 3_000_000));
    deploy.release = Some(ReleaseNumber(number));
    deploy
}

pub(super) fn exited(code: Option<i32>, signal: Option<i32>) -> ExitStatus {
    ExitStatus { code, signal, at: Moment(NOW - 4_000), tail: vec!["boom".into()], ..ExitStatus::default() }
}

pub(super) fn probe(status: Option<u16>, outcome: &str, body: &str) -> FailedProbe {
    FailedProbe {
        target: "GET http://10.83.0.5:8080/up".into(),
        outcome: outcome.into(),
        body: body.into(),
        at: Moment(NOW),
        check: "GET /up".into(),
        status,
        remedy: None,
    }
}

pub(super) fn run(count: u64, instance: Option<&str>, status: u16) -> FailureRun {
    let (since, last) = (Moment(NOW - 180_000), Moment(NOW - 7_000));
    FailureRun { count, of: 40, since, last, status, instance: instance.map(id) }
}

pub(super) fn of_role(name: &str) -> Role {
    let (kind, exposure) = match name {
        "web" => (Kind::Service, Exposure::Http),
        "release" => (Kind::Job, Exposure::None),
        _ => (Kind::Service, Exposure::None),
    };
    Role { kind, exposure, ..Role::new(RoleCommand::Shell("serve".into())) }
}

impl AppScenario {
    pub(super) fn new() -> Self {
        let mut app = App::new(shop(), Moment(0));
        app.current = Some(ReleaseNumber(1));
        let roles: BTreeMap<RoleName, Role> =
            ["web", "worker", "release"].map(|name| (role(name), of_role(name))).into();
        Self {
            app,
            deploys: vec![deploy(1, DeployState::Done)],
            roles,
            seen: ["web-1", "web-2", "worker-1"].map(|short| (id(short), well())).into(),
            router: Some(ObservedRouter { seen: Moment(NOW - 500), ..ObservedRouter::default() }),
            machine: Some(Moment(NOW - 500)),
            waits: Vec::new(),
            build: None,
            disk: None,
            codes: Vec::new(),
        }
    }

    pub(super) fn instance(&mut self, short: &str) -> &mut ObservedInstance {
        self.seen.get_mut(&id(short)).expect("an instance")
    }

    pub(super) fn ended(&mut self, short: &str, phase: InstancePhase, restarts: u32, exit: ExitStatus) {
        let seen = self.instance(short);
        (seen.phase, seen.restarts, seen.exit) = (phase, restarts, Some(exit));
    }

    pub(super) fn fails(&mut self, kind: RequestFailure, run: FailureRun) {
        let router = self.router.as_mut().expect("a router");
        router.failures.entry(shop()).or_default().insert(kind, run);
    }

    pub(super) fn view(&self) -> ClusterView {
        let digest = || Digest::from_hex(&"ab".repeat(32)).expect("a digest");
        let machine = MachineName::parse("m").expect("a name");
        let mut records = RecordIndex::default();
        records.apply(StoreRecord::App(self.app.clone()).into());
        self.deploys.iter().for_each(|deploy| records.apply(StoreRecord::Deploy(deploy.clone()).into()));
        self.codes.iter().for_each(|code| records.apply(StoreRecord::Code(code.clone()).into()));
        let release = Release {
            app: shop(),
            number: ReleaseNumber(1),
            image: digest(),
            commit: None,
            config: ReleaseConfig::default(),
            roles: self.roles.clone(),
            deploy: DeployNumber(1),
            created: Moment(0),
            by: "test".into(),
            cause: DeployCause::Config { keys: Vec::new() },
        };
        records.apply(StoreRecord::Release(release).into());
        let plan = Arc::make_mut(&mut records.plan);
        let part = Arc::make_mut(plan.machines.entry(machine.clone()).or_default());
        for id in self.seen.keys() {
            let role = of_role(id.slot.role.as_str());
            let spec = InstanceSpec {
                image: digest(),
                commit: None,
                config: ReleaseConfig::default(),
                role,
                volumes_of: None,
            };
            part.instances.insert(id.clone(), Assignment { spec: spec.into(), goal: InstanceGoal::Run });
        }
        let mut observed = ObservedCluster::default();
        if let Some(seen) = self.machine {
            let report = ObservedMachine { instances: self.seen.clone(), seen, ..ObservedMachine::default() };
            observed.machines.insert(machine.clone(), report.into());
        }
        if let Some(router) = &self.router {
            observed.routers.insert(RouterId { machine, number: 1 }, router.clone());
        }
        let report = gantry_planner::PlanReport { waits: [(shop(), self.waits.clone())].into() };
        ClusterView {
            records: Arc::new(records),
            observed: Arc::new(observed),
            report: Arc::new(report),
            now: Moment(NOW),
            jumps: Arc::default(),
            states: Arc::default(),
        }
    }

    pub(super) fn first_line(&self) -> String {
        let view = self.view();
        let answer = app(&WhyInput { view: &view, build: self.build.clone(), disk: self.disk }, &shop());
        assert!(answer.remedy.iter().all(|remedy| answer.headline.contains(remedy)), "{answer:?}");
        assert!(answer.code == CauseCode::HeldForPromotion || answer.headline.starts_with(&answer.cause), "{answer:?}");
        format!("{}: {}", answer.subject, answer.headline)
    }

    pub(super) fn explained(&self) -> Explanation {
        let view = self.view();
        app(&WhyInput { view: &view, build: self.build.clone(), disk: self.disk }, &shop())
    }

    pub(super) fn of(&self, short: &str) -> String {
        let view = self.view();
        let facts = WhyInput { view: &view, build: None, disk: None };
        instance(&facts, &id(short)).expect("an answer").headline
    }
}

/// The reason of a copy that fails on the machine `m` and that two others do not take.
pub(super) fn cannot_move(short: &str) -> Reason {
    let machine = MachineName::parse("m").expect("a name");
    let refusing = |why, machines| RefusingMachines { why, machines, short: 0 };
    let refusal = vec![refusing(MachineRefusal::Cordoned, 2), refusing(MachineRefusal::Failed, 1)];
    Reason::CannotMove { instance: id(short), machine, refusal: PlacementRefusal(refusal) }
}
