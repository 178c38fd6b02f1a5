use gantry_model::Moment;
use proptest::prelude::*;

use crate::{
    CALLBACK_RULES, Delivery, DeliveryEvent, DeliveryRefusal, DeliveryRules, DeliveryState, Jitter, ReceiverAnswer,
    Reservation, RetryPause, SEND_LEASE,
};

const NOW: Moment = Moment(1_000_000);

fn at(seconds: u64) -> Moment {
    Moment(NOW.0 + seconds * 1000)
}

fn rules(receivers: u32, retries: u32) -> DeliveryRules {
    DeliveryRules { receivers, retries, pause: RetryPause::Fixed(60_000), accepted: 60_000 }
}

/// Sends, and records an answer at the same moment.
fn tried(delivery: Delivery, answer: ReceiverAnswer, rules: &DeliveryRules, now: Moment) -> Delivery {
    let sent = delivery.after(DeliveryEvent::Send, rules, now).expect("sent");
    sent.after(DeliveryEvent::Answer(sent.reservation, answer, Jitter(0)), rules, now).expect("answered")
}

#[test]
fn an_acknowledged_delivery_is_over_and_a_failed_one_returns_after_the_pause() {
    let rules = rules(1, 1);
    let done = tried(Delivery::at(NOW), ReceiverAnswer::Acknowledged, &rules, NOW);
    assert_eq!((done.state, done.due()), (DeliveryState::Delivered, None));
    let again = tried(Delivery::at(NOW), ReceiverAnswer::Failed, &rules, NOW);
    assert_eq!(again.state, DeliveryState::Waiting { due: at(60) });
    assert_eq!(again.after(DeliveryEvent::Send, &rules, at(59)), Err(DeliveryRefusal::NotDue));
    assert_eq!(tried(again, ReceiverAnswer::Failed, &rules, at(60)).state, DeliveryState::Failed);
}

#[test]
fn a_lost_request_is_sent_again_and_its_late_answer_does_not_count() {
    let rules = rules(1, 0);
    let lost = Delivery::at(NOW).after(DeliveryEvent::Send, &rules, NOW).expect("sent");
    let later = Moment(NOW.0 + SEND_LEASE);
    let again = lost.after(DeliveryEvent::Send, &rules, later).expect("sent again");
    assert_eq!((again.attempts, again.reservation), (0, Reservation(2)));
    let late = DeliveryEvent::Answer(lost.reservation, ReceiverAnswer::Failed, Jitter(0));
    assert_eq!(again.after(late, &rules, later), Err(DeliveryRefusal::NotReserved));
}

#[test]
fn a_receiver_that_accepts_has_until_the_pause_to_acknowledge() {
    let rules = rules(1, 1);
    let accepted = tried(Delivery::at(NOW), ReceiverAnswer::Accepted, &rules, NOW);
    let acknowledge = DeliveryEvent::Acknowledge(accepted.reservation);
    assert_eq!(accepted.after(acknowledge, &rules, at(59)).expect("in time").state, DeliveryState::Delivered);
    assert_eq!(accepted.after(acknowledge, &rules, at(60)), Err(DeliveryRefusal::NotReserved));
    let other = DeliveryEvent::Acknowledge(Reservation(7));
    assert_eq!(accepted.after(other, &rules, at(1)), Err(DeliveryRefusal::NotReserved));
    // The receiver may acknowledge before its own answer is recorded.
    let sent = Delivery::at(NOW).after(DeliveryEvent::Send, &rules, NOW).expect("sent");
    let early = sent.after(DeliveryEvent::Acknowledge(sent.reservation), &rules, NOW).expect("acknowledged");
    assert_eq!(early.state, DeliveryState::Delivered);
    // A second time without an acknowledgement is the last.
    let second = tried(accepted, ReceiverAnswer::Accepted, &rules, at(60));
    assert_eq!(second.after(DeliveryEvent::Send, &rules, at(120)).expect("given up").state, DeliveryState::Failed);
}

#[test]
fn unicast_tries_every_receiver_before_it_pauses() {
    let rules = rules(3, 1);
    let mut delivery = Delivery::at(NOW);
    let mut waits = Vec::new();
    let mut now = NOW;
    while delivery.state != DeliveryState::Failed {
        delivery = tried(delivery, ReceiverAnswer::Failed, &rules, now);
        let due = delivery.due().unwrap_or(now);
        waits.push(due.since(now) / 1000);
        now = due;
    }
    assert_eq!(waits, [0, 0, 60, 0, 0, 0]);
}

#[test]
fn a_callback_is_tried_thirteen_times_within_two_hours() {
    let (mut delivery, mut now) = (Delivery::at(NOW), NOW);
    while let Some(due) = delivery.due() {
        now = due;
        delivery = tried(delivery, ReceiverAnswer::Failed, &CALLBACK_RULES, now);
    }
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Failed, 13));
    let minutes = now.since(NOW) / 60_000;
    assert!((100..150).contains(&minutes), "{minutes}");
}

proptest! {
    /// Every history ends, no reservation is given twice, and no more tries are made than the rules allow.
    #[test]
    fn a_delivery_ends_after_its_tries(answers in proptest::collection::vec(0u8..4, 400), receivers in 1u32..4, retries in 0u32..5) {
        let rules = rules(receivers, retries);
        let (mut delivery, mut now, mut last) = (Delivery::at(NOW), NOW, Reservation(0));
        let mut tries = 0;
        for answer in answers {
            let Some(due) = delivery.due() else { break };
            now = now.max(due);
            delivery = delivery.after(DeliveryEvent::Send, &rules, now).expect("due");
            if delivery.state == DeliveryState::Failed {
                break;
            }
            prop_assert!(delivery.reservation > last);
            last = delivery.reservation;
            let answer = match answer {
                0 => continue,
                1 => ReceiverAnswer::Accepted,
                _ => ReceiverAnswer::Failed,
            };
            tries += 1;
            let event = DeliveryEvent::Answer(delivery.reservation, answer, Jitter(3));
            delivery = delivery.after(event, &rules, now).expect("current");
        }
        prop_assert!(tries <= receivers * (retries + 1));
        prop_assert_eq!(delivery.attempts, tries);
    }
}
