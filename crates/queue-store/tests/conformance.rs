//! The rules that every storage of jobs keeps. Each test runs on each storage.

mod cluster;
mod suite;

use std::path::Path;
use std::sync::OnceLock;

use cluster::Cluster;
use gantry_queue_store::{QueueStore, SqliteQueue};
use suite::Opened;

/// A storage in a file, which can be opened again.
fn sqlite(folder: &Path) -> Opened {
    let store = SqliteQueue::open(&folder.join("jobs.db")).expect("opened");
    let reader = store.reader().expect("a reader");
    (Box::new(store) as Box<dyn QueueStore>, reader)
}

/// A storage in a database, which can be opened again. The parts are small, so that tests use several.
fn postgres(folder: &Path) -> Opened {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| Cluster::start(&[]));
    let known = folder.join("address");
    let address = match std::fs::read_to_string(&known) {
        Ok(text) => text.parse().expect("an address"),
        Err(_) => {
            let name = folder.file_name().expect("a name").to_string_lossy().replace('.', "t").to_lowercase();
            let address = cluster.database(&name);
            std::fs::write(&known, address.to_string()).expect("written");
            address
        }
    };
    let store = cluster::server(address).with_part(200);
    let reader = store.reader();
    (Box::new(store), reader)
}

macro_rules! on_each_store {
    ($($name:ident)*) => {
        mod in_sqlite {
            $(#[test]
            fn $name() {
                let folder = tempfile::tempdir().expect("a folder");
                super::suite::$name(&mut super::suite::StorageUnderTest::new(folder.path(), super::sqlite));
            })*
        }
        mod in_postgres {
            $(#[test]
            fn $name() {
                let folder = tempfile::tempdir().expect("a folder");
                super::suite::$name(&mut super::suite::StorageUnderTest::new(folder.path(), super::postgres));
            })*
        }
    };
}

on_each_store! {
    a_job_is_claimed_once_and_completed_once
    jobs_go_by_priority_and_age
    projects_share_evenly
    limits_and_pauses_hold
    a_key_admits_its_jobs_one_after_the_other
    a_delay_ends_with_upkeep
    failed_jobs_come_back_and_end_as_dead_letters
    a_lost_lease_gives_the_job_to_another_machine
    cancel_works_in_every_state
    an_idempotency_key_queues_one_job
    waiting_jobs_expire
    a_purge_cancels_what_waits
    an_ended_job_is_queued_again_as_another_job
    old_jobs_are_removed
    a_clock_that_went_back_keeps_no_old_jobs
    the_limit_of_waiting_jobs_can_change
    pages_go_through_all_jobs
    everything_survives_a_restart
    a_due_time_queues_one_job
    overlapping_runs_follow_the_policy
    a_schedule_is_paused_and_removed
    the_schedule_of_a_release_follows_the_release
    messages_go_in_order_and_come_back_to_the_front
    messages_survive_a_restart_and_expire
    a_multicast_message_ends_with_its_last_subscriber
    a_failed_push_is_reported
    a_unicast_message_goes_to_the_next_subscriber
    a_taken_delivery_comes_back_after_a_restart
    a_busy_host_does_not_hold_up_others
    hosts_take_turns
    a_forwarded_message_is_queued_once
    a_message_becomes_a_job_once
    queues_form_no_loop
    a_message_has_a_limited_number_of_copies
    a_queue_may_have_many_queues_behind_it
    a_loop_through_dead_letters_ends
    projects_with_one_name_of_a_queue_take_turns
    a_message_above_the_payload_of_a_job_is_refused
    settings_of_push_queues_are_kept_apart
    a_callback_follows_every_end_of_a_job
    a_signing_key_is_made_once_and_rotated
    a_random_history_keeps_the_counts
    a_batch_does_what_its_commands_do_one_by_one
}
