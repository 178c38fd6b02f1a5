//! Leases: keys that end unless their owner renews them.

use std::collections::BTreeSet;

use gantry_model::Moment;

use crate::{CommandEffects, Key, Keyspace, Refusal};

/// Identifier of a lease, chosen by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// The shortest time to live, in seconds. A shorter one is granted as this one, as etcd does.
pub const TTL_MIN_SECONDS: i64 = 2;

/// The longest time to live, in seconds: that of etcd.
pub const TTL_MAX_SECONDS: i64 = 9_000_000_000;

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Time to live in seconds.
    pub(crate) ttl: i64,
    /// The lease belongs to one key and ends with the key.
    pub(crate) dedicated: bool,
    pub(crate) deadline: Moment,
    pub(crate) keys: BTreeSet<Key>,
}

/// A lease, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The identifier.
    pub id: LeaseId,
    /// Granted time to live in seconds.
    pub granted: i64,
    /// Seconds until the lease ends.
    pub remaining: i64,
    /// Keys of the lease.
    pub keys: Vec<Key>,
}

/// The time at which a lease ends that is renewed now.
pub(crate) fn deadline(now: Moment, ttl: i64) -> Moment {
    Moment(now.0.saturating_add(u64::try_from(ttl).unwrap_or_default().saturating_mul(1000)))
}

impl Keyspace {
    /// Grants a lease. A dedicated lease ends with its key.
    pub(crate) fn grant(
        &mut self,
        id: LeaseId,
        ttl: i64,
        dedicated: bool,
        effects: &mut CommandEffects,
    ) -> Result<LeaseInfo, Refusal> {
        if ttl > TTL_MAX_SECONDS {
            return Err(Refusal::TtlTooLong);
        }
        if self.leases.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        if self.leases.len() >= self.quota.leases {
            return Err(Refusal::TooManyLeases { max: self.quota.leases });
        }
        let ttl = ttl.max(TTL_MIN_SECONDS);
        let lease = Lease { ttl, dedicated, deadline: deadline(effects.now, ttl), keys: BTreeSet::new() };
        self.set_lease(id, Some(lease), effects);
        Ok(LeaseInfo { id, granted: ttl, remaining: ttl, keys: Vec::new() })
    }

    /// Renews a lease in memory. Returns nothing for an unknown lease.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Moment) -> Option<LeaseInfo> {
        let lease = self.leases.get_mut(&id)?;
        lease.deadline = deadline(now, lease.ttl);
        self.lease_info(id, now)
    }

    /// Describes a lease.
    #[must_use]
    pub fn lease_info(&self, id: LeaseId, now: Moment) -> Option<LeaseInfo> {
        let lease = self.leases.get(&id)?;
        let remaining = lease.deadline.0.saturating_sub(now.0) / 1000;
        let remaining = i64::try_from(remaining).unwrap_or(i64::MAX);
        Some(LeaseInfo { id, granted: lease.ttl, remaining, keys: lease.keys.iter().cloned().collect() })
    }

    /// Ends a lease, and removes its keys as one revision.
    pub(crate) fn revoke(&mut self, id: LeaseId, effects: &mut CommandEffects) -> Result<usize, Refusal> {
        let lease = self.leases.get(&id).ok_or(Refusal::LeaseNotFound)?;
        let keys: Vec<Key> = lease.keys.iter().cloned().collect();
        if !keys.is_empty() {
            let revision = self.begin_revision(effects);
            for key in &keys {
                self.set_entry(key, None, revision, effects);
            }
            effects.clearings.push(crate::Clearing::Lease { lease: id, before: revision });
        }
        self.set_lease(id, None, effects);
        Ok(keys.len())
    }

    /// The time at which the next lease ends.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        self.leases.values().map(|lease| lease.deadline).min()
    }

    /// Ends the lease whose time is over for the longest time. Called until it returns nothing.
    pub fn expire_one(&mut self, now: Moment) -> Option<CommandEffects> {
        let due = self.leases.iter().filter(|(_, lease)| lease.deadline <= now);
        let id = due.min_by_key(|(_, lease)| lease.deadline).map(|(id, _)| *id)?;
        let mut effects = self.begin_effects(now);
        // The lease is there.
        let _ = self.revoke(id, &mut effects);
        Some(effects)
    }

    /// Moves all deadlines by a time in which no owner could renew a lease.
    pub fn extend_leases(&mut self, millis: u64) {
        for lease in self.leases.values_mut() {
            lease.deadline = Moment(lease.deadline.0.saturating_add(millis));
        }
    }
}
