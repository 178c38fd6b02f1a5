use std::collections::BTreeMap;

use crate::{
    COPIES_MAX, DeadLetterPolicy, Delivery, InvalidReceiver, InvalidSubscriberUrl, MessageQueueKind,
    MessageQueueSettings, PushSettings, ReceiverUrl, Subscriber, SubscriberChange, SubscriberUrl, check_headers,
    copies_of_each, error_report, set_copies_left, take_copies_left,
};
use gantry_model::Moment;

fn subscriber(name: &str) -> Subscriber {
    let url = format!("http://{name}.example/in?key=7").parse().expect("a URL");
    Subscriber { name: name.to_owned(), url, headers: BTreeMap::new() }
}

fn settings(names: &[&str]) -> PushSettings {
    PushSettings { subscribers: names.iter().map(|name| subscriber(name)).collect(), ..PushSettings::default() }
}

#[test]
fn a_url_of_a_receiver_names_a_host_and_no_user() {
    for (text, host) in [
        ("http://a.example", "a.example:80"),
        ("HTTPS://A.example/x?y#z", "a.example:443"),
        ("http://a.example:8080?x", "a.example:8080"),
        ("http://[::1]:9/x", "[::1]:9"),
        ("https://[2001:db8::7]", "[2001:db8::7]:443"),
    ] {
        assert_eq!(text.parse::<ReceiverUrl>().map(|url| url.host()), Ok(host.to_owned()), "{text}");
    }
    for (text, why) in [
        ("ftp://a.example", InvalidReceiver::Scheme),
        ("a.example", InvalidReceiver::Scheme),
        ("http:///x", InvalidReceiver::Host),
        ("http://:80/x", InvalidReceiver::Host),
        ("http://a b/", InvalidReceiver::Character),
        ("http://me:secret@a.example/", InvalidReceiver::User),
        ("http://a.example:0/", InvalidReceiver::Port),
        ("http://a.example:99999/", InvalidReceiver::Port),
        ("http://a.example:/", InvalidReceiver::Port),
    ] {
        assert_eq!(text.parse::<ReceiverUrl>(), Err(why), "{text}");
    }
    let url: ReceiverUrl = "https://a.example/in?token=secret".parse().expect("a URL");
    assert_eq!(url.to_string(), "https://a.example/in?***");
}

#[test]
fn a_subscriber_is_a_receiver_or_a_queue_or_a_code_of_the_project() {
    let parsed = |text: &str| text.parse::<SubscriberUrl>();
    assert_eq!(parsed("ironmq:///a/b"), Ok(SubscriberUrl::Queue("a/b".to_owned())));
    let code = "resize".parse().expect("a name");
    assert_eq!(parsed("IronWorker:///resize"), Ok(SubscriberUrl::Code(code)));
    for text in ["http://a.example/in?key=7", "ironmq:///news", "ironworker:///resize"] {
        let url = parsed(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let stored = serde_json::to_string(&url).expect("JSON");
        assert_eq!(stored, format!("{text:?}"));
        assert_eq!(serde_json::from_str::<SubscriberUrl>(&stored).expect("a URL"), url);
        assert!(!url.to_string().contains("key=7"), "{url}");
    }
    for (text, why) in [
        ("ironmq:news", InvalidSubscriberUrl::Scheme),
        ("ftp://a.example", InvalidSubscriberUrl::Scheme),
        ("http://", InvalidSubscriberUrl::Receiver(InvalidReceiver::Host)),
        ("ironmq://news", InvalidSubscriberUrl::OtherProject("ironmq")),
        ("ironmq://other:token@/news", InvalidSubscriberUrl::OtherProject("ironmq")),
        ("ironworker://other:token@worker.example/resize", InvalidSubscriberUrl::OtherProject("ironworker")),
        ("ironmq:///", InvalidSubscriberUrl::QueueName),
        ("ironmq:///news/", InvalidSubscriberUrl::QueueName),
        ("ironmq:///news?x=y", InvalidSubscriberUrl::QueueName),
        ("ironmq:///two words", InvalidSubscriberUrl::QueueName),
    ] {
        assert_eq!(parsed(text), Err(why), "{text}");
    }
    assert!(matches!(parsed("ironworker:///Re size"), Err(InvalidSubscriberUrl::CodeName(_))));
}

#[test]
fn projects_with_one_name_of_a_queue_or_a_code_share_no_host() {
    let [shop, other] = ["shop", "other"].map(|name| name.parse().expect("a name"));
    for text in ["ironmq:///mail", "ironworker:///mail"] {
        let url: SubscriberUrl = text.parse().expect("a URL");
        assert_ne!(url.host(&shop), url.host(&other), "{text}");
    }
    let url: SubscriberUrl = "https://a.example/in".parse().expect("a URL");
    assert_eq!(url.host(&shop), url.host(&other));
}

/// A queue of a kind whose subscribers are this many other queues.
fn forwarding(kind: MessageQueueKind, targets: u64) -> MessageQueueSettings {
    let target = |number: u64| Subscriber {
        url: format!("ironmq:///{number}").parse().expect("a URL"),
        ..subscriber(&number.to_string())
    };
    let push = Some(PushSettings { subscribers: (0..targets).map(target).collect(), ..settings(&[]) });
    MessageQueueSettings { kind, push, ..MessageQueueSettings::default() }
}

/// The number of all copies of a message whose queues are layers: each queue of a layer forwards to `width` queues.
fn copies(width: u64, left: u64) -> u64 {
    let queue = forwarding(MessageQueueKind::Multicast, width);
    copies_of_each(&queue, left).map_or(0, |left| width * (1 + copies(width, left)))
}

#[test]
fn all_copies_of_a_message_have_one_limit() {
    for width in [1, 2, 3, 7, 31, 100] {
        let copies = copies(width, COPIES_MAX);
        assert!((width..=COPIES_MAX).contains(&copies), "{width} queues make {copies} copies");
    }
    // A unicast message has one copy.
    assert_eq!(copies_of_each(&forwarding(MessageQueueKind::Unicast, 100), 7), Some(6));
    assert_eq!(copies_of_each(&forwarding(MessageQueueKind::Multicast, 8), 7), None);
    let mut headers = BTreeMap::from([("X-Kind".to_owned(), "news".to_owned())]);
    let plain = headers.clone();
    assert_eq!(take_copies_left(&mut headers), COPIES_MAX);
    set_copies_left(&mut headers, 7);
    assert!(check_headers(&headers).is_err(), "users cannot set the number");
    assert_eq!((take_copies_left(&mut headers), headers), (7, plain));
}

#[test]
fn settings_of_a_push_queue_have_limits() {
    assert_eq!(settings(&["a", "b"]).check(), Ok(()));
    let refused = |settings: &PushSettings| settings.check().expect_err("refused").to_string();
    assert!(refused(&settings(&[])).contains("1 to 100 subscribers"));
    assert!(refused(&settings(&["a", "a"])).contains("two subscribers"));
    assert!(refused(&PushSettings { retries_delay: 2, ..settings(&["a"]) }).contains("retries_delay is 2"));
    assert!(refused(&PushSettings { retries: 101, ..settings(&["a"]) }).contains("retries is 101"));
    let mut same = settings(&["a", "b", "c"]);
    for subscriber in &mut same.subscribers[1..] {
        subscriber.url = "ironmq:///news".parse().expect("a URL");
    }
    let refusal = refused(&same);
    assert!(refusal.contains("name each queue once") && refusal.contains("\"c\""), "{refusal}");
    let mut named = settings(&["a"]);
    named.subscribers[0].name = "two words".to_owned();
    assert!(refused(&named).contains("not a name of a subscriber"));
    let header = |name: &str, value: &str| {
        check_headers(&BTreeMap::from([(name.to_owned(), value.to_owned())])).map_err(|error| error.to_string())
    };
    assert_eq!(header("X-Kind", "a b"), Ok(()));
    assert!(header("Host", "a").expect_err("reserved").contains("set by Gantry"));
    assert!(header("iron-message-id", "7").expect_err("reserved").contains("set by Gantry"));
    assert!(header("X", "a\r\nY: b").expect_err("invalid").contains("invalid name or value"));
}

#[test]
fn subscribers_are_added_replaced_and_removed_by_name() {
    let mut settings = settings(&["a", "b"]);
    let names =
        |settings: &PushSettings| -> String { settings.subscribers.iter().map(|one| one.name.as_str()).collect() };
    let moved = Subscriber { url: "http://other.example/".parse().expect("a URL"), ..subscriber("a") };
    settings.change(SubscriberChange::Add(vec![moved.clone(), subscriber("c")]));
    assert_eq!((names(&settings).as_str(), &settings.subscribers[0]), ("abc", &moved));
    settings.change(SubscriberChange::Remove(vec!["b".to_owned(), "unknown".to_owned()]));
    assert_eq!(names(&settings), "ac");
    settings.change(SubscriberChange::Replace(vec![subscriber("d")]));
    assert_eq!(names(&settings), "d");
}

#[test]
fn a_push_queue_has_no_dead_letters_and_a_pull_queue_no_subscribers() {
    let push = MessageQueueSettings {
        kind: MessageQueueKind::Multicast,
        push: Some(settings(&["a"])),
        ..MessageQueueSettings::default()
    };
    assert_eq!(push.check(), Ok(()));
    let dead_letter = Some(DeadLetterPolicy { queue: "dead".to_owned(), most: 2 });
    assert!(MessageQueueSettings { dead_letter, ..push.clone() }.check().is_err());
    assert!(MessageQueueSettings { kind: MessageQueueKind::Pull, ..push.clone() }.check().is_err());
    assert!(MessageQueueSettings { push: None, ..push }.check().is_err());
    // Settings that were stored before there were push queues.
    let old: MessageQueueSettings = serde_json::from_str(r#"{"timeout":60,"expiration":604800}"#).expect("settings");
    assert_eq!(old, MessageQueueSettings::default());
}

#[test]
fn unicast_messages_are_spread_over_the_subscribers() {
    let settings = settings(&["a", "b", "c"]);
    let name = |start, attempts| {
        let delivery = Delivery { attempts, ..Delivery::at(Moment(0)) };
        let of = |found: Option<&Subscriber>| found.expect("a subscriber").name.clone();
        (of(settings.next_receiver(start, &delivery)), of(settings.last_receiver(start, &delivery)))
    };
    assert_eq!(name(0, 0), ("a".to_owned(), "a".to_owned()));
    assert_eq!(name(1, 0), ("b".to_owned(), "b".to_owned()));
    assert_eq!(name(1, 2), ("a".to_owned(), "c".to_owned()));
}

#[test]
fn a_report_of_an_error_contains_the_message() {
    let report: serde_json::Value = serde_json::from_str(&error_report(7, "x", &BTreeMap::new(), &[])).expect("JSON");
    assert_eq!(report["source_msg_id"], "7");
    assert_eq!(report["body"], "x");
}

#[test]
fn debug_leaves_out_the_secrets_of_a_subscriber() {
    let mut subscriber = subscriber("mail");
    subscriber.headers.insert("authorization".to_owned(), "header-secret".to_owned());
    let shown = format!("{subscriber:?}");
    assert!(shown.contains("mail.example") && shown.contains("authorization"), "{shown}");
    assert!(!shown.contains("key=7") && !shown.contains("header-secret"), "{shown}");
}
