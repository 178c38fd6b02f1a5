//! Schedules: each is a row. Due times and their jobs are written in one transaction, so that no time runs twice.

use gantry_model::{AppName, Moment};
use gantry_queue::{JobId, ScheduleName};
use gantry_schedule::{Overlap, Progress};

use super::row::{unsigned, whole};
use super::value::bound;
use super::write::Writer;
use super::{Database, Fault, NumberedTable, Row, SqlParameter};
use crate::{
    CancelEffect, Fire, Fired, NewSchedule, SCHEDULES_MAX, ScheduleCommand, ScheduleId, ScheduleOrigin,
    ScheduleRefusal, ScheduleReply, StoredSchedule,
};

/// Columns of a row, in the order in which [`read`] expects them.
const COLUMNS: &str = "id, project, name, schedule, template, of_release, creator, paused, created, handled, runs, \
                       skipped, last_run, last_job, note";

fn read(mut row: Row) -> Result<StoredSchedule, Fault> {
    let (project, name): (String, String) = (row.get(1)?, row.get(2)?);
    let strange = |what: &str| Fault::Row(format!("{what} of schedule {project}/{name}"));
    let schedule: String = row.get(3)?;
    let moment = |number: Option<i64>| number.map(|number| Moment(unsigned(number)));
    let new = NewSchedule {
        name: ScheduleName {
            project: AppName::parse(&project).map_err(|_| strange("the project"))?,
            name: name.parse().map_err(|_| strange("the name"))?,
        },
        schedule: serde_json::from_str(&schedule).map_err(|_| strange("the times"))?,
        template: row.get(4)?,
        origin: if row.get(5)? { ScheduleOrigin::Release } else { ScheduleOrigin::Caller },
        by: row.get(6)?,
    };
    let progress = Progress {
        created: Moment(unsigned(row.get(8)?)),
        handled: Moment(unsigned(row.get(9)?)),
        runs: unsigned(row.get(10)?),
    };
    Ok(StoredSchedule {
        id: ScheduleId(unsigned(row.get(0)?)),
        new,
        paused: row.get(7)?,
        progress,
        skipped: unsigned(row.get(11)?),
        last_run: moment(row.get(12)?),
        last_job: row.get::<Option<i64>>(13)?.map(|number| JobId(unsigned(number))),
        note: row.get(14)?,
    })
}

/// Reads the schedules that meet a condition.
pub(crate) fn select(
    database: &dyn Database,
    condition: &str,
    values: &[SqlParameter<'_>],
) -> Result<Vec<StoredSchedule>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM schedules WHERE {condition}");
    database.query(&sql, values)?.into_iter().map(read).collect()
}

/// Finds a schedule by its name.
pub(crate) fn find(database: &dyn Database, name: &ScheduleName) -> Result<Option<StoredSchedule>, Fault> {
    let values = bound![name.project.as_str(), name.name.as_str()];
    Ok(select(database, "project = ?1 AND name = ?2", values)?.pop())
}

/// The next due time, as the storage has it.
fn next(schedule: &StoredSchedule) -> Option<i64> {
    schedule.progress.next(&schedule.new.schedule).map(|next| whole(next.0))
}

impl Writer<'_> {
    /// Carries out a command on schedules.
    pub(crate) fn schedule(&mut self, command: ScheduleCommand) -> Result<ScheduleReply, Fault> {
        Ok(match command {
            ScheduleCommand::Create(new) => ScheduleReply::Created(self.create(*new)?),
            ScheduleCommand::Pause(name, paused) => ScheduleReply::Changed(self.pause(&name, paused)?),
            ScheduleCommand::Remove(name) => {
                let values = bound![name.project.as_str(), name.name.as_str()];
                let sql = "DELETE FROM schedules WHERE project = ?1 AND name = ?2";
                let removed = self.database.execute(sql, values)?;
                ScheduleReply::Changed(removed > 0)
            }
            ScheduleCommand::Fire(fire) => ScheduleReply::Fired(self.fire(*fire)?),
        })
    }

    fn create(&mut self, new: NewSchedule) -> Result<Result<(), ScheduleRefusal>, Fault> {
        let known = find(self.database, &new.name)?;
        let progress = Progress::requested(self.now, &new.schedule);
        let next = progress.next(&new.schedule).map(|next| whole(next.0));
        let text = serde_json::to_string(&new.schedule).map_err(|error| Fault::Row(error.to_string()))?;
        let of_release = new.origin == ScheduleOrigin::Release;
        if let Some(known) = known {
            if !of_release || known.new.origin != ScheduleOrigin::Release {
                return Ok(Err(ScheduleRefusal::Exists(new.name)));
            }
            let (created, handled) = (whole(progress.created.0), whole(progress.handled.0));
            let values = bound![whole(known.id.0), &text, &new.template, &new.by, created, handled, next];
            let sql = "UPDATE schedules SET schedule = ?2, template = ?3, creator = ?4, created = ?5, handled = ?6, \
                       next = ?7, note = NULL WHERE id = ?1";
            self.database.write(sql, values)?;
            return Ok(Ok(()));
        }
        if self.database.number("SELECT count(*) FROM schedules", &[])? >= SCHEDULES_MAX {
            return Ok(Err(ScheduleRefusal::TooMany));
        }
        let sql = "INSERT INTO schedules (id, project, name, schedule, template, of_release, creator, created, handled, next) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let (project, name) = (new.name.project.as_str(), new.name.name.as_str());
        let (created, handled) = (whole(progress.created.0), whole(progress.handled.0));
        let values = bound![project, name, &text, &new.template, of_release, &new.by, created, handled, next];
        self.database.insert(NumberedTable::Schedules, sql, values)?;
        Ok(Ok(()))
    }

    fn pause(&mut self, name: &ScheduleName, paused: bool) -> Result<bool, Fault> {
        let Some(mut schedule) = find(self.database, name)? else { return Ok(false) };
        // Times of the pause are neither missed nor due later.
        if schedule.paused && !paused {
            schedule.progress.handled = schedule.progress.handled.max(self.now);
        }
        schedule.paused = paused;
        self.update(&schedule)?;
        Ok(true)
    }

    fn fire(&mut self, fire: Fire) -> Result<Fired, Fault> {
        let found = select(self.database, "id = ?1", bound![whole(fire.id.0)])?.pop();
        let Some(mut schedule) = found.filter(|found| !found.paused && found.progress == fire.after) else {
            return Ok(Fired::Stale);
        };
        if self.loads.open() + fire.runs.len() as u64 > *self.most_open {
            return Ok(Fired::Full);
        }
        let (mut jobs, mut stopping) = (Vec::new(), Vec::new());
        schedule.skipped += fire.skipped;
        schedule.note = fire.note;
        for (at, job) in fire.runs {
            schedule.progress.runs += 1;
            let open = match schedule.last_job {
                Some(last) => self.find(last)?.filter(|last| !last.job.is_over()),
                None => None,
            };
            match Overlap::decide(schedule.new.schedule.overlap, open.is_some()) {
                Overlap::Skip => {
                    schedule.skipped += 1;
                    schedule.note = open.map(|open| format!("job {} of the time before had not ended", open.id));
                    continue;
                }
                Overlap::Replace => {
                    let last = open.map(|open| open.id);
                    if let Some(last) = last
                        && let CancelEffect::Stopping(machine, fence) = self.cancel(last)?
                    {
                        stopping.push((last, machine, fence));
                    }
                }
                Overlap::Run => {}
            }
            let id = match self.submit(vec![job])? {
                Ok(ids) => ids.first().copied(),
                Err(refusal) => {
                    schedule.note = Some(refusal.to_string());
                    None
                }
            };
            if let Some(id) = id {
                (schedule.last_run, schedule.last_job) = (Some(at), Some(id));
                jobs.push(id);
            }
        }
        schedule.progress.handled = fire.handled;
        self.update(&schedule)?;
        Ok(Fired::Done { jobs, stopping })
    }

    /// Writes the parts of a schedule that change.
    fn update(&self, schedule: &StoredSchedule) -> Result<(), Fault> {
        let sql = "UPDATE schedules SET paused = ?2, handled = ?3, runs = ?4, skipped = ?5, last_run = ?6, last_job = ?7, \
                   note = ?8, next = ?9 WHERE id = ?1";
        let progress = &schedule.progress;
        self.database.write(
            sql,
            bound![
                whole(schedule.id.0),
                schedule.paused,
                whole(progress.handled.0),
                whole(progress.runs),
                whole(schedule.skipped),
                schedule.last_run.map(|moment| whole(moment.0)),
                schedule.last_job.map(|job| whole(job.0)),
                schedule.note.as_deref(),
                next(schedule)
            ],
        )
    }
}

/// The moment at which the next schedule is due.
pub(crate) fn next_due(database: &dyn Database) -> Result<Option<Moment>, Fault> {
    let sql = "SELECT next FROM schedules WHERE next IS NOT NULL AND paused = 0 ORDER BY next LIMIT 1";
    let next = database.one(sql, &[])?.map(|mut row| row.get(0)).transpose()?;
    Ok(next.map(|next| Moment(unsigned(next))))
}
