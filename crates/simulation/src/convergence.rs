//! The state at the end of a run: what users asked for, everywhere.

use gantry_model::{App, InstanceGoal, InstancePhase, Role, RoleName, RoutingTable};

use crate::shapes::{machine_name, role_name};
use crate::simulation::Simulation;

impl Simulation {
    /// Returns why the cluster is not at rest in the requested state; none if it is.
    pub(crate) fn unrest(&self) -> Option<String> {
        self.open_deploy()
            .or_else(|| self.wrong_instances())
            .or_else(|| self.wrong_machine())
            .or_else(|| self.wrong_router())
            .or_else(|| self.undrained())
    }

    fn open_deploy(&self) -> Option<String> {
        let mut deploys = self.store.records.deploys.values().flat_map(|deploys| deploys.values());
        let open = deploys.find(|deploy| !deploy.state.is_final())?;
        Some(format!("deploy {} of {} has no verdict: {}", open.number, open.app, open.state))
    }

    /// Checks that each app has the requested copies, all in its routes.
    fn wrong_instances(&self) -> Option<String> {
        let plan = &self.store.records.plan;
        let mut assignments = plan.assignments();
        if let Some((machine, id, assignment)) = assignments.find(|(_, _, a)| a.goal != InstanceGoal::Run) {
            return Some(format!("{id} on {machine} has the goal {:?}", assignment.goal));
        }
        let records = &self.store.records;
        if let Some((_, id, _)) = plan.assignments().find(|(_, id, _)| !records.apps.contains_key(&id.slot.app)) {
            return Some(format!("{id} belongs to no app"));
        }
        records.apps.values().find_map(|app| self.wrong_copies(app))
    }

    fn wrong_copies(&self, app: &App) -> Option<String> {
        let (records, name) = (&self.store.records, &app.name);
        if app.destroying {
            return Some(format!("{name} is still being destroyed"));
        }
        let release = app.current.and_then(|number| records.release(name, number));
        let wanted: u32 = release
            .iter()
            .flat_map(|release| release.services())
            .map(|(role, settings)| copies(app, role, settings))
            .sum();
        let found = records.plan.assignments_of(name).count();
        if found != wanted as usize {
            return Some(format!("{name} has {found} instances instead of {wanted}"));
        }
        let routed = records.plan.routes.get(name).map_or(0, |routes| routes.endpoints().count());
        let web = role_name("web");
        let settings = release.and_then(|release| release.roles.get(&web));
        let web = settings.map_or(0, |settings| copies(app, &web, settings));
        (routed != web as usize).then(|| format!("{name} has routes to {routed} of {web} instances"))
    }

    /// Checks that each machine runs its part of the plan, and nothing else.
    fn wrong_machine(&self) -> Option<String> {
        let mut present = self.agents.iter().enumerate().filter(|(machine, _)| !self.is_removed(*machine));
        present.find_map(|(machine, agent)| {
            let part = self.store.records.plan.machines.get(&machine_name(machine));
            let is_planned = |id| part.is_some_and(|part| part.instances.contains_key(id));
            if let Some(id) = agent.containers.keys().find(|id| !is_planned(id)) {
                return Some(format!("machine {machine} has {id}, which is not planned"));
            }
            let is_ready = |id| agent.containers.get(id).is_some_and(|c| c.status.phase == InstancePhase::Ready);
            let missing = part.into_iter().flat_map(|part| part.instances.keys()).find(|id| !is_ready(id))?;
            Some(format!("{missing} is not ready on machine {machine}"))
        })
    }

    /// Checks that each router has the routes of the plan.
    fn wrong_router(&self) -> Option<String> {
        let table = RoutingTable::assemble(&self.store.records.plan);
        let is_wrong = |router: &crate::routers::SimulatedRouter| match router.tables.part() {
            Some(own) => !router.is_up || *own != table,
            None => table != RoutingTable::default(),
        };
        let present = |(machine, router): &(usize, &crate::routers::SimulatedRouter)| {
            !self.is_removed(*machine) && is_wrong(router)
        };
        let (machine, _) = self.routers.iter().enumerate().find(present)?;
        Some(format!("router {machine} does not have the routes of revision {}", table.generation))
    }
}

/// The requested number of copies of a role.
fn copies(app: &App, role: &RoleName, settings: &Role) -> u32 {
    app.scale.get(role).copied().unwrap_or(settings.instances)
}
