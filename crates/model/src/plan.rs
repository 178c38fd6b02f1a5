//! What was decided: the complete, numbered next state of every machine and router, with no choice left to whoever
//! carries it out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    AppName, Digest, Generation, HostName, MachineName, Moment, Patience, ReleaseNumber, Role, RoleName, Traffic,
    TrustedProxies, role::Protocol,
};

/// One running copy of a role of a release. Written `storefront.v12.web-1`; unique for as long as the app exists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    /// The app.
    pub app: AppName,
    /// The release.
    pub release: ReleaseNumber,
    /// The role.
    pub role: RoleName,
    /// From 1.
    pub index: u32,
}

impl InstanceId {
    /// `web-1`: what people call it.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}-{}", self.role, self.index)
    }

    /// Reads `storefront.v12.web-1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (app, rest) = text.split_once('.')?;
        let (release, rest) = rest.split_once('.')?;
        let (role, index) = rest.rsplit_once('-')?;
        let id = Self {
            app: AppName::parse(app).ok()?,
            release: release.parse().ok()?,
            role: RoleName::parse(role).ok()?,
            index: index.parse().ok()?,
        };
        // One text for one instance: `v012` or `web-01` would name the same.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}.{}-{}", self.app, self.release, self.role, self.index))
    }
}

impl TryFrom<String> for InstanceId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is not an instance; they look like storefront.v12.web-1"))
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.to_string()
    }
}

/// All that a machine needs to know to run an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// The image's manifest.
    pub image: Digest,
    /// The commit, for `REVISION`.
    pub commit: Option<String>,
    /// The app's configuration in this release.
    pub config: BTreeMap<String, String>,
    /// Command, limits, health.
    pub role: Role,
    /// Runs to its end, once, and is not started again.
    pub once: bool,
}

/// What is to become of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Goal {
    /// Run, and start again after a crash.
    Run,
    /// Runs on; no router may send it anything new after this generation of the table.
    Retire {
        /// The first table that does not name it.
        removed_in: Generation,
        /// When it was taken out.
        since: Moment,
    },
    /// Stop signal, stop timeout, SIGKILL, remove.
    Stop,
}

/// One instance's line in a machine's plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// What to run.
    pub spec: InstanceSpec,
    /// What is to become of it.
    pub goal: Goal,
}

/// A machine's part of the plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "crate::written::Written", into = "crate::written::Written")]
pub struct MachinePlan {
    /// Rises only when this machine's part changes, so that nothing else wakes it.
    pub generation: Generation,
    /// Everything that is to exist on the machine. What is not here is removed.
    pub instances: BTreeMap<InstanceId, Assignment>,
}

impl MachinePlan {
    /// Moves the stamps that durations are taken from, with a wall clock that jumped by so many milliseconds.
    pub fn move_stamps(&mut self, by: i64) {
        for assignment in self.instances.values_mut() {
            if let Goal::Retire { since, .. } = &mut assignment.goal {
                *since = since.moved(by);
            }
        }
    }
}

/// The complete next state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Each machine's part.
    pub machines: BTreeMap<MachineName, MachinePlan>,
    /// What every router routes.
    pub table: Table,
}

impl Plan {
    /// Every assignment with its machine.
    pub fn assignments(&self) -> impl Iterator<Item = (&MachineName, &InstanceId, &Assignment)> {
        self.machines.iter().flat_map(|(machine, part)| part.instances.iter().map(move |(id, a)| (machine, id, a)))
    }
}

/// What a router routes, and which names the resolver answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Rises whenever the table changes.
    pub generation: Generation,
    /// Host name to where its requests go.
    pub routes: BTreeMap<HostName, Route>,
    /// Host names of apps that serve no request now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub closed: BTreeMap<HostName, ClosedRoute>,
    /// `app` → `role` → addresses of its ready instances, for the resolver.
    pub names: BTreeMap<AppName, BTreeMap<RoleName, Vec<Ipv4Addr>>>,
    /// Proxies that every app trusts.
    #[serde(default, skip_serializing_if = "TrustedProxies::is_empty")]
    pub trusted_proxies: TrustedProxies,
}

/// A host name whose requests are refused at once, because no instance is going to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedRoute {
    /// The app.
    pub app: AppName,
    /// The cause.
    pub reason: ClosedReason,
}

/// Why an app serves no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedReason {
    /// No deploy has succeeded yet.
    NoRelease,
    /// Its release has no role that serves HTTP.
    NoWebRole,
    /// Its web role is scaled to 0.
    ScaledToZero,
}

/// Where the requests of a host name go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The app.
    pub app: AppName,
    /// The release that serves.
    pub release: ReleaseNumber,
    /// It is held, and has a name of its own beside the release that serves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Its ready instances. None: requests wait.
    pub endpoints: Vec<Endpoint>,
    /// What is to become of the requests.
    #[serde(default, skip_serializing_if = "Traffic::is_free")]
    pub traffic: Traffic,
    /// How long they may take.
    #[serde(default)]
    pub patience: Patience,
}

/// One instance that takes requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which.
    pub instance: InstanceId,
    /// Its address on the machine's network.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// What is spoken there.
    #[serde(default)]
    pub protocol: Protocol,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_one_text() {
        let id = InstanceId::parse("shop-2.v12.web-1").expect("an instance");
        assert_eq!((id.to_string().as_str(), id.short().as_str()), ("shop-2.v12.web-1", "web-1"));
        for bad in
            ["", "shop", "shop.v1", "shop.v1.web", "shop.v0.web-1", "shop.v01.web-1", "shop.v1.web-01", "../x.v1.web-1"]
        {
            assert_eq!(InstanceId::parse(bad), None, "{bad}");
        }
    }
}
