//! The core's task on a store in a file: leadership that is lost and regained.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{AuditAction, Moment};
use gantry_records::{EventRecord, StoreRecord};
use gantry_store::{Store, StoreAddress, Txn, TxnCondition, TxnOutcome};

use super::{CoreTask, write};
use crate::leadership::{self, Candidate, Leadership};

const HOUR: i64 = 3_600_000;

async fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    let address = StoreAddress::File(folder.path().join("store.db"));
    gantry_store::open(&address).await.expect("a store")
}

/// Leads for a moment as another server, and writes an event with this stamp.
async fn lead_meanwhile(store: &Arc<dyn Store>, at: Moment) {
    let other = leadership::acquire(store, &Candidate::named("two")).await.expect("the leadership");
    let event = EventRecord::new(1, at, "alice", None, AuditAction::ClusterPolicyChanged { rules: BTreeMap::new() });
    let written = write(&StoreRecord::Event(event).into()).expect("a record");
    let guard = TxnCondition::Created(leadership::KEY.to_owned(), other.revision().await);
    let outcome = store.commit(Txn { compares: vec![guard], writes: vec![written] }).await.expect("an answer");
    assert!(matches!(outcome, TxnOutcome::Committed(_)));
    other.resign().await;
}

/// A task without records whose leadership has ended.
async fn resigned(store: &Arc<dyn Store>) -> (Leadership, CoreTask) {
    let leadership = leadership::acquire(store, &Candidate::named("one")).await.expect("the leadership");
    let task = CoreTask::load(Arc::clone(store), leadership.clone()).await.expect("no records");
    leadership.resign().await;
    (leadership, task)
}

#[tokio::test]
async fn a_server_that_leads_again_moves_the_stamps_of_a_leader_whose_clock_was_ahead() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store(&folder).await;
    let (leadership, mut task) = resigned(&store).await;
    let began = task.state.view().observed.began;
    lead_meanwhile(&store, began.moved(HOUR)).await;
    // The write of the previous leader finds that its term has ended.
    leadership.take_again(task.term).await.expect("no other server leads");
    task.update().await.expect("leads again");

    let view = task.state.view();
    let (_, told) = view.records.events.last_key_value().expect("an event of the jump");
    assert!(matches!(told.action, Some(AuditAction::ClockJumped { .. })), "{told:?}");
    assert!(told.at <= task.now(), "the newest stamp is of the present");
    assert!(view.observed.began >= began && !task.has_foreign_stamps);
}

#[tokio::test]
async fn a_term_without_another_leader_in_between_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store(&folder).await;
    let (leadership, mut task) = resigned(&store).await;
    let began = task.state.view().observed.began;
    leadership.take_again(task.term).await.expect("no other server leads");
    task.update().await.expect("leads again");
    assert_eq!(task.state.view().observed.began, began, "durations count on");
}
