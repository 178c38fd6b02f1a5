//! Server state that pushes change.

use std::process::Command;

use gantry_testbed::{TestCluster, run};

/// Refs, folders and checksums of the repository and the hooks, as text. A refused push must not change the text.
pub(crate) fn state(cluster: &TestCluster) -> String {
    let sums = |folder: &str, which: &[&str]| {
        let mut find = Command::new("find");
        find.arg(cluster.path(folder)).args(which).args(["-type", "f", "-exec", "sha1sum", "{}", "+"]);
        let mut lines: Vec<String> = run(find).out.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    };
    let mut refs = Command::new("git");
    refs.arg("--git-dir").arg(cluster.path("data/server/git/shop.git")).arg("for-each-ref");
    let mut folders = Command::new("ls");
    folders.arg("-a").arg(cluster.path("data/server/git")).arg(cluster.path("data/server/git/shop.git"));
    format!(
        "{}\n{}\n{}\n{}",
        run(refs).out,
        run(folders).out,
        sums("data/server/git/hooks", &[]),
        sums("data/server/git/shop.git", &["-maxdepth", "1"])
    )
}
