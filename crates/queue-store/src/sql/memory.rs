//! A queue in the memory of its writer.

use super::load::Loads;
use super::open::OpenJobs;
use super::recent::RecentJobs;
use super::{Database, Fault};

/// Facts of a storage that only its writer changes.
#[derive(Debug, Default)]
pub(crate) struct QueueMemory {
    /// Counts of each queue.
    pub(crate) loads: Loads,
    /// Orders of the jobs that have not ended.
    pub(crate) open: OpenJobs,
    /// Rows of jobs.
    pub(crate) recent: RecentJobs,
}

/// Ready jobs of a queue that are in memory before a claim, and most queues of one look ahead.
const AHEAD: usize = 128;
const AHEAD_QUEUES: usize = 50;

impl QueueMemory {
    /// Reads the facts of a storage.
    pub(crate) fn read(database: &dyn Database) -> Result<Self, Fault> {
        Ok(Self { loads: Loads::read(database)?, open: OpenJobs::read(database)?, recent: RecentJobs::default() })
    }

    /// Reads the jobs that the next claims take, so that a claim reads nothing.
    pub(crate) fn look_ahead(&mut self, database: &dyn Database) -> Result<(), Fault> {
        let queues = std::mem::take(&mut self.open.claimed_from);
        let next = queues.into_iter().take(AHEAD_QUEUES).flat_map(|queue| self.open.ready(queue).take(AHEAD));
        self.recent.read_with_bodies(database, next.map(|(_, id)| id))
    }
}
