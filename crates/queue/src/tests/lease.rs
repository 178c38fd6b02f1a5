use super::machine;
use crate::{Fence, JobId, LEASE_MILLIS, LeaseTable};

const JOB: JobId = JobId(1);

/// Lets whole seconds pass; returns the jobs whose leases are lost in the last.
fn seconds(table: &mut LeaseTable, count: u64) -> Vec<JobId> {
    let mut lost = Vec::new();
    for _ in 0..count {
        lost = table.tick(1000).into_iter().map(|(job, _)| job).collect();
    }
    lost
}

#[test]
fn a_lease_lasts_while_its_machine_names_the_job() {
    let mut table = LeaseTable::default();
    table.grant(JOB, Fence(1), machine("m"));
    for _ in 0..10 {
        assert_eq!(seconds(&mut table, LEASE_MILLIS / 1000 - 1), []);
        assert_eq!(table.renew(&machine("m"), &[(JOB, Fence(1))]), []);
    }
    assert_eq!(seconds(&mut table, LEASE_MILLIS / 1000), [JOB]);
    // A lost lease is reported until it is removed: the write that takes the job back may fail.
    assert_eq!(seconds(&mut table, 1), [JOB]);
    table.end(JOB);
    assert_eq!(seconds(&mut table, 100), []);
}

#[test]
fn a_stalled_server_expires_no_lease() {
    let mut table = LeaseTable::default();
    table.grant(JOB, Fence(1), machine("m"));
    assert_eq!(table.tick(3_600_000), []);
    assert_eq!(table.renew(&machine("m"), &[(JOB, Fence(1))]), []);
    assert_eq!(seconds(&mut table, LEASE_MILLIS / 1000 - 1), []);
}

#[test]
fn names_jobs_that_a_machine_must_stop() {
    let mut table = LeaseTable::default();
    table.grant(JOB, Fence(2), machine("m"));
    let strange = |table: &mut LeaseTable, name: &str, job, fence| {
        !table.renew(&machine(name), &[(JobId(job), Fence(fence))]).is_empty()
    };
    assert!(strange(&mut table, "m", 1, 1), "an older lease");
    assert!(strange(&mut table, "other", 1, 2), "the lease of another machine");
    assert!(strange(&mut table, "m", 2, 1), "an unknown job");
    assert!(!strange(&mut table, "m", 1, 2));
    // A machine that names the wrong token renews nothing.
    let _ = seconds(&mut table, LEASE_MILLIS / 1000 - 1);
    assert!(strange(&mut table, "m", 1, 1));
    assert_eq!(seconds(&mut table, 1), [JOB]);
}

#[test]
fn counts_the_jobs_of_each_machine() {
    let mut table = LeaseTable::default();
    table.grant(JobId(1), Fence(1), machine("m"));
    table.grant(JobId(2), Fence(1), machine("m"));
    table.grant(JobId(2), Fence(2), machine("other"));
    assert_eq!((table.count(&machine("m")), table.count(&machine("other"))), (1, 1));
    assert_eq!(table.of(JobId(2)), Some((&machine("other"), Fence(2))));
    table.end(JobId(1));
    table.end(JobId(1));
    assert_eq!((table.count(&machine("m")), table.of(JobId(1))), (0, None));
}

#[test]
fn a_new_connection_ends_the_leases_that_its_machine_does_not_name() {
    let mut table = LeaseTable::default();
    for job in 1..=2 {
        table.grant(JobId(job), Fence(1), machine("m"));
    }
    table.grant(JobId(3), Fence(1), machine("other"));
    table.lapse(&machine("m"), &[(JobId(2), Fence(1))]);
    assert_eq!(table.tick(0), [(JobId(1), Fence(1))]);
}
