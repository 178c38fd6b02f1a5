//! The replicated parts, and the form of their items on the wire.
//!
//! | part | keys of its items |
//! |---|---|
//! | a machine's plan | `allocation/ID`, `spec/DIGEST`, `config/DIGEST` |
//! | the routes | `route/HOST`, `closed/HOST`, `names/APP`, `tunnel/MACHINE`, `trusted_proxies` |
//! | a machine's report | `instance/ID`, `plan`, `network` |
//! | a router's report | `active/ID`, `counts/APP`, `failures/APP`, `table` |

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use gantry_model::{
    AllocationId, AppName, Assignment, ExitStatus, FailedProbe, FailureRun, Generation, InstanceGoal, InstancePhase,
    InstanceSpec, LimitHit, MachinePlan, Moment, NetworkFault, ObservedInstance, OutputLine, RequestCounts,
    RequestFailure, RoutingTable, TunnelAddress,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::update::{Items, Replicated, SentPart, UnreadItem, Update};

/// Report of an agent about its machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineReport {
    /// Generation of the plan that the machine has adopted.
    pub generation: Generation,
    /// All instances on the machine.
    pub instances: BTreeMap<AllocationId, ObservedInstance>,
    /// Faults of the machine's network.
    pub network: Vec<NetworkFault>,
}

/// Report of a router.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouterReport {
    /// Number of the router on its machine.
    pub number: u64,
    /// True if the router has closed its last connection. This report is then its last.
    pub gone: bool,
    /// Generation of the routing table in use.
    pub generation: Generation,
    /// Requests in progress, per instance.
    pub active: BTreeMap<AllocationId, u64>,
    /// Counts of queued, refused and rate-limited requests, per app.
    pub counts: BTreeMap<AppName, RequestCounts>,
    /// The newest run of failed requests of each kind, per app.
    pub failures: BTreeMap<AppName, BTreeMap<RequestFailure, FailureRun>>,
}

/// Reason why an item cannot be read.
#[derive(Debug, thiserror::Error)]
enum ItemError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Key(String),
    #[error("unknown goal {0:?}; a newer agent is needed")]
    Goal(String),
    #[error("the update lacks the spec {0}")]
    Spec(String),
}

/// An allocation of a machine's plan. Without a spec, the allocation keeps the spec that the receiver has.
#[derive(Debug, Serialize, Deserialize)]
struct WireAllocation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<String>,
    goal: WireGoal,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireGoal {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed_in: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
}

impl From<InstanceGoal> for WireGoal {
    fn from(goal: InstanceGoal) -> Self {
        let of = |kind: &str| Self { kind: kind.to_owned(), removed_in: None, since: None };
        match goal {
            InstanceGoal::Run => of("run"),
            InstanceGoal::Stop => of("stop"),
            InstanceGoal::Retire { removed_in, since } => {
                Self { removed_in: Some(removed_in.0), since: Some(since.0), ..of("retire") }
            }
        }
    }
}

impl WireGoal {
    fn goal(self) -> Result<InstanceGoal, ItemError> {
        match (self.kind.as_str(), self.removed_in, self.since) {
            ("run", ..) => Ok(InstanceGoal::Run),
            ("stop", ..) => Ok(InstanceGoal::Stop),
            ("retire", Some(removed_in), Some(since)) => {
                Ok(InstanceGoal::Retire { removed_in: Generation(removed_in), since: Moment(since) })
            }
            _ => Err(ItemError::Goal(self.kind)),
        }
    }
}

/// Status of an instance in a machine's report. A detail that the receiver cannot read is left out.
#[derive(Debug, Serialize, Deserialize)]
struct WireStatus {
    phase: String,
    since: Moment,
    #[serde(default)]
    address: Option<Ipv4Addr>,
    #[serde(default)]
    restarts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    exit: Option<ExitStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    probe: Option<FailedProbe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started: Option<Moment>,
    #[serde(default)]
    failed_checks: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "known_ones")]
    limit_hits: Vec<LimitHit>,
    #[serde(default)]
    unpacked: u64,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    said: Option<OutputLine>,
}

/// Reads a value, or none if this version does not know its form.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// Reads those values of a list whose form this version knows.
fn known_ones<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let values = Vec::<Value>::deserialize(deserializer)?;
    Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}

const PHASES: [InstancePhase; 7] = [
    InstancePhase::Preparing,
    InstancePhase::Starting,
    InstancePhase::Ready,
    InstancePhase::Unhealthy,
    InstancePhase::Exited,
    InstancePhase::Failed,
    InstancePhase::Stopping,
];

impl From<&ObservedInstance> for WireStatus {
    fn from(seen: &ObservedInstance) -> Self {
        let seen = seen.clone();
        Self {
            phase: seen.phase.word().to_owned(),
            since: seen.since,
            address: seen.address,
            restarts: seen.restarts,
            exit: seen.exit,
            probe: seen.probe,
            failure: seen.failure,
            warning: seen.warning,
            started: seen.started,
            failed_checks: seen.failed_checks,
            limit_hits: seen.limit_hits,
            unpacked: seen.unpacked,
            said: seen.last_output,
        }
    }
}

impl From<WireStatus> for ObservedInstance {
    fn from(wire: WireStatus) -> Self {
        // A phase of a newer agent is neither ready nor ended.
        let phase = PHASES.into_iter().find(|phase| phase.word() == wire.phase).unwrap_or(InstancePhase::Starting);
        Self {
            phase,
            since: wire.since,
            address: wire.address,
            restarts: wire.restarts,
            exit: wire.exit,
            probe: wire.probe,
            failure: wire.failure,
            warning: wire.warning,
            started: wire.started,
            failed_checks: wire.failed_checks,
            limit_hits: wire.limit_hits,
            unpacked: wire.unpacked,
            last_output: wire.said,
        }
    }
}

/// Serializes an item. The parts hold only values that have a form in JSON.
pub(crate) fn to_value(item: &impl Serialize) -> Value {
    serde_json::to_value(item).unwrap_or(Value::Null)
}

/// Adds the difference of two maps, as items with the keys `section/KEY`.
pub(crate) fn difference<K: Ord + Display, V: PartialEq>(
    update: &mut Update,
    section: &str,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    mut wire: impl FnMut(&V, Option<&V>, &mut Items) -> Value,
) {
    for (key, value) in new {
        let before = old.get(key);
        if before != Some(value) {
            let item = wire(value, before, &mut update.set);
            update.set.insert(format!("{section}/{key}"), item);
        }
    }
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    update.removed.extend(gone.map(|key| format!("{section}/{key}")));
}

/// Adds a single item if it differs.
pub(crate) fn single<T: PartialEq + Serialize>(update: &mut Update, key: &str, old: &T, new: &T) {
    if old != new {
        update.set.insert(key.to_owned(), to_value(new));
    }
}

/// Parses the name in a key.
fn parse_key<K: FromStr<Err: Display>>(name: &str) -> Result<K, ItemError> {
    name.parse().map_err(|error: K::Err| ItemError::Key(error.to_string()))
}

/// Applies each item with `apply` and each removal with `remove`; returns what could not be read.
fn apply_items<T>(
    part: &mut T,
    update: &Update,
    mut apply: impl FnMut(&mut T, &str, &str, &Value) -> Result<(), ItemError>,
    mut remove: impl FnMut(&mut T, &str, &str),
) -> Vec<UnreadItem> {
    let halves = |key: &str| key.split_once('/').map_or((key.to_owned(), String::new()), |(a, b)| (a.into(), b.into()));
    for key in &update.removed {
        let (section, name): (String, String) = halves(key);
        remove(part, &section, &name);
    }
    let mut unread = Vec::new();
    for (key, value) in &update.set {
        let (section, name): (String, String) = halves(key);
        if let Err(error) = apply(part, &section, &name, value) {
            unread.push(UnreadItem { key: key.clone(), reason: error.to_string() });
        }
    }
    unread
}

/// Takes one entry of a map from the map before.
fn keep_entry<K: Ord + Clone, V: Clone>(next: &mut BTreeMap<K, V>, before: &BTreeMap<K, V>, key: Result<K, ItemError>) {
    if let Some((key, value)) = key.ok().and_then(|key| before.get_key_value(&key)) {
        next.insert(key.clone(), value.clone());
    }
}

/// Replaces the digest of a spec's configuration by the values, which the update contains. A server of version 1 sends the
/// values themselves.
fn with_values(spec: &Value, update: &Update) -> Value {
    let mut spec = spec.clone();
    let digest = spec["config"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    if let Some(values) = digest.and_then(|digest| update.set.get(&format!("config/{digest}"))) {
        spec["config"] = values.clone();
    }
    spec
}

impl SentPart for MachinePlan {
    fn difference(&self, old: &Self, update: &mut Update) {
        difference(update, "allocation", &old.instances, &self.instances, |new, before, items| {
            let changed = before.is_none_or(|before| before.spec != new.spec);
            let spec = changed.then(|| {
                let (spec, config) = (new.spec.digest().hex().to_owned(), &new.spec.config);
                items.entry(format!("config/{}", config.digest().hex())).or_insert_with(|| to_value(config));
                items.entry(format!("spec/{spec}")).or_insert_with(|| to_value(&new.spec.by_reference()));
                spec
            });
            to_value(&WireAllocation { spec, goal: new.goal.into() })
        });
    }
}

impl Replicated for MachinePlan {
    fn apply(&mut self, update: &Update) -> Vec<UnreadItem> {
        self.generation = Generation(update.revision);
        let mut specs: BTreeMap<String, Arc<InstanceSpec>> = BTreeMap::new();
        let apply = |part: &mut Self, section: &str, name: &str, value: &Value| {
            if section != "allocation" {
                return Ok(());
            }
            let id = parse_key::<AllocationId>(name)?;
            let wire: WireAllocation = serde_json::from_value(value.clone())?;
            let goal = wire.goal.goal()?;
            let spec = match wire.spec {
                None => part.instances.get(&id).map(|before| before.spec.clone()),
                Some(digest) => match specs.get(&digest) {
                    Some(spec) => Some(Arc::clone(spec)),
                    None => {
                        let text = update.set.get(&format!("spec/{digest}"));
                        let text = text.ok_or_else(|| ItemError::Spec(digest.clone()))?;
                        let spec: Arc<InstanceSpec> = Arc::new(serde_json::from_value(with_values(text, update))?);
                        specs.insert(digest, Arc::clone(&spec));
                        Some(spec)
                    }
                },
            };
            let spec = spec.ok_or_else(|| ItemError::Spec(format!("of {id}")))?;
            part.instances.insert(id, Assignment { spec, goal });
            Ok(())
        };
        apply_items(self, update, apply, |part, section, name| {
            if let ("allocation", Ok(id)) = (section, parse_key::<AllocationId>(name)) {
                part.instances.remove(&id);
            }
        })
    }

    fn keep(&mut self, before: &Self, key: &str) {
        if let Some(name) = key.strip_prefix("allocation/") {
            keep_entry(&mut self.instances, &before.instances, parse_key::<AllocationId>(name));
        }
    }
}

impl SentPart for RoutingTable {
    fn difference(&self, old: &Self, update: &mut Update) {
        difference(update, "route", &old.routes, &self.routes, |new, _, _| to_value(new));
        difference(update, "closed", &old.closed, &self.closed, |new, _, _| to_value(new));
        difference(update, "names", &old.names, &self.names, |new, _, _| to_value(new));
        difference(update, "tunnel", old.tunnels.machines(), self.tunnels.machines(), |new, _, _| to_value(new));
        single(update, "lost", &old.lost, &self.lost);
        single(update, "trusted_proxies", &old.trusted_proxies, &self.trusted_proxies);
    }
}

impl Replicated for RoutingTable {
    fn apply(&mut self, update: &Update) -> Vec<UnreadItem> {
        self.generation = Generation(update.revision);
        let apply = |part: &mut Self, section: &str, name: &str, value: &Value| {
            let value = value.clone();
            match section {
                "route" => drop(part.routes.insert(parse_key(name)?, serde_json::from_value(value)?)),
                "closed" => drop(part.closed.insert(parse_key(name)?, serde_json::from_value(value)?)),
                "names" => drop(part.names.insert(parse_key(name)?, serde_json::from_value(value)?)),
                "tunnel" => {
                    let addresses: Vec<TunnelAddress> = known_ones(value)?;
                    part.tunnels.set(&parse_key(name)?, &addresses);
                }
                "lost" => part.lost = serde_json::from_value(value)?,
                "trusted_proxies" => part.trusted_proxies = serde_json::from_value(value)?,
                _ => {}
            }
            Ok(())
        };
        apply_items(self, update, apply, |part, section, name| match section {
            "route" => drop(parse_key(name).map(|host| part.routes.remove(&host))),
            "closed" => drop(parse_key(name).map(|host| part.closed.remove(&host))),
            "names" => drop(parse_key(name).map(|app| part.names.remove(&app))),
            "tunnel" => drop(parse_key(name).map(|machine| part.tunnels.set(&machine, &[]))),
            _ => {}
        })
    }

    fn keep(&mut self, before: &Self, key: &str) {
        match key.split_once('/') {
            Some(("route", name)) => keep_entry(&mut self.routes, &before.routes, parse_key(name)),
            Some(("closed", name)) => keep_entry(&mut self.closed, &before.closed, parse_key(name)),
            Some(("names", name)) => keep_entry(&mut self.names, &before.names, parse_key(name)),
            Some(("tunnel", name)) => {
                if let Ok(machine) = parse_key(name)
                    && let Some(addresses) = before.tunnels.machines().get(&machine)
                {
                    self.tunnels.set(&machine, addresses);
                }
            }
            _ if key == "lost" => self.lost.clone_from(&before.lost),
            _ if key == "trusted_proxies" => self.trusted_proxies = before.trusted_proxies.clone(),
            _ => {}
        }
    }
}

impl SentPart for MachineReport {
    fn difference(&self, old: &Self, update: &mut Update) {
        let status = |new: &ObservedInstance, _: Option<&_>, _: &mut Items| to_value(&WireStatus::from(new));
        difference(update, "instance", &old.instances, &self.instances, status);
        single(update, "plan", &old.generation, &self.generation);
        single(update, "network", &old.network, &self.network);
    }
}

impl Replicated for MachineReport {
    fn apply(&mut self, update: &Update) -> Vec<UnreadItem> {
        let apply = |part: &mut Self, section: &str, name: &str, value: &Value| {
            match section {
                "instance" => {
                    let status: WireStatus = serde_json::from_value(value.clone())?;
                    part.instances.insert(parse_key::<AllocationId>(name)?, status.into());
                }
                "plan" => part.generation = serde_json::from_value(value.clone())?,
                "network" => part.network = known_ones(value)?,
                _ => {}
            }
            Ok(())
        };
        apply_items(self, update, apply, |part, section, name| {
            if let ("instance", Ok(id)) = (section, parse_key::<AllocationId>(name)) {
                part.instances.remove(&id);
            }
        })
    }

    fn keep(&mut self, before: &Self, key: &str) {
        if let Some(name) = key.strip_prefix("instance/") {
            keep_entry(&mut self.instances, &before.instances, parse_key::<AllocationId>(name));
        }
    }
}

impl SentPart for RouterReport {
    fn difference(&self, old: &Self, update: &mut Update) {
        difference(update, "active", &old.active, &self.active, |count, _, _| json!(count));
        difference(update, "counts", &old.counts, &self.counts, |counts, _, _| to_value(counts));
        difference(update, "failures", &old.failures, &self.failures, |runs, _, _| to_value(runs));
        single(update, "table", &old.generation, &self.generation);
    }
}

impl Replicated for RouterReport {
    fn apply(&mut self, update: &Update) -> Vec<UnreadItem> {
        let apply = |part: &mut Self, section: &str, name: &str, value: &Value| {
            let value = value.clone();
            match section {
                "active" => drop(part.active.insert(parse_key::<AllocationId>(name)?, serde_json::from_value(value)?)),
                "counts" => drop(part.counts.insert(parse_key(name)?, serde_json::from_value(value)?)),
                "failures" => {
                    // A kind of failure of a newer router is left out.
                    let runs: BTreeMap<String, Value> = serde_json::from_value(value)?;
                    let run = |(kind, run): (String, Value)| {
                        Some((serde_json::from_value(Value::String(kind)).ok()?, serde_json::from_value(run).ok()?))
                    };
                    part.failures.insert(parse_key(name)?, runs.into_iter().filter_map(run).collect());
                }
                "table" => part.generation = serde_json::from_value(value)?,
                _ => {}
            }
            Ok(())
        };
        apply_items(self, update, apply, |part, section, name| match section {
            "active" => drop(parse_key::<AllocationId>(name).map(|id| part.active.remove(&id))),
            "counts" => drop(parse_key(name).map(|app| part.counts.remove(&app))),
            "failures" => drop(parse_key(name).map(|app| part.failures.remove(&app))),
            _ => {}
        })
    }

    fn keep(&mut self, before: &Self, key: &str) {
        match key.split_once('/') {
            Some(("active", name)) => keep_entry(&mut self.active, &before.active, parse_key::<AllocationId>(name)),
            Some(("counts", name)) => keep_entry(&mut self.counts, &before.counts, parse_key(name)),
            Some(("failures", name)) => keep_entry(&mut self.failures, &before.failures, parse_key(name)),
            _ => {}
        }
    }
}
