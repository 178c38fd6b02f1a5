//! The apps of a run, their roles, and how their containers behave.

use std::collections::BTreeMap;

use gantry_model::app::Rename;
use gantry_model::role::{Exposure, Kind};
use gantry_model::{App, AppName, Bytes, Digest, MachineName, Role, RoleCommand, RoleName, Seconds};

use gantry_records::RecordIndex;

use gantry_random::Random;

/// Variable of a role's environment that carries the behaviour to the containers.
const BEHAVIOUR: &str = "BEHAVIOUR";

/// Behaviour of the containers of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Containers become ready.
    Good,
    /// Containers become ready after some 10 s.
    Slow,
    /// Containers exit at once with status 1.
    Exits,
    /// Containers run, and never become ready.
    NeverReady,
    /// Containers become ready, and exit a few seconds later. After some crashes they stay.
    ExitsLater,
}

const BEHAVIOURS: [(&str, Behaviour); 5] = [
    ("good", Behaviour::Good),
    ("slow", Behaviour::Slow),
    ("exits", Behaviour::Exits),
    ("never-ready", Behaviour::NeverReady),
    ("exits-later", Behaviour::ExitsLater),
];

impl Behaviour {
    /// A behaviour; good in more than half of all cases.
    pub(crate) fn random(random: &mut Random) -> Self {
        match random.between(0, 19) {
            0..12 => Self::Good,
            12..14 => Self::Slow,
            14..16 => Self::Exits,
            16 => Self::NeverReady,
            _ => Self::ExitsLater,
        }
    }

    /// The behaviour of a role's containers.
    pub(crate) fn of(role: &Role) -> Self {
        let named = BEHAVIOURS.iter().find(|(name, _)| role.env.get(BEHAVIOUR).is_some_and(|value| value == name));
        named.map_or(Self::Good, |(_, behaviour)| *behaviour)
    }

    fn word(self) -> &'static str {
        BEHAVIOURS.iter().find(|(_, behaviour)| *behaviour == self).map_or("good", |(name, _)| name)
    }
}

/// One app of the run.
#[derive(Debug, Clone)]
pub(crate) struct SimulatedApp {
    /// The first name.
    pub(crate) name: AppName,
    /// Names that a user requested later.
    later_names: Vec<AppName>,
    copies: u32,
    has_worker: bool,
    /// The worker is a single role.
    is_fenced: bool,
    has_volume: bool,
    has_release_step: bool,
    reserves: bool,
}

impl SimulatedApp {
    /// Makes up an app.
    pub(crate) fn random(number: usize, random: &mut Random) -> Self {
        Self {
            name: AppName::parse(&format!("app-{number}")).expect("a name"),
            later_names: Vec::new(),
            copies: u32::try_from(random.between(1, 4)).expect("small"),
            has_worker: random.chance(500),
            is_fenced: random.chance(500),
            has_volume: random.chance(300),
            has_release_step: random.chance(200),
            reserves: random.chance(500),
        }
    }

    /// The name of the app by the records: while a rename is under way, the former name. None if the app is missing.
    pub(crate) fn present_name(&self, records: &RecordIndex) -> Option<&AppName> {
        let is_successor = |app: &App| matches!(app.rename, Some(Rename::From { .. }));
        let there = || self.names().filter_map(|name| Some((name, records.apps.get(name)?)));
        let lives = there().find(|(_, app)| !app.destroying && !is_successor(app));
        lives.or_else(|| there().next()).map(|(name, _)| name)
    }

    /// Reports whether the app has, or has had, or was to have a name.
    pub(crate) fn has_had(&self, name: &AppName) -> bool {
        self.names().any(|known| known == name)
    }

    fn names(&self) -> impl Iterator<Item = &AppName> {
        std::iter::once(&self.name).chain(&self.later_names)
    }

    /// Makes up another name.
    pub(crate) fn another_name(&mut self) -> AppName {
        let name = format!("{}-{}", self.name, self.later_names.len() + 2);
        self.later_names.push(AppName::parse(&name).expect("a name"));
        self.later_names[self.later_names.len() - 1].clone()
    }

    /// The roles of a new release.
    pub(crate) fn roles(&self, behaviour: Behaviour) -> BTreeMap<RoleName, Role> {
        let mut web = Role { exposure: Exposure::Http, ..role(behaviour) };
        web.instances = self.copies;
        web.drain = Some(Seconds(10));
        web.placement.reserve_memory = self.reserves.then_some(Bytes::mebi(64));
        let mut roles = BTreeMap::from([(role_name("web"), web)]);
        if self.has_worker {
            roles.insert(role_name("worker"), Role { single: self.is_fenced, ..role(Behaviour::Good) });
        }
        if self.has_volume {
            let mut database = role(Behaviour::Good);
            database.volumes.insert("data".into(), "/data".into());
            roles.insert(role_name("database"), database);
        }
        if self.has_release_step {
            let fails = behaviour == Behaviour::Exits;
            let step = role(if fails { Behaviour::Exits } else { Behaviour::Good });
            roles.insert(role_name("release"), Role { kind: Kind::Job, ..step });
        }
        roles
    }
}

fn role(behaviour: Behaviour) -> Role {
    let mut role = Role::new(RoleCommand::Shell("serve".into()));
    role.env.insert(BEHAVIOUR.into(), behaviour.word().into());
    role
}

/// Parses the name of a role.
pub(crate) fn role_name(name: &str) -> RoleName {
    RoleName::parse(name).expect("a name")
}

/// The name of a machine.
pub(crate) fn machine_name(machine: usize) -> MachineName {
    MachineName::parse(&format!("m{machine}")).expect("a name")
}

/// The digest of a release's image.
pub(crate) fn image(number: u64) -> Digest {
    Digest::from_hex(&format!("{number:064x}")).expect("a digest")
}
