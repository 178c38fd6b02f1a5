//! Messages of builds: what the server orders from an agent, and what the agent sends back on the session.

use gantry_api::Problem;
use gantry_model::{AppName, BuildPhase, DeployNumber, Digest, Moment};
use serde::{Deserialize, Serialize};

/// An order to build the image of a source tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildOrder {
    /// The app.
    pub app: AppName,
    /// Creation time of the app. A later app of the same name does not get the build cache of this app.
    pub created: Moment,
    /// Number of the deploy.
    pub number: DeployNumber,
    /// Full SHA of the commit.
    pub commit: String,
    /// Blob with the commit's tree.
    pub source: Digest,
    /// Manifest of the base image.
    pub base: Digest,
    /// Limits of the compile step.
    pub limits: CompileLimits,
}

/// Resource limits of a compile step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileLimits {
    /// Timeout of the step, in seconds.
    pub seconds: u64,
    /// Memory limit in bytes.
    pub memory: u64,
    /// Disk limit in bytes: the step's files plus the app's cache.
    pub disk: u64,
}

/// An order to make a base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseOrder {
    /// The recipe: the text of `base.toml`.
    pub recipe: String,
}

/// An order to fetch an image from another registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullOrder {
    /// Reference of the image, with its registry.
    pub reference: String,
    /// Credentials for the other registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<RegistryCredentials>,
    /// Id by which this cluster's registry is recognized under any host name.
    pub own: String,
}

/// Credentials for another registry. Nothing stores them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryCredentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryCredentials of {:?}", self.username)
    }
}

/// An order about the build caches on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum CacheOrder {
    /// Removes the cache of an app.
    Forget {
        /// The app.
        app: AppName,
    },
    /// Moves the cache of an app to the app's new name.
    Rename {
        /// The old name.
        from: AppName,
        /// The new name.
        to: AppName,
    },
}

/// An event of a build or of a pull, as one line of JSON. The last event is `Done`, `Failed`, `Refused` or `OwnRegistry`;
/// without any of them, the work was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum BuildEvent {
    /// A step begins.
    Step {
        /// Description of the step.
        text: String,
    },
    /// A note on the current step.
    Note {
        /// Text of the note.
        text: String,
    },
    /// A program of the app printed a line.
    Program {
        /// The line.
        text: String,
    },
    /// The image is complete, and its blobs are at the server.
    Done {
        /// Manifest of the image.
        image: Digest,
    },
    /// The build failed.
    Failed {
        /// The phase that failed.
        phase: BuildPhase,
        /// The cause and the remedy.
        message: String,
        /// The last lines of the failing program's output.
        tail: Vec<String>,
    },
    /// The pull failed.
    Refused {
        /// The cause and the remedy.
        problem: Problem,
    },
    /// The registry turned out to be this cluster's own.
    OwnRegistry,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_log() {
        let who = RegistryCredentials { username: "ci".to_owned(), password: "secret-value".to_owned() };
        let order = PullOrder { reference: "r.example/x".to_owned(), credentials: Some(who), own: String::new() };
        let text = format!("{order:?}");
        assert!(text.contains("ci") && !text.contains("secret-value"), "{text}");
    }

    #[test]
    fn writes_each_event_on_one_line() {
        let event = BuildEvent::Failed {
            phase: BuildPhase::Compile,
            message: "a\nb".to_owned(),
            tail: vec!["c\r\n".to_owned()],
        };
        let text = serde_json::to_string(&event).expect("serialized");
        assert!(!text.contains('\n'), "{text}");
        assert!(text.starts_with(r#"{"kind":"failed","phase":"compile","#), "{text}");
        assert_eq!(serde_json::from_str::<BuildEvent>(&text).expect("parsed"), event);
    }
}
