//! The state at the end of a run: what users asked for, everywhere.

use gantry_model::{App, InstanceGoal, Release, Role, RoleName, RoutingTable, Slot};

use crate::containers::SimulatedContainer;
use crate::shapes::{machine_name, role_name};
use crate::simulation::Simulation;

impl Simulation {
    /// Returns why the cluster is not at rest in the requested state; none if it is.
    pub(crate) fn reason_not_at_rest(&self) -> Option<String> {
        self.open_deploy()
            .or_else(|| self.open_rename())
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

    fn open_rename(&self) -> Option<String> {
        let renamed = self.store.records.apps.values().find(|app| app.rename.is_some())?;
        Some(format!("the rename of {} is not concluded", renamed.name))
    }

    /// Checks that each app has the requested copies, all in its routes. A copy may be missing only if no machine takes it.
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
        let wanted = || release.into_iter().flat_map(|release| wanted_slots(app, release));
        let copies_there: Vec<&Slot> = records.plan.assignments_of(name).map(|(_, id, _)| &id.slot).collect();
        let missing: Vec<(Slot, &Role)> = wanted().filter(|(slot, _)| !copies_there.contains(&slot)).collect();
        if let Some(wrong) = missing.iter().find_map(|(slot, role)| self.wrongly_missing(app, slot, role)) {
            return Some(wrong);
        }
        let (wanted, found) = (wanted().count() - missing.len(), copies_there.len());
        if found != wanted {
            return Some(format!("{name} has {found} instances instead of {wanted}"));
        }
        let web = role_name("web");
        let settings = release.and_then(|release| release.roles.get(&web));
        let missing = missing.iter().filter(|(slot, _)| slot.role == web).count();
        let web = settings.map_or(0, |settings| copies(app, &web, settings) as usize - missing);
        // A renamed app keeps its former host name, which leads to the same instances.
        let hosts = records.plan.routes.get(name).into_iter().flat_map(|routes| &routes.routes);
        let mut counts: Vec<usize> = hosts.map(|(_, route)| route.endpoints.len()).collect();
        if counts.is_empty() {
            counts.push(0);
        }
        let wrong = counts.into_iter().find(|routed| *routed != web)?;
        Some(format!("{name} has routes to {wrong} of {web} instances"))
    }

    /// Number of requested copies that no machine takes. The cluster is at rest.
    pub(crate) fn waiting_copies(&self) -> usize {
        let records = &self.store.records;
        let release = |app: &App| records.release(&app.name, app.current?);
        let apps = records.apps.values().filter_map(|app| Some((app, release(app)?)));
        let wanted: usize = apps.map(|(app, release)| wanted_slots(app, release).count()).sum();
        wanted - records.plan.assignments().count()
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
            let is_ready = |id| agent.containers.get(id).is_some_and(SimulatedContainer::is_steady);
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
        let mut present = (0..self.settings.machines).filter(|machine| !self.is_removed(*machine));
        let machine = present.find(|machine| is_wrong(&self.routers[self.serving_router(*machine)]))?;
        Some(format!("router {machine} does not have the routes of revision {}", table.generation))
    }
}

/// The requested copies of a release, with their roles.
fn wanted_slots<'a>(app: &'a App, release: &'a Release) -> impl Iterator<Item = (Slot, &'a Role)> {
    release.services().flat_map(move |(name, role)| {
        let slot = Slot { app: app.name.clone(), release: release.number, role: name.clone(), index: 0 };
        (1..=copies(app, name, role)).map(move |index| (Slot { index, ..slot.clone() }, role))
    })
}

/// The requested number of copies of a role.
fn copies(app: &App, role: &RoleName, settings: &Role) -> u32 {
    app.scale.get(role).copied().unwrap_or(settings.instances)
}
