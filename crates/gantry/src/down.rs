//! `gantry down`: stops `gantry up` and every container of one cloud. Data stays; the next `gantry up` starts
//! everything again.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use gantry_error::ErrorChain;
use gantry_error_codes::ErrorCode;
use gantry_linux::cgroup::Cgroup;
use gantry_sandbox::Container;
use rustix::process::{Pid, Signal, kill_process};

use crate::args::Machine;
use crate::coded::{WithCode, fail};
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::printer::status;

/// Timeout for `up` to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `gantry down`.
pub(crate) async fn run(machine: &Machine) -> anyhow::Result<Exit> {
    require_root()?;
    let containers = machine.run.join("containers");
    let runs = std::fs::read_dir(&containers).is_ok_and(|mut entries| entries.next().is_some());
    if runs && !machine.data.join("containers").exists() {
        let (run, data) = (machine.run.display(), machine.data.display());
        fail!(
            WrongDataFolder,
            "containers run in {run}, and nothing of them is in {data}: name the --data that `gantry up` was given"
        );
    }
    end_up(machine).await?;
    // Builds of earlier versions; builds of today are in the folder of all containers.
    let builds = machine.data.join("scratch");
    let mut stuck = Vec::new();
    for (folder, state, group) in [(&containers, "", String::new()), (&builds, "state", "/build".to_owned())] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let cgroup = format!("{}{group}/{name}", machine.cgroup);
            if let Err(error) = end_container(&entry.path().join(state), &cgroup).await {
                stuck.push(format!("{error:#}"));
            }
        }
    }
    // Slots of an agent that was killed.
    let slots = gantry_sandbox::end_slots(&machine.cgroup).await;
    stuck.extend(slots.iter().map(|error| ErrorChain(error).to_string()));
    if !stuck.is_empty() {
        fail!(StopFailed, "{}; everything else is ended, and `gantry down` tries these again", stuck.join("; "));
    }
    end_groups(&machine.cgroup)?;
    gantry_agent::take_down(&machine.agent()?).await?;
    status!("The cloud of {} is stopped; `gantry up` with the same settings brings it back.", machine.data.display());
    for pid in other_instances() {
        status!("Another `gantry up` runs on this machine (process {pid}); it was not touched.");
    }
    Ok(DONE)
}

/// Process ids of all other `gantry up` processes, found by their command lines.
fn other_instances() -> Vec<u32> {
    let is_up = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next().is_some_and(|word| word.rsplit(|byte| *byte == b'/').next() == Some(b"gantry"));
        program && words.any(|word| word == b"up")
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_up).collect();
    found.sort_unstable();
    found
}

async fn end_up(machine: &Machine) -> anyhow::Result<()> {
    let path = machine.data.join("up.lock");
    let Ok(file) = std::fs::File::options().read(true).write(true).open(&path) else {
        return Ok(());
    };
    let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
    let mut signalled = false;
    while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        if !signalled {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let pid = text.trim().parse().ok().and_then(Pid::from_raw);
            let pid = pid.with_context(|| format!("{} is locked and names no process", path.display()));
            let ended = pid.and_then(|pid| kill_process(pid, Signal::TERM).context("cannot end `gantry up`"));
            ended.with_code(ErrorCode::StopFailed)?;
            signalled = true;
        }
        if tokio::time::Instant::now() > deadline {
            fail!(StopTimeout, "`gantry up` did not end in {} s", STOP_TIMEOUT.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn end_container(state: &Path, cgroup: &str) -> anyhow::Result<()> {
    if let Some(container) = Container::adopt(state, cgroup) {
        container.destroy().await.with_context(|| format!("cannot end the container {cgroup}"))?;
    }
    Ok(())
}

fn end_groups(root: &str) -> anyhow::Result<()> {
    let removed = Cgroup::named(root).remove().with_context(|| format!("cannot remove the control group {root}"));
    removed.with_code(ErrorCode::StopFailed)
}
