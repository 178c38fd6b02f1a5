//! The users' commands, and the builds that the server runs for them. A command is acknowledged once it is durable; the
//! module `checks` then expects its effect for ever.

use gantry_admission::{
    Actor, BuiltRelease, NewApp, RequestedConfig, build_failed, decided_renames, finish_rename, release_built,
    undo_rename,
};
use gantry_model::deploy::DeployOrder;
use gantry_model::{AppName, Deploy, DeployCause, DeployState, Reason};

use crate::events::Event;
use crate::servers::Leader;
use crate::shapes::{Behaviour, image, role_name};
use crate::simulation::Simulation;
use crate::writes::WriteError;

/// Name of the users in the audit trail.
const USER: &str = "user";

impl Simulation {
    /// Schedules the creation of all apps, and the commands after that.
    pub(crate) fn schedule_commands(&mut self) {
        let creations = 2 * self.settings.apps() as u64;
        for number in 0..creations + self.settings.commands() {
            let (low, high) = if number < creations { (500, 6_000) } else { (5_000, self.settings.seconds * 1000) };
            let at = self.random.between(low, high);
            self.timeline.after(at, Event::Command);
        }
    }

    /// A user gives a command: creates an app that is missing, or changes one.
    pub(crate) fn command(&mut self) {
        let missing = self.apps.iter().find(|app| app.present_name(&self.store.records).is_none());
        let missing = missing.filter(|app| !self.checks.may_be_destroyed(&app.name)).map(|app| app.name.clone());
        match missing {
            Some(name) => self.create_app(&name),
            _ => {
                let app = self.random.index(self.apps.len());
                match self.random.between(0, 24) {
                    0..9 => self.deploy(app, false),
                    9..11 => self.deploy(app, true),
                    11..15 => self.scale(app),
                    15..17 => self.order_app(app, DeployOrder::Abort),
                    17..19 => self.order_app(app, DeployOrder::Promote),
                    19 => self.destroy(app),
                    _ => self.rename(app),
                }
            }
        }
    }

    fn create_app(&mut self, name: &AppName) {
        let new = NewApp { name: name.clone(), base: None, branch: None, hosts: Vec::new(), newest_job: None };
        let created = self.on_answering_server(|simulation, leader| {
            simulation.mutate(leader, |records, now| Actor::new(records, now, USER).create_app(new))
        });
        if created.flatten().is_some() {
            self.checks.app_created(name);
        }
        if let Some(app) = self.apps.iter().position(|app| app.name == *name) {
            self.deploy(app, false);
        }
    }

    /// First and present name of an app.
    fn names(&self, app: usize) -> (AppName, AppName) {
        let app = &self.apps[app];
        (app.name.clone(), app.present_name(&self.store.records).unwrap_or(&app.name).clone())
    }

    fn deploy(&mut self, app: usize, hold: bool) {
        let (first, name) = self.names(app);
        let name = &name;
        let cause = DeployCause::Config { keys: vec!["KEY".into()] };
        let started = self.on_answering_server(|simulation, leader| {
            simulation.mutate(leader, |records, now| Actor::new(records, now, USER).start_deploy(name, cause, hold))
        });
        if let Some(number) = started.flatten() {
            self.checks.deploy_started(&first, number);
        }
    }

    fn scale(&mut self, app: usize) {
        // A release without copies is never checked, so a bad one could be promoted.
        let count = u32::try_from(self.random.between(1, 5)).expect("small");
        let (first, name) = self.names(app);
        let name = &name;
        let roles = [(role_name("web"), count)].into();
        let scaled = self.on_answering_server(|simulation, leader| {
            simulation.mutate(leader, |records, now| Actor::new(records, now, USER).change_scale(name, roles))
        });
        match scaled {
            Some(Some(())) => self.checks.scaled(&first, count),
            Some(None) => {}
            None => self.checks.scale_unknown(&first),
        }
    }

    fn destroy(&mut self, app: usize) {
        let (first, name) = self.names(app);
        let name = &name;
        self.checks.destroy_requested(&first);
        self.on_answering_server(|simulation, leader| {
            simulation.mutate(leader, |records, now| Actor::new(records, now, USER).destroy_app(name))
        });
    }

    fn rename(&mut self, app: usize) {
        let (_, from) = self.names(app);
        let to = self.apps[app].another_name();
        self.on_answering_server(|simulation, leader| {
            simulation.mutate(leader, |records, now| Actor::new(records, now, USER).begin_rename(&from, &to, None))
        });
    }

    /// Concludes the renames whose deploy is over, as the server's rename executor does.
    pub(crate) fn conclude_renames(&mut self, leader: &mut Leader) -> Result<(), WriteError> {
        let decided = decided_renames(&leader.core.view().records);
        for rename in decided {
            let good = rename.good;
            self.mutate(leader, |records, now| {
                let changes =
                    if good { finish_rename(records, now, &rename) } else { undo_rename(records, now, &rename) };
                Ok((changes, ()))
            })?;
            self.renames += u64::from(good);
        }
        Ok(())
    }

    fn order_app(&mut self, app: usize, order: DeployOrder) {
        let (_, name) = self.names(app);
        self.order(&name, order);
    }

    fn order(&mut self, name: &AppName, order: DeployOrder) {
        self.on_answering_server(|simulation, leader| {
            simulation.mutate(leader, |records, now| Actor::new(records, now, USER).order(name, order))
        });
    }

    /// Promotes all held releases, so that every deploy can end.
    pub(crate) fn promote_held(&mut self) {
        let deploys = self.store.records.deploys.values().flat_map(|deploys| deploys.values());
        let held = deploys.filter(|deploy| deploy.state == DeployState::Held && deploy.order.is_none());
        let names: Vec<AppName> = held.map(|deploy| deploy.app.clone()).collect();
        names.iter().for_each(|name| self.order(name, DeployOrder::Promote));
    }

    /// Ends the builds whose time has come.
    pub(crate) fn finish_builds(&mut self, leader: &mut Leader) -> Result<(), WriteError> {
        let now = self.now_of(leader);
        let records = leader.core.view().records;
        let is_built = |deploy: &&Deploy| {
            let waits = deploy.state == DeployState::Building && deploy.release.is_none();
            waits && now.since(deploy.entered) >= 500 + deploy.number.0 * 7919 % 3_000
        };
        let open = records.apps.keys().flat_map(|app| records.open_deploys(app));
        // The deploy of a rename takes the release of the app under its former name.
        let renamed = |deploy: &Deploy| match &deploy.cause {
            DeployCause::Rename { from } => records.release(from, records.apps.get(from)?.current?).cloned(),
            _ => None,
        };
        let built: Vec<_> =
            open.map(AsRef::as_ref).filter(is_built).map(|deploy| (deploy.clone(), renamed(deploy))).collect();
        // The core changes records in place unless someone else holds them.
        drop(records);
        for (deploy, renamed) in built {
            let (fails, behaviour) = (self.random.chance(50), Behaviour::random(&mut self.random));
            let Some(app) = self.apps.iter().find(|app| app.has_had(&deploy.app)) else { continue };
            let release = BuiltRelease {
                image: image(self.random.number()),
                commit: None,
                roles: renamed.map_or_else(|| app.roles(behaviour), |release| release.roles.clone()),
                config: None,
                defaults: RequestedConfig::default(),
                base: None,
                build: None,
            };
            self.mutate(leader, |records, now| {
                let changes = if fails {
                    build_failed(records, now, &deploy, Reason::Aborted)
                } else {
                    release_built(records, now, &deploy, release)
                };
                Ok((changes, ()))
            })?;
        }
        Ok(())
    }
}
