//! Counts of each queue, in memory.

use std::collections::BTreeMap;

use gantry_model::AppName;
use gantry_queue::{JobState, QueueLoad, QueueName};

use super::open::OpenJobs;
use super::row::{state_columns, unsigned};
use super::{Database, Fault};

/// A queue with its counts by state.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) name: QueueName,
    pub(crate) paused: bool,
    pub(crate) limit: Option<u32>,
    /// Jobs by state: delayed, held, ready, leased, ended.
    pub(crate) counts: [u64; 5],
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
        self.queues.insert(id, Load { name, paused, limit, counts: [0; 5] });
    }

    /// Number of jobs that wait or run.
    pub(crate) fn open(&self) -> u64 {
        self.queues.values().map(|load| load.counts[..4].iter().sum::<u64>()).sum()
    }

    /// An ended job was removed.
    pub(crate) fn removed(&mut self, queue: i64) {
        if let Some(load) = self.queues.get_mut(&queue) {
            load.counts[4] = load.counts[4].saturating_sub(1);
        }
    }

    /// Counts a job that changed its state. A new job has no state before.
    pub(crate) fn changed(&mut self, queue: i64, before: Option<&JobState>, after: &JobState) {
        let Some(load) = self.queues.get_mut(&queue) else { return };
        for (state, by) in [(before, -1), (Some(after), 1)] {
            let Some(state) = state else { continue };
            let place = usize::try_from(state_columns(state).0).unwrap_or_default();
            load.counts[place] = load.counts[place].saturating_add_signed(by);
        }
    }

    /// The queues with ready or leased jobs, with their numbers.
    pub(crate) fn shares(&self, open: &OpenJobs) -> (Vec<i64>, Vec<QueueLoad>) {
        let busy = self.queues.iter().filter(|(_, load)| load.counts[2] + load.counts[3] > 0);
        let share = |(number, load): (&i64, &Load)| {
            let share = QueueLoad {
                project: load.name.project.clone(),
                leased: u32::try_from(load.counts[3]).unwrap_or(u32::MAX),
                limit: load.limit,
                paused: load.paused,
                head: open.head(*number),
            };
            (*number, share)
        };
        busy.map(share).unzip()
    }
}
