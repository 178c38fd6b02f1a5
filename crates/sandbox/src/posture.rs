//! What is taken away: rights, system calls, paths. Tested by its effects, from inside (`tests/`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use gantry_linux::{LinuxError, Tried, mounts, rooted};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::calls;

/// What pid 1 keeps: to start the application as its user, and to hand signals to it. An application with a user of
/// its own has none of them.
const INIT: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::KILL);

/// What an image that insists on running as root is given besides: enough for the entry points that set up their files
/// and then become another user. Docker's default has six more.
const ROOT: CapabilitySet = INIT
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Hidden: kernel memory, keys, timers, firmware, power meters.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Seen and not written: what changes the whole kernel.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The most open files of a process: what databases ask for and no more.
const OPEN_FILES: u64 = 65_536;

/// Covers the paths above; `/` is the container's root by now, and `/dev` the folder that was made for it.
pub(crate) fn cover_paths() -> Result<(), LinuxError> {
    let root = open_root()?;
    for path in MASKED {
        let Ok(target) = rooted::open(&root, Path::new(path), OFlags::PATH | OFlags::NOFOLLOW) else {
            continue;
        };
        let stat = fstat(&target).tried(|| format!("look at {path}"))?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            let empty =
                mounts::detached("tmpfs", &[("size", "0"), ("mode", "000")], MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            mounts::attach(&empty, &target)?;
        } else {
            let copy = mounts::copy_of(Path::new("/dev/null"))?;
            mounts::attach(&copy, &target)?;
        }
    }
    for path in READ_ONLY {
        if !Path::new(path).exists() {
            continue;
        }
        let copy = mounts::copy_of(Path::new(path))?;
        let target = rooted::open(&root, Path::new(path), OFlags::PATH | OFlags::NOFOLLOW)?;
        mounts::attach(&copy, &target)?;
        mounts::restrict(&copy, MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)?;
    }
    Ok(())
}

fn open_root() -> Result<std::os::fd::OwnedFd, LinuxError> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .tried(|| "open the root".to_owned())
}

/// Bounds what a process may hold. Raising a hard limit needs a right that this machine may not have: then what there
/// is stays.
pub(crate) fn limit_resources(file: Option<u64>) -> Result<(), LinuxError> {
    if file.is_some() {
        setrlimit(Resource::Fsize, Rlimit { current: file, maximum: file }).tried(|| "limit files".to_owned())?;
    }
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES);
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) })
        .tried(|| "limit open files".to_owned())?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).tried(|| "limit core files".to_owned())?;
    // The agent may be protected from the kernel's memory killer; what it starts is not.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    Ok(())
}

/// Drops every right that a container of `uid` does not need, for good.
pub(crate) fn drop_rights(uid: u32) -> Result<(), LinuxError> {
    let kept = if uid == 0 { ROOT } else { INIT };
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).tried(|| format!("drop {capability:?}")),
        }
    }
    clear_ambient_capability_set().tried(|| "clear the ambient rights".to_owned())?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).tried(|| "drop rights".to_owned())?;
    set_no_new_privs(true).tried(|| "forbid new privileges".to_owned())
}

/// The two filters. The first allows a list of calls and answers every other one like a kernel without it (`ENOSYS`); the
/// second refuses what is dangerous (`EPERM`).
static FILTERS: LazyLock<Result<[BpfProgram; 2], String>> =
    LazyLock::new(|| filters().map_err(|error| format!("cannot compile the filter of system calls: {error}")));

fn filters() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let whole = |calls: [&[i64]; 3]| -> BTreeMap<i64, Vec<SeccompRule>> {
        calls.into_iter().flatten().map(|call| (*call, Vec::new())).collect()
    };
    let mut refused = whole([calls::REFUSED, calls::REFUSED_HERE, &[]]);
    for conditions in calls::conditions() {
        let rule = |line: Vec<calls::Condition>| {
            let parts = line
                .into_iter()
                .map(|(index, operator, value)| SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value));
            SeccompRule::new(parts.collect::<Result<_, _>>()?)
        };
        refused.insert(conditions.call, conditions.any.into_iter().map(rule).collect::<Result<_, _>>()?);
    }
    let allowed = whole([calls::ALLOWED, calls::ALLOWED_NEWER, calls::ALLOWED_HERE]);
    let unknown = SeccompAction::Errno(Errno::NOSYS.raw_os_error().unsigned_abs());
    let forbidden = SeccompAction::Errno(Errno::PERM.raw_os_error().unsigned_abs());
    Ok([
        SeccompFilter::new(allowed, unknown, SeccompAction::Allow, arch)?.try_into()?,
        SeccompFilter::new(refused, SeccompAction::Allow, forbidden, arch)?.try_into()?,
    ])
}

/// Filters the system calls of this process and all that come from it.
pub(crate) fn filter_system_calls() -> Result<(), LinuxError> {
    let action = || "filter system calls".to_owned();
    let filters = FILTERS.as_ref().map_err(|error| io::Error::other(error.clone())).tried(action)?;
    // Where both answer with an error, the answer of the filter that was installed last counts.
    for filter in filters {
        seccompiler::apply_filter(filter).map_err(io::Error::other).tried(action)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_no_call_is_on_both_lists() {
        let [allowed, refused] = FILTERS.as_ref().expect("compiled");
        assert!(allowed.len() > 600 && refused.len() > 100, "{} and {}", allowed.len(), refused.len());
        let lists = [calls::ALLOWED, calls::ALLOWED_NEWER, calls::ALLOWED_HERE, calls::REFUSED, calls::REFUSED_HERE];
        let mut all = lists.concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "a call is listed twice");
    }
}
