//! Rules of messages.

use gantry_model::AppName;
use gantry_queue::{DeadLetterPolicy, MessageQueueSettings, MessageRefusal};
use gantry_queue_store::{
    ConsumerToken, MessageCommand, MessageFault, MessageId, MessageQueueName, MessageReply, NewMessage, QueueCommand,
    QueueReply, StoredMessage,
};

use super::StorageUnderTest;

fn orders() -> MessageQueueName {
    MessageQueueName { project: AppName::parse("shop").expect("a name"), name: "orders/eu".to_owned() }
}

fn order(storage: &mut StorageUnderTest, command: MessageCommand) -> MessageReply {
    match storage.one(QueueCommand::Message(orders(), command)) {
        QueueReply::Message(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn post(storage: &mut StorageUnderTest, messages: &[(&str, u64)]) -> Vec<MessageId> {
    let new =
        |(body, delay): &(&str, u64)| NewMessage { body: (*body).to_owned(), delay: *delay, ..NewMessage::default() };
    let messages = messages.iter().map(new).collect();
    match order(storage, MessageCommand::Post(messages)) {
        MessageReply::Posted(ids) => ids,
        other => panic!("{other:?}"),
    }
}

fn reserve(storage: &mut StorageUnderTest, most: u32) -> Vec<StoredMessage> {
    match order(storage, MessageCommand::Reserve { most, timeout: None, delete: false }) {
        MessageReply::Reserved(found) => found,
        other => panic!("{other:?}"),
    }
}

fn bodies(found: &[StoredMessage]) -> Vec<&str> {
    found.iter().map(|message| message.body.as_str()).collect()
}

pub(crate) fn messages_go_in_order_and_come_back_to_the_front(storage: &mut StorageUnderTest) {
    let unknown = order(storage, MessageCommand::Clear);
    assert_eq!(unknown, MessageReply::Refused(MessageFault::UnknownQueue));
    let ids = post(storage, &[("a", 0), ("b", 0), ("late", 10), ("c", 0)]);
    let first = reserve(storage, 2);
    assert_eq!(bodies(&first), ["a", "b"]);
    assert_eq!(bodies(&reserve(storage, 10)), ["c"]);
    let held = ConsumerToken::Reservation(first[0].reservation.expect("reserved"));
    let stolen = order(storage, MessageCommand::Delete(vec![(ids[0], None)]));
    assert_eq!(stolen, MessageReply::Refused(MessageFault::Refused(ids[0], MessageRefusal::Reserved)));
    assert_eq!(order(storage, MessageCommand::Delete(vec![(ids[0], Some(held))])), MessageReply::Done);
    let back = order(storage, MessageCommand::Release(ids[1], first[1].reservation.expect("reserved"), 0));
    assert!(matches!(back, MessageReply::Changed(_)));
    storage.pass(10_000);
    assert_eq!(bodies(&reserve(storage, 10)), ["b", "late"]);
    // After the timeout, all are back in their order; the second reservation of `b` was its last.
    let dead_letter = Some(DeadLetterPolicy { queue: "dead".to_owned(), most: 2 });
    let settings = MessageQueueSettings { dead_letter, ..MessageQueueSettings::default() };
    assert_eq!(order(storage, MessageCommand::SetQueue(settings)), MessageReply::Done);
    storage.pass(60_000);
    assert_eq!(bodies(&reserve(storage, 10)), ["late", "c"]);
    let dead = MessageQueueName { name: "dead".to_owned(), ..orders() };
    let buried = storage.reader.peek_messages(&dead, 10, storage.now).expect("read").expect("a queue");
    assert_eq!(bodies(&buried), ["b"]);
    let names = storage.reader.message_queues(&orders().project, "", "", 10).expect("read");
    assert_eq!(names, ["dead", "orders/eu"]);
    let info = storage.reader.message_queue(&orders()).expect("read").expect("a queue");
    assert_eq!((info.size, info.total), (2, 4));
    assert_eq!(order(storage, MessageCommand::RemoveQueue), MessageReply::Done);
    assert_eq!(storage.reader.message_queue(&orders()).expect("read"), None);
}

pub(crate) fn messages_survive_a_restart_and_expire(storage: &mut StorageUnderTest) {
    let ids = post(storage, &[("a", 0), ("b", 0)]);
    let held = reserve(storage, 1)[0].reservation;
    storage.restart();
    assert_eq!(bodies(&reserve(storage, 10)), ["b"]);
    let found = storage.reader.message(&orders(), ids[0], storage.now).expect("read").expect("a message");
    assert_eq!((found.reservation, found.count), (held, 1));
    storage.pass(604_800_000);
    assert_eq!(reserve(storage, 10), []);
    let _ = storage.upkeep();
    assert_eq!(storage.reader.message_queue(&orders()).expect("read").map(|info| info.size), Some(0));
}
