//! What there is on the machine that should not be.

use std::path::{Path, PathBuf};

use crate::command::command;
use crate::{World, run};

impl World {
    /// What there is besides the instances that are wanted: folders, control groups, links, and everything half made.
    #[must_use]
    pub fn strays(&self, wanted: &[String]) -> Vec<String> {
        let entries = |path: PathBuf| -> Vec<String> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let mut strays = Vec::new();
        let groups = Path::new("/sys/fs/cgroup/pids").join(self.name());
        for (what, found) in [
            ("folder", entries(self.path("data/containers"))),
            ("state", entries(self.path("run/containers"))),
            ("group", entries(groups.clone())),
        ] {
            let is_file = |name: &String| what == "group" && !groups.join(name).is_dir();
            strays.extend(
                found
                    .iter()
                    .filter(|name| !wanted.contains(name) && !is_file(name) && *name != "build")
                    .map(|name| format!("{what} {name}")),
            );
            strays.extend(wanted.iter().filter(|name| !found.contains(name)).map(|name| format!("no {what} {name}")));
        }
        for folder in ["data/scratch", "data/blobs/uploads"] {
            strays.extend(entries(self.path(folder)).into_iter().map(|name| format!("{folder}/{name}")));
        }
        strays
            .extend(entries(groups.join("build")).into_iter().filter(|name| groups.join("build").join(name).is_dir()));
        strays.extend(entries(self.path("data/layers")).into_iter().filter(|name| name.starts_with("new-")));
        let mut find = command("find", &[]);
        find.arg(self.path("data/git")).args(["-name", "tmp_objdir-*"]);
        strays.extend(run(find).out.lines().map(str::to_owned));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = self.path("").display().to_string();
        strays.extend(mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount {line}")));
        let links = run(command("ip", &["-o", "link", "show", "master", self.name()])).out.lines().count();
        if links != wanted.len() {
            strays.push(format!("{links} links for {} instances", wanted.len()));
        }
        strays
    }

    /// Everything of this world's that the machine still has.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        let name = self.name();
        if run(command("ip", &["link", "show", name])).status == 0 {
            left.push(format!("bridge {name}"));
        }
        // A container's link is named after its address.
        let [a, b, c] = self.subnet();
        let prefix = format!("gt{a:02x}{b:02x}{c:02x}");
        let links = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten().map(|link| link.file_name());
        left.extend(links.filter_map(|link| link.into_string().ok()).filter(|link| link.starts_with(&prefix)));
        let tables = run(command("nft", &["list", "tables"])).out;
        left.extend(tables.lines().filter(|line| line.split(' ').any(|word| word == name)).map(str::to_owned));
        for hierarchy in ["", "memory", "pids", "cpu", "cpuacct", "devices", "systemd", "unified"] {
            let path = Path::new("/sys/fs/cgroup").join(hierarchy).join(name);
            if path.exists() {
                left.push(path.display().to_string());
            }
        }
        let folder = self.path("").display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned));
        let processes = run(command("pgrep", &["-a", "-f", &folder])).out;
        left.extend(processes.lines().filter(|line| line.contains("gantry")).map(str::to_owned));
        left
    }
}
