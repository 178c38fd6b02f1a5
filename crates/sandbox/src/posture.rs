//! Security posture: the capabilities, system calls and paths that a container loses. Tests check the effects from
//! inside a container (`tests/`).

use std::io;
use std::path::Path;
use std::sync::LazyLock;

use gantry_linux::{LinuxError, WithAction, mounts, rooted};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::mount::{MountAttrFlags, MountFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use seccompiler::BpfProgram;

use crate::filter;

/// Capabilities of pid 1: for starting the application as its user, and for forwarding signals. An application that
/// does not run as root has none of these.
const INIT: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::KILL);

/// Capabilities of a container that runs as root. They suffice for entry points that prepare files and then switch to
/// another user. Docker's default has six more.
const ROOT: CapabilitySet = INIT
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Hidden paths: kernel memory, keys, timers, firmware, power meters.
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

/// Read-only paths: a write there would change the whole kernel.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Limit on a process's open files: as many as databases ask for.
const OPEN_FILES: u64 = 65_536;

/// Hides [`MASKED`] and makes [`READ_ONLY`] read-only. At this point `/` is the container's root, and `/dev` is the
/// folder that the sandbox made.
pub(crate) fn cover_paths() -> Result<(), LinuxError> {
    let root = open_root()?;
    for path in MASKED {
        let Ok(target) = rooted::open(&root, Path::new(path), OFlags::PATH | OFlags::NOFOLLOW) else {
            continue;
        };
        let stat = fstat(&target).with_action(|| format!("look at {path}"))?;
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
        .with_action(|| "open the root".to_owned())
}

/// Limits a process's resources. Raising a hard limit needs a capability that this process may lack; the open-files
/// limit therefore never exceeds the present hard limit.
pub(crate) fn limit_resources(file: Option<u64>) -> Result<(), LinuxError> {
    if file.is_some() {
        setrlimit(Resource::Fsize, Rlimit { current: file, maximum: file })
            .with_action(|| "limit the file size".to_owned())?;
    }
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES);
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) })
        .with_action(|| "limit open files".to_owned())?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .with_action(|| "limit core files".to_owned())?;
    // The agent may be exempt from the kernel's OOM killer; containers are not.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    Ok(())
}

/// Drops for good every capability that a container of the user `uid` does not need.
pub(crate) fn drop_rights(uid: u32) -> Result<(), LinuxError> {
    let kept = if uid == 0 { ROOT } else { INIT };
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // This kernel does not know the capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).with_action(|| format!("drop {capability:?}")),
        }
    }
    clear_ambient_capability_set().with_action(|| "clear the ambient capabilities".to_owned())?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).with_action(|| "drop capabilities".to_owned())?;
    set_no_new_privs(true).with_action(|| "forbid new privileges".to_owned())
}

/// The seccomp filter. The filter allows a list of calls, refuses dangerous calls and arguments (`EPERM`), and answers
/// any other call as a kernel without that call does (`ENOSYS`).
static FILTER: LazyLock<BpfProgram> = LazyLock::new(filter::program);

/// Compiles the filter, so that no forked process has to.
pub(crate) fn compile_filter() {
    LazyLock::force(&FILTER);
}

/// Installs the seccomp filter for this process and all its descendants.
pub(crate) fn filter_system_calls() -> Result<(), LinuxError> {
    seccompiler::apply_filter(&FILTER).map_err(io::Error::other).with_action(|| "filter system calls".to_owned())
}
