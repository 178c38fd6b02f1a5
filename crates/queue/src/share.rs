//! The choice of the queue for the next job.
//!
//! Each turn goes to the project with the fewest running jobs, and within the project to the queue whose first job has
//! the lowest rank. A project with a million jobs delays no job of another project for longer than one of its own runs.

use std::collections::BTreeMap;

use gantry_model::AppName;

use crate::order::Rank;

/// A queue with ready jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueLoad {
    /// The queue's project.
    pub project: AppName,
    /// Number of leased jobs.
    pub leased: u32,
    /// Maximum number of leased jobs at the same time.
    pub limit: Option<u32>,
    /// True if no job may start.
    pub paused: bool,
    /// Rank of the first ready job.
    pub head: Option<Rank>,
}

impl QueueLoad {
    fn has_turn(&self) -> bool {
        !self.paused && self.head.is_some() && self.limit.is_none_or(|limit| self.leased < limit)
    }
}

/// Fair shares between projects.
#[derive(Debug, Clone)]
pub struct FairShare {
    queues: Vec<QueueLoad>,
    running: BTreeMap<AppName, u32>,
    /// Jobs that may still start in all queues together.
    room: u32,
}

impl FairShare {
    /// Shares between `queues`: all queues that have ready or leased jobs. At most `limit` jobs are leased in all.
    #[must_use]
    pub fn new(queues: Vec<QueueLoad>, limit: Option<u32>) -> Self {
        let mut running = BTreeMap::new();
        for queue in &queues {
            *running.entry(queue.project.clone()).or_default() += queue.leased;
        }
        let all: u32 = running.values().sum();
        Self { queues, running, room: limit.map_or(u32::MAX, |limit| limit.saturating_sub(all)) }
    }

    /// The place of the queue whose first job is next; none if no job may start.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        let turns = self.queues.iter().enumerate().filter(|(_, queue)| self.room > 0 && queue.has_turn());
        let order = |queue: &QueueLoad| (self.running.get(&queue.project).copied().unwrap_or_default(), queue.head);
        turns.min_by_key(|(_, queue)| order(queue)).map(|(place, _)| place)
    }

    /// The first job of a queue has started. `head` is the rank of the queue's next ready job.
    pub fn take(&mut self, place: usize, head: Option<Rank>) {
        let queue = &mut self.queues[place];
        (queue.leased, queue.head) = (queue.leased + 1, head);
        *self.running.entry(queue.project.clone()).or_default() += 1;
        self.room = self.room.saturating_sub(1);
    }

    /// The first job of a queue has ended without a start. `head` is the rank of the queue's next ready job.
    pub fn pass_over(&mut self, place: usize, head: Option<Rank>) {
        self.queues[place].head = head;
    }
}
