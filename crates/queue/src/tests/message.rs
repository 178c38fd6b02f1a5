use gantry_model::Moment;
use proptest::prelude::*;

use crate::{DeadLetterPolicy, Message, MessageEvent, MessageQueueSettings, MessageRefusal, Reservation};

const NOW: Moment = Moment(1_000_000);

fn at(seconds: u64) -> Moment {
    Moment(NOW.0 + seconds * 1000)
}

fn posted() -> Message {
    Message::posted(&MessageQueueSettings::default(), 0, NOW)
}

#[test]
fn only_the_current_reservation_changes_a_reserved_message() {
    let first = posted().after(MessageEvent::Reserve(60), NOW).expect("reserved");
    assert_eq!((first.count, first.due), (1, at(60)));
    assert_eq!(first.after(MessageEvent::Reserve(60), at(59)), Err(MessageRefusal::Unavailable));
    let touched = first.after(MessageEvent::Touch(first.reservation, 90), at(30)).expect("touched");
    assert_eq!((touched.count, touched.due), (1, at(120)));
    for event in [MessageEvent::Touch(first.reservation, 60), MessageEvent::Release(first.reservation, 0)] {
        assert_eq!(touched.after(event, at(31)), Err(MessageRefusal::NotReserved));
    }
    assert_eq!(touched.check_delete(None, at(31)), Err(MessageRefusal::Reserved));
    assert_eq!(touched.check_delete(Some(first.reservation), at(31)), Err(MessageRefusal::NotReserved));
    assert_eq!(touched.check_delete(Some(touched.reservation), at(31)), Ok(()));
    // A late delete.
    assert_eq!(touched.check_delete(Some(touched.reservation), at(120)), Err(MessageRefusal::NotReserved));
    assert_eq!(touched.check_delete(None, at(120)), Ok(()));
    let released = touched.after(MessageEvent::Release(touched.reservation, 10), at(40)).expect("released");
    assert_eq!(released.after(MessageEvent::Reserve(60), at(49)), Err(MessageRefusal::Unavailable));
    assert_eq!(released.after(MessageEvent::Reserve(60), at(50)).map(|message| message.count), Ok(2));
}

#[test]
fn a_message_expires_and_dies_after_its_reservations() {
    let settings = MessageQueueSettings {
        dead_letter: Some(DeadLetterPolicy { queue: "dead".to_owned(), most: 2 }),
        ..MessageQueueSettings::default()
    };
    let mut message = posted();
    for round in 0..2 {
        assert!(!message.is_dead(&settings));
        message = message.after(MessageEvent::Reserve(60), at(round * 60)).expect("reserved");
    }
    assert!(message.is_dead(&settings));
    assert_eq!(posted().after(MessageEvent::Reserve(60), at(604_800)), Err(MessageRefusal::Unavailable));
    let wrong = MessageQueueSettings { timeout: 5, ..settings };
    assert_eq!(wrong.check().expect_err("short").to_string(), "timeout is 5; choose 30 to 86400");
}

proptest! {
    /// No reservation number is valid twice, and no two consumers hold a message at one time.
    #[test]
    fn reservations_never_overlap(steps in proptest::collection::vec((0u8..3, 0u64..100), 1..60)) {
        let (mut message, mut now, mut seen) = (posted(), NOW, vec![Reservation(0)]);
        for (step, seconds) in steps {
            now = Moment(now.0 + seconds * 1000);
            let event = match step {
                0 => MessageEvent::Reserve(60),
                1 => MessageEvent::Touch(message.reservation, 60),
                _ => MessageEvent::Release(message.reservation, 5),
            };
            let held = message.reserved && message.due > now;
            if let Ok(next) = message.after(event, now) {
                prop_assert_eq!(held, step != 0);
                prop_assert!(!seen.contains(&next.reservation));
                seen.push(next.reservation);
                message = next;
            }
        }
    }
}
