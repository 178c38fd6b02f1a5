//! An app, as its owners configured it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AppName, BaseName, HostName, MachineName, Moment, ReleaseNumber, RoleName, TrafficPolicy};

/// The branch that deploys when the app names none.
pub const DEFAULT_BRANCH: &str = "main";

/// An app: one codebase with roles.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// The app's name.
    pub name: AppName,
    /// The base image of the app's builds, unless the repository names another.
    pub base: Option<BaseName>,
    /// The only branch whose pushes start a deploy.
    pub branch: String,
    /// Host names that lead to the web role, in addition to `<app>.localhost` and its equivalents.
    pub hosts: Vec<HostName>,
    /// Configuration for the next release.
    pub config: BTreeMap<String, String>,
    /// Number of copies per role, where a user set a number with `gantry scale`.
    pub scale: BTreeMap<RoleName, u32>,
    /// Settings from `gantry deploy --image` for images that Gantry did not build.
    #[serde(default, skip_serializing_if = "ImageSettings::is_empty")]
    pub image: ImageSettings,
    /// Traffic policy.
    #[serde(default, skip_serializing_if = "TrafficPolicy::is_default")]
    pub traffic: TrafficPolicy,
    /// The release that serves clients.
    pub current: Option<ReleaseNumber>,
    /// The highest release number in use: assigned, or seen on a machine.
    pub last_release: u64,
    /// The highest release number of the earlier apps of this name. Allocations and logs of these releases are not the
    /// app's own.
    #[serde(default, skip_serializing_if = "crate::observed::is_zero")]
    pub earlier_releases: u64,
    /// The highest number of a job when the app was made. Jobs of the name up to this number belong to earlier apps.
    /// `None` if the queue was away, and for an app of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_jobs: Option<u64>,
    /// The highest assigned deploy number.
    pub last_deploy: u64,
    /// The app is being destroyed: all its instances stop, then its record is deleted.
    pub destroying: bool,
    /// The app's part in a rename that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rename: Option<Rename>,
    /// Folder of the app's volumes, if it is not the app's name: an app keeps its folder when it is renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes_of: Option<AppName>,
    /// For each volume by name, the machine that has the data: that of the last copy with the volume.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, MachineName>,
    /// When the app was created.
    pub created: Moment,
}

/// Names the configuration without its values, which may be secret.
impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            base,
            branch,
            hosts,
            config,
            scale,
            image,
            traffic,
            current,
            last_release,
            earlier_releases,
            earlier_jobs,
            last_deploy,
            destroying,
            rename,
            volumes_of,
            data,
            created,
        } = self;
        f.debug_struct("App")
            .field("name", name)
            .field("base", base)
            .field("branch", branch)
            .field("hosts", hosts)
            .field("config", &config.keys())
            .field("scale", scale)
            .field("image", image)
            .field("traffic", traffic)
            .field("current", current)
            .field("last_release", last_release)
            .field("earlier_releases", earlier_releases)
            .field("earlier_jobs", earlier_jobs)
            .field("last_deploy", last_deploy)
            .field("destroying", destroying)
            .field("rename", rename)
            .field("volumes_of", volumes_of)
            .field("data", data)
            .field("created", created)
            .finish()
    }
}

/// The part of an app in a rename. The app that has the name serves until its successor serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Rename {
    /// The app gets another name: a successor takes its place.
    To {
        /// The successor.
        name: AppName,
    },
    /// The app is the successor.
    From {
        /// The app whose place it takes.
        name: AppName,
    },
}

/// Settings of the role `web` for images that declare no roles. The app takes the settings over once the deploy is
/// done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSettings {
    /// Folder name to absolute mount path. In a change, an empty path removes the volume.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, String>,
    /// The port that the image listens on. In a change, 0 removes the setting, so that the image decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ImageSettings {
    /// Reports whether nothing is set; for a change, whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.port.is_none()
    }

    /// Applies a change to the settings.
    pub fn apply(&mut self, change: &Self) {
        self.volumes.extend(change.volumes.clone());
        self.volumes.retain(|_, path| !path.is_empty());
        self.port = change.port.or(self.port).filter(|port| *port > 0);
    }
}

impl App {
    /// Creates an app without a release.
    #[must_use]
    pub fn new(name: AppName, created: Moment) -> Self {
        Self {
            name,
            base: None,
            branch: DEFAULT_BRANCH.to_owned(),
            hosts: Vec::new(),
            config: BTreeMap::new(),
            scale: BTreeMap::new(),
            image: ImageSettings::default(),
            traffic: TrafficPolicy::default(),
            current: None,
            last_release: 0,
            earlier_releases: 0,
            earlier_jobs: None,
            last_deploy: 0,
            destroying: false,
            rename: None,
            volumes_of: None,
            data: BTreeMap::new(),
            created,
        }
    }

    /// The other app of a rename under way.
    #[must_use]
    pub fn renamed(&self) -> Option<&AppName> {
        match self.rename.as_ref()? {
            Rename::To { name } | Rename::From { name } => Some(name),
        }
    }

    /// Folder of the app's volumes, below the folder of all volumes.
    #[must_use]
    pub fn volume_folder(&self) -> &AppName {
        self.volumes_of.as_ref().unwrap_or(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_leaves_out_configuration_values() {
        let mut app = App::new(AppName::parse("shop").expect("a name"), Moment(0));
        app.config.insert("PASSWORD".to_owned(), "app-secret".to_owned());
        let shown = format!("{app:?}");
        assert!(shown.contains("PASSWORD") && !shown.contains("app-secret"), "{shown}");
    }

    #[test]
    fn applies_additions_changes_and_removals_of_image_settings() {
        let settings = |volumes: &[(&str, &str)], port| ImageSettings {
            volumes: volumes.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect(),
            port,
        };
        let mut all = ImageSettings::default();
        all.apply(&settings(&[("data", "/data")], Some(80)));
        all.apply(&settings(&[("cache", "/cache")], None));
        assert_eq!(all, settings(&[("cache", "/cache"), ("data", "/data")], Some(80)));
        all.apply(&settings(&[("data", "/var/data"), ("cache", "")], None));
        assert_eq!(all, settings(&[("data", "/var/data")], Some(80)));
        all.apply(&settings(&[("data", "")], Some(0)));
        assert!(all.is_empty());
        let before: App = serde_json::from_value({
            let mut app =
                serde_json::to_value(App::new(AppName::parse("shop").expect("a name"), Moment(0))).expect("JSON");
            app.as_object_mut().expect("an object").remove("image");
            app
        })
        .expect("a record of a version before");
        assert!(before.image.is_empty());
    }
}
