//! A deploy: the act of taking an app from one release to another.
//!
//! ```text
//! queued ─► building ─► placing ─► starting ─► verifying ─┬─► promoting ─► draining ─► done
//!    │          │          │           │           │      └─► held ─┘ │        │
//!    │          └──────────┴───────────┴─────┬─────┴───────────┴──────┴────────┘
//!    ▼                                       ▼
//! superseded                             reverting ─► reverted
//! ```
//! The transitions themselves are the planner's (`gantry-planner`); here is only what is kept.

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

/// Where a deploy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployState {
    /// Waits for the deploy before it.
    Queued,
    /// The image is being made.
    Building,
    /// Machines are being chosen.
    Placing,
    /// The release step and then the new instances are being started.
    Starting,
    /// The new instances run; their readiness is awaited.
    Verifying,
    /// Ready, and waiting for `gantry promote`.
    Held,
    /// Routers are being told.
    Promoting,
    /// The new release serves; the old one finishes what it began and stands by.
    Draining,
    /// The new release serves alone.
    Done,
    /// What was started is being taken back.
    Reverting,
    /// The release before serves, as if nothing had been.
    Reverted,
    /// A newer deploy took its place before it began.
    Superseded,
}

impl DeployState {
    /// No further transition follows.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Reverted | Self::Superseded)
    }

    /// The word for it, as people read it.
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

/// Why a release was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Cause {
    /// `git push`.
    Push {
        /// The full commit SHA.
        commit: String,
        /// The source tree: a tar archive in the blobs.
        source: Digest,
    },
    /// `gantry deploy --image`.
    Image {
        /// What was asked for.
        reference: String,
        /// The manifest it led to.
        image: Digest,
        /// What is new of the app's [`ImageSettings`], which it has once the deploy is done.
        #[serde(default, skip_serializing_if = "ImageSettings::is_empty")]
        change: ImageSettings,
    },
    /// `gantry config set` or `unset`.
    Config {
        /// The names that changed; never their values.
        keys: Vec<String>,
    },
    /// `gantry rollback`.
    Rollback {
        /// The release whose image, configuration and roles are taken again.
        to: ReleaseNumber,
    },
}

impl Cause {
    /// The image that was asked for by name.
    #[must_use]
    pub fn image(&self) -> Option<&Digest> {
        match self {
            Self::Image { image, .. } => Some(image),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push { commit, .. } => write!(f, "push of {}", commit.get(..10).unwrap_or(commit)),
            Self::Image { reference, .. } => write!(f, "image {reference}"),
            Self::Config { keys } => write!(f, "config {}", keys.join(", ")),
            Self::Rollback { to } => write!(f, "rollback to {to}"),
        }
    }
}

/// One deploy, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    /// Whose.
    pub app: AppName,
    /// Its number.
    pub number: DeployNumber,
    /// Why it was asked for.
    pub cause: Cause,
    /// Who asked: the name of a token.
    pub by: String,
    /// Stop before promotion until told.
    pub hold: bool,
    /// Where it is.
    pub state: DeployState,
    /// The new release; none until the image is there.
    pub release: Option<ReleaseNumber>,
    /// The release that served when it began, and serves again if it is reverted.
    pub previous: Option<ReleaseNumber>,
    /// When it was asked for.
    pub created: Moment,
    /// When it entered its state.
    pub entered: Moment,
    /// When it last came closer to its end; the deadline counts from here.
    pub progressed: Moment,
    /// How many steps of its instances were done at `progressed`.
    pub progress: u64,
    /// Names of the configuration that came with what is deployed: they go with it if it fails. Never a secret that was made for
    /// it, which may be what something was encrypted with.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub brought: BTreeSet<String>,
    /// When the new release began to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Moment>,
    /// Someone asked for promotion (of a held one) or for its end.
    pub order: Option<Order>,
    /// Why it failed or was taken back.
    pub reason: Option<Reason>,
}

/// What a person asked of a deploy under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// `gantry promote`.
    Promote,
    /// `gantry abort`.
    Abort,
}

impl Deploy {
    /// A deploy that has just been asked for.
    #[must_use]
    pub fn new(app: AppName, number: DeployNumber, cause: Cause, by: String, hold: bool, now: Moment) -> Self {
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

    /// How long the new release served until it was taken back, in milliseconds; none of a deploy that was not taken back, or
    /// that never served.
    #[must_use]
    pub fn served_in_vain(&self) -> Option<u64> {
        let failed = matches!(self.state, DeployState::Reverting | DeployState::Reverted);
        self.served.filter(|_| failed).map(|since| self.entered.since(since))
    }

    /// The word for its state, with how long a release served that was taken back: whoever pushed it has seen it serve.
    #[must_use]
    pub fn outcome(&self) -> String {
        match self.served_in_vain() {
            Some(millis) => format!("{} after {} s in service", self.state, millis / 1000),
            None => self.state.to_string(),
        }
    }

    /// Moves the stamps that durations are taken from, with a wall clock that jumped by so many milliseconds.
    pub fn move_stamps(&mut self, by: i64) {
        self.entered = self.entered.moved(by);
        self.progressed = self.progressed.moved(by);
    }

    /// The release that requests go to under way was changed by this deploy.
    #[must_use]
    pub fn has_promoted(&self) -> bool {
        matches!(self.state, DeployState::Promoting | DeployState::Draining | DeployState::Done)
    }
}
