//! Deliveries of push queues and of callbacks. An index of each host's due deliveries lets a sender pass over busy hosts,
//! however many deliveries wait for them.

use std::collections::BTreeMap;

use gantry_model::{AppName, Moment};
use gantry_queue::{
    CALLBACK_RULES, Delivery, DeliveryEvent, DeliveryRules, DeliveryState, Jitter, Job, JobId, MessageQueueKind,
    MessageQueueSettings, PushFailure, PushSettings, ReceiverAnswer, Reservation, Subscriber, SubscriberUrl,
    copies_of_each, error_report, set_copies_left,
};

use super::messages::{MessageContent, Queue, queue, queue_of};
use super::row::{StoredJob, unsigned, whole};
use super::value::bound;
use super::write::Writer;
use super::{Database, Fault, NumberedTable, Row};
use crate::{
    DeliveryCommand, DeliveryId, DeliveryReply, DeliveryWork, Forwarded, MessageCommand, MessageFault, MessageId,
    MessageQueueName, MessageReply, NewMessage, SIGNING_KEYS_MAX, SigningKey, StoredDelivery, TakenDeliveries,
    TakenDelivery,
};

/// Hosts that one take looks at.
const HOSTS_SCANNED_MAX: usize = 200;

/// Longest note, in bytes.
const NOTE_MAX: usize = 500;

const COLUMNS: &str =
    "id, queue, message, job, subscriber, host, state, due, reservation, attempts, status, note, tried";

/// Number of [`COLUMNS`].
const COLUMN_COUNT: usize = 13;

/// Numbers of the states.
const WAITING: i64 = 0;
const SENT: i64 = 1;
const ACCEPTED: i64 = 2;
const DELIVERED: i64 = 3;
const FAILED: i64 = 4;

/// A row.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryRow {
    id: DeliveryId,
    target: Target,
    host: String,
    delivery: Delivery,
    status: Option<u16>,
    note: Option<String>,
    tried: Option<Moment>,
}

/// The object of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// A message of a queue, for a named subscriber or for one of all.
    Message { queue: i64, message: MessageId, subscriber: Option<String> },
    /// The end of a job.
    Job(JobId),
}

impl DeliveryRow {
    fn read(mut row: Row) -> Result<Self, Fault> {
        let id = DeliveryId(unsigned(row.get(0)?));
        let strange = |what: &str| Fault::Row(format!("{what} of delivery {id}"));
        let (message, job): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
        let target = match (row.get::<Option<i64>>(1)?, message, job) {
            (Some(queue), Some(message), None) => {
                Target::Message { queue, message: MessageId(unsigned(message)), subscriber: row.get(4)? }
            }
            (None, None, Some(job)) => Target::Job(JobId(unsigned(job))),
            _ => return Err(strange("the object")),
        };
        let due = row.get::<Option<i64>>(7)?.map(|due| Moment(unsigned(due)));
        let state = match (row.get::<i64>(6)?, due) {
            (WAITING, Some(due)) => DeliveryState::Waiting { due },
            (SENT, Some(until)) => DeliveryState::Sent { until },
            (ACCEPTED, Some(until)) => DeliveryState::Accepted { until },
            (DELIVERED, None) => DeliveryState::Delivered,
            (FAILED, None) => DeliveryState::Failed,
            _ => return Err(strange("the state")),
        };
        let delivery = Delivery { state, reservation: Reservation(unsigned(row.get(8)?)), attempts: row.get(9)? };
        let status = row.get::<Option<u32>>(10)?.and_then(|status| u16::try_from(status).ok());
        let tried = row.get::<Option<i64>>(12)?.map(|tried| Moment(unsigned(tried)));
        Ok(Self { id, target, host: row.get(5)?, delivery, status, note: row.get(11)?, tried })
    }
}

/// Number of a state.
fn state_number(state: DeliveryState) -> i64 {
    match state {
        DeliveryState::Waiting { .. } => WAITING,
        DeliveryState::Sent { .. } => SENT,
        DeliveryState::Accepted { .. } => ACCEPTED,
        DeliveryState::Delivered => DELIVERED,
        DeliveryState::Failed => FAILED,
    }
}

/// A receiver as of now, or why there is none.
enum Receiver {
    Subscriber {
        name: MessageQueueName,
        settings: MessageQueueSettings,
        subscriber: Subscriber,
    },
    /// The queue has no such subscriber any more.
    Removed {
        name: MessageQueueName,
        settings: MessageQueueSettings,
    },
    Callback,
}

impl Writer<'_> {
    /// Carries out a command on deliveries.
    pub(crate) fn delivery(&mut self, command: DeliveryCommand) -> Result<DeliveryReply, Fault> {
        Ok(match command {
            DeliveryCommand::Take { most, most_per_host, rooms, after } => {
                DeliveryReply::Taken(self.take_deliveries(most, most_per_host, &rooms, after)?)
            }
            DeliveryCommand::Answer { id, reservation, answer, status, note, jitter } => {
                DeliveryReply::Answered(self.answer(id, reservation, answer, status, note, jitter)?)
            }
            DeliveryCommand::Forward { id, reservation, forwarded, jitter } => {
                DeliveryReply::Answered(self.forward(id, reservation, forwarded, jitter)?)
            }
            DeliveryCommand::SigningKey { project, fresh, rotate } => {
                DeliveryReply::Key(self.signing_key(&project, fresh, rotate)?)
            }
            DeliveryCommand::ForgetKey(project) => {
                self.database.write("DELETE FROM signing_keys WHERE project = ?1", bound![project.as_str()])?;
                DeliveryReply::Key(None)
            }
        })
    }

    /// Inserts the deliveries of a message that is posted to a push queue.
    pub(crate) fn add_deliveries(&self, queue: &Queue, message: MessageId, due: Moment) -> Result<(), Fault> {
        let Some(push) = &queue.settings.push else { return Ok(()) };
        let target = |subscriber| Target::Message { queue: queue.id, message, subscriber };
        match queue.settings.kind {
            MessageQueueKind::Pull => {}
            MessageQueueKind::Multicast => {
                for Subscriber { name, url, .. } in &push.subscribers {
                    self.add_delivery(&target(Some(name.clone())), &url.host(&queue.project), due)?;
                }
            }
            MessageQueueKind::Unicast => {
                let first = push.next_receiver(message.0, &Delivery::at(due));
                let host = first.map(|first| first.url.host(&queue.project)).unwrap_or_default();
                self.add_delivery(&target(None), &host, due)?;
            }
        }
        Ok(())
    }

    /// Inserts the delivery of the result of a job that has ended.
    pub(crate) fn add_callback(&self, id: JobId, job: &Job) -> Result<(), Fault> {
        match &job.settings.callback {
            Some(url) => self.add_delivery(&Target::Job(id), &url.host(), self.now),
            None => Ok(()),
        }
    }

    fn add_delivery(&self, target: &Target, host: &str, due: Moment) -> Result<(), Fault> {
        let (queue, message, job, subscriber) = match target {
            Target::Message { queue, message, subscriber } => {
                (Some(*queue), Some(whole(message.0)), None, subscriber.as_deref())
            }
            Target::Job(job) => (None, None, Some(whole(job.0)), None),
        };
        let sql = "INSERT INTO deliveries (id, queue, message, job, subscriber, host, state, due, reservation, attempts) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, 0, 0)";
        let values = bound![queue, message, job, subscriber, host, whole(due.0)];
        self.database.insert(NumberedTable::Deliveries, sql, values).map(drop)
    }

    fn take_deliveries(
        &mut self,
        most: u32,
        most_per_host: u32,
        rooms: &BTreeMap<String, u32>,
        after: String,
    ) -> Result<TakenDeliveries, Fault> {
        let largest = rooms.values().copied().fold(most_per_host, u32::max).min(most);
        let hosts = self.due_by_host(&after, largest)?;
        let are_all = hosts.len() < HOSTS_SCANNED_MAX;
        let mut taken = TakenDeliveries { deliveries: Vec::new(), last: after };
        let left = |taken: &TakenDeliveries| most.saturating_sub(u32::try_from(taken.deliveries.len()).unwrap_or(most));
        for (host, due) in hosts {
            if left(&taken) == 0 {
                return Ok(taken);
            }
            let room = rooms.get(&host).copied().unwrap_or(most_per_host).min(left(&taken));
            taken.last = host;
            for row in due.into_iter().take(room as usize) {
                taken.deliveries.extend(self.take(row)?);
            }
        }
        if are_all && left(&taken) > 0 {
            taken.last = String::new();
        }
        Ok(taken)
    }

    /// The next hosts behind `after`, in their order, up to [`HOSTS_SCANNED_MAX`]. Each host has its first deliveries that
    /// are due, up to `most`. The query reads no delivery behind these.
    fn due_by_host(&self, after: &str, most: u32) -> Result<Vec<(String, Vec<DeliveryRow>)>, Fault> {
        let next = "SELECT host FROM deliveries WHERE due IS NOT NULL AND host >";
        let sql = format!(
            "WITH RECURSIVE hosts (name, place) AS (\
                 SELECT ({next} ?1 ORDER BY host LIMIT 1), CAST(1 AS BIGINT) UNION ALL \
                 SELECT ({next} name ORDER BY host LIMIT 1), place + 1 FROM hosts \
                 WHERE name IS NOT NULL AND place < {HOSTS_SCANNED_MAX}) \
             SELECT {COLUMNS}, name, id AS found FROM hosts {} WHERE name IS NOT NULL ORDER BY name, due, id",
            self.database.with_due_deliveries()
        );
        let mut hosts: Vec<(String, Vec<DeliveryRow>)> = Vec::new();
        for mut row in self.database.query(&sql, bound![after, whole(self.now.0), most])? {
            let (host, found): (String, Option<i64>) = (row.get(COLUMN_COUNT)?, row.get(COLUMN_COUNT + 1)?);
            if hosts.last().is_none_or(|(known, _)| *known != host) {
                hosts.push((host, Vec::new()));
            }
            if let (Some(_), Some((_, due))) = (found, hosts.last_mut()) {
                due.push(DeliveryRow::read(row)?);
            }
        }
        Ok(hosts)
    }

    /// Takes a delivery; none if it is over now.
    fn take(&mut self, mut row: DeliveryRow) -> Result<Option<TakenDelivery>, Fault> {
        let (rules, receiver) = self.receiver(&row)?;
        let Ok(next) = row.delivery.after(DeliveryEvent::Send, &rules, self.now) else { return Ok(None) };
        row.delivery = next;
        if let Receiver::Removed { name, settings } = receiver {
            row.delivery.state = DeliveryState::Delivered;
            row.note = Some("the subscriber was removed".to_owned());
            self.update_delivery(&row)?;
            self.finish_message(&name, &settings, &row)?;
            return Ok(None);
        }
        self.update_delivery(&row)?;
        let work = match (&row.target, receiver) {
            (Target::Message { message, .. }, Receiver::Subscriber { name, settings, subscriber }) => {
                if next.state == DeliveryState::Failed {
                    self.finish_message(&name, &settings, &row)?;
                    return Ok(None);
                }
                let Some(MessageContent { body, headers: own, .. }) = self.message_content(*message)? else {
                    return Ok(None);
                };
                let mut headers = subscriber.headers;
                headers.extend(own);
                let (subscriber, url) = (subscriber.name, subscriber.url);
                DeliveryWork::Push { queue: name, message: *message, subscriber, url, headers, body }
            }
            (Target::Job(job), _) => DeliveryWork::Callback(*job),
            _ => return Ok(None),
        };
        Ok(Some(TakenDelivery { id: row.id, reservation: next.reservation, host: row.host, work }))
    }

    fn answer(
        &mut self,
        id: DeliveryId,
        reservation: Reservation,
        answer: ReceiverAnswer,
        status: Option<u16>,
        note: Option<String>,
        jitter: Jitter,
    ) -> Result<bool, Fault> {
        let Some(mut row) = self.find_delivery(id)? else { return Ok(false) };
        let (rules, receiver) = self.receiver(&row)?;
        let event = DeliveryEvent::Answer(reservation, answer, jitter);
        let Ok(next) = row.delivery.after(event, &rules, self.now) else { return Ok(false) };
        (row.delivery, row.status, row.note, row.tried) = (next, status, note.map(short), Some(self.now));
        let (Receiver::Subscriber { name, settings, .. } | Receiver::Removed { name, settings }) = receiver else {
            return self.update_delivery(&row).map(|()| true);
        };
        if let Some(push) = &settings.push {
            row.host = next_host(&name.project, push, &row).unwrap_or(row.host);
        }
        self.update_delivery(&row)?;
        self.finish_message(&name, &settings, &row)?;
        Ok(true)
    }

    /// Queues a forwarded message, and records the answer. A refusal is a failed try.
    fn forward(
        &mut self,
        id: DeliveryId,
        reservation: Reservation,
        forwarded: Forwarded,
        jitter: Jitter,
    ) -> Result<bool, Fault> {
        let event = DeliveryEvent::Answer(reservation, ReceiverAnswer::Acknowledged, jitter);
        let found = self.find_delivery(id)?;
        let found = found.filter(|row| row.delivery.after(event, &CALLBACK_RULES, self.now).is_ok());
        let Some(row) = found else { return Ok(false) };
        let refused = match forwarded {
            Forwarded::Message(target, copy) => {
                self.forward_message(&row, &target, copy)?.map(|fault| fault.to_string())
            }
            Forwarded::Job(job) => self.submit(vec![*job])?.err().map(|refusal| refusal.to_string()),
        };
        let answer = if refused.is_none() { ReceiverAnswer::Acknowledged } else { ReceiverAnswer::Failed };
        self.answer(id, reservation, answer, None, refused, jitter)
    }

    /// Posts a copy of a message to another queue; returns why not. The copy gets its share of the further copies.
    fn forward_message(
        &mut self,
        row: &DeliveryRow,
        target: &MessageQueueName,
        mut copy: NewMessage,
    ) -> Result<Option<MessageFault>, Fault> {
        let Target::Message { queue, message, .. } = &row.target else { return Ok(Some(MessageFault::UnknownQueue)) };
        let (_, settings) = queue_of(self.database, *queue)?;
        let Some(MessageContent { copies_left, .. }) = self.message_content(*message)? else {
            return Ok(Some(MessageFault::UnknownMessage(*message)));
        };
        let Some(share) = copies_of_each(&settings, copies_left) else {
            return Ok(Some(MessageFault::TooManyCopies));
        };
        set_copies_left(&mut copy.headers, share);
        Ok(match self.message(target, MessageCommand::Post(vec![copy]))? {
            MessageReply::Refused(fault) => Some(fault),
            _ => None,
        })
    }

    /// Acknowledges a message in the name of a subscriber that accepted it; false if the reservation is over.
    pub(crate) fn acknowledge(
        &mut self,
        name: &MessageQueueName,
        queue: &Queue,
        message: MessageId,
        (id, reservation): (DeliveryId, Reservation),
    ) -> Result<Result<(), gantry_queue::DeliveryRefusal>, Fault> {
        let found = self.find_delivery(id)?.filter(|row| match &row.target {
            Target::Message { queue: of, message: known, .. } => *of == queue.id && *known == message,
            Target::Job(_) => false,
        });
        let Some(mut row) = found else { return Ok(Err(gantry_queue::DeliveryRefusal::NotReserved)) };
        let event = DeliveryEvent::Acknowledge(reservation);
        match row.delivery.after(event, &CALLBACK_RULES, self.now) {
            Ok(next) => row.delivery = next,
            Err(refusal) => return Ok(Err(refusal)),
        }
        self.update_delivery(&row)?;
        self.finish_message(name, &queue.settings, &row)?;
        Ok(Ok(()))
    }

    /// Removes a message once all of its deliveries are over, and reports the failed ones.
    fn finish_message(
        &mut self,
        name: &MessageQueueName,
        settings: &MessageQueueSettings,
        row: &DeliveryRow,
    ) -> Result<(), Fault> {
        let Target::Message { message, .. } = &row.target else { return Ok(()) };
        if row.delivery.due().is_some() {
            return Ok(());
        }
        let deliveries = of_message(self.database, *message)?;
        if deliveries.iter().any(|delivery| delivery.delivery.due().is_some()) {
            return Ok(());
        }
        let failed: Vec<_> =
            deliveries.iter().filter(|delivery| delivery.delivery.state == DeliveryState::Failed).collect();
        let errors = settings.push.as_ref().and_then(|push| push.error_queue.as_ref());
        if let (false, Some(errors), Some(push)) = (failed.is_empty(), errors, &settings.push) {
            let failures: Vec<_> = failed.iter().map(|row| failure(push, *message, row)).collect();
            let Some(MessageContent { body, headers, .. }) = self.message_content(*message)? else { return Ok(()) };
            let report = error_report(message.0, &body, &headers, &failures);
            let errors = MessageQueueName { project: name.project.clone(), name: errors.clone() };
            // Without room there, the message stays until it expires.
            if !self.report_errors(&errors, report)? {
                return Ok(());
            }
        }
        self.delete_message(*message)
    }

    /// Posts a report to a queue of errors, which is a pull queue; false if there is no room.
    fn report_errors(&mut self, errors: &MessageQueueName, report: String) -> Result<bool, Fault> {
        let target = match queue(self.database, errors)? {
            Some(known) if known.settings.kind.is_push() => None,
            Some(known) => Some(known),
            None => self.make_message_queue(errors, &MessageQueueSettings::default())?,
        };
        let Some(target) = target else { return Ok(false) };
        let message = NewMessage { body: report, ..NewMessage::default() };
        Ok(matches!(self.post(&target, vec![message])?, MessageReply::Posted(_)))
    }

    fn find_delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRow>, Fault> {
        let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE id = ?1");
        self.database.one(&sql, bound![whole(id.0)])?.map(DeliveryRow::read).transpose()
    }

    fn update_delivery(&self, row: &DeliveryRow) -> Result<(), Fault> {
        let sql = "UPDATE deliveries SET host = ?2, state = ?3, due = ?4, reservation = ?5, attempts = ?6, status = ?7, \
                   note = ?8, tried = ?9 WHERE id = ?1";
        let Delivery { state, reservation, attempts } = row.delivery;
        let due = row.delivery.due().map(|due| whole(due.0));
        let (status, tried) = (row.status.map(u32::from), row.tried.map(|tried| whole(tried.0)));
        let (id, reservation, note) = (whole(row.id.0), whole(reservation.0), row.note.as_deref());
        let values = bound![id, &row.host, state_number(state), due, reservation, attempts, status, note, tried];
        self.database.write(sql, values)
    }

    /// The receiver of a delivery, and the rules.
    fn receiver(&self, row: &DeliveryRow) -> Result<(DeliveryRules, Receiver), Fault> {
        let Target::Message { queue, message, subscriber } = &row.target else {
            return Ok((CALLBACK_RULES, Receiver::Callback));
        };
        let (name, settings) = queue_of(self.database, *queue)?;
        let Some(push) = settings.push.clone() else {
            return Ok((CALLBACK_RULES, Receiver::Removed { name, settings }));
        };
        let found = match subscriber {
            Some(subscriber) => push.subscribers.iter().find(|known| known.name == *subscriber),
            None => push.next_receiver(message.0, &row.delivery),
        };
        let rules = push.rules(settings.kind);
        Ok((
            rules,
            match found.cloned() {
                Some(subscriber) => Receiver::Subscriber { name, settings, subscriber },
                None => Receiver::Removed { name, settings },
            },
        ))
    }

    fn signing_key(&self, project: &AppName, fresh: SigningKey, rotate: bool) -> Result<Option<SigningKey>, Fault> {
        let known = signing_key(self.database, project)?;
        let key = match known {
            Some(known) if !rotate => return Ok(Some(known)),
            Some(known) => SigningKey { current: fresh.current, previous: Some((known.current, self.now)) },
            None if self.database.number("SELECT count(*) FROM signing_keys", &[])? >= SIGNING_KEYS_MAX => {
                return Ok(None);
            }
            None => fresh,
        };
        let sql = "INSERT INTO signing_keys (project, current, previous, rotated) VALUES (?1, ?2, ?3, ?4) \
                   ON CONFLICT (project) DO UPDATE SET current = excluded.current, previous = excluded.previous, \
                   rotated = excluded.rotated";
        let previous = key.previous.as_ref().map(|(previous, _)| previous.as_str());
        let rotated = key.previous.as_ref().map(|(_, at)| whole(at.0));
        self.database.write(sql, bound![project.as_str(), &key.current, previous, rotated])?;
        Ok(Some(key))
    }
}

/// The host of the next try of a message.
fn next_host(project: &AppName, push: &PushSettings, row: &DeliveryRow) -> Option<String> {
    let Target::Message { message, subscriber, .. } = &row.target else { return None };
    let next = match subscriber {
        Some(subscriber) => push.subscribers.iter().find(|known| known.name == *subscriber),
        None => push.next_receiver(message.0, &row.delivery),
    };
    next.map(|next| next.url.host(project))
}

/// A failed delivery, for the queue of errors.
fn failure(push: &PushSettings, message: MessageId, row: &DeliveryRow) -> PushFailure {
    let last = receiver_of(push, message, row);
    PushFailure {
        name: last.map(|last| last.name.clone()).unwrap_or_default(),
        url: last.map(|last| last.url.to_string()).unwrap_or_default(),
        code: row.status.unwrap_or_default(),
        msg: row.note.clone().unwrap_or_default(),
    }
}

/// The subscriber that a message was last sent to, or will be.
fn receiver_of<'a>(push: &'a PushSettings, message: MessageId, row: &DeliveryRow) -> Option<&'a Subscriber> {
    match &row.target {
        Target::Message { subscriber: Some(name), .. } => push.subscribers.iter().find(|known| known.name == *name),
        // While a request is under way, the next receiver has it.
        _ if matches!(row.delivery.state, DeliveryState::Sent { .. }) => push.next_receiver(message.0, &row.delivery),
        _ => push.last_receiver(message.0, &row.delivery),
    }
}

/// A note of bounded length.
fn short(mut note: String) -> String {
    let end = (0..=NOTE_MAX.min(note.len())).rev().find(|end| note.is_char_boundary(*end)).unwrap_or_default();
    note.truncate(end);
    note
}

fn of_message(database: &dyn Database, message: MessageId) -> Result<Vec<DeliveryRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE message = ?1 ORDER BY id");
    database.query(&sql, bound![whole(message.0)])?.into_iter().map(DeliveryRow::read).collect()
}

fn stored(row: DeliveryRow, subscriber: Option<&Subscriber>) -> StoredDelivery {
    let named = match &row.target {
        Target::Message { subscriber, .. } => subscriber.clone(),
        Target::Job(_) => None,
    };
    StoredDelivery {
        id: row.id,
        subscriber: named.or_else(|| subscriber.map(|known| known.name.clone())),
        url: subscriber.map(|known| known.url.clone()),
        delivery: row.delivery,
        status: row.status,
        note: row.note,
        tried: row.tried,
    }
}

/// The deliveries of a message; none for an unknown message.
pub(crate) fn statuses(
    database: &dyn Database,
    name: &MessageQueueName,
    message: MessageId,
) -> Result<Option<Vec<StoredDelivery>>, Fault> {
    let Some(queue) = queue(database, name)? else { return Ok(None) };
    let sql = "SELECT count(*) FROM messages WHERE id = ?1 AND queue = ?2";
    if database.number(sql, bound![whole(message.0), queue.id])? == 0 {
        return Ok(None);
    }
    let push = queue.settings.push.unwrap_or_default();
    let rows = of_message(database, message)?;
    let describe = |row: DeliveryRow| {
        let subscriber = receiver_of(&push, message, &row);
        stored(row, subscriber)
    };
    Ok(Some(rows.into_iter().map(describe).collect()))
}

/// The delivery of a job's result; none before the end.
pub(crate) fn callback(database: &dyn Database, job: &StoredJob) -> Result<Option<StoredDelivery>, Fault> {
    if job.job.settings.callback.is_none() {
        return Ok(None);
    }
    let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE job = ?1");
    let row = database.one(&sql, bound![whole(job.id.0)])?.map(DeliveryRow::read).transpose()?;
    let url = job.job.settings.callback.clone().map(SubscriberUrl::Http);
    Ok(row.map(|row| StoredDelivery { url, ..stored(row, None) }))
}

/// The moment at which the next delivery is due.
pub(crate) fn next_due(database: &dyn Database) -> Result<Option<Moment>, Fault> {
    let sql = "SELECT due FROM deliveries WHERE due IS NOT NULL ORDER BY due LIMIT 1";
    Ok(database.one(sql, &[])?.map(|mut row| row.get::<i64>(0)).transpose()?.map(|due| Moment(unsigned(due))))
}

/// The key that signs the callbacks of a project.
fn signing_key(database: &dyn Database, project: &AppName) -> Result<Option<SigningKey>, Fault> {
    let sql = "SELECT current, previous, rotated FROM signing_keys WHERE project = ?1";
    let Some(mut row) = database.one(sql, bound![project.as_str()])? else { return Ok(None) };
    let (current, previous, rotated): (String, Option<String>, Option<i64>) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let previous = previous.zip(rotated).map(|(previous, at)| (previous, Moment(unsigned(at))));
    Ok(Some(SigningKey { current, previous }))
}
