//! Messages. A partial index has the waiting ones in their order; the others become waiting when their moment is over.

use gantry_model::Moment;
use gantry_queue::{Message, MessageEvent, MessageQueueSettings, Reservation};

use super::row::{natural, whole};
use super::value::bound;
use super::write::Writer;
use super::{Database, Fault, Numbered, Row};
use crate::{
    MESSAGE_QUEUES_MAX, MESSAGES_MAX, MessageCommand, MessageFault, MessageId, MessageQueueInfo, MessageQueueName,
    MessageReply, StoredMessage,
};

/// Messages whose moment is over that one command makes waiting, and expired ones that it removes.
const SLICE: u32 = 1000;

const COLUMNS: &str = "id, body, due, reserved, reservation, reservations, expires";

/// A queue's number and settings.
struct Queue {
    id: i64,
    settings: MessageQueueSettings,
}

fn read(mut row: Row) -> Result<(MessageId, String, Message), Fault> {
    let message = Message {
        due: Moment(natural(row.get(2)?)),
        reserved: row.get(3)?,
        reservation: Reservation(natural(row.get(4)?)),
        count: row.get(5)?,
        expires: Moment(natural(row.get(6)?)),
    };
    Ok((MessageId(natural(row.get(0)?)), row.get(1)?, message))
}

fn shown(id: MessageId, body: String, message: &Message, now: Moment) -> StoredMessage {
    let reservation = Some(message.reservation).filter(|_| message.reserved && message.due > now);
    StoredMessage { id, body, count: message.count, reservation }
}

fn queue(database: &dyn Database, name: &MessageQueueName) -> Result<Option<Queue>, Fault> {
    let sql = "SELECT id, settings FROM message_queues WHERE project = ?1 AND name = ?2";
    let found = database.one(sql, bound![name.project.as_str(), &name.name])?;
    let Some(mut row) = found else { return Ok(None) };
    let (id, text): (i64, String) = (row.get(0)?, row.get(1)?);
    let settings =
        serde_json::from_str(&text).map_err(|_| Fault::Row(format!("the queue of messages {}", name.name)))?;
    Ok(Some(Queue { id, settings }))
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
            (_, Some(queue)) => queue,
            (MessageCommand::Post(_), None) => match self.make_message_queue(name, &MessageQueueSettings::default())? {
                Some(queue) => queue,
                None => return Ok(MessageReply::Refused(MessageFault::Full)),
            },
            (_, None) => return Ok(MessageReply::Refused(MessageFault::UnknownQueue)),
        };
        match command {
            MessageCommand::SetQueue(_) => Ok(MessageReply::Done),
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
            MessageCommand::Reserve { most, timeout, delete } => self.reserve(name, &queue, most, timeout, delete),
            MessageCommand::Delete(messages) => self.delete_messages(&queue, messages),
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
        let Some(known) = known else {
            let made = self.make_message_queue(name, settings)?;
            return Ok(made.map_or(MessageReply::Refused(MessageFault::Full), |_| MessageReply::Done));
        };
        let text = serde_json::to_string(settings).map_err(|error| Fault::Row(error.to_string()))?;
        self.database.write("UPDATE message_queues SET settings = ?2 WHERE id = ?1", bound![known.id, &text])?;
        Ok(MessageReply::Done)
    }

    /// Makes a queue; none if there are too many.
    fn make_message_queue(
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
        let id = self.database.insert(Numbered::MessageQueues, sql, values)?;
        Ok(Some(Queue { id, settings: settings.clone() }))
    }

    fn clear(&self, queue: i64) -> Result<(), Fault> {
        self.database.write("DELETE FROM messages WHERE queue = ?1", bound![queue])
    }

    fn post(&self, queue: &Queue, messages: Vec<(String, u64)>) -> Result<MessageReply, Fault> {
        let sql = "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM message_queues";
        if self.database.number(sql, &[])? + messages.len() as u64 > MESSAGES_MAX {
            return Ok(MessageReply::Refused(MessageFault::Full));
        }
        let mut ids = Vec::new();
        for (body, delay) in messages {
            let message = Message::posted(&queue.settings, delay, self.now);
            ids.push(self.insert_message(queue.id, &body, &message)?);
        }
        Ok(MessageReply::Posted(ids))
    }

    fn insert_message(&self, queue: i64, body: &str, message: &Message) -> Result<MessageId, Fault> {
        let sql = "INSERT INTO messages (id, queue, body, waiting, due, reserved, reservation, reservations, expires) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let (waiting, due) = (message.due <= self.now, whole(message.due.0));
        let (reservation, expires) = (whole(message.reservation.0), whole(message.expires.0));
        let values = bound![queue, body, waiting, due, message.reserved, reservation, message.count, expires];
        Ok(MessageId(natural(self.database.insert(Numbered::Messages, sql, values)?)))
    }

    fn update_message(&self, id: MessageId, message: &Message) -> Result<(), Fault> {
        let sql = "UPDATE messages SET waiting = ?2, due = ?3, reserved = ?4, reservation = ?5, reservations = ?6 \
                   WHERE id = ?1";
        let (waiting, due) = (message.due <= self.now, whole(message.due.0));
        let reservation = whole(message.reservation.0);
        self.database.write(sql, bound![whole(id.0), waiting, due, message.reserved, reservation, message.count])
    }

    fn delete_message(&self, id: MessageId) -> Result<(), Fault> {
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
                self.bury(name, &queue.settings, id, &body)?;
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
    fn bury(
        &mut self,
        name: &MessageQueueName,
        settings: &MessageQueueSettings,
        id: MessageId,
        body: &str,
    ) -> Result<(), Fault> {
        let Some(policy) = &settings.dead_letter else { return Ok(()) };
        let target = MessageQueueName { project: name.project.clone(), name: policy.queue.clone() };
        let dead = match queue(self.database, &target)? {
            Some(dead) => Some(dead),
            None => self.make_message_queue(&target, &MessageQueueSettings::default())?,
        };
        // Without room there, the message stays.
        if let Some(dead) = dead
            && let MessageReply::Posted(_) = self.post(&dead, vec![(body.to_owned(), 0)])?
        {
            self.delete_message(id)?;
        }
        Ok(())
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
        &self,
        queue: &Queue,
        messages: Vec<(MessageId, Option<Reservation>)>,
    ) -> Result<MessageReply, Fault> {
        let mut refused = None;
        for (id, reservation) in messages {
            let fault = match find(self.database, queue.id, id)? {
                None => Some(MessageFault::UnknownMessage(id)),
                Some((_, message)) => {
                    message.check_delete(reservation, self.now).err().map(|refusal| MessageFault::Refused(id, refusal))
                }
            };
            match fault {
                None => self.delete_message(id)?,
                fault => refused = refused.or(fault),
            }
        }
        Ok(refused.map_or(MessageReply::Done, MessageReply::Refused))
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
    let Some(Queue { id, settings }) = queue(database, name)? else { return Ok(None) };
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
