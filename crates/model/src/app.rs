//! An app as its owners asked for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AppName, BaseName, HostName, Moment, ReleaseNumber, RoleName, Traffic};

/// The branch that deploys when the app names none.
pub const DEFAULT_BRANCH: &str = "main";

/// One codebase, with roles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// The image it is built on, unless the repository names another.
    pub base: Option<BaseName>,
    /// The only branch whose pushes deploy.
    pub branch: String,
    /// Host names that lead to its web role, besides `<app>.localhost` and its like.
    pub hosts: Vec<HostName>,
    /// Configuration for the next release.
    pub config: BTreeMap<String, String>,
    /// Copies per role, where `gantry scale` said so.
    pub scale: BTreeMap<RoleName, u32>,
    /// What is to become of its requests.
    #[serde(default, skip_serializing_if = "Traffic::is_free")]
    pub traffic: Traffic,
    /// The release that clients see.
    pub current: Option<ReleaseNumber>,
    /// The highest release number given out, or seen on a machine.
    pub last_release: u64,
    /// The highest deploy number given out.
    pub last_deploy: u64,
    /// It is being taken away: everything of it stops, then its record goes.
    pub destroying: bool,
    /// When it was created.
    pub created: Moment,
}

impl App {
    /// A new app without a release.
    #[must_use]
    pub fn new(name: AppName, created: Moment) -> Self {
        Self {
            name,
            base: None,
            branch: DEFAULT_BRANCH.to_owned(),
            hosts: Vec::new(),
            config: BTreeMap::new(),
            scale: BTreeMap::new(),
            traffic: Traffic::default(),
            current: None,
            last_release: 0,
            last_deploy: 0,
            destroying: false,
            created,
        }
    }
}
