//! Messages. A partial index has the waiting ones in their order; the others become waiting when their moment is over.

use std::collections::BTreeSet;

use gantry_model::{AppName, Moment};
use gantry_queue::{
    COPIES_MAX, InvalidPush, InvalidSettings, Message, MessageEvent, MessageQueueKind, MessageQueueSettings,
    PAYLOAD_MAX, PushHeaders, PushSettings, Reservation, set_copies_left, take_copies_left,
};

use super::row::{unsigned, whole};
use super::value::bound;
use super::write::Writer;
use super::{Database, Fault, NumberedTable, Row};
use crate::{
    ConsumerToken, DELIVERIES_MAX, MESSAGE_QUEUES_MAX, MESSAGES_MAX, MessageCommand, MessageFault, MessageId,
    MessageQueueInfo, MessageQueueName, MessageReply, NewMessage, StoredMessage,
};

/// Maximum number of messages that one command makes available when they are due, and removes when they expire.
const SLICE: u32 = 1000;

const COLUMNS: &str = "id, body, due, reserved, reservation, reservations, expires";

/// A queue's number, project and settings.
pub(crate) struct Queue {
    pub(crate) id: i64,
    pub(crate) project: AppName,
    pub(crate) settings: MessageQueueSettings,
}

fn read(mut row: Row) -> Result<(MessageId, String, Message), Fault> {
    let message = Message {
        due: Moment(unsigned(row.get(2)?)),
        reserved: row.get(3)?,
        reservation: Reservation(unsigned(row.get(4)?)),
        count: row.get(5)?,
        expires: Moment(unsigned(row.get(6)?)),
    };
    Ok((MessageId(unsigned(row.get(0)?)), row.get(1)?, message))
}

fn shown(id: MessageId, body: String, message: &Message, now: Moment) -> StoredMessage {
    let reservation = Some(message.reservation).filter(|_| message.reserved && message.due > now);
    StoredMessage { id, body, count: message.count, reservation }
}

pub(crate) fn queue(database: &dyn Database, name: &MessageQueueName) -> Result<Option<Queue>, Fault> {
    let sql = "SELECT id, settings FROM message_queues WHERE project = ?1 AND name = ?2";
    let found = database.one(sql, bound![name.project.as_str(), &name.name])?;
    let Some(mut row) = found else { return Ok(None) };
    let (id, text): (i64, String) = (row.get(0)?, row.get(1)?);
    let settings =
        serde_json::from_str(&text).map_err(|_| Fault::Row(format!("the queue of messages {}", name.name)))?;
    Ok(Some(Queue { id, project: name.project.clone(), settings }))
}

/// The name and the settings of the queue with a number.
pub(crate) fn queue_of(database: &dyn Database, id: i64) -> Result<(MessageQueueName, MessageQueueSettings), Fault> {
    let strange = || Fault::Row(format!("the queue of messages with the number {id}"));
    let sql = "SELECT project, name, settings FROM message_queues WHERE id = ?1";
    let mut row = database.one(sql, bound![id])?.ok_or_else(strange)?;
    let (project, name, text): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let project = AppName::parse(&project).map_err(|_| strange())?;
    let settings = serde_json::from_str(&text).map_err(|_| strange())?;
    Ok((MessageQueueName { project, name }, settings))
}

/// Content of a message.
pub(crate) struct MessageContent {
    pub(crate) body: String,
    /// Headers of the requests that push it.
    pub(crate) headers: PushHeaders,
    /// Number of further copies that it may make.
    pub(crate) copies_left: u64,
}

/// The headers of a message, from their column.
fn headers_of(text: Option<String>) -> Result<PushHeaders, Fault> {
    let Some(text) = text else { return Ok(PushHeaders::new()) };
    serde_json::from_str(&text).map_err(|error| Fault::Row(format!("the headers of a message: {error}")))
}

/// The message that is too large for the payload of a job, if a subscriber is a code.
fn too_large(settings: &MessageQueueSettings, messages: &[NewMessage]) -> Option<MessageFault> {
    let code = settings.push.as_ref()?.code()?;
    let size = messages.iter().map(|message| message.body.len()).find(|size| *size > PAYLOAD_MAX)?;
    Some(MessageFault::PayloadTooLarge { size, subscriber: code.name.clone() })
}

fn find(database: &dyn Database, queue: i64, id: MessageId) -> Result<Option<(String, Message)>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM messages WHERE id = ?1 AND queue = ?2");
    let found = database.one(&sql, bound![whole(id.0), queue])?.map(read).transpose()?;
    Ok(found.map(|(_, body, message)| (body, message)))
}

impl Writer<'_> {
    /// Carries out a command on the messages of a queue.
    pub(crate) fn message(&mut self, name: &MessageQueueName, command: MessageCommand) -> Result<MessageReply, Fault> {
        let known = queue(self.database, name)?;
        let queue = match (&command, known) {
            (MessageCommand::SetQueue(settings), known) => {
                return self.set_message_queue(name, settings, known.as_ref());
            }
            (MessageCommand::Reconfigure(settings), known) => {
                let mut settings = settings.clone();
                let stored = known.as_ref().and_then(|known| known.settings.push.as_ref());
                if let (Some(push), Some(stored)) = (&mut settings.push, stored) {
                    push.subscribers.clone_from(&stored.subscribers);
                }
                return self.set_message_queue(name, &settings, known.as_ref());
            }
            (_, Some(queue)) => queue,
            (MessageCommand::Post(_), None) => match self.make_message_queue(name, &MessageQueueSettings::default())? {
                Some(queue) => queue,
                None => return Ok(MessageReply::Refused(MessageFault::Full)),
            },
            (_, None) => return Ok(MessageReply::Refused(MessageFault::UnknownQueue)),
        };
        match command {
            MessageCommand::SetQueue(_) | MessageCommand::Reconfigure(_) => Ok(MessageReply::Done),
            MessageCommand::Subscribe(change) => {
                let mut settings = queue.settings.clone();
                if let Some(push) = &mut settings.push {
                    push.change(change);
                }
                match settings.push.as_ref().map_or(Err(InvalidSettings::PushOfPullQueue), |push| push.check()) {
                    Ok(()) => self.set_message_queue(name, &settings, Some(&queue)),
                    Err(invalid) => Ok(MessageReply::Refused(MessageFault::Invalid(invalid))),
                }
            }
            MessageCommand::RemoveQueue => {
                self.clear(queue.id)?;
                self.database.write("DELETE FROM message_queues WHERE id = ?1", bound![queue.id])?;
                Ok(MessageReply::Done)
            }
            MessageCommand::Clear => {
                self.clear(queue.id)?;
                Ok(MessageReply::Done)
            }
            MessageCommand::Post(messages) => self.post(&queue, messages),
            MessageCommand::Reserve { .. } if queue.settings.kind.is_push() => {
                Ok(MessageReply::Refused(MessageFault::PushQueue))
            }
            MessageCommand::Reserve { most, timeout, delete } => self.reserve(name, &queue, most, timeout, delete),
            MessageCommand::Delete(messages) => self.delete_messages(name, &queue, messages),
            MessageCommand::Touch(id, reservation, seconds) => {
                let seconds = seconds.unwrap_or(queue.settings.timeout);
                self.change_message(&queue, id, MessageEvent::Touch(reservation, seconds))
            }
            MessageCommand::Release(id, reservation, delay) => {
                self.change_message(&queue, id, MessageEvent::Release(reservation, delay))
            }
        }
    }

    fn set_message_queue(
        &mut self,
        name: &MessageQueueName,
        settings: &MessageQueueSettings,
        known: Option<&Queue>,
    ) -> Result<MessageReply, Fault> {
        if let Some(invalid) = self.endless(name, settings)? {
            return Ok(MessageReply::Refused(MessageFault::Invalid(invalid.into())));
        }
        let Some(known) = known else {
            let made = self.make_message_queue(name, settings)?;
            return Ok(made.map_or(MessageReply::Refused(MessageFault::Full), |_| MessageReply::Done));
        };
        let kind = known.settings.kind;
        if kind != settings.kind {
            return Ok(MessageReply::Refused(MessageFault::OtherKind(kind.word())));
        }
        let text = serde_json::to_string(settings).map_err(|error| Fault::Row(error.to_string()))?;
        self.database.write("UPDATE message_queues SET settings = ?2 WHERE id = ?1", bound![known.id, &text])?;
        Ok(MessageReply::Done)
    }

    /// Why these settings would let messages go from queue to queue without an end; none if they do not. Every change of
    /// settings is checked. The search ends after as many queues as a message may reach: the limit of copies ends the
    /// messages of a larger loop.
    fn endless(&self, name: &MessageQueueName, settings: &MessageQueueSettings) -> Result<Option<InvalidPush>, Fault> {
        let mut seen = BTreeSet::new();
        for (subscriber, target) in settings.push.iter().flat_map(PushSettings::queues) {
            let mut open = vec![target.to_owned()];
            while let Some(next) = open.pop() {
                if next == name.name {
                    return Ok(Some(InvalidPush::Loop(subscriber.to_owned())));
                }
                if !seen.insert(next.clone()) {
                    continue;
                }
                if seen.len() as u64 > COPIES_MAX {
                    return Ok(None);
                }
                let found = queue(self.database, &MessageQueueName { project: name.project.clone(), name: next })?;
                if let Some(push) = found.and_then(|found| found.settings.push) {
                    open.extend(push.queues().map(|(_, queue)| queue.to_owned()));
                }
            }
        }
        Ok(None)
    }

    /// Makes a queue; none if there are too many.
    pub(crate) fn make_message_queue(
        &mut self,
        name: &MessageQueueName,
        settings: &MessageQueueSettings,
    ) -> Result<Option<Queue>, Fault> {
        if self.database.number("SELECT count(*) FROM message_queues", &[])? >= MESSAGE_QUEUES_MAX {
            return Ok(None);
        }
        let text = serde_json::to_string(settings).map_err(|error| Fault::Row(error.to_string()))?;
        let sql = "INSERT INTO message_queues (id, project, name, settings) VALUES (?1, ?2, ?3, ?4)";
        let values = bound![name.project.as_str(), &name.name, &text];
        let id = self.database.insert(NumberedTable::MessageQueues, sql, values)?;
        Ok(Some(Queue { id, project: name.project.clone(), settings: settings.clone() }))
    }

    fn clear(&self, queue: i64) -> Result<(), Fault> {
        self.database.write("DELETE FROM messages WHERE queue = ?1", bound![queue])
    }

    pub(crate) fn post(&self, queue: &Queue, messages: Vec<NewMessage>) -> Result<MessageReply, Fault> {
        if let Some(fault) = too_large(&queue.settings, &messages) {
            return Ok(MessageReply::Refused(fault));
        }
        let sql = "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM message_queues";
        if self.database.number(sql, &[])? + messages.len() as u64 > MESSAGES_MAX {
            return Ok(MessageReply::Refused(MessageFault::Full));
        }
        if !self.has_room_for_deliveries(queue, messages.len() as u64)? {
            return Ok(MessageReply::Refused(MessageFault::Full));
        }
        let mut ids = Vec::new();
        for NewMessage { body, delay, headers } in messages {
            let message = Message::posted(&queue.settings, delay, self.now);
            let id = self.insert_message(queue.id, &body, &message, &headers)?;
            self.add_deliveries(queue, id, message.due)?;
            ids.push(id);
        }
        Ok(MessageReply::Posted(ids))
    }

    fn has_room_for_deliveries(&self, queue: &Queue, messages: u64) -> Result<bool, Fault> {
        let receivers = match (queue.settings.kind, &queue.settings.push) {
            (MessageQueueKind::Multicast, Some(push)) => push.subscribers.len() as u64,
            (MessageQueueKind::Unicast, _) => 1,
            _ => return Ok(true),
        };
        let sql = "SELECT CAST(coalesce(sum(deliveries), 0) AS BIGINT) FROM message_queues";
        Ok(self.database.number(sql, &[])? + messages * receivers <= DELIVERIES_MAX)
    }

    fn insert_message(
        &self,
        queue: i64,
        body: &str,
        message: &Message,
        headers: &PushHeaders,
    ) -> Result<MessageId, Fault> {
        let sql = "INSERT INTO messages (id, queue, body, waiting, due, reserved, reservation, reservations, expires, \
                   headers) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let headers = match headers.is_empty() {
            true => None,
            false => Some(serde_json::to_string(headers).map_err(|error| Fault::Row(error.to_string()))?),
        };
        let (waiting, due) = (message.due <= self.now, whole(message.due.0));
        let (reservation, expires) = (whole(message.reservation.0), whole(message.expires.0));
        let headers = headers.as_deref();
        let values = bound![queue, body, waiting, due, message.reserved, reservation, message.count, expires, headers];
        Ok(MessageId(unsigned(self.database.insert(NumberedTable::Messages, sql, values)?)))
    }

    fn update_message(&self, id: MessageId, message: &Message) -> Result<(), Fault> {
        let sql = "UPDATE messages SET waiting = ?2, due = ?3, reserved = ?4, reservation = ?5, reservations = ?6 \
                   WHERE id = ?1";
        let (waiting, due) = (message.due <= self.now, whole(message.due.0));
        let reservation = whole(message.reservation.0);
        self.database.write(sql, bound![whole(id.0), waiting, due, message.reserved, reservation, message.count])
    }

    pub(crate) fn delete_message(&self, id: MessageId) -> Result<(), Fault> {
        self.database.write("DELETE FROM messages WHERE id = ?1", bound![whole(id.0)])
    }

    fn reserve(
        &mut self,
        name: &MessageQueueName,
        queue: &Queue,
        most: u32,
        timeout: Option<u64>,
        delete: bool,
    ) -> Result<MessageReply, Fault> {
        // Delays and reservations that are over.
        let sql = "UPDATE messages SET waiting = 1 WHERE id IN \
                   (SELECT id FROM messages WHERE waiting = 0 AND queue = ?1 AND due <= ?2 LIMIT ?3)";
        self.database.write(sql, bound![queue.id, whole(self.now.0), SLICE])?;
        let sql = format!(
            "SELECT {COLUMNS} FROM messages WHERE waiting = 1 AND queue = ?1 AND expires > ?2 ORDER BY id LIMIT ?3"
        );
        let found = self.database.query(&sql, bound![queue.id, whole(self.now.0), SLICE.max(most)])?;
        let seconds = timeout.unwrap_or(queue.settings.timeout);
        let mut reserved = Vec::new();
        for row in found {
            if reserved.len() == most as usize {
                break;
            }
            let (id, body, message) = read(row)?;
            if message.is_dead(&queue.settings) {
                self.move_to_dead_letters(name, &queue.settings, id)?;
                continue;
            }
            let Ok(next) = message.after(MessageEvent::Reserve(seconds), self.now) else { continue };
            if delete {
                self.delete_message(id)?;
            } else {
                self.update_message(id, &next)?;
            }
            reserved.push(shown(id, body, &next, self.now));
        }
        Ok(MessageReply::Reserved(reserved))
    }

    /// Moves a message into the queue of dead letters.
    fn move_to_dead_letters(
        &mut self,
        name: &MessageQueueName,
        settings: &MessageQueueSettings,
        id: MessageId,
    ) -> Result<(), Fault> {
        let Some(policy) = &settings.dead_letter else { return Ok(()) };
        let Some(MessageContent { body, copies_left, .. }) = self.message_content(id)? else { return Ok(()) };
        // A message that may have no further copy stays: a loop of queues ends here.
        let Some(copies_left) = copies_left.checked_sub(1) else { return Ok(()) };
        let mut headers = PushHeaders::new();
        set_copies_left(&mut headers, copies_left);
        let target = MessageQueueName { project: name.project.clone(), name: policy.queue.clone() };
        let dead = match queue(self.database, &target)? {
            Some(dead) => Some(dead),
            None => self.make_message_queue(&target, &MessageQueueSettings::default())?,
        };
        // Without room there, the message stays.
        if let Some(dead) = dead
            && let MessageReply::Posted(_) = self.post(&dead, vec![NewMessage { body, delay: 0, headers }])?
        {
            self.delete_message(id)?;
        }
        Ok(())
    }

    /// The content of a message; none for an unknown message.
    pub(crate) fn message_content(&self, id: MessageId) -> Result<Option<MessageContent>, Fault> {
        let sql = "SELECT body, headers FROM messages WHERE id = ?1";
        let Some(mut row) = self.database.one(sql, bound![whole(id.0)])? else { return Ok(None) };
        let (body, mut headers) = (row.get(0)?, headers_of(row.get(1)?)?);
        let copies_left = take_copies_left(&mut headers);
        Ok(Some(MessageContent { body, headers, copies_left }))
    }

    fn change_message(&self, queue: &Queue, id: MessageId, event: MessageEvent) -> Result<MessageReply, Fault> {
        let Some((_, message)) = find(self.database, queue.id, id)? else {
            return Ok(MessageReply::Refused(MessageFault::UnknownMessage(id)));
        };
        match message.after(event, self.now) {
            Ok(next) => {
                self.update_message(id, &next)?;
                Ok(MessageReply::Changed(next.reservation))
            }
            Err(refusal) => Ok(MessageReply::Refused(MessageFault::Refused(id, refusal))),
        }
    }

    /// Deletes what may be deleted; the first refusal is the reply.
    fn delete_messages(
        &mut self,
        name: &MessageQueueName,
        queue: &Queue,
        messages: Vec<(MessageId, Option<ConsumerToken>)>,
    ) -> Result<MessageReply, Fault> {
        let mut refused = None;
        for (id, token) in messages {
            let fault = match find(self.database, queue.id, id)? {
                None => Some(MessageFault::UnknownMessage(id)),
                Some((_, message)) => self.delete_with(name, queue, (id, &message), token)?,
            };
            refused = refused.or(fault);
        }
        Ok(refused.map_or(MessageReply::Done, MessageReply::Refused))
    }

    /// Deletes a message, or acknowledges it for a subscriber; returns why not.
    fn delete_with(
        &mut self,
        name: &MessageQueueName,
        queue: &Queue,
        (id, message): (MessageId, &Message),
        token: Option<ConsumerToken>,
    ) -> Result<Option<MessageFault>, Fault> {
        let reservation = match token {
            Some(ConsumerToken::Delivery(delivery, reservation)) => {
                let refused = self.acknowledge(name, queue, id, (delivery, reservation))?.err();
                return Ok(refused.map(|refusal| MessageFault::NotDelivered(id, refusal)));
            }
            Some(ConsumerToken::Reservation(reservation)) => Some(reservation),
            None => None,
        };
        match message.check_delete(reservation, self.now) {
            Ok(()) => self.delete_message(id).map(|()| None),
            Err(refusal) => Ok(Some(MessageFault::Refused(id, refusal))),
        }
    }

    /// Removes expired messages; returns their number.
    pub(crate) fn expire_messages(&self) -> Result<usize, Fault> {
        let sql = "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE expires <= ?1 LIMIT ?2)";
        let removed = self.database.execute(sql, bound![whole(self.now.0), SLICE])?;
        Ok(usize::try_from(removed).unwrap_or(usize::MAX))
    }
}

/// The queues of a project whose names begin with `prefix`, after the name `after`.
pub(crate) fn list(
    database: &dyn Database,
    project: &str,
    prefix: &str,
    after: &str,
    most: u32,
) -> Result<Vec<String>, Fault> {
    // Names with the prefix follow on each other, from the prefix on.
    let sql = "SELECT name FROM message_queues WHERE project = ?1 AND name > ?2 AND name >= ?3 ORDER BY name LIMIT ?4";
    let mut names = Vec::new();
    for mut row in database.query(sql, bound![project, after, prefix, most])? {
        let name: String = row.get(0)?;
        if !name.starts_with(prefix) {
            break;
        }
        names.push(name);
    }
    Ok(names)
}

/// A queue with its counts.
pub(crate) fn info(database: &dyn Database, name: &MessageQueueName) -> Result<Option<MessageQueueInfo>, Fault> {
    let Some(Queue { id, settings, .. }) = queue(database, name)? else { return Ok(None) };
    let size = database.number("SELECT size FROM message_queues WHERE id = ?1", bound![id])?;
    let total = database.number("SELECT total FROM message_queues WHERE id = ?1", bound![id])?;
    Ok(Some(MessageQueueInfo { name: name.name.clone(), settings, size, total }))
}

/// The first messages that are available; no reservation.
pub(crate) fn peek(
    database: &dyn Database,
    name: &MessageQueueName,
    most: u32,
    now: Moment,
) -> Result<Option<Vec<StoredMessage>>, Fault> {
    let Some(Queue { id, .. }) = queue(database, name)? else { return Ok(None) };
    let sql =
        format!("SELECT {COLUMNS} FROM messages WHERE queue = ?1 AND due <= ?2 AND expires > ?2 ORDER BY id LIMIT ?3");
    let found = database.query(&sql, bound![id, whole(now.0), most])?;
    let found: Vec<(MessageId, String, Message)> = found.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(Some(found.into_iter().map(|(id, body, message)| shown(id, body, &message, now)).collect()))
}

/// A message.
pub(crate) fn message(
    database: &dyn Database,
    name: &MessageQueueName,
    id: MessageId,
    now: Moment,
) -> Result<Option<StoredMessage>, Fault> {
    let Some(queue) = queue(database, name)? else { return Ok(None) };
    Ok(find(database, queue.id, id)?.map(|(body, message)| shown(id, body, &message, now)))
}
