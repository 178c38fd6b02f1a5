//! Messages. A partial index has the waiting ones in their order; the others become waiting when their moment is over.

use gantry_model::Moment;
use gantry_queue::{Message, MessageEvent, MessageQueueSettings, Reservation};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Fault;
use super::row::{natural, whole};
use super::write::Writer;
use crate::{
    MESSAGE_QUEUES_MAX, MESSAGES_MAX, MessageCommand, MessageFault, MessageId, MessageQueueInfo, MessageQueueName,
    MessageReply, StoredMessage,
};

/// Messages whose moment is over that one command makes waiting, and expired ones that it removes.
const SLICE: u32 = 1000;

/// The changes from format 2.
pub(super) const SCHEMA: &str = "
    CREATE TABLE message_queues (id INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, name TEXT NOT NULL,
                                 settings TEXT NOT NULL, size INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
                                 UNIQUE (project, name));
    CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, body TEXT NOT NULL,
                           waiting INTEGER NOT NULL, due INTEGER NOT NULL, reserved INTEGER NOT NULL,
                           reservation INTEGER NOT NULL, reservations INTEGER NOT NULL, expires INTEGER NOT NULL);
    CREATE INDEX messages_waiting ON messages (queue, id) WHERE waiting = 1;
    CREATE INDEX messages_due ON messages (queue, due) WHERE waiting = 0;
    CREATE INDEX messages_of_queue ON messages (queue, id);
    CREATE INDEX messages_expiry ON messages (expires);
    CREATE TRIGGER message_added AFTER INSERT ON messages
        BEGIN UPDATE message_queues SET size = size + 1, total = total + 1 WHERE id = NEW.queue; END;
    CREATE TRIGGER message_removed AFTER DELETE ON messages
        BEGIN UPDATE message_queues SET size = size - 1 WHERE id = OLD.queue; END;
";

const COLUMNS: &str = "id, body, due, reserved, reservation, reservations, expires";

/// A queue's number and settings.
struct Queue {
    id: i64,
    settings: MessageQueueSettings,
}

fn read(row: &Row<'_>) -> rusqlite::Result<(MessageId, String, Message)> {
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

fn queue(connection: &Connection, name: &MessageQueueName) -> Result<Option<Queue>, Fault> {
    let sql = "SELECT id, settings FROM message_queues WHERE project = ?1 AND name = ?2";
    let found: Option<(i64, String)> = connection
        .prepare_cached(sql)?
        .query_row([name.project.as_str(), &name.name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, text)) = found else { return Ok(None) };
    let settings =
        serde_json::from_str(&text).map_err(|_| Fault::Row(format!("the queue of messages {}", name.name)))?;
    Ok(Some(Queue { id, settings }))
}

fn find(connection: &Connection, queue: i64, id: MessageId) -> Result<Option<(String, Message)>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM messages WHERE id = ?1 AND queue = ?2");
    let found = connection.prepare_cached(&sql)?.query_row([whole(id.0), queue], read).optional()?;
    Ok(found.map(|(_, body, message)| (body, message)))
}

impl Writer<'_> {
    /// Carries out a command on the messages of a queue.
    pub(super) fn message(&mut self, name: &MessageQueueName, command: MessageCommand) -> Result<MessageReply, Fault> {
        let known = queue(self.transaction, name)?;
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
                self.transaction.execute("DELETE FROM message_queues WHERE id = ?1", [queue.id])?;
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
        self.transaction.execute("UPDATE message_queues SET settings = ?2 WHERE id = ?1", params![known.id, text])?;
        Ok(MessageReply::Done)
    }

    /// Makes a queue; none if there are too many.
    fn make_message_queue(
        &mut self,
        name: &MessageQueueName,
        settings: &MessageQueueSettings,
    ) -> Result<Option<Queue>, Fault> {
        let count: i64 = self.transaction.query_row("SELECT count(*) FROM message_queues", [], |row| row.get(0))?;
        if natural(count) >= MESSAGE_QUEUES_MAX {
            return Ok(None);
        }
        let text = serde_json::to_string(settings).map_err(|error| Fault::Row(error.to_string()))?;
        let sql = "INSERT INTO message_queues (project, name, settings) VALUES (?1, ?2, ?3)";
        self.transaction.execute(sql, params![name.project.as_str(), name.name, text])?;
        Ok(Some(Queue { id: self.transaction.last_insert_rowid(), settings: settings.clone() }))
    }

    fn clear(&self, queue: i64) -> Result<(), Fault> {
        self.transaction.prepare_cached("DELETE FROM messages WHERE queue = ?1")?.execute([queue])?;
        Ok(())
    }

    fn post(&self, queue: &Queue, messages: Vec<(String, u64)>) -> Result<MessageReply, Fault> {
        let sql = "SELECT coalesce(sum(size), 0) FROM message_queues";
        let count: i64 = self.transaction.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        if natural(count) + messages.len() as u64 > MESSAGES_MAX {
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
        let sql = "INSERT INTO messages (queue, body, waiting, due, reserved, reservation, reservations, expires) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        self.transaction.prepare_cached(sql)?.execute(params![
            queue,
            body,
            message.due <= self.now,
            whole(message.due.0),
            message.reserved,
            whole(message.reservation.0),
            message.count,
            whole(message.expires.0)
        ])?;
        Ok(MessageId(natural(self.transaction.last_insert_rowid())))
    }

    fn update_message(&self, id: MessageId, message: &Message) -> Result<(), Fault> {
        let sql = "UPDATE messages SET waiting = ?2, due = ?3, reserved = ?4, reservation = ?5, reservations = ?6 \
                   WHERE id = ?1";
        self.transaction.prepare_cached(sql)?.execute(params![
            whole(id.0),
            message.due <= self.now,
            whole(message.due.0),
            message.reserved,
            whole(message.reservation.0),
            message.count
        ])?;
        Ok(())
    }

    fn delete_message(&self, id: MessageId) -> Result<(), Fault> {
        self.transaction.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([whole(id.0)])?;
        Ok(())
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
        self.transaction.prepare_cached(sql)?.execute(params![queue.id, whole(self.now.0), SLICE])?;
        let sql = format!(
            "SELECT {COLUMNS} FROM messages WHERE waiting = 1 AND queue = ?1 AND expires > ?2 ORDER BY id LIMIT ?3"
        );
        let found: Vec<(MessageId, String, Message)> = {
            let mut statement = self.transaction.prepare_cached(&sql)?;
            let rows = statement.query_map(params![queue.id, whole(self.now.0), SLICE.max(most)], read)?;
            rows.take(SLICE.max(most) as usize).collect::<Result<_, _>>()?
        };
        let seconds = timeout.unwrap_or(queue.settings.timeout);
        let mut reserved = Vec::new();
        for (id, body, message) in found {
            if reserved.len() == most as usize {
                break;
            }
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
        let dead = match queue(self.transaction, &target)? {
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
        let Some((_, message)) = find(self.transaction, queue.id, id)? else {
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
            let fault = match find(self.transaction, queue.id, id)? {
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
    pub(super) fn expire_messages(&self) -> Result<usize, Fault> {
        let sql = "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE expires <= ?1 LIMIT ?2)";
        Ok(self.transaction.prepare_cached(sql)?.execute(params![whole(self.now.0), SLICE])?)
    }
}

/// The queues of a project whose names begin with `prefix`, after the name `after`.
pub(super) fn list(
    connection: &Connection,
    project: &str,
    prefix: &str,
    after: &str,
    most: u32,
) -> Result<Vec<String>, Fault> {
    let sql = "SELECT name FROM message_queues WHERE project = ?1 AND name > ?2 AND substr(name, 1, length(?3)) = ?3 \
               ORDER BY name LIMIT ?4";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![project, after, prefix, most], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A queue with its counts.
pub(super) fn info(connection: &Connection, name: &MessageQueueName) -> Result<Option<MessageQueueInfo>, Fault> {
    let Some(Queue { id, settings }) = queue(connection, name)? else { return Ok(None) };
    let count = |sql: &str| -> Result<u64, Fault> {
        let count: i64 = connection.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
        Ok(natural(count))
    };
    let size = count("SELECT size FROM message_queues WHERE id = ?1")?;
    let total = count("SELECT total FROM message_queues WHERE id = ?1")?;
    Ok(Some(MessageQueueInfo { name: name.name.clone(), settings, size, total }))
}

/// The first messages that are available; no reservation.
pub(super) fn peek(
    connection: &Connection,
    name: &MessageQueueName,
    most: u32,
    now: Moment,
) -> Result<Option<Vec<StoredMessage>>, Fault> {
    let Some(Queue { id, .. }) = queue(connection, name)? else { return Ok(None) };
    let sql =
        format!("SELECT {COLUMNS} FROM messages WHERE queue = ?1 AND due <= ?2 AND expires > ?2 ORDER BY id LIMIT ?3");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![id, whole(now.0), most], read)?;
    let found: Vec<(MessageId, String, Message)> = rows.collect::<Result<_, _>>()?;
    Ok(Some(found.into_iter().map(|(id, body, message)| shown(id, body, &message, now)).collect()))
}

/// A message.
pub(super) fn message(
    connection: &Connection,
    name: &MessageQueueName,
    id: MessageId,
    now: Moment,
) -> Result<Option<StoredMessage>, Fault> {
    let Some(queue) = queue(connection, name)? else { return Ok(None) };
    Ok(find(connection, queue.id, id)?.map(|(body, message)| shown(id, body, &message, now)))
}
