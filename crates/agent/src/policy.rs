//! The rules of the cluster that this agent obeys, kept on disk so that an agent without a server obeys them too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_control::PeerPolicy;
use tokio::sync::watch;
use tokio::time::Instant;

/// The rules in force.
pub(crate) struct AgentPolicy {
    path: PathBuf,
    rules: watch::Sender<PeerPolicy>,
}

impl AgentPolicy {
    /// Reads the rules that were received last; the defaults if there are none.
    pub(crate) fn load(data: &Path) -> Self {
        let path = data.join("policy.json");
        let known = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { path, rules: watch::Sender::new(known.unwrap_or_default()) }
    }

    /// The rules in force.
    pub(crate) fn now(&self) -> PeerPolicy {
        self.rules.borrow().clone()
    }

    /// Minimum age of garbage.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_millis(self.rules.borrow().collect_grace.millis())
    }

    /// Bytes that must stay free on the disk.
    pub(crate) fn reserve(&self) -> u64 {
        self.rules.borrow().reserve.0
    }

    /// Puts received rules in force. Rules that cannot be written hold until the agent ends.
    pub(crate) fn take(&self, rules: PeerPolicy) {
        if *self.rules.borrow() == rules {
            return;
        }
        if let Err(error) = gantry_ledger::replace_json(&self.path, &rules) {
            tracing::warn!(%error, "cannot write the cluster policy to disk; the policy holds until this agent ends");
        }
        self.rules.send_replace(rules);
    }

    /// Waits for one interval of garbage collection, whose length may change meanwhile.
    pub(crate) async fn gc_interval(&self) {
        let (began, mut changes) = (Instant::now(), self.rules.subscribe());
        loop {
            let every = Duration::from_millis(changes.borrow_and_update().collect_every.millis());
            tokio::select! {
                () = tokio::time::sleep_until(began + every) => return,
                Ok(()) = changes.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gantry_model::Seconds;

    use super::*;

    #[test]
    fn keeps_the_rules_on_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let policy = AgentPolicy::load(folder.path());
        assert_eq!(policy.now(), PeerPolicy::default());
        let rules = PeerPolicy { builds: 7, ..PeerPolicy::default() };
        policy.take(rules.clone());
        assert_eq!((policy.now(), AgentPolicy::load(folder.path()).now()), (rules.clone(), rules));
        std::fs::write(folder.path().join("policy.json"), "{").expect("written");
        assert_eq!(AgentPolicy::load(folder.path()).now(), PeerPolicy::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_interval_ends_the_present_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let policy = AgentPolicy::load(folder.path());
        let began = Instant::now();
        let mut wait = Box::pin(policy.gc_interval());
        assert!(futures_util::poll!(&mut wait).is_pending());
        policy.take(PeerPolicy { collect_every: Seconds(5), ..PeerPolicy::default() });
        wait.await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}
