//! The store: serialized records, and the leadership key with its lease. A write counts only under the present term.

use std::collections::BTreeMap;

use gantry_model::Moment;
use gantry_records::{RecordChange, RecordIndex};

/// Time that leadership outlives a server that does not renew it, in milliseconds.
const LEASE_MILLIS: u64 = 10_000;

/// The server that leads.
#[derive(Debug, Clone, Copy)]
struct StoredLeader {
    server: usize,
    term: u64,
    until: Moment,
}

/// The store of the cluster.
#[derive(Debug, Default)]
pub(crate) struct SimulatedStore {
    entries: BTreeMap<String, Vec<u8>>,
    /// The same records, parsed.
    pub(crate) records: RecordIndex,
    leader: Option<StoredLeader>,
    last_term: u64,
    /// No server reaches the store before this moment.
    pub(crate) away_until: Moment,
}

impl SimulatedStore {
    /// Reports whether no server reaches the store.
    pub(crate) fn is_away(&self, now: Moment) -> bool {
        now < self.away_until
    }

    /// The server whose lease is live.
    pub(crate) fn leader(&self, now: Moment) -> Option<usize> {
        self.leader.filter(|leader| now < leader.until).map(|leader| leader.server)
    }

    /// Reports whether a term is the present one, and its lease is live.
    pub(crate) fn leads(&self, term: u64, now: Moment) -> bool {
        self.leader.is_some_and(|leader| leader.term == term && now < leader.until)
    }

    /// Takes leadership, unless another server leads. Returns the new term.
    pub(crate) fn take(&mut self, server: usize, now: Moment) -> Option<u64> {
        if self.leader(now).is_some_and(|leader| leader != server) {
            return None;
        }
        self.last_term += 1;
        let until = Moment(now.0 + LEASE_MILLIS);
        self.leader = Some(StoredLeader { server, term: self.last_term, until });
        Some(self.last_term)
    }

    /// Renews the lease of a term. Returns whether it was live.
    pub(crate) fn renew(&mut self, term: u64, now: Moment) -> bool {
        let leads = self.leads(term, now);
        if let (true, Some(leader)) = (leads, &mut self.leader) {
            leader.until = Moment(now.0 + LEASE_MILLIS);
        }
        leads
    }

    /// Writes a transaction.
    pub(crate) fn write(&mut self, transaction: &[RecordChange]) {
        for change in transaction {
            match change.entry().expect("a record has a form in the store") {
                (key, Some(value)) => drop(self.entries.insert(key, value)),
                (key, None) => drop(self.entries.remove(&key)),
            }
            self.records.apply(change.clone());
        }
    }

    /// Reads and parses all records.
    pub(crate) fn load(&self) -> RecordIndex {
        let entries = self.entries.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        RecordIndex::load(entries).expect("the records can be read")
    }

    /// Checksum of all records.
    pub(crate) fn checksum(&self) -> u64 {
        let bytes = self.entries.iter().flat_map(|(key, value)| key.bytes().chain(value.iter().copied()));
        bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}
