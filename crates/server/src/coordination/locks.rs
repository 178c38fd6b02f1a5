//! Waiting for a lock or for an election.

use std::sync::Arc;
use std::time::Duration;

use gantry_coordination::lock::Turn;
use gantry_coordination::{Command, Key, KeyValue, LeaseId, Refusal, Reply};
use gantry_model::AppName;

use super::{Coordination, CoordinationError};
use crate::Server;
use crate::tasks::LOCK_PLACE;

/// A request for a lock.
pub(crate) struct AcquireOrder {
    pub(crate) space: AppName,
    pub(crate) name: Key,
    /// The lease of the place; none grants a lease for this place alone.
    pub(crate) lease: Option<LeaseId>,
    /// Time to live of a lease that is granted, in seconds.
    pub(crate) ttl: i64,
    pub(crate) value: Option<Vec<u8>>,
    /// Longest wait; none waits as long as the caller does.
    pub(crate) wait: Option<Duration>,
}

/// Outcome of a request for a lock.
pub(crate) enum HeldPlace {
    /// The caller has the lock.
    Held(Arc<KeyValue>),
    /// Another place holds the lock.
    Taken,
}

/// Gives up a place whose caller has left. A caller that got the lock disarms it.
struct PlaceGuard {
    server: Arc<Server>,
    space: AppName,
    undo: Option<Command>,
}

impl Drop for PlaceGuard {
    fn drop(&mut self) {
        let Some(undo) = self.undo.take() else { return };
        let (server, space) = (Arc::clone(&self.server), self.space.clone());
        // If this fails, the place ends with its lease.
        let tasks = server.tasks.clone();
        tasks.spawn(LOCK_PLACE, async move { drop(server.coordination.run(&space, undo).await) });
    }
}

impl Coordination {
    /// Waits for a lock.
    pub(crate) async fn acquire(server: &Arc<Server>, order: AcquireOrder) -> Result<HeldPlace, CoordinationError> {
        let AcquireOrder { space, name, lease, ttl, value, wait } = order;
        let own = &server.coordination;
        if wait == Some(Duration::ZERO) {
            // A try that must fail writes nothing.
            let state = own.run(&space, Command::Lock(name.clone())).await?;
            if matches!(state.reply, Reply::Lock(state) if state.holder.is_some()) {
                return Ok(HeldPlace::Taken);
            }
        }
        let mut changes = own.watch(&space);
        changes.borrow_and_update();
        let dedicated = lease.is_none().then_some(ttl);
        let lease = lease.unwrap_or_else(new_lease);
        let undo = dedicated.map(|_| Command::Revoke(lease));
        let mut guard = PlaceGuard { server: Arc::clone(server), space: space.clone(), undo };
        let entered = Command::Enter { name: name.clone(), lease, ttl: dedicated, value };
        let entered = own.run(&space, entered).await?;
        let Reply::Place(entry) = entered.reply else { return Err(CoordinationError::Stopping) };
        let (key, token) = (entry.key.clone(), entry.created);
        if dedicated.is_none() {
            guard.undo = Some(Command::Leave { name: name.clone(), token });
        }
        let deadline = wait.map(|wait| tokio::time::Instant::now() + wait);
        // While the caller waits, the lease of its place in the queue is renewed.
        let mut renewal =
            tokio::time::interval(Duration::from_millis(500).max(Duration::from_secs(ttl.unsigned_abs()) / 3));
        loop {
            let turn = Command::Turn { key: key.clone(), token, name: name.clone() };
            let turn = own.run(&space, turn).await?;
            match turn.reply {
                Reply::Turn(Turn::First) => {
                    guard.undo = None;
                    if dedicated.is_some() {
                        own.run(&space, Command::KeepAlive(lease)).await?;
                    }
                    return Ok(HeldPlace::Held(entry));
                }
                Reply::Turn(Turn::Waiting) => {}
                _ => {
                    guard.undo = None;
                    return Err(Refusal::LockLost.into());
                }
            }
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => changed.map_err(|_| CoordinationError::Stopping)?,
                // Without a lease of its own, the tick is a look whether the server still leads.
                _ = renewal.tick() => {
                    if dedicated.is_some() {
                        own.run(&space, Command::KeepAlive(lease)).await?;
                    }
                }
                () = over => return Ok(HeldPlace::Taken),
            }
        }
    }
}

/// An identifier for a new lease. Zero is none.
pub(crate) fn new_lease() -> LeaseId {
    LeaseId(rand::random_range(1..=i64::MAX))
}
