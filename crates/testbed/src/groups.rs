//! The control groups of a test: one group with its subgroups, in every hierarchy.

use std::path::PathBuf;

use crate::command::command;
use crate::run;

/// Folders of a group and its subgroups, the deepest first.
pub(crate) fn folders(group: &str) -> Vec<PathBuf> {
    let mut find = command("find", &["/sys/fs/cgroup", "-depth", "-type", "d", "-path"]);
    find.args([format!("*/{group}"), "-o".to_owned(), "-path".to_owned(), format!("*/{group}/*")]);
    run(find).out.lines().map(PathBuf::from).collect()
}

/// Process ids in a group and its subgroups.
pub(crate) fn processes(group: &str) -> Vec<String> {
    let lists = folders(group).into_iter().map(|folder| std::fs::read_to_string(folder.join("cgroup.procs")));
    let mut found: Vec<String> =
        lists.flatten().flat_map(|list| list.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    found.sort();
    found.dedup();
    found
}

/// Removes a group and its subgroups. Returns whether they are gone: a group stays while a process of it ends.
pub(crate) fn remove(group: &str) -> bool {
    let folders = folders(group);
    let removed = folders.iter().filter(|folder| std::fs::remove_dir(folder).is_ok()).count();
    removed == folders.len()
}
