//! Waiting for vacant leadership.
//!
//! A follower watches the leadership key. It also reads the key once a second, because a watch on etcd 3.4 may fall
//! silent. A leader whose address refuses connections has ended: its follower need not wait for the lease. That holds
//! only for an address that this follower has reached in the same term. Otherwise two servers with wrong addresses would
//! depose each other for ever.

use std::io::ErrorKind;
use std::time::Duration;

use gantry_supervision::{Backoff, Retry};
use tokio::net::TcpStream;

use super::node::Node;
use crate::ServerError;
use crate::leadership::{Claim, KEY, Leadership, OtherLeader, claim, depose};

/// Interval of reading the leadership key, whatever the watch says.
const POLL: Duration = Duration::from_secs(1);

/// Pause after the store did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Interval of connections to the leader, and their timeout.
const PROBE: Duration = Duration::from_millis(200);

/// Refused connections in a row that prove the end of the leader. A restart of the leader refuses some, too, and takes
/// leadership again by its name.
const REFUSALS: u32 = 2;

/// Takes leadership as soon as it is vacant. Tells the gate which server leads meanwhile. Fails on a store that has only a
/// part of its records.
pub(super) async fn take_vacant(node: &Node) -> Result<Leadership, ServerError> {
    let mut probe = LeaderProbe::default();
    loop {
        let retry = Retry::new("claim of the leadership", Backoff::constant(RETRY_PAUSE));
        match retry.until_done(|| claim(&node.store, &node.candidate)).await {
            Claim::Leads(leadership) => {
                tracing::info!("this server leads");
                gantry_failpoint::failpoint!("leadership.taken");
                return Ok(leadership);
            }
            Claim::Unfinished(error) => return Err(error.into()),
            Claim::Other(other) => {
                node.gate.follow(&other.record);
                vacancy(node, &other, &mut probe).await;
            }
        }
    }
}

/// Waits until leadership may be vacant, for [`POLL`] at most.
async fn vacancy(node: &Node, other: &OtherLeader, probe: &mut LeaderProbe) {
    let changed = async {
        match node.store.watch(KEY, other.modified).await {
            Ok(mut watch) => drop(watch.next().await),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    tokio::select! {
        () = changed => {}
        () = tokio::time::sleep(POLL) => {}
        () = probe.until_gone(other) => {
            tracing::warn!(leader = other.record.name, "the leader refuses connections: it has ended");
            if let Err(error) = depose(&node.store, other.modified).await {
                tracing::warn!(error = crate::causes(&error), "cannot end the leadership of a server that has ended");
            }
        }
    }
}

/// Connections to the leader's address.
#[derive(Default)]
struct LeaderProbe {
    /// The leadership in which the address was reached.
    reached: Option<OtherLeader>,
    refused: u32,
}

impl LeaderProbe {
    /// Waits until the leader has ended.
    async fn until_gone(&mut self, leader: &OtherLeader) {
        let Some(address) = &leader.record.address else { return std::future::pending().await };
        if self.reached.as_ref() != Some(leader) {
            // The refusals belong to an earlier leader or an earlier term.
            self.refused = 0;
        }
        while self.refused < REFUSALS {
            let outcome = tokio::time::timeout(PROBE, TcpStream::connect(&address.address)).await;
            self.take(leader, outcome.map_or(Err(ErrorKind::TimedOut), |made| made.map(drop).map_err(|e| e.kind())));
            tokio::time::sleep(PROBE).await;
        }
        self.refused = 0;
    }

    fn take(&mut self, leader: &OtherLeader, outcome: Result<(), ErrorKind>) {
        match outcome {
            Ok(()) => (self.reached, self.refused) = (Some(leader.clone()), 0),
            Err(ErrorKind::ConnectionRefused) if self.reached.as_ref() == Some(leader) => self.refused += 1,
            Err(_) => self.refused = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leadership::LeaderRecord;

    fn leader(modified: i64) -> OtherLeader {
        OtherLeader { record: LeaderRecord::parse(b"m1"), modified }
    }

    #[test]
    fn only_an_address_that_was_reached_in_the_term_proves_the_end() {
        let (mut probe, refused) = (LeaderProbe::default(), Err(ErrorKind::ConnectionRefused));
        for _ in 0..10 {
            probe.take(&leader(1), refused);
        }
        assert_eq!(probe.refused, 0, "the address may be wrong");
        probe.take(&leader(1), Ok(()));
        probe.take(&leader(1), refused);
        probe.take(&leader(1), Err(ErrorKind::TimedOut));
        assert_eq!(probe.refused, 0, "a silent leader may only be slow: its lease tells");
        (0..REFUSALS).for_each(|_| probe.take(&leader(1), refused));
        assert_eq!(probe.refused, REFUSALS);
        let mut probe = LeaderProbe { reached: Some(leader(1)), refused: 0 };
        probe.take(&leader(2), refused);
        assert_eq!(probe.refused, 0, "another term");
    }
}
