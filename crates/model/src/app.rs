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
    /// What `gantry deploy --image` said of images from elsewhere.
    #[serde(default, skip_serializing_if = "ImageSettings::is_empty")]
    pub image: ImageSettings,
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

/// Settings of the role `web` of images that bring no roles of their own. The app keeps them from a deploy that is done on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSettings {
    /// Folder name to the absolute path it is mounted at. In a change an empty path takes the volume away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, String>,
    /// The port that the image listens on. In a change 0 leaves it to the image again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ImageSettings {
    /// Nothing is set, or nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.port.is_none()
    }

    /// Takes a change over.
    pub fn apply(&mut self, change: &Self) {
        self.volumes.extend(change.volumes.clone());
        self.volumes.retain(|_, path| !path.is_empty());
        self.port = change.port.or(self.port).filter(|port| *port > 0);
    }
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
            image: ImageSettings::default(),
            traffic: Traffic::default(),
            current: None,
            last_release: 0,
            last_deploy: 0,
            destroying: false,
            created,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_settings_are_added_to_changed_and_taken_away() {
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
