//! The machine that the agent runs on: its identity and its capacity.

use std::io;
use std::path::Path;

use crate::AgentSettings;
use gantry_control::MachineFacts;
use gantry_model::{Architecture, Bytes, MachineCapacity, MachineId, MilliCpu};

/// File with the machine's id, in the data folder.
const ID: &str = "machine-id";

/// Returns the facts about this machine. The first call makes the machine's id.
pub(crate) fn facts(settings: &AgentSettings) -> io::Result<MachineFacts> {
    let AgentSettings { data, addresses, subnet, .. } = settings;
    Ok(MachineFacts {
        id: machine_id(data)?,
        capacity: capacity()?,
        addresses: addresses.clone(),
        subnet: *subnet,
        architecture: Some(architecture()),
    })
}

/// Returns the id in the data folder, or makes and keeps a new one. A file that holds no id is replaced: its machine
/// could not register.
///
/// # Errors
/// When the file cannot be read or written.
pub fn machine_id(data: &Path) -> io::Result<MachineId> {
    let path = data.join(ID);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            if let Ok(id) = text.trim().parse() {
                return Ok(id);
            }
            tracing::warn!(path = %path.display(), "the file holds no machine id; making a new one");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = MachineId::from_random(rand::random());
    gantry_ledger::replace(&path, format!("{id}\n").as_bytes())?;
    Ok(id)
}

/// Makes the data folder hold the id under which the machine joined its cluster: with another id, the machine would be
/// refused as another one of the same name.
///
/// # Errors
/// When the file cannot be written.
pub fn keep_machine_id(data: &Path, id: &MachineId) -> io::Result<()> {
    let path = data.join(ID);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == id.to_string() => return Ok(()),
        // The first start of a machine that has joined.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => {
            let path = path.display();
            tracing::warn!(%path, %id, "the file does not hold the id of the cluster's member; writing it again");
        }
    }
    gantry_ledger::replace(&path, format!("{id}\n").as_bytes())
}

fn capacity() -> io::Result<MachineCapacity> {
    let processors = std::thread::available_parallelism()?.get();
    let cpu = MilliCpu(u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(1000));
    let memory = memory(&std::fs::read_to_string("/proc/meminfo")?);
    Ok(MachineCapacity { cpu, memory: memory.ok_or_else(|| io::Error::other("/proc/meminfo names no MemTotal"))? })
}

/// The architecture of the processor, by the name that images have for it.
fn architecture() -> Architecture {
    let name = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Architecture(name.to_owned())
}

/// Parses the machine's memory in `/proc/meminfo`.
fn memory(text: &str) -> Option<Bytes> {
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"))?;
    Some(Bytes(kibibytes.trim().parse::<u64>().ok()?.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_generated_id() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = machine_id(folder.path()).expect("an id");
        assert_eq!(machine_id(folder.path()).expect("an id"), first);
        let other = tempfile::tempdir().expect("a folder");
        assert_ne!(machine_id(other.path()).expect("an id"), first);
        std::fs::write(folder.path().join(ID), "half a li").expect("written");
        let replaced = machine_id(folder.path()).expect("an id");
        assert_ne!(replaced, first);
        assert_eq!(machine_id(folder.path()).expect("an id"), replaced);
        for damaged in ["", "x", &replaced.to_string()] {
            std::fs::write(folder.path().join(ID), damaged).expect("written");
            keep_machine_id(folder.path(), &first).expect("kept");
            assert_eq!(machine_id(folder.path()).expect("an id"), first);
        }
        let capacity = capacity().expect("a capacity");
        assert!(capacity.cpu >= MilliCpu(1000) && capacity.memory >= Bytes::mebi(16));
    }

    #[test]
    fn reads_the_total_memory() {
        assert_eq!(memory("MemFree: 7 kB\nMemTotal:       16315164 kB\n"), Some(Bytes(16_315_164 * 1024)));
        for bad in ["", "MemTotal: x kB", "MemTotal: 99999999999999999999 kB", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(memory(bad), None, "{bad}");
        }
    }
}
