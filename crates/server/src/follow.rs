//! Follows a deploy and reports its progress line by line, for `git push` and for `gantry deploy`.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::types::{DeployInfo, DeployProgress};
use gantry_api::{ErrorCode, deploy_failure_code};
use gantry_model::deploy::DeployOrder;
use gantry_model::{
    AppName, ClusterPolicy, Deploy, DeployNumber, DeployState, Reason, Release, ReleaseNumber, Seconds, WaitFor,
};
use tokio::sync::mpsc;

use crate::core::ClusterView;
use crate::tasks::STREAM;
use crate::{Server, build_logs};

/// Shortest pause before the follower looks again at a state that has not lasted for long. The view's time may be behind.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Time that a state must last before the follower reports the state's wait, in milliseconds.
const SHORT_WAIT_MILLIS: u64 = 2000;

/// Maximum number of lines of evidence below a refusal.
const EVIDENCE_MAX: usize = 15;

/// Point up to which a deploy is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FollowLimit {
    /// The new release serves. `gantry why`, the events and the next deploy report whether it continues to serve.
    Serving,
    /// The bake time, and with it the deploy, is over.
    Verdict,
}

impl FollowLimit {
    /// The point at which a push or a command that deploys returns by the policy.
    pub(crate) fn of(policy: &ClusterPolicy) -> Self {
        match policy.wait_for() {
            WaitFor::Serving => Self::Serving,
            WaitFor::Bake => Self::Verdict,
        }
    }
}

/// Follows a deploy up to the given point, or until a held deploy needs an order to promote or abort. The last message
/// is [`DeployProgress::End`].
pub(crate) fn follow(
    server: &Arc<Server>,
    app: AppName,
    number: DeployNumber,
    until: FollowLimit,
) -> mpsc::Receiver<DeployProgress> {
    let (sender, receiver) = mpsc::channel(64);
    let (tasks, server) = (&server.tasks, Arc::clone(server));
    tasks.spawn(STREAM, async move {
        let log = LogFile { path: build_logs::path(&server.settings, &app, number), read: 0 };
        DeployFollower { server, app, number, until, log, sender, shown: None, waits: None, begun: false }.run().await;
    });
    receiver
}

/// A build's log, with the number of bytes read so far.
struct LogFile {
    path: PathBuf,
    read: u64,
}

impl LogFile {
    /// Returns the next complete lines added since the last call, about a mebibyte at most; none without a further line.
    fn next_lines(&mut self) -> Option<Vec<String>> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&self.path).and_then(|mut file| {
            // A repeated build starts its log again.
            if file.metadata()?.len() < self.read {
                self.read = 0;
            }
            file.seek(SeekFrom::Start(self.read))?;
            file.take(1 << 20).read_to_end(&mut bytes)
        });
        read.ok()?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n')? + 1;
        self.read += whole as u64;
        Some(String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect())
    }
}

/// Reports the progress of one deploy to one client.
struct DeployFollower {
    server: Arc<Server>,
    app: AppName,
    number: DeployNumber,
    until: FollowLimit,
    log: LogFile,
    sender: mpsc::Sender<DeployProgress>,
    shown: Option<DeployState>,
    waits: Option<String>,
    /// The deploy was seen in a state other than queued. By then the outcome of the deploy before it is known, and was
    /// reported.
    begun: bool,
}

/// A deploy, and what is new about the deploy.
struct DeployNews {
    deploy: Arc<Deploy>,
    /// Lines for the client.
    lines: Vec<String>,
    /// The last message, if the client waits no longer.
    end: Option<DeployProgress>,
    /// Time until the wait of the deploy's state is worth a report; none once it is.
    short_wait: Option<Duration>,
}

impl DeployFollower {
    async fn run(mut self) {
        let mut changes = self.server.core.watch_app(&self.app);
        loop {
            changes.borrow_and_update();
            let mut output = self.server.builds.follow_output(&self.app, self.number);
            let is_first = self.shown.is_none();
            let Some(DeployNews { deploy, lines, end, short_wait }) = self.read_news() else { return };
            build_logs::fetch(&self.server, &deploy).await;
            // A client that promotes or aborts asks only for the outcome of that order. The client that pushed saw the
            // build.
            if is_first && deploy.order.is_some() {
                while self.log.next_lines().is_some() {}
            }
            // The state is read before the log, so that lines written before a transition also appear before the
            // transition. A queued deploy has no log.
            if deploy.state != DeployState::Queued {
                while let Some(lines) = self.log.next_lines() {
                    for line in lines {
                        self.send_line(line).await;
                    }
                }
            }
            for line in lines {
                self.send_line(line).await;
            }
            if let Some(end) = end {
                let _ = self.sender.send(end).await;
                return;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = output.next(), if deploy.state == DeployState::Building => {}
                () = tokio::time::sleep(short_wait.unwrap_or_default()), if short_wait.is_some() => {}
                () = self.sender.closed() => return,
            }
        }
    }

    async fn send_line(&self, text: String) {
        let _ = self.sender.send(DeployProgress::Line { text }).await;
    }

    /// Reads the deploy, and what is new about the deploy since the last call; none if the deploy was removed.
    fn read_news(&mut self) -> Option<DeployNews> {
        let view = self.server.core.view();
        let deploy = Arc::clone(view.records.deploys.get(&self.app)?.get(&self.number)?);
        let mut lines = Vec::new();
        if !self.begun && deploy.state != DeployState::Queued {
            self.begun = true;
            lines.extend(taken_back_before(&deploy, &view));
        }
        lines.extend(self.transition(&deploy, &view));
        let held = waits_for_an_order(&deploy);
        let ends = deploy.state.is_final() || held || self.until == FollowLimit::Serving && is_serving(&deploy);
        let end = ends.then(|| {
            let host = if held { held_host(&deploy) } else { self.app.to_string() };
            let url = speaks_http(&deploy, &view).then(|| view.records.policy.url(&host));
            DeployProgress::End { deploy: Box::new(DeployInfo::from(&*deploy)), url }
        });
        let short_wait = SHORT_WAIT_MILLIS.checked_sub(view.now.since(deploy.entered)).filter(|left| *left > 0);
        let short_wait = short_wait.map(|left| Duration::from_millis(left).max(PAUSE_MIN));
        Some(DeployNews { deploy, lines, end, short_wait })
    }

    /// The lines that announce a new state of the deploy, and a new cause of a wait.
    fn transition(&mut self, deploy: &Deploy, view: &ClusterView) -> Vec<String> {
        let mut lines = Vec::new();
        if self.shown != Some(deploy.state) {
            let before = self.shown.replace(deploy.state);
            self.waits = None;
            // A state that lasts milliseconds may go unseen. The reason for the revert is reported anyway.
            if deploy.state == DeployState::Reverted && before != Some(DeployState::Reverting) {
                lines.extend(refusal(deploy));
            }
            for state in skipped_states(before, deploy.state) {
                lines.extend(state_lines(deploy, *state, view));
            }
            lines.extend(state_lines(deploy, deploy.state, view));
        }
        // A short wait is no news.
        if view.now.since(deploy.entered) < SHORT_WAIT_MILLIS {
            return lines;
        }
        let wait = view.report.waits.get(&self.app).and_then(|waits| waits.first());
        if let Some(text) = wait.and_then(|wait| wait_text(deploy, wait))
            && self.waits.as_ref() != Some(&text)
        {
            lines.push(format!("       {text}"));
            self.waits = Some(text);
        }
        lines
    }
}

/// Returns whether the new release serves and no abort was ordered.
fn is_serving(deploy: &Deploy) -> bool {
    deploy.state == DeployState::Draining && deploy.order != Some(DeployOrder::Abort)
}

/// Returns whether the deploy's release has a role that gets HTTP requests. A release that does not exist yet may have
/// such a role and counts as having it.
fn speaks_http(deploy: &Deploy, view: &ClusterView) -> bool {
    let release = deploy.release.and_then(|number| view.records.release(&deploy.app, number));
    release.is_none_or(|release| release.speaks_http())
}

/// Reports the deploy before this one, if its release served and was taken back. The client that requested that deploy
/// may have left by then.
fn taken_back_before(deploy: &Deploy, view: &ClusterView) -> Vec<String> {
    if deploy.order.is_some() {
        return Vec::new();
    }
    let all = view.records.deploys.get(&deploy.app).into_iter();
    let mut before = all.flat_map(|all| all.range(..deploy.number).rev()).map(|(_, deploy)| deploy);
    let last = before.find(|deploy| deploy.state != DeployState::Superseded);
    let Some((last, reason)) = last.and_then(|last| Some((last, last.reason.as_ref()?))) else {
        return Vec::new();
    };
    match (last.served_before_revert(), reason) {
        (None, _) | (_, Reason::Aborted) => Vec::new(),
        (Some(_), reason) => vec![format!(
            "-----> Deploy {} before this one ({}) was {}: {reason}",
            last.number,
            last.cause,
            last.outcome()
        )],
    }
}

/// Returns whether the deploy is held and no order to promote or abort was given.
fn waits_for_an_order(deploy: &Deploy) -> bool {
    deploy.state == DeployState::Held && deploy.order.is_none()
}

/// Returns the host name of a held release, without the domain.
fn held_host(deploy: &Deploy) -> String {
    format!("{}.{}", deploy.release.map(|release| release.to_string()).unwrap_or_default(), deploy.app)
}

/// Returns the text of a wait, if the wait says more than the deploy's state does.
fn wait_text(deploy: &Deploy, wait: &Reason) -> Option<String> {
    match (deploy.state, wait) {
        (DeployState::Building, _) => None,
        (_, Reason::NotReady { probe: None, .. } | Reason::PreparesImage { .. }) => None,
        (_, Reason::Stopping { .. } | Reason::Watching { .. }) => None,
        (_, wait) => Some(wait.to_string()),
    }
}

/// States of a successful deploy, in order.
const SUCCESS_PATH: [DeployState; 7] = [
    DeployState::Building,
    DeployState::Placing,
    DeployState::Starting,
    DeployState::Verifying,
    DeployState::Promoting,
    DeployState::Draining,
    DeployState::Done,
];

/// Returns the states between the last shown state and this state. They were over before the follower looked.
fn skipped_states(before: Option<DeployState>, now: DeployState) -> &'static [DeployState] {
    let place = |state| SUCCESS_PATH.iter().position(|known| *known == state);
    match (before.and_then(place), place(now)) {
        (Some(before), Some(now)) if before < now => &SUCCESS_PATH[before + 1..now],
        _ => &[],
    }
}

/// Returns the verb for a release that took the place of another release.
fn verb(release: Option<&Release>) -> &'static str {
    match release {
        Some(release) if !release.speaks_http() && release.services().next().is_some() => {
            "runs, and none of its roles serves HTTP"
        }
        Some(release) if !release.speaks_http() => "is the release, and none of its roles keeps running",
        _ => "serves",
    }
}

/// Returns whether the old release still runs during the bake time of the new one. A role with a volume was stopped
/// before the new release started; any other service role runs on.
fn stands_by(release: &Release) -> bool {
    release.services().any(|(_, role)| !role.stop_first())
}

/// Returns the line of a queued deploy, which waits for the deploy `ahead`.
fn queue_line(ahead: &Deploy, bake_time: Seconds) -> String {
    let Deploy { number, cause, state, .. } = ahead;
    match state {
        DeployState::Draining => {
            format!(
                "-----> Waiting for the bake time of deploy {number} ({cause}): its release serves for {bake_time} first"
            )
        }
        state => format!("-----> Waiting for deploy {number} ({cause}), which is {state}"),
    }
}

/// Returns the lines that announce a state.
fn state_lines(deploy: &Deploy, state: DeployState, view: &ClusterView) -> Vec<String> {
    let (http, policy) = (speaks_http(deploy, view), &view.records.policy);
    let of = |number: Option<ReleaseNumber>| {
        number.and_then(|number| view.records.release(&deploy.app, number)).map(AsRef::as_ref)
    };
    let release = deploy.release.map(|release| release.to_string()).unwrap_or_default();
    match state {
        DeployState::Queued => {
            let ahead = view.records.open_deploys(&deploy.app).find(|other| other.state != DeployState::Queued);
            ahead.map(|ahead| queue_line(ahead, policy.bake_time())).into_iter().collect()
        }
        DeployState::Placing => vec![format!("-----> Releasing {release}")],
        DeployState::Starting => vec![format!("-----> Starting {release}")],
        DeployState::Verifying => vec![format!("-----> Verifying {release}")],
        DeployState::Held if waits_for_an_order(deploy) => vec![
            match http {
                true => format!("-----> {release} is held: it serves at {}", policy.url(&held_host(deploy))),
                false => format!("-----> {release} is held: it runs, and none of its roles serves HTTP"),
            },
            format!("       `gantry promote {0}` moves the traffic, `gantry abort {0}` takes it back", deploy.app),
        ],
        DeployState::Promoting => vec![format!("-----> Promoting {release}")],
        DeployState::Draining => vec![format!(
            "-----> {release} {}; {} {}",
            verb(of(deploy.release)),
            match deploy.previous {
                Some(previous) if of(Some(previous)).is_none_or(stands_by) => format!("{previous} stands by for"),
                _ => "its bake time is".to_owned(),
            },
            policy.bake_time()
        )],
        DeployState::Reverting => refusal(deploy),
        DeployState::Superseded => {
            let reason = deploy.reason.as_ref();
            vec![format!("-----> Not deployed: {}", reason.map(with_code).unwrap_or_default())]
        }
        DeployState::Reverted if deploy.reason == Some(Reason::AppDestroyed) => {
            vec![format!("-----> {} is destroyed, and nothing serves", deploy.app)]
        }
        DeployState::Reverted => match deploy.previous {
            Some(previous) => vec![format!("-----> {previous} {}, as before", verb(of(Some(previous))))],
            None => vec!["-----> Nothing serves, as before".to_owned()],
        },
        DeployState::Building | DeployState::Held | DeployState::Done => Vec::new(),
    }
}

/// Returns the text of a reason, with its stable code.
fn with_code(reason: &Reason) -> String {
    format!("{reason} [{}]", deploy_failure_code(reason))
}

/// Returns the reason of a failed deploy, with the last lines of evidence.
fn refusal(deploy: &Deploy) -> Vec<String> {
    let Some(reason) = &deploy.reason else {
        return vec![format!(" !     The deploy failed [{}]", ErrorCode::DeployFailed)];
    };
    let evidence = reason.evidence();
    let last = evidence.iter().skip(evidence.len().saturating_sub(EVIDENCE_MAX));
    let mut lines = vec![format!(" !     {}", with_code(reason))];
    lines.extend(last.map(|line| format!(" !       {line}")));
    lines
}

#[cfg(test)]
mod tests {
    use gantry_model::{DeployCause, Moment};

    use super::*;

    #[test]
    fn a_long_log_has_each_complete_line_without_further_news() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = LogFile { path: folder.path().join("log"), read: 0 };
        assert_eq!(log.next_lines(), None, "no log yet");
        let lines: Vec<String> = (0..50_000).map(|number| format!("{number:0100}")).collect();
        std::fs::write(&log.path, format!("{}\nhalf a line", lines.join("\n"))).expect("written");
        let read: Vec<Vec<String>> = std::iter::from_fn(|| log.next_lines()).collect();
        assert!(read.len() > 1, "the log is read in parts");
        assert!(read.concat() == lines);
        std::fs::write(&log.path, "again\n").expect("written");
        assert_eq!(log.next_lines(), Some(vec!["again".to_owned()]), "a repeated build");
        assert_eq!(log.next_lines(), None);
    }

    #[test]
    fn a_queued_deploy_names_the_deploy_that_it_waits_for() {
        let (app, cause) = (AppName::parse("shop").expect("a name"), DeployCause::Rollback { to: ReleaseNumber(1) });
        let mut ahead = Deploy::new(app, DeployNumber(2), cause, "ann".to_owned(), false, Moment(0));
        for (state, expected) in [
            (DeployState::Building, "-----> Waiting for deploy #2 (rollback to v1), which is building"),
            (
                DeployState::Draining,
                "-----> Waiting for the bake time of deploy #2 (rollback to v1): its release serves for 15 s first",
            ),
        ] {
            ahead.state = state;
            assert_eq!(queue_line(&ahead, Seconds(15)), expected);
        }
    }

    #[test]
    fn names_the_states_between_two_polls() {
        use DeployState::{Building, Done, Draining, Held, Placing, Promoting, Reverting, Starting, Verifying};
        assert_eq!(skipped_states(Some(Building), Verifying), [Placing, Starting]);
        assert_eq!(skipped_states(Some(Verifying), Done), [Promoting, Draining]);
        for (before, now) in
            [(None, Done), (Some(Building), Placing), (Some(Held), Promoting), (Some(Starting), Reverting)]
        {
            assert!(skipped_states(before, now).is_empty());
        }
    }
}
