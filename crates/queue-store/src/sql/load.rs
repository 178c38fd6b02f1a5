//! Counts of each queue, in memory.

use std::collections::BTreeMap;

use gantry_model::AppName;
use gantry_queue::{JobState, QueueLoad, QueueName, Rank};

use super::row::{READY, state_columns, unsigned};
use super::value::bound;
use super::{Database, Fault};

/// A queue with its counts by state.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) name: QueueName,
    pub(crate) paused: bool,
    pub(crate) limit: Option<u32>,
    /// Jobs by state: delayed, held, ready, leased, ended.
    pub(crate) counts: [u64; 5],
    /// Rank of the first ready job, unless it has to be looked up.
    head: Option<Option<Rank>>,
}

/// All queues, by their numbers in the storage.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    pub(crate) queues: BTreeMap<i64, Load>,
    pub(crate) by_name: BTreeMap<QueueName, i64>,
}

impl Loads {
    /// Reads the queues of a storage without counting their jobs.
    pub(crate) fn names(database: &dyn Database) -> Result<Self, Fault> {
        let mut loads = Self::default();
        for mut row in database.query("SELECT id, project, code, paused, most FROM queues", &[])? {
            let (project, code): (String, String) = (row.get(1)?, row.get(2)?);
            let strange = || Fault::Row(format!("the name of queue {project}/{code}"));
            let name = QueueName {
                project: AppName::parse(&project).map_err(|_| strange())?,
                code: code.parse().map_err(|_| strange())?,
            };
            loads.insert(row.get(0)?, name, row.get(3)?, row.get(4)?);
        }
        Ok(loads)
    }

    /// Reads the queues of a storage, and counts their jobs.
    pub(crate) fn read(database: &dyn Database) -> Result<Self, Fault> {
        let mut loads = Self::names(database)?;
        for mut row in database.query("SELECT queue, state, count(*) FROM jobs GROUP BY queue, state", &[])? {
            let (queue, state, count): (i64, u8, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let load = loads.queues.get_mut(&queue).and_then(|load| load.counts.get_mut(usize::from(state)));
            *load.ok_or_else(|| Fault::Row(format!("jobs of an unknown queue or state: {queue}, {state}")))? =
                unsigned(count);
        }
        Ok(loads)
    }

    pub(crate) fn insert(&mut self, id: i64, name: QueueName, paused: bool, limit: Option<u32>) {
        self.by_name.insert(name.clone(), id);
        self.queues.insert(id, Load { name, paused, limit, counts: [0; 5], head: None });
    }

    /// Number of jobs that wait or run.
    pub(crate) fn open(&self) -> u64 {
        self.queues.values().map(|load| load.counts[..4].iter().sum::<u64>()).sum()
    }

    /// Counts a job that changed its state. A new job has no state before, a removed one none after.
    pub(crate) fn changed(&mut self, queue: i64, before: Option<&JobState>, after: Option<&JobState>) {
        let Some(load) = self.queues.get_mut(&queue) else { return };
        for (state, by) in [(before, -1), (after, 1)] {
            let Some(state) = state else { continue };
            let place = usize::try_from(state_columns(state).0).unwrap_or_default();
            load.counts[place] = load.counts[place].saturating_add_signed(by);
        }
        match (before, after) {
            (_, Some(JobState::Ready { rank })) => {
                load.head = load.head.map(|head| Some(head.map_or(*rank, |head| head.min(*rank))));
            }
            (Some(JobState::Ready { .. }), _) => load.head = None,
            _ => {}
        }
    }

    /// Notes the rank of the first ready job of a queue.
    pub(crate) fn begins_with(&mut self, queue: i64, rank: Rank) {
        if let Some(load) = self.queues.get_mut(&queue) {
            load.head = Some(Some(rank));
        }
    }

    /// The queues with ready or leased jobs, with their numbers.
    pub(crate) fn shares(&mut self, database: &dyn Database) -> Result<(Vec<i64>, Vec<QueueLoad>), Fault> {
        let mut numbers = Vec::new();
        let mut shares = Vec::new();
        for (number, load) in self.queues.iter_mut().filter(|(_, load)| load.counts[2] + load.counts[3] > 0) {
            let head = match load.head {
                Some(head) => head,
                None if load.counts[2] == 0 => None,
                None => first_rank(database, *number)?,
            };
            load.head = Some(head);
            numbers.push(*number);
            shares.push(QueueLoad {
                project: load.name.project.clone(),
                leased: u32::try_from(load.counts[3]).unwrap_or(u32::MAX),
                limit: load.limit,
                paused: load.paused,
                head,
            });
        }
        Ok((numbers, shares))
    }
}

fn first_rank(database: &dyn Database, queue: i64) -> Result<Option<Rank>, Fault> {
    let sql = format!("SELECT place FROM jobs WHERE state = {READY} AND queue = ?1 ORDER BY place, id LIMIT 1");
    database.one(&sql, bound![queue])?.map(|mut row| row.get(0).map(Rank)).transpose()
}
