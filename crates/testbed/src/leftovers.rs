//! Finds files, processes and kernel objects that a test cluster should not have left on the machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::command::command;
use crate::{TestCluster, run};

/// Subcommands of Gantry's own services: the first argument of their command lines.
const SERVICES: [&str; 4] = ["up", "server", "agent", "router"];

/// Longest wait for the deletion of removed containers' files.
const DELETIONS: Duration = Duration::from_secs(10);

/// Name of an agent's launcher. The launcher's forks have other names.
const LAUNCHER: &str = "gantry-launcher";

/// Name of the processes that start the jobs of slots.
const SEED: &str = "gantry-seed";

/// Name of the processes that stand in the networks of slots.
const HOLDER: &str = "gantry-holder";

/// Begin of the names of control groups of slots.
const SLOT: &str = "slot-";

/// Longest wait for slots that are being prepared or ended.
const SLOTS: Duration = Duration::from_secs(10);

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn folders(folder: &Path) -> Vec<String> {
    entries(folder).into_iter().filter(|name| folder.join(name).is_dir()).collect()
}

/// The words of a file of `/proc`.
fn words(path: PathBuf) -> Vec<String> {
    let text = std::fs::read(path).unwrap_or_default();
    text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn name_of(process: &Path) -> String {
    std::fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned()
}

impl TestCluster {
    /// Returns everything except the `expected_names` instances, and the slots that the agent has ready for jobs:
    /// folders, control groups, links, processes, rules and unfinished files. Also returns missing parts of wanted
    /// instances. st_use]
    pub fn strays(&self, expected_names: &[String]) -> Vec<String> {
        let mut strays = Vec::new();
        let compare = |strays: &mut Vec<String>, what: &str, found: Vec<String>| {
            strays.extend(
                found.iter().filter(|name| !expected_names.contains(name)).map(|name| format!("{what} {name}")),
            );
            strays.extend(
                expected_names.iter().filter(|name| !found.contains(name)).map(|name| format!("no {what} {name}")),
            );
        };
        compare(&mut strays, "folder", entries(&self.path("data/containers")));
        compare(&mut strays, "state", entries(&self.path("run/containers")));
        for groups in self.hierarchies() {
            // Builds share a parent group with one subgroup for each build.
            let found =
                folders(&groups).into_iter().filter(|name| name != "build" && !name.starts_with(SLOT)).collect();
            compare(&mut strays, &format!("group of {}", groups.display()), found);
            strays.extend(folders(&groups.join("build")).into_iter().map(|name| format!("group of build {name}")));
        }
        self.wait_for_deletions();
        for folder in ["data/trash", "data/server/scratch", "data/server/blobs/uploads"] {
            strays.extend(entries(&self.path(folder)).into_iter().map(|name| format!("{folder}/{name}")));
        }
        strays.extend(self.half_made());
        strays.extend(self.mounts().into_iter().map(|line| format!("mount {line}")));
        strays.extend(self.launched().into_iter().map(|line| format!("process {line}")));
        strays.extend(self.stray_slots(expected_names.len()));
        let rules = run(command("nft", &["list", "table", "inet", self.name()])).out;
        for rule in ["masquerade", "drop"] {
            let count = rules.matches(rule).count();
            strays.extend((count != 1).then(|| format!("{count} rules that say {rule}")));
        }
        strays
    }

    /// Waits until each slot is complete. Returns groups of slots without a process, and links that neither a slot nor one
    /// of the instances has.
    fn stray_slots(&self, instances: usize) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let mut strays = Vec::new();
            let (slots, holders) = (self.groups_of_slots(), self.slots().len());
            let is_empty =
                |group: &Path| std::fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| text.is_empty());
            strays
                .extend(slots.iter().filter(|group| is_empty(group)).map(|group| format!("slot {}", group.display())));
            let links = run(command("ip", &["-o", "link", "show", "master", self.name()])).out.lines().count();
            if links != instances + holders {
                strays.push(format!("{links} links for {instances} instances and {holders} slots"));
            }
            if strays.is_empty() || begun.elapsed() > SLOTS {
                return strays;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the control groups of this cluster's slots, in all hierarchies.
    fn groups_of_slots(&self) -> Vec<PathBuf> {
        let groups = self.hierarchies().into_iter();
        let named = groups.flat_map(|parent| folders(&parent).into_iter().map(move |name| (parent.join(&name), name)));
        named.filter(|(_, name)| name.starts_with(SLOT)).map(|(group, _)| group).collect()
    }

    /// Returns the processes that stand in the networks of this cluster's slots.
    #[must_use]
    pub fn slots(&self) -> Vec<PathBuf> {
        self.own_processes().filter(|process| name_of(process) == HOLDER).collect()
    }

    /// Waits until the agent has deleted the files of removed containers, which happens in the background.
    fn wait_for_deletions(&self) {
        let begun = Instant::now();
        while !entries(&self.path("data/trash")).is_empty() && begun.elapsed() < DELETIONS {
            std::thread::sleep(Duration::from_millis(10));
        }
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
            "*/trash/*",
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

    /// Returns the processes that Gantry started besides its services, such as forks of a launcher and git. Such processes have
    /// the cluster's `GANTRY_FAILPOINTS` file in their environment.
    fn launched(&self) -> Vec<String> {
        let own = self.own_processes().filter(|process| ![LAUNCHER, SEED, HOLDER].contains(&name_of(process).as_str()));
        let commands = own.map(|process| words(process.join("cmdline")));
        let service = |words: &Vec<String>| words.get(1).is_some_and(|word| SERVICES.contains(&word.as_str()));
        commands.filter(|words| !service(words)).map(|words| words.join(" ")).collect()
    }

    /// Returns the processes of Gantry, services included.
    fn own_processes(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let mark = format!("GANTRY_FAILPOINTS={}", self.path("failpoints").display());
        let processes = entries(Path::new("/proc")).into_iter().map(|pid| Path::new("/proc").join(pid));
        processes.filter(move |process| words(process.join("environ")).contains(&mark))
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
        left.extend(self.slots().into_iter().map(|process| format!("slot {}", process.display())));
        left
    }
}
