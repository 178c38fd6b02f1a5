//! Rules of push queues and of callbacks.

use std::collections::BTreeMap;

use gantry_model::{AppName, Moment};
use gantry_queue::{
    AttemptOutcome, DeadLetterPolicy, DeliveryState, Jitter, JobSettings, MessageQueueKind, MessageQueueSettings,
    PAYLOAD_MAX, PushSettings, ReceiverAnswer, Reservation, Subscriber, SubscriberChange, SubscriberUrl,
    set_copies_left,
};
use gantry_queue_store::{
    ConsumerToken, DeliveryCommand, DeliveryReply, DeliveryWork, Forwarded, JobFilter, MessageCommand, MessageFault,
    MessageId, MessageQueueName, MessageReply, NewMessage, QueueCommand, QueueReply, SigningKey, TakenDeliveries,
    TakenDelivery,
};

use super::{StorageUnderTest, new_job};

fn news(name: &str) -> MessageQueueName {
    MessageQueueName { project: AppName::parse("shop").expect("a name"), name: name.to_owned() }
}

fn order(storage: &mut StorageUnderTest, queue: &str, command: MessageCommand) -> MessageReply {
    match storage.one(QueueCommand::Message(news(queue), command)) {
        QueueReply::Message(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn delivery(storage: &mut StorageUnderTest, command: DeliveryCommand) -> DeliveryReply {
    match storage.one(QueueCommand::Delivery(command)) {
        QueueReply::Delivery(reply) => reply,
        other => panic!("{other:?}"),
    }
}

/// Makes a push queue whose subscribers have hosts of their own.
fn push_queue(
    storage: &mut StorageUnderTest,
    queue: &str,
    kind: MessageQueueKind,
    names: &[&str],
) -> MessageQueueSettings {
    let subscribers = names.iter().map(|name| Subscriber {
        name: (*name).to_owned(),
        url: format!("http://{name}.example/?key=7").parse().expect("a URL"),
        headers: BTreeMap::from([("X-To".to_owned(), (*name).to_owned())]),
    });
    let error_queue = Some("errors".to_owned());
    let push = PushSettings { subscribers: subscribers.collect(), retries: 1, error_queue, ..PushSettings::default() };
    let settings = MessageQueueSettings { kind, push: Some(push), ..MessageQueueSettings::default() };
    assert_eq!(order(storage, queue, MessageCommand::SetQueue(settings.clone())), MessageReply::Done);
    settings
}

fn post(storage: &mut StorageUnderTest, queue: &str, bodies: &[&str]) -> Vec<MessageId> {
    let headers = BTreeMap::from([("X-Kind".to_owned(), "news".to_owned())]);
    let new = |body: &&str| NewMessage { body: (*body).to_owned(), delay: 0, headers: headers.clone() };
    match order(storage, queue, MessageCommand::Post(bodies.iter().map(new).collect())) {
        MessageReply::Posted(ids) => ids,
        other => panic!("{other:?}"),
    }
}

fn take_with(storage: &mut StorageUnderTest, most: u32, rooms: &[(&str, u32)], after: &str) -> TakenDeliveries {
    let rooms = rooms.iter().map(|(host, room)| ((*host).to_owned(), *room)).collect();
    let command = DeliveryCommand::Take { most, most_per_host: 3, rooms, after: after.to_owned() };
    match delivery(storage, command) {
        DeliveryReply::Taken(taken) => taken,
        other => panic!("{other:?}"),
    }
}

fn take(storage: &mut StorageUnderTest) -> Vec<TakenDelivery> {
    take_with(storage, 100, &[], "").deliveries
}

fn answer(storage: &mut StorageUnderTest, taken: &TakenDelivery, answer: ReceiverAnswer, status: u16) -> bool {
    let failed = answer == ReceiverAnswer::Failed;
    let command = DeliveryCommand::Answer {
        id: taken.id,
        reservation: taken.reservation,
        answer,
        status: Some(status),
        note: failed.then(|| "it refused".to_owned()),
        jitter: Jitter(0),
    };
    delivery(storage, command) == DeliveryReply::Answered(true)
}

fn subscriber(taken: &TakenDelivery) -> &str {
    match &taken.work {
        DeliveryWork::Push { subscriber, .. } => subscriber,
        DeliveryWork::Callback(job) => panic!("the callback of job {job}"),
    }
}

fn subscribers(taken: &[TakenDelivery]) -> Vec<&str> {
    taken.iter().map(subscriber).collect()
}

fn size(storage: &StorageUnderTest, queue: &str) -> Option<u64> {
    storage.reader.message_queue(&news(queue)).expect("read").map(|info| info.size)
}

pub(crate) fn a_multicast_message_ends_with_its_last_subscriber(storage: &mut StorageUnderTest) {
    push_queue(storage, "news", MessageQueueKind::Multicast, &["a", "b", "c"]);
    let ids = post(storage, "news", &["hello"]);
    let taken = take(storage);
    assert_eq!(subscribers(&taken), ["a", "b", "c"]);
    let DeliveryWork::Push { message, url, headers, body, .. } = &taken[1].work else { panic!("a push") };
    assert_eq!(
        (message, String::from(url.clone()).as_str(), body.as_str()),
        (&ids[0], "http://b.example/?key=7", "hello")
    );
    assert_eq!((headers["X-To"].as_str(), headers["X-Kind"].as_str()), ("b", "news"));
    assert!(take(storage).is_empty(), "nothing is taken twice");
    assert!(answer(storage, &taken[0], ReceiverAnswer::Acknowledged, 200));
    assert!(!answer(storage, &taken[0], ReceiverAnswer::Acknowledged, 200), "recorded twice");
    // `b` acknowledges later, `c` fails once.
    assert!(answer(storage, &taken[1], ReceiverAnswer::Accepted, 202));
    assert!(answer(storage, &taken[2], ReceiverAnswer::Failed, 500));
    let statuses = storage.reader.message_deliveries(&news("news"), ids[0]).expect("read").expect("a message");
    let shown: Vec<_> = statuses.iter().map(|one| (one.subscriber.as_deref(), one.status)).collect();
    assert_eq!(shown, [(Some("a"), Some(200)), (Some("b"), Some(202)), (Some("c"), Some(500))]);
    let token = |taken: &TakenDelivery| Some(ConsumerToken::Delivery(taken.id, taken.reservation));
    let wrong = ConsumerToken::Delivery(taken[1].id, Reservation(9));
    let late = order(storage, "news", MessageCommand::Delete(vec![(ids[0], Some(wrong))]));
    assert!(matches!(late, MessageReply::Refused(MessageFault::NotDelivered(..))), "{late:?}");
    assert_eq!(order(storage, "news", MessageCommand::Delete(vec![(ids[0], token(&taken[1]))])), MessageReply::Done);
    assert_eq!(size(storage, "news"), Some(1));
    storage.pass(60_000);
    let again = take(storage);
    assert_eq!(subscribers(&again), ["c"]);
    assert!(answer(storage, &again[0], ReceiverAnswer::Acknowledged, 200));
    assert_eq!((size(storage, "news"), size(storage, "errors")), (Some(0), None));
    assert_eq!(storage.reader.next_delivery().expect("read"), None);
}

pub(crate) fn a_failed_push_is_reported(storage: &mut StorageUnderTest) {
    push_queue(storage, "news", MessageQueueKind::Multicast, &["a", "b"]);
    let ids = post(storage, "news", &["hello"]);
    for round in 0..2 {
        let taken = take(storage);
        assert!(answer(storage, &taken[0], ReceiverAnswer::Failed, 503), "{round}");
        if let Some(other) = taken.get(1) {
            // `b` never acknowledges.
            assert!(answer(storage, other, ReceiverAnswer::Accepted, 202), "{round}");
        }
        storage.pass(60_000);
    }
    assert!(take(storage).is_empty());
    assert_eq!(size(storage, "news"), Some(0));
    let reports = storage.reader.peek_messages(&news("errors"), 10, storage.now).expect("read").expect("a queue");
    assert_eq!(reports.len(), 1);
    for part in [format!("\"source_msg_id\":\"{}\"", ids[0]), "\"body\":\"hello\"".to_owned(), "503".to_owned()] {
        assert!(reports[0].body.contains(&part), "{}", reports[0].body);
    }
    assert!(reports[0].body.contains("http://b.example/?***"), "{}", reports[0].body);
}

pub(crate) fn a_unicast_message_goes_to_the_next_subscriber(storage: &mut StorageUnderTest) {
    push_queue(storage, "tasks", MessageQueueKind::Unicast, &["a", "b"]);
    let _ = post(storage, "tasks", &["one"]);
    let first = take(storage);
    assert!(answer(storage, &first[0], ReceiverAnswer::Failed, 500));
    let second = take(storage);
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(subscriber(&first[0]), subscriber(&second[0]));
    assert_ne!(first[0].host, second[0].host);
    // Now all have failed: the next round is after the pause.
    assert!(answer(storage, &second[0], ReceiverAnswer::Failed, 500));
    assert!(take(storage).is_empty());
    storage.pass(60_000);
    let third = take(storage);
    assert_eq!(subscriber(&third[0]), subscriber(&first[0]));
    assert!(answer(storage, &third[0], ReceiverAnswer::Acknowledged, 200));
    assert_eq!(size(storage, "tasks"), Some(0));
}

pub(crate) fn a_taken_delivery_comes_back_after_a_restart(storage: &mut StorageUnderTest) {
    push_queue(storage, "news", MessageQueueKind::Multicast, &["a"]);
    let _ = post(storage, "news", &["hello"]);
    let lost = take(storage);
    storage.restart();
    assert!(take(storage).is_empty(), "the request may still be under way");
    storage.pass(30_000);
    let again = take(storage);
    assert_eq!(again[0].id, lost[0].id);
    assert!(!answer(storage, &lost[0], ReceiverAnswer::Failed, 500), "the late answer does not count");
    assert!(answer(storage, &again[0], ReceiverAnswer::Acknowledged, 200));
    assert_eq!(size(storage, "news"), Some(0));
    // A removed subscriber holds up no message.
    let _ = post(storage, "news", &["late"]);
    push_queue(storage, "news", MessageQueueKind::Multicast, &["b"]);
    assert!(take(storage).is_empty());
    assert_eq!(size(storage, "news"), Some(0));
    // A cleared queue leaves no delivery.
    let _ = post(storage, "news", &["x", "y"]);
    assert_eq!(order(storage, "news", MessageCommand::Clear), MessageReply::Done);
    assert_eq!(storage.reader.next_delivery().expect("read"), None);
}

pub(crate) fn a_busy_host_does_not_hold_up_others(storage: &mut StorageUnderTest) {
    push_queue(storage, "busy", MessageQueueKind::Multicast, &["a"]);
    push_queue(storage, "calm", MessageQueueKind::Multicast, &["b"]);
    let _ = post(storage, "busy", &["1", "2", "3", "4", "5"]);
    let _ = post(storage, "calm", &["6"]);
    let first = take(storage);
    assert_eq!(subscribers(&first), ["a", "a", "a", "b"], "three of a host at a time");
    let _ = post(storage, "calm", &["7"]);
    let next = take_with(storage, 100, &[("a.example:80", 0)], "");
    assert_eq!((subscribers(&next.deliveries), next.last.as_str()), (vec!["b"], ""));
    let limited = take_with(storage, 1, &[], "");
    assert_eq!((subscribers(&limited.deliveries), limited.last.as_str()), (vec!["a"], "a.example:80"));
    assert!(take_with(storage, 1, &[], &limited.last).deliveries.is_empty());
}

pub(crate) fn hosts_take_turns(storage: &mut StorageUnderTest) {
    push_queue(storage, "news", MessageQueueKind::Multicast, &["a", "b", "c"]);
    let _ = post(storage, "news", &["1", "2", "3", "4", "5"]);
    let first = take_with(storage, 4, &[], "");
    assert_eq!((subscribers(&first.deliveries), first.last.as_str()), (vec!["a", "a", "a", "b"], "b.example:80"));
    let next = take_with(storage, 4, &[("c.example:80", 1)], &first.last);
    assert_eq!((subscribers(&next.deliveries), next.last.as_str()), (vec!["c"], ""), "the last host");
    let rest = take_with(storage, 100, &[("a.example:80", 0), ("c.example:80", 9)], &next.last);
    let expected = vec!["b", "b", "b", "c", "c", "c", "c"];
    assert_eq!((subscribers(&rest.deliveries), rest.last.as_str()), (expected, ""), "each as far as it has room");
    let waiting = take_with(storage, 100, &[], "");
    assert_eq!(subscribers(&waiting.deliveries), ["a", "a", "b"], "a delivery under way is not taken twice");
}

/// A subscriber that is another queue.
fn queue_subscriber(queue: &str) -> Subscriber {
    let url = format!("ironmq:///{queue}").parse().expect("a URL");
    Subscriber { name: queue.to_owned(), url, headers: BTreeMap::new() }
}

/// Makes a multicast queue with one retry, whose subscribers are other queues.
fn forwarding_queue(storage: &mut StorageUnderTest, queue: &str, targets: &[&str]) -> MessageReply {
    let subscribers = targets.iter().map(|target| queue_subscriber(target)).collect();
    let error_queue = Some("errors".to_owned());
    let push = PushSettings { subscribers, retries: 1, error_queue, ..PushSettings::default() };
    let kind = MessageQueueKind::Multicast;
    order(
        storage,
        queue,
        MessageCommand::SetQueue(MessageQueueSettings { kind, push: Some(push), ..Default::default() }),
    )
}

fn forward(storage: &mut StorageUnderTest, taken: &TakenDelivery, forwarded: Forwarded) -> bool {
    let (id, reservation) = (taken.id, taken.reservation);
    let command = DeliveryCommand::Forward { id, reservation, forwarded, jitter: Jitter(0) };
    delivery(storage, command) == DeliveryReply::Answered(true)
}

pub(crate) fn a_forwarded_message_is_queued_once(storage: &mut StorageUnderTest) {
    assert_eq!(forwarding_queue(storage, "news", &["inbox"]), MessageReply::Done);
    let _ = post(storage, "news", &["hello"]);
    let message = || NewMessage { body: "hello".to_owned(), ..NewMessage::default() };
    // A sender that dies before its command leaves the delivery to the next sender. Its own late command is refused.
    let lost = take(storage);
    storage.restart();
    storage.pass(30_000);
    let taken = take(storage);
    assert!(!forward(storage, &lost[0], Forwarded::Message(news("inbox"), message())), "the reservation is over");
    assert_eq!(size(storage, "inbox"), None);
    assert!(forward(storage, &taken[0], Forwarded::Message(news("inbox"), message())));
    storage.restart();
    assert!(!forward(storage, &taken[0], Forwarded::Message(news("inbox"), message())), "a repetition");
    assert_eq!((size(storage, "news"), size(storage, "inbox")), (Some(0), Some(1)));
    // A push queue as the target pushes the message on.
    push_queue(storage, "far", MessageQueueKind::Multicast, &["a"]);
    assert_eq!(forwarding_queue(storage, "near", &["far"]), MessageReply::Done);
    let _ = post(storage, "near", &["onward"]);
    let taken = take(storage);
    assert!(forward(storage, &taken[0], Forwarded::Message(news("far"), message())));
    assert_eq!(subscribers(&take(storage)), ["a"]);
}

pub(crate) fn a_message_becomes_a_job_once(storage: &mut StorageUnderTest) {
    assert_eq!(forwarding_queue(storage, "tasks", &["any"]), MessageReply::Done);
    let _ = post(storage, "tasks", &["one", "two"]);
    let taken = take(storage);
    let job = || new_job("shop/report", JobSettings::default());
    assert!(forward(storage, &taken[0], Forwarded::Job(Box::new(job()))));
    assert!(!forward(storage, &taken[0], Forwarded::Job(Box::new(job()))), "a repetition");
    let count = |storage: &StorageUnderTest| storage.reader.page(&JobFilter::default(), 10).expect("read").jobs.len();
    assert_eq!((count(storage), size(storage, "tasks")), (1, Some(1)));
    // A full queue is a failed try: the message stays, and the error queue gets the reason.
    let _ = storage.one(QueueCommand::Upkeep { keep_since: Moment(0), most_open: 1 });
    assert!(forward(storage, &taken[1], Forwarded::Job(Box::new(job()))));
    assert_eq!((count(storage), size(storage, "tasks")), (1, Some(1)));
    storage.pass(60_000);
    let again = take(storage);
    assert!(forward(storage, &again[0], Forwarded::Job(Box::new(job()))));
    assert_eq!((count(storage), size(storage, "tasks")), (1, Some(0)));
    let reports = storage.reader.peek_messages(&news("errors"), 10, storage.now).expect("read").expect("a queue");
    assert!(reports[0].body.contains("jobs may wait or run"), "{}", reports[0].body);
}

pub(crate) fn queues_form_no_loop(storage: &mut StorageUnderTest) {
    let refused = |reply: MessageReply| match reply {
        MessageReply::Refused(fault) => fault.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused(forwarding_queue(storage, "self", &["self"])).contains("would come back"));
    assert_eq!(size(storage, "self"), None, "a refused queue is not made");
    assert_eq!(forwarding_queue(storage, "first", &["second"]), MessageReply::Done);
    assert_eq!(forwarding_queue(storage, "second", &["third", "fourth"]), MessageReply::Done);
    let said = refused(forwarding_queue(storage, "third", &["fourth", "first"]));
    assert!(said.contains("would come back") && said.contains("\"first\""), "{said}");
    assert_eq!(forwarding_queue(storage, "third", &["fourth"]), MessageReply::Done);
    let add = MessageCommand::Subscribe(SubscriberChange::Add(vec![queue_subscriber("second")]));
    assert!(refused(order(storage, "third", add)).contains("would come back"));
    // A queue of the same name in another project is another queue.
    let other = MessageQueueName { project: AppName::parse("other").expect("a name"), name: "fourth".to_owned() };
    let settings = storage.reader.message_queue(&news("first")).expect("read").expect("a queue").settings;
    let reply = storage.one(QueueCommand::Message(other, MessageCommand::SetQueue(settings)));
    assert_eq!(reply, QueueReply::Message(MessageReply::Done));
}

/// Forwards what is due until nothing is left.
fn forward_all(storage: &mut StorageUnderTest) {
    loop {
        let taken = take(storage);
        if taken.is_empty() {
            return;
        }
        for delivery in taken {
            let DeliveryWork::Push { queue, url, headers, body, .. } = delivery.work.clone() else { panic!("a push") };
            let SubscriberUrl::Queue(name) = url else { panic!("a queue") };
            let message = NewMessage { body, delay: 0, headers };
            let target = MessageQueueName { name, ..queue };
            assert!(forward(storage, &delivery, Forwarded::Message(target, message)));
        }
    }
}

/// The number of messages that were ever posted to a queue.
fn total(storage: &StorageUnderTest, queue: &str) -> u64 {
    storage.reader.message_queue(&news(queue)).expect("read").map(|info| info.total).unwrap_or_default()
}

/// Posts a message that may make this many copies.
fn post_limited(storage: &mut StorageUnderTest, queue: &str, copies: u64) {
    let mut message = NewMessage { body: "hello".to_owned(), ..NewMessage::default() };
    set_copies_left(&mut message.headers, copies);
    assert!(matches!(order(storage, queue, MessageCommand::Post(vec![message])), MessageReply::Posted(_)));
}

pub(crate) fn a_message_has_a_limited_number_of_copies(storage: &mut StorageUnderTest) {
    // Each queue of a layer forwards to both queues of the next one: without a limit, 128 copies would reach the last.
    let layer = |number: u32| [format!("left-{number}"), format!("right-{number}")];
    for number in 0..7 {
        let [left, right] = layer(number + 1);
        for queue in layer(number) {
            assert_eq!(forwarding_queue(storage, &queue, &[&left, &right]), MessageReply::Done);
        }
    }
    post_limited(storage, "left-0", 30);
    forward_all(storage);
    assert_eq!(
        [1, 2, 3, 4, 5].map(|number| layer(number).map(|queue| total(storage, &queue))),
        [[1, 1], [2, 2], [4, 4], [8, 8], [0, 0]]
    );
    // The refused copies are reported after their retries.
    storage.pass(60_000);
    forward_all(storage);
    let reports = storage.reader.peek_messages(&news("errors"), 100, storage.now).expect("read").expect("a queue");
    assert_eq!(reports.len(), 16);
    assert!(reports[0].body.contains("at most 1000 copies"), "{}", reports[0].body);
    assert!(!reports[0].body.contains("Copies-Left"), "{}", reports[0].body);
}

pub(crate) fn a_queue_may_have_many_queues_behind_it(storage: &mut StorageUnderTest) {
    for number in (0..110).rev() {
        let (from, to) = (format!("chain-{number}"), format!("chain-{}", number + 1));
        assert_eq!(forwarding_queue(storage, &from, &[&to]), MessageReply::Done);
    }
    // A change of the first queue is not refused.
    assert_eq!(forwarding_queue(storage, "chain-0", &["chain-1", "other"]), MessageReply::Done);
}

pub(crate) fn a_loop_through_dead_letters_ends(storage: &mut StorageUnderTest) {
    let dead_letter = Some(DeadLetterPolicy { queue: "again".to_owned(), most: 1 });
    let settings = MessageQueueSettings { dead_letter, ..MessageQueueSettings::default() };
    assert_eq!(order(storage, "inbox", MessageCommand::SetQueue(settings)), MessageReply::Done);
    assert_eq!(forwarding_queue(storage, "again", &["inbox"]), MessageReply::Done);
    post_limited(storage, "inbox", 6);
    let mut rounds = 0;
    loop {
        let reserve = || MessageCommand::Reserve { most: 1, timeout: None, delete: false };
        let MessageReply::Reserved(found) = order(storage, "inbox", reserve()) else { panic!("a reservation") };
        if found.is_empty() {
            break;
        }
        rounds += 1;
        storage.pass(60_000);
        assert_eq!(order(storage, "inbox", reserve()), MessageReply::Reserved(Vec::new()));
        forward_all(storage);
    }
    // A round has two copies: the dead letter, and its way back.
    assert_eq!((rounds, size(storage, "inbox"), size(storage, "again")), (4, Some(1), Some(0)));
}

pub(crate) fn projects_with_one_name_of_a_queue_take_turns(storage: &mut StorageUnderTest) {
    assert_eq!(forwarding_queue(storage, "news", &["mail"]), MessageReply::Done);
    let settings = storage.reader.message_queue(&news("news")).expect("read").expect("a queue").settings;
    let other = MessageQueueName { project: AppName::parse("other").expect("a name"), name: "news".to_owned() };
    let message = || NewMessage { body: "hello".to_owned(), ..NewMessage::default() };
    let _ = post(storage, "news", &["1", "2", "3", "4", "5"]);
    for command in [MessageCommand::SetQueue(settings), MessageCommand::Post(vec![message()])] {
        let reply = storage.one(QueueCommand::Message(other.clone(), command));
        assert!(!matches!(reply, QueueReply::Message(MessageReply::Refused(_))), "{reply:?}");
    }
    let projects = |taken: &[TakenDelivery]| -> Vec<String> {
        let project = |taken: &TakenDelivery| match &taken.work {
            DeliveryWork::Push { queue, .. } => queue.project.to_string(),
            DeliveryWork::Callback(job) => panic!("the callback of job {job}"),
        };
        taken.iter().map(project).collect()
    };
    let first = take(storage);
    assert_eq!(projects(&first), ["other", "shop", "shop", "shop"], "three of a project's queue at a time");
    // A failed try stays with its project.
    assert!(answer(storage, &first[1], ReceiverAnswer::Failed, 500));
    storage.pass(60_000);
    let rooms = [(first[1].host.as_str(), 0)];
    assert_eq!(projects(&take_with(storage, 100, &rooms, "").deliveries), ["other"]);
}

pub(crate) fn a_message_above_the_payload_of_a_job_is_refused(storage: &mut StorageUnderTest) {
    let url = "ironworker:///resize".parse().expect("a URL");
    let code = Subscriber { name: "resizer".to_owned(), url, headers: BTreeMap::new() };
    push_queue(storage, "pictures", MessageQueueKind::Multicast, &["a"]);
    let add = MessageCommand::Subscribe(SubscriberChange::Add(vec![code]));
    assert_eq!(order(storage, "pictures", add), MessageReply::Done);
    let message = |size| NewMessage { body: "x".repeat(size), ..NewMessage::default() };
    let posted = order(storage, "pictures", MessageCommand::Post(vec![message(PAYLOAD_MAX), message(PAYLOAD_MAX + 1)]));
    let MessageReply::Refused(fault) = posted else { panic!("{posted:?}") };
    let said = fault.to_string();
    assert!(said.contains("65537 bytes") && said.contains("\"resizer\""), "{said}");
    assert_eq!(size(storage, "pictures"), Some(0), "all messages of a call or none");
    let posted = order(storage, "pictures", MessageCommand::Post(vec![message(PAYLOAD_MAX)]));
    assert!(matches!(posted, MessageReply::Posted(_)), "{posted:?}");
}

pub(crate) fn settings_of_push_queues_are_kept_apart(storage: &mut StorageUnderTest) {
    push_queue(storage, "news", MessageQueueKind::Multicast, &["a"]);
    // Settings that were read before a subscriber came change all but the subscribers.
    let older = push_queue(storage, "changed", MessageQueueKind::Multicast, &["a"]);
    let newer = push_queue(storage, "changed", MessageQueueKind::Multicast, &["a", "b"]);
    let change = MessageQueueSettings { timeout: 7, ..older };
    assert_eq!(order(storage, "changed", MessageCommand::Reconfigure(change)), MessageReply::Done);
    let stored = storage.reader.message_queue(&news("changed")).expect("read").expect("a queue").settings;
    assert_eq!(stored, MessageQueueSettings { timeout: 7, ..newer });
    let pull = order(storage, "news", MessageCommand::SetQueue(MessageQueueSettings::default()));
    assert_eq!(pull, MessageReply::Refused(MessageFault::OtherKind("multicast")));
    let reserve = MessageCommand::Reserve { most: 1, timeout: None, delete: false };
    assert_eq!(order(storage, "news", reserve), MessageReply::Refused(MessageFault::PushQueue));
    let _ = post(storage, "news", &["late"]);
    let _ = post(storage, "pulled", &["x"]);
    storage.pass(604_800_000);
    let _ = storage.upkeep();
    assert_eq!((size(storage, "news"), size(storage, "pulled")), (Some(0), Some(0)));
    assert_eq!(storage.reader.next_delivery().expect("read"), None, "an expired message is not delivered");
}

pub(crate) fn a_callback_follows_every_end_of_a_job(storage: &mut StorageUnderTest) {
    let settings = |expires| JobSettings {
        callback: Some("https://a.example/in?key=7".parse().expect("a URL")),
        expires,
        ..JobSettings::default()
    };
    let done = storage.submit("shop/report", settings(None));
    let claimed = storage.claim("m", 1);
    let cancelled = storage.submit("shop/report", settings(None));
    let expired = storage.submit("shop/report", settings(Some(5)));
    let silent = storage.submit("shop/report", JobSettings::default());
    let callback = |storage: &StorageUnderTest, job| storage.reader.job(job).expect("read").expect("a job").callback;
    assert_eq!(callback(storage, done), None);
    let _ = storage.complete(done, claimed[0].fence, AttemptOutcome::Succeeded);
    for job in [cancelled, silent] {
        let _ = storage.one(QueueCommand::Cancel(job));
    }
    storage.pass(5000);
    let _ = storage.upkeep();
    let taken = take(storage);
    let jobs: Vec<_> = taken
        .iter()
        .map(|taken| match taken.work {
            DeliveryWork::Callback(job) => job,
            DeliveryWork::Push { .. } => panic!("{taken:?}"),
        })
        .collect();
    assert_eq!(jobs, [done, cancelled, expired]);
    assert!(answer(storage, &taken[0], ReceiverAnswer::Acknowledged, 204));
    assert!(answer(storage, &taken[1], ReceiverAnswer::Failed, 500));
    let first = callback(storage, done).expect("a callback");
    assert_eq!((first.delivery.state, first.delivery.attempts, first.status), (DeliveryState::Delivered, 1, Some(204)));
    let second = callback(storage, cancelled).expect("a callback");
    assert_eq!((second.delivery.attempts, second.note.as_deref()), (1, Some("it refused")));
    assert_eq!(callback(storage, silent), None);
    storage.pass(2000);
    assert_eq!(take(storage).len(), 1, "the first retry");
}

pub(crate) fn a_signing_key_is_made_once_and_rotated(storage: &mut StorageUnderTest) {
    let key = |storage: &mut StorageUnderTest, fresh: &str, rotate| {
        let project = AppName::parse("shop").expect("a name");
        let fresh = SigningKey { current: fresh.to_owned(), previous: None };
        match delivery(storage, DeliveryCommand::SigningKey { project, fresh, rotate }) {
            DeliveryReply::Key(Some(key)) => key,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(key(storage, "one", false), SigningKey { current: "one".to_owned(), previous: None });
    storage.restart();
    assert_eq!(key(storage, "two", false).current, "one");
    let rotated = key(storage, "two", true);
    assert_eq!(rotated, SigningKey { current: "two".to_owned(), previous: Some(("one".to_owned(), storage.now)) });
    assert_eq!(key(storage, "three", false), rotated);
    // A new app of the same name inherits no key.
    let forget = DeliveryCommand::ForgetKey(AppName::parse("shop").expect("a name"));
    assert_eq!(delivery(storage, forget), DeliveryReply::Key(None));
    assert_eq!(key(storage, "four", false), SigningKey { current: "four".to_owned(), previous: None });
}
