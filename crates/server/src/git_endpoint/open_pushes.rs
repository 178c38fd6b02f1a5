//! Pushes under way, each from git's start to git's end.

use std::collections::HashMap;
use std::time::Duration;

use gantry_model::AppName;
use tokio::sync::watch;

/// Timeout for git to move the branch after the verdict, on a busy machine.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// A push under way.
#[derive(Debug, Clone)]
struct OpenPush {
    app: AppName,
    user: String,
    /// True if the hook has connected. A push's id opens one conversation only.
    connected: bool,
    /// The commit on its way to the branch: from the start of its deploy until the branch has moved.
    moving: Option<String>,
}

/// Pushes under way, by a random id that only git's own processes know.
#[derive(Default)]
pub(crate) struct OpenPushes(watch::Sender<HashMap<String, OpenPush>>);

impl OpenPushes {
    /// Registers a push and returns its random id.
    pub(crate) fn begin(&self, app: &AppName, user: &str) -> String {
        let id = format!("{:032x}", rand::random::<u128>());
        let push = OpenPush { app: app.clone(), user: user.to_owned(), connected: false, moving: None };
        self.0.send_modify(|pushes| drop(pushes.insert(id.clone(), push)));
        id
    }

    /// Returns the app and the user of a push when its hook connects; `None` for an unknown id and for a second hook.
    pub(super) fn connect(&self, id: &str) -> Option<(AppName, String)> {
        let mut found = None;
        self.0.send_if_modified(|pushes| {
            if let Some(push) = pushes.get_mut(id).filter(|push| !push.connected) {
                push.connected = true;
                found = Some((push.app.clone(), push.user.clone()));
            }
            false
        });
        found
    }

    /// Notes that the commit of a push is about to be deployed. If the deploy succeeds, git moves the branch to the
    /// commit.
    pub(super) fn expect_move(&self, id: &str, commit: &str) {
        self.0.send_modify(|pushes| pushes.get_mut(id).into_iter().for_each(|push| push.moving = Some(commit.into())));
    }

    /// Notes that git has moved the branch to the commit of a push.
    pub(super) fn branch_moved(&self, id: &str) {
        self.0.send_modify(|pushes| pushes.get_mut(id).into_iter().for_each(|push| push.moving = None));
    }

    /// Waits until no push is moving the app's branch to `commit`: the branch has moved, or never will. Returns false
    /// after a timeout.
    pub(super) async fn moves_ended(&self, app: &AppName, commit: &str) -> bool {
        let is_moving = |push: &OpenPush| push.app == *app && push.moving.as_deref() == Some(commit);
        let mut pushes = self.0.subscribe();
        let settled = pushes.wait_for(|pushes| !pushes.values().any(is_moving));
        tokio::time::timeout(MOVE_TIMEOUT, settled).await.is_ok()
    }

    /// Removes a push whose git has ended.
    pub(crate) fn end(&self, id: &str) {
        self.0.send_modify(|pushes| drop(pushes.remove(id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> AppName {
        AppName::parse("shop").expect("a name")
    }

    #[test]
    fn an_id_opens_one_conversation() {
        let pushes = OpenPushes::default();
        let id = pushes.begin(&shop(), "alice");
        assert_eq!(pushes.connect("0"), None);
        assert_eq!(pushes.connect(&id), Some((shop(), "alice".to_owned())));
        assert_eq!(pushes.connect(&id), None);
        pushes.end(&id);
        assert_eq!(pushes.connect(&id), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_is_settled_once_the_branch_has_moved_or_git_has_ended() {
        let pushes = OpenPushes::default();
        assert!(pushes.moves_ended(&shop(), "a").await, "no push moves the branch");
        for end in [OpenPushes::branch_moved, OpenPushes::end] {
            let id = pushes.begin(&shop(), "alice");
            pushes.expect_move(&id, "a");
            assert!(pushes.moves_ended(&shop(), "b").await, "another commit");
            assert!(!pushes.moves_ended(&shop(), "a").await, "the timeout ends the wait");
            let app = shop();
            let (settled, ()) = tokio::join!(pushes.moves_ended(&app, "a"), async { end(&pushes, &id) });
            assert!(settled);
        }
    }
}
