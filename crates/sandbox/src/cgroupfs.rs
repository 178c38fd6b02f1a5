//! `/sys/fs/cgroup`: shows the container's own control groups to programs that read their limits there. JVM, Node.js,
//! Go and .NET size heaps and thread pools by these limits.
//!
//! The container is in a cgroup namespace. The file systems therefore show its groups as the root, without any group
//! above or beside. The mounts are read-only, so that a process inside cannot change a limit.

use std::os::fd::OwnedFd;

use gantry_linux::cgroup::{Cgroup, LIMITING};
use gantry_linux::{LinuxError, WithAction, mounts, rooted};
use rustix::fs::{Mode, OFlags, mkdirat, symlinkat};
use rustix::mount::{MountAttrFlags, MountFlags};

use crate::inside::{INERT, OwnMounts};

/// Path at which programs look for control groups.
const PLACE: &str = "/sys/fs/cgroup";

/// Mounts the control groups of this process, which has already joined its groups and its own cgroup namespace. If the
/// machine has no control groups at that path, the container gets none. A hierarchy that the kernel refuses to mount is
/// left out.
pub(crate) fn mount(root: &OwnedFd, group: &Cgroup, mounted: &mut OwnMounts) -> Result<(), LinuxError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let Ok(place) = rooted::open(root, PLACE.as_ref(), flags) else { return Ok(()) };
    let read_only = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    if group.is_unified() {
        if let Ok(groups) = mounts::detached("cgroup2", &[], read_only) {
            mounted.attach(&groups, &place, PLACE)?;
        }
        return Ok(());
    }
    let text =
        std::fs::read_to_string("/proc/self/cgroup").with_action(|| "read this process's control groups".to_owned())?;
    let folder = mounts::detached("tmpfs", &[("mode", "755"), ("size", "65536")], INERT)?;
    let mut found = Vec::new();
    for hierarchy in hierarchies(&text) {
        let options: Vec<(&str, &str)> = hierarchy.split(',').map(|controller| (controller, "")).collect();
        let Ok(groups) = mounts::detached("cgroup", &options, read_only) else { continue };
        let made = || format!("create {PLACE}/{hierarchy}");
        mkdirat(&folder, hierarchy, Mode::from_raw_mode(0o755)).with_action(made)?;
        for (controller, _) in options.iter().filter(|(controller, _)| *controller != hierarchy) {
            symlinkat(hierarchy, &folder, *controller).with_action(made)?;
        }
        found.push((hierarchy, groups));
    }
    mounted.attach(&folder, &place, PLACE)?;
    for (hierarchy, groups) in found {
        let path = format!("{PLACE}/{hierarchy}");
        mounted.attach(&groups, &rooted::open(root, path.as_ref(), flags)?, &path)?;
    }
    mounts::restrict(&folder, MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)
}

/// Returns the hierarchies of `/proc/self/cgroup` (`4:cpu,cpuacct:/`) with limits or accounts of the container. The
/// container has its own group for every controller of such a hierarchy. In any other hierarchy the container is in a
/// group of the machine.
fn hierarchies(text: &str) -> impl Iterator<Item = &str> {
    let controllers = text.lines().filter_map(|line| line.split(':').nth(1));
    controllers.filter(|controllers| controllers.split(',').all(|controller| LIMITING.contains(&controller)))
}

#[cfg(test)]
mod tests {
    use super::hierarchies;

    #[test]
    fn shows_only_hierarchies_with_limits() {
        let text = "12:cpu,cpuacct:/\n9:name=systemd:/\n8:pids:/\n7:blkio:/\n4:memory:/\n3:net_cls,net_prio:/\n2:cpuset:/\n0::/\n";
        assert_eq!(hierarchies(text).collect::<Vec<_>>(), ["cpu,cpuacct", "pids", "memory", "cpuset"]);
        assert_eq!(hierarchies("5:cpu,blkio:/\n0::/\n\n").count(), 0);
    }
}
