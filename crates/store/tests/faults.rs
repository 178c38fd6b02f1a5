//! The embedded store on a failing disk. strace kills the process at its nth write or sync, or answers the nth call
//! with an error or with a full disk. n rises until the process gets through. Each system call has its own run, because
//! strace counts each call by itself, and the first of several would always fail first. Afterwards the store contains
//! everything that was acknowledged, and no value that was never written.

use std::path::Path;
use std::process::{Command, Stdio};

use gantry_store::{StoreAddress, Txn, open};

/// Number of commits of one run: enough for SQLite to write the log, sync it, and copy it into the file at the end.
const COMMITS: usize = 6;

fn value(n: usize) -> Vec<u8> {
    vec![b'a' + u8::try_from(n % 26).expect("small"); 3000 + n]
}

/// The process under test: prints each commit once the store acknowledges it. Without `GANTRY_STORE_FAULTS` it does
/// nothing.
#[tokio::test]
async fn writer() {
    let Some(path) = std::env::var_os("GANTRY_STORE_FAULTS") else { return };
    let store = open(&StoreAddress::File(path.into())).await.expect("a store");
    for n in 0..COMMITS {
        match store.commit(Txn::default().put(format!("key/{n}"), value(n))).await {
            Ok(_) => println!("acknowledged {n}"),
            Err(error) => println!("refused {n}: {error}"),
        }
    }
}

/// Runs the process under test with one fault. Returns its output, and whether the fault was injected.
fn run(path: &Path, call: &str, fault: &str, nth: usize) -> (String, bool) {
    let log = path.with_extension("strace");
    let mut strace = Command::new("strace");
    strace.arg("-f").arg("-o").arg(&log);
    for end in ["", "-wal", "-shm", "-journal", "-head"] {
        strace.arg("-P").arg(format!("{}{end}", path.display()));
    }
    strace.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{fault}:when={nth}")]);
    strace.arg(std::env::current_exe().expect("a path")).args(["--exact", "writer", "--nocapture", "--test-threads=1"]);
    let output = strace.env("GANTRY_STORE_FAULTS", path).stdin(Stdio::null()).output().expect("strace");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = std::fs::read_to_string(log).expect("strace's log");
    (said, log.contains("INJECTED") || log.contains("SIGKILL"))
}

/// System calls that change a file, or bring it to the disk.
const CALLS: [&str; 5] = ["pwrite64", "write", "fsync", "fdatasync", "ftruncate"];

/// Injects a fault at each of these calls. Returns the numbers of writes, of syncs, and of refused commits.
async fn sweep(fault: &str) -> (usize, usize, usize) {
    let (mut writes, mut syncs, mut refused) = (0, 0, 0);
    for call in CALLS {
        let (faults, more) = sweep_of(call, fault).await;
        refused += more;
        *(if call.ends_with("sync") { &mut syncs } else { &mut writes }) += faults;
    }
    println!("{fault}: {writes} writes, {syncs} syncs, {refused} commits refused");
    (writes, syncs, refused)
}

async fn sweep_of(call: &str, fault: &str) -> (usize, usize) {
    let (mut refused, mut faults) = (0, 0);
    for nth in 1.. {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let (said, came) = run(&path, call, fault, nth);
        if !came {
            assert_eq!(said.matches("acknowledged").count(), COMMITS, "without a fault: {said}");
            break;
        }
        faults += 1;
        assert!(nth < 500, "it never comes through");
        let acknowledged: Vec<usize> = (0..COMMITS).filter(|n| said.contains(&format!("acknowledged {n}\n"))).collect();
        refused += COMMITS - acknowledged.len();
        // After any fault the next process opens the file, or reports an error that names the file.
        let store = match open(&StoreAddress::File(path.clone())).await {
            Ok(store) => store,
            Err(error) => {
                assert!(error.to_string().contains("store.db"), "{fault} at {call} {nth}: {error}");
                assert!(
                    acknowledged.is_empty(),
                    "{fault} at {call} {nth}: {acknowledged:?} were acknowledged, and now {error}"
                );
                continue;
            }
        };
        let listed = store.list("").await.unwrap_or_else(|error| panic!("{fault} at {call} {nth}: {error}"));
        for n in &acknowledged {
            let found = listed.entries.iter().find(|entry| entry.key == format!("key/{n}"));
            assert!(
                found.is_some_and(|entry| entry.value == value(*n)),
                "{fault} at {call} {nth}: {n} was acknowledged and is gone"
            );
        }
        for entry in &listed.entries {
            let n: usize = entry.key.trim_start_matches("key/").parse().expect("a key of ours");
            assert!(entry.value == value(n), "{fault} at {call} {nth}: {n} has another value");
        }
        // The store takes writes again.
        store.commit(Txn::default().put("key/0".to_owned(), value(0))).await.expect("it works again");
    }
    (faults, refused)
}

#[tokio::test]
async fn a_kill_at_any_write_loses_no_acknowledged_commit() {
    let (writes, syncs, refused) = sweep("signal=KILL").await;
    assert!(writes > 20 && syncs > COMMITS && refused > 20, "{writes}, {syncs}, {refused}");
}

#[tokio::test]
async fn disk_errors_lose_no_acknowledged_commit() {
    let (writes, syncs, refused) = sweep("error=EIO").await;
    assert!(writes > 20 && syncs > COMMITS && refused > 0, "{writes}, {syncs}, {refused}");
}

#[tokio::test]
async fn a_full_disk_loses_no_acknowledged_commit() {
    let (writes, syncs, refused) = sweep("error=ENOSPC").await;
    assert!(writes > 20 && syncs > COMMITS && refused > 0, "{writes}, {syncs}, {refused}");
}
