//! A deploy: the act of taking an app from one release to another.
//!
//! ```text
//! queued ─► building ─► placing ─► starting ─► verifying ─┬─► promoting ─► draining ─► done
//!    │          │          │           │           │      └─► held ─┘ │        │
//!    │          └──────────┴───────────┴─────┬─────┴───────────┴──────┴────────┘
//!    ▼                                       ▼
//! superseded                             reverting ─► reverted
//! ```
//! This module defines the stored record only. The planner (`gantry-planner`) makes the transitions.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AppName, Digest, ImageSettings, Moment, Reason, ReleaseNumber};

/// The number of a deploy of one app, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeployNumber(pub u64);

impl fmt::Display for DeployNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// State of a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployState {
    /// The deploy waits for the preceding deploy of the app.
    Queued,
    /// The image is being built.
    Building,
    /// The planner chooses machines.
    Placing,
    /// The release step runs, and then the new instances start.
    Starting,
    /// The new instances run, and the deploy waits until they are ready.
    Verifying,
    /// The new instances are ready, and the deploy waits for `gantry promote`.
    Held,
    /// Routers receive the routes to the new release.
    Promoting,
    /// The new release serves; the old release finishes its requests and stands by.
    Draining,
    /// The new release serves alone.
    Done,
    /// The deploy failed, and the planner removes the new instances.
    Reverting,
    /// The previous release serves, and the deploy left no trace.
    Reverted,
    /// A newer deploy replaced this deploy before it began.
    Superseded,
}

impl DeployState {
    /// Reports whether the state is final: no further transition follows.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Reverted | Self::Superseded)
    }

    /// The state's name for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Building => "building",
            Self::Placing => "placing",
            Self::Starting => "starting",
            Self::Verifying => "verifying",
            Self::Held => "held",
            Self::Promoting => "promoting",
            Self::Draining => "draining",
            Self::Done => "done",
            Self::Reverting => "reverting",
            Self::Reverted => "reverted",
            Self::Superseded => "superseded",
        }
    }
}

impl fmt::Display for DeployState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Reason why a release was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeployCause {
    /// A `git push`.
    Push {
        /// The full commit SHA.
        commit: String,
        /// The source tree: a tar archive in the blob store.
        source: Digest,
    },
    /// A `gantry deploy --image`.
    Image {
        /// The image reference that the user gave.
        reference: String,
        /// The manifest that the reference resolved to.
        image: Digest,
        /// The change to the app's [`ImageSettings`]; the app takes the change over once the deploy is done.
        #[serde(default, skip_serializing_if = "ImageSettings::is_empty")]
        change: ImageSettings,
    },
    /// A `gantry config set` or `gantry config unset`.
    Config {
        /// The names of the changed variables; never their values.
        keys: Vec<String>,
    },
    /// A `gantry rollback`.
    Rollback {
        /// The release whose image, configuration and roles the new release copies.
        to: ReleaseNumber,
    },
    /// A `gantry app rename`.
    Rename {
        /// The app whose current release the new release copies.
        from: AppName,
    },
}

impl DeployCause {
    /// The image that the user deployed by name.
    #[must_use]
    pub fn image(&self) -> Option<&Digest> {
        match self {
            Self::Image { image, .. } => Some(image),
            _ => None,
        }
    }
}

impl fmt::Display for DeployCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push { commit, .. } => write!(f, "push of {}", commit.get(..10).unwrap_or(commit)),
            Self::Image { reference, .. } => write!(f, "image {reference}"),
            Self::Config { keys } => write!(f, "config {}", keys.join(", ")),
            Self::Rollback { to } => write!(f, "rollback to {to}"),
            Self::Rename { from } => write!(f, "rename of {from}"),
        }
    }
}

/// The stored record of a deploy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    /// The app.
    pub app: AppName,
    /// The deploy's number.
    pub number: DeployNumber,
    /// Reason why the deploy was requested.
    pub cause: DeployCause,
    /// Name of the token that requested the deploy.
    pub by: String,
    /// True if the deploy stops before promotion and waits for `gantry promote`.
    pub hold: bool,
    /// The deploy's state.
    pub state: DeployState,
    /// The new release; `None` until the image exists.
    pub release: Option<ReleaseNumber>,
    /// The release that served when the deploy began. This release serves again after a revert.
    pub previous: Option<ReleaseNumber>,
    /// When the deploy was requested.
    pub created: Moment,
    /// When the deploy entered its state.
    pub entered: Moment,
    /// When the deploy last made progress; the deadline counts from this moment.
    pub progressed: Moment,
    /// Number of steps that the deploy's instances had completed at `progressed`.
    pub progress: u64,
    /// Names of the configuration variables that this deploy added: a failed deploy removes them again. Secrets that
    /// Gantry generated for the deploy are not listed, because data may already be encrypted with them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub brought: BTreeSet<String>,
    /// Output of the build: a blob, for clusters with several servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Digest>,
    /// When the new release began to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Moment>,
    /// A user's order to promote a held deploy, or to abort the deploy.
    pub order: Option<DeployOrder>,
    /// Reason why the deploy failed or was reverted.
    pub reason: Option<Reason>,
}

/// A user's order to a running deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployOrder {
    /// `gantry promote`: promote the held release.
    Promote,
    /// `gantry abort`: revert the deploy.
    Abort,
}

impl Deploy {
    /// Creates a queued deploy.
    #[must_use]
    pub fn new(app: AppName, number: DeployNumber, cause: DeployCause, by: String, hold: bool, now: Moment) -> Self {
        Self {
            app,
            number,
            cause,
            by,
            hold,
            state: DeployState::Queued,
            release: None,
            previous: None,
            created: now,
            entered: now,
            progressed: now,
            progress: 0,
            brought: BTreeSet::new(),
            log: None,
            served: None,
            order: None,
            reason: None,
        }
    }

    /// Enters `state` at `now`.
    pub fn enter(&mut self, state: DeployState, now: Moment) {
        self.state = state;
        self.entered = now;
        self.progressed = now;
        if state == DeployState::Draining {
            self.served = Some(now);
        }
    }

    /// Time that the new release served before the revert, in milliseconds; `None` if the deploy was not reverted or
    /// never served.
    #[must_use]
    pub fn served_before_revert(&self) -> Option<u64> {
        let failed = matches!(self.state, DeployState::Reverting | DeployState::Reverted);
        self.served.filter(|_| failed).map(|since| self.entered.since(since))
    }

    /// The state's name. A reverted deploy whose release served adds for how long, because the release's author has
    /// seen the release serve.
    #[must_use]
    pub fn outcome(&self) -> String {
        match self.served_before_revert() {
            Some(millis) => format!("{} after {} s in service", self.state, millis / 1000),
            None => self.state.to_string(),
        }
    }

    /// Reports whether this deploy has already changed the release that receives requests.
    #[must_use]
    pub fn has_promoted(&self) -> bool {
        matches!(self.state, DeployState::Promoting | DeployState::Draining | DeployState::Done)
    }
}
