//! Control groups: limits and resource usage, on v1 and v2.
//!
//! The name of a group is its path below the hierarchy's root: `gantry/storefront.v1.web-1`. On v1 a group has one
//! folder per controller, on v2 a single folder.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{LinuxError, WithAction};

/// Controllers that the limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Controllers in which a group also exists on v1. `devices` denies device access; v2 has no such file and relies on
/// the missing right to create device nodes. `cpuset` limits nothing here, but a JVM looks for all four of memory, cpu,
/// cpuacct and cpuset. The last two limit nothing either. But a container that stayed in the service manager's group
/// there would be killed together with Gantry's own services.
const V1_EXTRA: [&str; 5] = ["devices", "cpuacct", "cpuset", "systemd", "unified"];

/// Controllers of v1 whose groups tell a container its limits.
pub const LIMITING: [&str; 5] = ["memory", "cpu", "cpuacct", "cpuset", "pids"];

/// Allowed devices, for reading and writing: null, zero, full, random, urandom, tty, and pseudo-terminals.
const DEVICES: [&str; 8] =
    ["c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"];

/// Period over which the kernel measures the share of a processor, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// Resource limits of a group.
#[derive(Debug, Clone, Copy)]
pub struct GroupLimits {
    /// Memory in bytes, including swap.
    pub memory: u64,
    /// Processor time in thousandths of a processor.
    pub milli_cpu: u32,
    /// Number of processes and threads.
    pub pids: u32,
}

/// Resource usage of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Memory in use, in bytes.
    pub memory: u64,
    /// Processor time used, in microseconds.
    pub cpu_micros: u64,
    /// Number of processes and threads.
    pub pids: u64,
    /// Number of processes that were killed because the group reached its memory limit.
    pub oom_kills: u64,
    /// Number of processes that were refused because the group had reached its process limit.
    pub refused: u64,
}

/// Folder above all control groups.
const ROOT: &str = "/sys/fs/cgroup";

/// The machine's hierarchies of control groups, which do not change while a process runs.
#[derive(Debug)]
enum Hierarchies {
    /// The unified hierarchy (v2).
    Unified,
    /// The hierarchies of v1 that a container's group is in, each by the name of one of its controllers.
    Separate(Vec<&'static str>),
}

impl Hierarchies {
    /// Returns the hierarchies, as the first call of the process found them.
    fn of_machine() -> &'static Self {
        static FOUND: OnceLock<Hierarchies> = OnceLock::new();
        FOUND.get_or_init(|| {
            let root = Path::new(ROOT);
            if root.join("cgroup.controllers").exists() {
                return Self::Unified;
            }
            // Controllers may share a hierarchy, as `cpu` and `cpuacct` do, under links or under mounts of their own. Each
            // hierarchy has its device number; a folder with the root's number is no hierarchy.
            let device = |folder: &Path| fs::metadata(folder).map(|metadata| metadata.dev()).ok();
            let mut known: BTreeSet<u64> = device(root).into_iter().collect();
            let mut is_new = |name: &&str| device(&root.join(name)).is_some_and(|device| known.insert(device));
            Self::Separate(CONTROLLERS.iter().chain(&V1_EXTRA).copied().filter(|name| is_new(name)).collect())
        })
    }
}

/// A control group.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: String,
    root: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// Names a group without creating it.
    #[must_use]
    pub fn named(path: &str) -> Self {
        let unified = matches!(Hierarchies::of_machine(), Hierarchies::Unified);
        Self { path: path.trim_matches('/').to_owned(), root: ROOT.into(), unified }
    }

    /// Reports whether this machine has the unified hierarchy (v2).
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// Returns every folder of this group.
    fn folders(&self) -> Vec<PathBuf> {
        match Hierarchies::of_machine() {
            Hierarchies::Unified => vec![self.root.join(&self.path)],
            Hierarchies::Separate(names) => names.iter().map(|name| self.folder(name)).collect(),
        }
    }

    fn folder(&self, controller: &str) -> PathBuf {
        if self.unified { self.root.join(&self.path) } else { self.root.join(controller).join(&self.path) }
    }

    /// Creates the group with its limits.
    ///
    /// # Errors
    /// When a controller is missing or the kernel refuses a limit.
    pub fn create(&self, limits: &GroupLimits) -> Result<(), LinuxError> {
        if self.unified {
            self.delegate()?;
        }
        for folder in self.folders() {
            fs::create_dir_all(&folder).with_action(|| format!("create the control group {}", folder.display()))?;
            gantry_failpoint::failpoint!("group.begun");
        }
        if !self.unified {
            self.inherit_processors()?;
            self.deny_devices()?;
        }
        self.limit(limits)
    }

    /// Passes the controllers down to the group. On v2 each parent group must do so for its children.
    fn delegate(&self) -> Result<(), LinuxError> {
        let mut above = self.root.clone();
        let names: Vec<&str> = self.path.split('/').collect();
        for name in &names {
            let file = above.join("cgroup.subtree_control");
            let enabled: Vec<_> = CONTROLLERS.iter().map(|controller| format!("+{controller}")).collect();
            write(&file, &enabled.join(" "))?;
            above.push(name);
            // Another process may create the group at the same time.
            fs::create_dir_all(&above).with_action(|| format!("create the control group {}", above.display()))?;
        }
        Ok(())
    }

    /// Copies the parent's processors to a new cpuset group. On v1 such a group starts without processors and accepts
    /// no process.
    fn inherit_processors(&self) -> Result<(), LinuxError> {
        let mut above = self.root.join("cpuset");
        if !above.is_dir() {
            return Ok(());
        }
        for name in self.path.split('/') {
            let group = above.join(name);
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let read = |folder: &Path| {
                    let file = folder.join(file);
                    fs::read_to_string(&file).with_action(|| format!("read {}", file.display()))
                };
                if read(&group)?.trim().is_empty() {
                    write(&group.join(file), read(&above)?.trim())?;
                }
            }
            above = group;
        }
        Ok(())
    }

    fn limit(&self, limits: &GroupLimits) -> Result<(), LinuxError> {
        let quota = u64::from(limits.milli_cpu) * CPU_PERIOD / 1000;
        let (memory, pids) = (limits.memory.to_string(), limits.pids.to_string());
        if self.unified {
            let folder = self.folder("");
            write(&folder.join("memory.max"), &memory)?;
            write_if_there(&folder.join("memory.swap.max"), "0")?;
            write(&folder.join("cpu.max"), &format!("{quota} {CPU_PERIOD}"))?;
            return write(&folder.join("pids.max"), &pids);
        }
        let folder = self.folder("memory");
        // The plain limit may never exceed the limit with swap. To lower both, write the plain limit first; to raise
        // both, write the limit with swap first.
        let with_swap = folder.join("memory.memsw.limit_in_bytes");
        let _ = write_if_there(&with_swap, &memory);
        write(&folder.join("memory.limit_in_bytes"), &memory)?;
        write_if_there(&with_swap, &memory)?;
        let folder = self.folder("cpu");
        write(&folder.join("cpu.cfs_period_us"), &CPU_PERIOD.to_string())?;
        write(&folder.join("cpu.cfs_quota_us"), &quota.to_string())?;
        write(&self.folder("pids").join("pids.max"), &pids)
    }

    /// Denies all devices but [`DEVICES`], on v1. A process of the group that makes one of these devices meanwhile is
    /// refused for a moment.
    fn deny_devices(&self) -> Result<(), LinuxError> {
        let devices = self.folder("devices");
        if devices.is_dir() {
            write(&devices.join("devices.deny"), "a")?;
            write_each(&devices.join("devices.allow"), &DEVICES)?;
        }
        Ok(())
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// When the process is gone or the kernel refuses.
    pub fn add(&self, pid: i32) -> Result<(), LinuxError> {
        for folder in self.folders() {
            write(&folder.join("cgroup.procs"), &pid.to_string())?;
            gantry_failpoint::failpoint!("group.joined");
        }
        Ok(())
    }

    /// Returns the files through which a process enters the group, to be limited and ended with the group. On v1 the
    /// process keeps its access to devices: the group's other controllers are left out.
    #[must_use]
    pub fn limiting_entrances(&self) -> Vec<PathBuf> {
        let folders = match self.unified {
            true => vec![self.folder("")],
            false => CONTROLLERS.iter().map(|controller| self.folder(controller)).collect(),
        };
        folders.into_iter().map(|folder| folder.join("cgroup.procs")).collect()
    }

    /// Returns every process in the group.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        processes_in(&self.folder("pids"))
    }

    /// Returns every process that is in the group in any hierarchy. On v1, a process may have joined a part of them.
    #[must_use]
    pub fn processes_anywhere(&self) -> Vec<i32> {
        let found: BTreeSet<i32> = self.folders().iter().flat_map(|folder| processes_in(folder)).collect();
        found.into_iter().collect()
    }

    /// Returns the usage of the group; zeros once the group is gone.
    #[must_use]
    pub fn usage(&self) -> GroupUsage {
        let number = |controller: &str, file: &str| -> u64 {
            let text = fs::read_to_string(self.folder(controller).join(file)).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        let field = |controller: &str, file: &str, name: &str| -> u64 {
            let text = fs::read_to_string(self.folder(controller).join(file)).unwrap_or_default();
            text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
        };
        if self.unified {
            GroupUsage {
                memory: number("", "memory.current"),
                cpu_micros: field("", "cpu.stat", "usage_usec "),
                pids: number("", "pids.current"),
                oom_kills: field("", "memory.events", "oom_kill "),
                refused: field("", "pids.events", "max "),
            }
        } else {
            GroupUsage {
                memory: number("memory", "memory.usage_in_bytes"),
                cpu_micros: number("cpuacct", "cpuacct.usage") / 1000,
                pids: number("pids", "pids.current"),
                oom_kills: field("memory", "memory.oom_control", "oom_kill "),
                refused: field("pids", "pids.events", "max "),
            }
        }
    }

    /// Returns the largest memory that the group has used, in bytes; 0 if the kernel does not count it (before Linux 5.19
    /// on v2).
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        let file = if self.unified { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let text = fs::read_to_string(self.folder("memory").join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Removes the group and first the groups that its processes created below. All processes in the group must have
    /// ended.
    ///
    /// # Errors
    /// `EBUSY` while a process is still in the group. A missing group is not an error.
    pub fn remove(&self) -> Result<(), LinuxError> {
        for folder in self.folders() {
            remove_tree(&folder)?;
            gantry_failpoint::failpoint!("group.left");
        }
        Ok(())
    }

    /// Returns the names of the group's direct children in all hierarchies.
    #[must_use]
    pub fn children(&self) -> Vec<String> {
        let entries = self.folders().into_iter().flat_map(fs::read_dir).flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names: BTreeSet<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.into_iter().collect()
    }

    /// Opens the group's folder in the unified hierarchy, on v2 or beside those of v1, and creates the folder there. A
    /// process can be started in the folder. None on a machine without that hierarchy.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open_unified(&self) -> Result<Option<OwnedFd>, LinuxError> {
        let folder = match Hierarchies::of_machine() {
            Hierarchies::Unified => self.folder(""),
            Hierarchies::Separate(names) if names.contains(&UNIFIED_BESIDE) => self.folder(UNIFIED_BESIDE),
            Hierarchies::Separate(_) => return Ok(None),
        };
        fs::create_dir_all(&folder).with_action(|| format!("create the control group {}", folder.display()))?;
        let opened = fs::File::open(&folder).with_action(|| format!("open the control group {}", folder.display()));
        opened.map(|file| Some(file.into()))
    }
}

/// Name of the unified hierarchy beside those of v1.
const UNIFIED_BESIDE: &str = "unified";

/// The groups of v1 that exist before their container has a name. A process joins ahead of time, because joining may wait
/// for the kernel, and becomes the container's parent: a child starts in its parent's groups without waiting.
/// [`PreparedGroup::rename`] then gives the groups the container's name.
///
/// The unified hierarchy has no part in this, because no group can be renamed there: the container is started in its group
/// ([`Cgroup::open_unified`]).
#[derive(Debug)]
pub struct PreparedGroup(Cgroup);

impl PreparedGroup {
    /// Names groups without creating them.
    #[must_use]
    pub fn named(path: &str) -> Self {
        Self(Cgroup::named(path))
    }

    /// Creates groups without limits, and with the rules for devices.
    ///
    /// # Errors
    /// When a group of this name exists, or the kernel refuses.
    pub fn create(path: &str) -> Result<Self, LinuxError> {
        let prepared = Self::named(path);
        for folder in prepared.folders() {
            let action = || format!("create the control group {}", folder.display());
            folder.parent().map_or(Ok(()), fs::create_dir_all).with_action(action)?;
            fs::create_dir(&folder).with_action(action)?;
            gantry_failpoint::failpoint!("slot.grouped");
        }
        if !prepared.0.unified {
            prepared.0.inherit_processors()?;
            prepared.0.deny_devices()?;
        }
        Ok(prepared)
    }

    /// Moves a process into the groups.
    ///
    /// # Errors
    /// When the process is gone or the kernel refuses.
    pub fn add(&self, pid: i32) -> Result<(), LinuxError> {
        for folder in self.folders() {
            write(&folder.join("cgroup.procs"), &pid.to_string())?;
            gantry_failpoint::failpoint!("slot.joined");
        }
        Ok(())
    }

    /// Gives the groups the name of `to`, which has the same parent, and the limits.
    ///
    /// # Errors
    /// When a group of that name exists, or the kernel refuses.
    pub fn rename(&self, to: &Cgroup, limits: &GroupLimits) -> Result<(), LinuxError> {
        for (from, to) in self.folders().iter().zip(PreparedGroup(to.clone()).folders()) {
            fs::rename(from, &to)
                .with_action(|| format!("rename the control group {} to {}", from.display(), to.display()))?;
            gantry_failpoint::failpoint!("slot.renamed");
        }
        to.limit(limits)
    }

    /// The folders that can be renamed.
    fn folders(&self) -> Vec<PathBuf> {
        let Hierarchies::Separate(names) = Hierarchies::of_machine() else { return Vec::new() };
        names.iter().filter(|name| **name != UNIFIED_BESIDE).map(|name| self.0.folder(name)).collect()
    }
}

fn processes_in(folder: &Path) -> Vec<i32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn remove_tree(folder: &Path) -> Result<(), LinuxError> {
    // Most groups have no group below.
    if fs::remove_dir(folder).is_ok() {
        return Ok(());
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_action(|| format!("read the control group {}", folder.display())),
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_action(|| format!("remove the control group {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn write(file: &Path, text: &str) -> Result<(), LinuxError> {
    fs::write(file, text).with_action(|| format!("write {text:?} to {}", file.display()))
}

/// Writes texts to a control file, one after the other.
fn write_each(file: &Path, texts: &[&str]) -> Result<(), LinuxError> {
    let action = |what: &str| format!("write {what:?} to {}", file.display());
    let mut opened = fs::File::options().write(true).open(file).with_action(|| action("a rule"))?;
    texts.iter().try_for_each(|text| opened.write_all(text.as_bytes()).with_action(|| action(text)))
}

fn write_if_there(file: &Path, text: &str) -> Result<(), LinuxError> {
    if file.exists() { write(file, text) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_fills_and_removes_a_group() {
        let group = Cgroup::named(&format!("gantry-test-{}/inner", std::process::id()));
        group.create(&GroupLimits { memory: 64 << 20, milli_cpu: 500, pids: 10 }).expect("made");
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        group.add(i32::try_from(child.id()).expect("a pid")).expect("added");
        assert_eq!(group.processes(), [i32::try_from(child.id()).expect("a pid")]);
        assert_eq!(group.usage().pids, 1);
        assert!(group.remove().is_err(), "a group with a process in it stays");
        child.kill().expect("killed");
        child.wait().expect("waited");
        group.remove().expect("removed");
        Cgroup::named(&format!("gantry-test-{}", std::process::id())).remove().expect("removed");
        assert_eq!(group.usage(), GroupUsage::default());
        group.remove().expect("removed twice");
    }

    #[test]
    fn prepared_groups_get_the_name_and_the_limits_of_their_container() {
        let parent = format!("gantry-prepared-{}", std::process::id());
        let limits = GroupLimits { memory: 64 << 20, milli_cpu: 500, pids: 20 };
        let group = Cgroup::named(&format!("{parent}/web"));
        if group.is_unified() {
            return;
        }
        let prepared = PreparedGroup::create(&format!("{parent}/slot-1")).expect("made");
        assert!(PreparedGroup::create(&format!("{parent}/slot-1")).is_err(), "the name is taken");
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let pid = i32::try_from(child.id()).expect("a pid");
        prepared.add(pid).expect("added");
        assert_eq!(Cgroup::named(&parent).children(), ["slot-1"]);
        prepared.rename(&group, &limits).expect("renamed");
        assert_eq!((group.processes(), group.processes_anywhere()), (vec![pid], vec![pid]));
        assert_eq!(fs::read_to_string(group.folder("pids").join("pids.max")).expect("read").trim(), "20");
        assert_eq!(Cgroup::named(&parent).children(), ["web"]);
        let next = PreparedGroup::create(&format!("{parent}/slot-1")).expect("made again");
        assert!(next.rename(&group, &limits).is_err(), "the name is taken");
        child.kill().expect("killed");
        child.wait().expect("waited");
        Cgroup::named(&parent).remove().expect("nothing is left in it");
    }

    #[test]
    fn finds_a_process_and_a_group_of_one_hierarchy() {
        let parent = Cgroup::named(&format!("gantry-partial-{}", std::process::id()));
        let group = Cgroup::named(&format!("{}/part", parent.path));
        let Hierarchies::Separate(_) = Hierarchies::of_machine() else { return };
        fs::create_dir_all(group.folder("memory")).expect("made");
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        write(&group.folder("memory").join("cgroup.procs"), &child.id().to_string()).expect("joined");
        assert_eq!(group.processes_anywhere(), [i32::try_from(child.id()).expect("a pid")]);
        assert_eq!((group.processes(), parent.children()), (Vec::new(), vec!["part".to_owned()]));
        child.kill().expect("killed");
        child.wait().expect("waited");
        parent.remove().expect("removed");
    }
}
