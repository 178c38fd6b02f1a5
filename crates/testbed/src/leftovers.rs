//! Finds files, processes and kernel objects that a test cluster should not have left on the machine.

use std::path::{Path, PathBuf};

use crate::command::command;
use crate::{World, run};

/// Subcommands of Gantry's own services: the first argument of their command lines.
const SERVICES: [&str; 4] = ["up", "server", "agent", "router"];

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn folders(folder: &Path) -> Vec<String> {
    entries(folder).into_iter().filter(|name| folder.join(name).is_dir()).collect()
}

impl World {
    /// Returns everything except the `wanted` instances: folders, control groups, links, processes, rules and
    /// unfinished files. Also returns missing parts of wanted instances.
    #[must_use]
    pub fn strays(&self, wanted: &[String]) -> Vec<String> {
        let mut strays = Vec::new();
        let compare = |strays: &mut Vec<String>, what: &str, found: Vec<String>| {
            strays.extend(found.iter().filter(|name| !wanted.contains(name)).map(|name| format!("{what} {name}")));
            strays.extend(wanted.iter().filter(|name| !found.contains(name)).map(|name| format!("no {what} {name}")));
        };
        compare(&mut strays, "folder", entries(&self.path("data/containers")));
        compare(&mut strays, "state", entries(&self.path("run/containers")));
        for groups in self.hierarchies() {
            // Builds share a parent group with one subgroup for each build.
            let found = folders(&groups).into_iter().filter(|name| name != "build").collect();
            compare(&mut strays, &format!("group of {}", groups.display()), found);
            strays.extend(folders(&groups.join("build")).into_iter().map(|name| format!("group of build {name}")));
        }
        for folder in ["data/server/scratch", "data/server/blobs/uploads"] {
            strays.extend(entries(&self.path(folder)).into_iter().map(|name| format!("{folder}/{name}")));
        }
        strays.extend(self.half_made());
        strays.extend(self.mounts().into_iter().map(|line| format!("mount {line}")));
        strays.extend(self.launched().into_iter().map(|line| format!("process {line}")));
        let links = run(command("ip", &["-o", "link", "show", "master", self.name()])).out.lines().count();
        if links != wanted.len() {
            strays.push(format!("{links} links for {} instances", wanted.len()));
        }
        let rules = run(command("nft", &["list", "table", "inet", self.name()])).out;
        for rule in ["masquerade", "drop"] {
            let count = rules.matches(rule).count();
            strays.extend((count != 1).then(|| format!("{count} rules that say {rule}")));
        }
        strays
    }

    /// Returns this cluster's group in each cgroup hierarchy of the machine.
    fn hierarchies(&self) -> Vec<PathBuf> {
        let all = ["", "memory", "pids", "cpu", "cpuacct", "devices", "systemd", "unified"];
        let groups = all.iter().map(|name| Path::new("/sys/fs/cgroup").join(name).join(self.name()));
        groups.filter(|path| path.exists()).collect()
    }

    /// Returns files and folders that still have their temporary names, and git's locks and quarantine folders.
    fn half_made(&self) -> Vec<String> {
        let mut find = command("find", &[]);
        find.args([self.path("data"), self.path("run")]);
        // Files inside a container may have any name.
        find.args([
            "(",
            "-path",
            "*/containers/*/*",
            "-o",
            "-path",
            "*/layers/*/*",
            "-o",
            "-path",
            "*/caches/*",
            ")",
            "-prune",
            "-o",
        ]);
        find.args([
            "(",
            "-name",
            "*.new",
            "-o",
            "-name",
            "*.new-*",
            "-o",
            "-name",
            "new-*",
            "-o",
            "-name",
            "init-new-*",
        ]);
        find.args([
            "-o",
            "-path",
            "*.git/*.lock",
            "-o",
            "-name",
            "tmp_objdir-*",
            "-o",
            "-name",
            "incoming-*",
            ")",
            "-print",
        ]);
        run(find).out.lines().map(str::to_owned).collect()
    }

    /// Returns mounts below the cluster's folder in this process's mount namespace.
    fn mounts(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = self.path("").display().to_string();
        mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect()
    }

    /// Returns the processes that Gantry started besides its services, such as launchers and git. Such processes have
    /// the cluster's `GANTRY_FAILPOINTS` file in their environment.
    fn launched(&self) -> Vec<String> {
        let mark = format!("GANTRY_FAILPOINTS={}", self.path("failpoints").display());
        let words = |path: PathBuf| -> Vec<String> {
            let text = std::fs::read(path).unwrap_or_default();
            text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        let processes = entries(Path::new("/proc")).into_iter().map(|pid| Path::new("/proc").join(pid));
        let own = processes.filter(|process| words(process.join("environ")).contains(&mark));
        let commands = own.map(|process| words(process.join("cmdline")));
        let service = |words: &Vec<String>| words.get(1).is_some_and(|word| SERVICES.contains(&word.as_str()));
        commands.filter(|words| !service(words)).map(|words| words.join(" ")).collect()
    }

    /// Returns everything of this cluster that is still on the machine.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        let name = self.name();
        if run(command("ip", &["link", "show", name])).status == 0 {
            left.push(format!("bridge {name}"));
        }
        // A container's link is named after the container's address.
        let [a, b, c] = self.subnet();
        let prefix = format!("gt{a:02x}{b:02x}{c:02x}");
        let links = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten().map(|link| link.file_name());
        left.extend(links.filter_map(|link| link.into_string().ok()).filter(|link| link.starts_with(&prefix)));
        let tables = run(command("nft", &["list", "tables"])).out;
        left.extend(tables.lines().filter(|line| line.split(' ').any(|word| word == name)).map(str::to_owned));
        left.extend(self.hierarchies().into_iter().map(|path| path.display().to_string()));
        left.extend(self.mounts());
        let folder = self.path("").display().to_string();
        let processes = run(command("pgrep", &["-a", "-f", &folder])).out;
        left.extend(processes.lines().filter(|line| line.contains("gantry")).map(str::to_owned));
        left
    }
}
