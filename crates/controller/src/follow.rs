//! A deploy, told line by line as it goes: for `git push` and for `gantry deploy`.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::types::Progress;
use gantry_model::deploy::Order;
use gantry_model::{AppName, Deploy, DeployNumber, DeployState, Reason, Release, ReleaseNumber, RoleName};
use tokio::sync::mpsc;

use crate::Server;
use crate::builds::log_path;
use crate::core::View;
use crate::why::has_web;

/// How often a build's log is looked at.
const PEEK: Duration = Duration::from_millis(50);

/// How long a state lasts before it is said what it waits for, in milliseconds.
const PATIENCE: u64 = 2000;

/// Lines of evidence below a refusal.
const EVIDENCE: usize = 15;

/// How far a deploy is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The new release serves. Whether it goes on doing so is told by `gantry why`, the events and the next deploy.
    Serving,
    /// The bake time is over, and with it the deploy.
    Verdict,
}

/// Follows a deploy until that, or until it is held and nobody has said yet what becomes of it; the last thing that comes is
/// [`Progress::End`].
pub(crate) fn follow(
    server: &Arc<Server>,
    app: AppName,
    number: DeployNumber,
    until: Until,
) -> mpsc::Receiver<Progress> {
    let (sender, receiver) = mpsc::channel(64);
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let log = LogFile { path: log_path(&server.settings, &app, number), read: 0 };
        Follower { server, app, number, until, log, sender, shown: None, waits: None, begun: false }.run().await;
    });
    receiver
}

struct LogFile {
    path: PathBuf,
    read: u64,
}

impl LogFile {
    fn fresh(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&self.path).and_then(|mut file| {
            // A build that is done again begins its log anew.
            if file.metadata()?.len() < self.read {
                self.read = 0;
            }
            file.seek(SeekFrom::Start(self.read))?;
            file.take(1 << 20).read_to_end(&mut bytes)
        });
        if read.is_err() {
            return Vec::new();
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect()
    }
}

struct Follower {
    server: Arc<Server>,
    app: AppName,
    number: DeployNumber,
    until: Until,
    log: LogFile,
    sender: mpsc::Sender<Progress>,
    shown: Option<DeployState>,
    waits: Option<String>,
    /// It was seen in another state than queued: what became of the deploy before it is known, and was told.
    begun: bool,
}

impl Follower {
    async fn run(mut self) {
        let mut views = self.server.core.views();
        loop {
            let view = views.borrow_and_update().clone();
            let Some(deploy) = view.mirror.deploys.get(&self.app).and_then(|all| all.get(&self.number)).cloned() else {
                return;
            };
            // Who promotes or aborts asks what comes of that; the build was told to whoever pushed.
            if self.shown.is_none() && deploy.order.is_some() {
                drop(self.log.fresh());
            }
            // The state is read before the log: what was written before a transition is shown before it. What waits has none.
            if deploy.state != DeployState::Queued {
                for line in self.log.fresh() {
                    self.say(line).await;
                }
            }
            if !self.begun && deploy.state != DeployState::Queued {
                self.begun = true;
                for line in taken_back_before(&deploy, &view) {
                    self.say(line).await;
                }
            }
            self.transition(&deploy, &view).await;
            let held = waits_for_an_order(&deploy);
            if deploy.state.is_final() || held || self.until == Until::Serving && serves(&deploy) {
                let host = if held { held_host(&deploy) } else { self.app.to_string() };
                let url = speaks_http(&deploy, &view).then(|| self.server.settings.url(&host));
                let _ = self.sender.send(Progress::End { deploy: Box::new((*deploy).clone()), url }).await;
                return;
            }
            if self.sender.is_closed() {
                return;
            }
            let _ = tokio::time::timeout(PEEK, views.changed()).await;
        }
    }

    async fn say(&self, text: String) {
        let _ = self.sender.send(Progress::Line { text }).await;
    }

    async fn transition(&mut self, deploy: &Deploy, view: &View) {
        if self.shown != Some(deploy.state) {
            let before = self.shown.replace(deploy.state);
            self.waits = None;
            // A state that lasts milliseconds may never be seen; why it was taken back is told all the same.
            if deploy.state == DeployState::Reverted && before != Some(DeployState::Reverting) {
                for line in refusal(deploy) {
                    self.say(line).await;
                }
            }
            for state in passed(before, deploy.state) {
                for line in announce(deploy, *state, view, &self.server) {
                    self.say(line).await;
                }
            }
            for line in announce(deploy, deploy.state, view, &self.server) {
                self.say(line).await;
            }
        }
        // What passes by itself in a moment is no news.
        if view.now.since(deploy.entered) < PATIENCE {
            return;
        }
        let wait = view.report.waits.get(&self.app).and_then(|waits| waits.first());
        if let Some(text) = wait.and_then(|wait| worth_saying(deploy, wait))
            && self.waits.as_ref() != Some(&text)
        {
            self.say(format!("       {text}")).await;
            self.waits = Some(text);
        }
    }
}

/// The new release serves, and nobody has asked for the old one.
fn serves(deploy: &Deploy) -> bool {
    deploy.state == DeployState::Draining && deploy.order != Some(Order::Abort)
}

/// Its release has a role that gets HTTP requests; so may one that is not there yet.
fn speaks_http(deploy: &Deploy, view: &View) -> bool {
    let release = deploy.release.and_then(|number| view.mirror.release(&deploy.app, number));
    release.is_none_or(|release| release.speaks_http())
}

/// What is told of the deploy before this one, if its release served and was taken back: whoever asked for it may have gone by
/// then.
fn taken_back_before(deploy: &Deploy, view: &View) -> Vec<String> {
    if deploy.order.is_some() {
        return Vec::new();
    }
    let all = view.mirror.deploys.get(&deploy.app).into_iter();
    let mut before = all.flat_map(|all| all.range(..deploy.number).rev()).map(|(_, deploy)| deploy);
    let last = before.find(|deploy| deploy.state != DeployState::Superseded);
    let Some((last, reason)) = last.and_then(|last| Some((last, last.reason.as_ref()?))) else {
        return Vec::new();
    };
    match (last.served_in_vain(), reason) {
        (None, _) | (_, Reason::Aborted) => Vec::new(),
        (Some(_), reason) => vec![format!(
            "-----> Deploy {} before this one ({}) was {}: {reason}",
            last.number,
            last.cause,
            last.outcome()
        )],
    }
}

fn waits_for_an_order(deploy: &Deploy) -> bool {
    deploy.state == DeployState::Held && deploy.order.is_none()
}

/// The name that a held release serves under, before the domain.
fn held_host(deploy: &Deploy) -> String {
    format!("{}.{}", deploy.release.map(|release| release.to_string()).unwrap_or_default(), deploy.app)
}

/// Waits that tell more than the state does.
fn worth_saying(deploy: &Deploy, wait: &Reason) -> Option<String> {
    match (deploy.state, wait) {
        (DeployState::Building, _) => None,
        (_, Reason::NotReady { probe: None, .. } | Reason::Stopping { .. } | Reason::Watching { .. }) => None,
        (_, wait) => Some(wait.to_string()),
    }
}

/// The way of a deploy that goes well.
const WAY: [DeployState; 7] = [
    DeployState::Building,
    DeployState::Placing,
    DeployState::Starting,
    DeployState::Verifying,
    DeployState::Promoting,
    DeployState::Draining,
    DeployState::Done,
];

/// States between the one that was shown last and this one, which were over before anybody looked.
fn passed(before: Option<DeployState>, now: DeployState) -> &'static [DeployState] {
    let place = |state| WAY.iter().position(|known| *known == state);
    match (before.and_then(place), place(now)) {
        (Some(before), Some(now)) if before < now => &WAY[before + 1..now],
        _ => &[],
    }
}

/// What a release does that took the place of another one.
fn verb(release: Option<&Release>) -> &'static str {
    match release {
        Some(release) if !has_web(release) && release.roles.keys().any(RoleName::is_service) => {
            "runs, and no role of it serves HTTP"
        }
        Some(release) if !has_web(release) => "is the release, and no role of it runs on",
        _ => "serves",
    }
}

/// The old release still runs while the new one is watched: some role of it has no volume, which would have ended it first.
fn stands_by(release: &Release) -> bool {
    release.roles.iter().any(|(name, role)| name.is_service() && !role.stop_first())
}

fn announce(deploy: &Deploy, state: DeployState, view: &View, server: &Server) -> Vec<String> {
    let http = speaks_http(deploy, view);
    let of = |number: Option<ReleaseNumber>| {
        number.and_then(|number| view.mirror.release(&deploy.app, number)).map(AsRef::as_ref)
    };
    let release = deploy.release.map(|release| release.to_string()).unwrap_or_default();
    match state {
        DeployState::Queued => vec!["-----> Waiting for the deploy before this one".to_owned()],
        DeployState::Placing => vec![format!("-----> Releasing {release}")],
        DeployState::Starting => vec![format!("-----> Starting {release}")],
        DeployState::Verifying => vec![format!("-----> Verifying {release}")],
        DeployState::Held if waits_for_an_order(deploy) => vec![
            match http {
                true => format!("-----> {release} is held: it serves at {}", server.settings.url(&held_host(deploy))),
                false => format!("-----> {release} is held: it runs, and no role of it serves HTTP"),
            },
            format!("       `gantry promote {0}` moves the traffic, `gantry abort {0}` takes it back", deploy.app),
        ],
        DeployState::Promoting => vec![format!("-----> Promoting {release}")],
        DeployState::Draining => vec![format!(
            "-----> {release} {}; {} for {}",
            verb(of(deploy.release)),
            match deploy.previous {
                Some(previous) if of(Some(previous)).is_none_or(stands_by) => format!("{previous} stands by"),
                _ => "watching it".to_owned(),
            },
            server.settings.policy.watch
        )],
        DeployState::Reverting => refusal(deploy),
        DeployState::Superseded => {
            vec![format!("-----> Not deployed: {}", deploy.reason.as_ref().map(Reason::to_string).unwrap_or_default())]
        }
        DeployState::Reverted if deploy.reason == Some(Reason::AppDestroyed) => {
            vec![format!("-----> {} is destroyed, nothing of it serves", deploy.app)]
        }
        DeployState::Reverted => match deploy.previous {
            Some(previous) => vec![format!("-----> {previous} {}, as before", verb(of(Some(previous))))],
            None => vec!["-----> Nothing serves, as before".to_owned()],
        },
        DeployState::Building | DeployState::Held | DeployState::Done => Vec::new(),
    }
}

fn refusal(deploy: &Deploy) -> Vec<String> {
    let Some(reason) = &deploy.reason else {
        return vec![" !     The deploy failed".to_owned()];
    };
    let evidence = reason.evidence();
    let last = evidence.iter().skip(evidence.len().saturating_sub(EVIDENCE));
    let mut lines = vec![format!(" !     {reason}")];
    lines.extend(last.map(|line| format!(" !       {line}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_unseen_is_told() {
        use DeployState::{Building, Done, Draining, Held, Placing, Promoting, Reverting, Starting, Verifying};
        assert_eq!(passed(Some(Building), Verifying), [Placing, Starting]);
        assert_eq!(passed(Some(Verifying), Done), [Promoting, Draining]);
        for (before, now) in
            [(None, Done), (Some(Building), Placing), (Some(Held), Promoting), (Some(Starting), Reverting)]
        {
            assert!(passed(before, now).is_empty());
        }
    }
}
