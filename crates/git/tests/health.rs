//! Repair of repositories that a power loss, a disk or a user has damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_git::{Repair, Repositories};
use gantry_model::AppName;

struct DamagedRepository {
    folder: tempfile::TempDir,
    repositories: Repositories,
    app: AppName,
    commits: Vec<String>,
}

impl DamagedRepository {
    /// Creates a repository with two commits, each in a pack of its own, as two pushes leave them.
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let app = AppName::parse("shop").expect("a name");
        let mut place = Self { repositories: open(folder.path()), folder, app, commits: Vec::new() };
        assert_eq!(place.ensure().await, []);
        place.commits = (1..=2).map(|number| place.commit(number)).collect();
        place
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("shop.git")
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(self.path()).args(arguments);
        String::from_utf8(git.output().expect("git").stdout).expect("text").trim().to_owned()
    }

    fn commit(&self, number: u32) -> String {
        use std::io::Write;
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(self.path()).args(["-c", "fastimport.unpackLimit=0", "fast-import", "--quiet"]);
        let mut child = git.stdin(std::process::Stdio::piped()).spawn().expect("git");
        let from = if number > 1 { "from refs/heads/main^0\n" } else { "" };
        let text = format!(
            "commit refs/heads/main\ncommitter A <a@example> {number} +0000\ndata 1\nx\n{from}\
             M 644 inline file\ndata <<END\n{number}\nEND\n\n"
        );
        child.stdin.take().expect("open").write_all(text.as_bytes()).expect("written");
        assert!(child.wait().expect("waited").success());
        self.git(&["rev-parse", "refs/heads/main"])
    }

    /// Opens the repository as after a start of a server that knows both commits.
    async fn restarted(&mut self) -> Vec<Repair> {
        self.repositories = open(self.folder.path());
        self.ensure().await
    }

    async fn ensure(&self) -> Vec<Repair> {
        let newest: Vec<String> = self.commits.iter().rev().cloned().collect();
        self.repositories.ensure(&self.app, "main", &newest).await.expect("opened")
    }

    fn branch_again(&self, commit: usize) -> Vec<Repair> {
        vec![Repair::Branch { branch: "main".to_owned(), commit: self.commits[commit].clone() }]
    }

    /// Damages every object in the pack of `commit`.
    fn damage_pack(&self, commit: &str) {
        let index = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|end| end == "idx");
        for entry in fs::read_dir(self.path().join("objects/pack")).expect("read").flatten().filter(index) {
            let mut git = Command::new("git");
            git.arg("verify-pack").arg("-v").arg(entry.path());
            let text = String::from_utf8(git.output().expect("git").stdout).expect("text");
            if text.contains(commit) {
                let pack = entry.path().with_extension("pack");
                fs::remove_file(&pack).expect("removed");
                fs::write(&pack, "").expect("written");
            }
        }
    }
}

fn open(folder: &Path) -> Repositories {
    Repositories::in_folder(folder, Path::new("/bin/true"), Path::new("/nonexistent")).expect("a folder")
}

#[tokio::test]
async fn restores_an_empty_branch_file_at_once() {
    let place = DamagedRepository::new().await;
    let branch = place.path().join("refs/heads/main");
    for text in [&b""[..], b"\0\0\0\0", b"not a commit\n"] {
        fs::write(&branch, text).expect("written");
        assert_eq!(place.ensure().await, place.branch_again(1));
        assert_eq!(place.git(&["rev-parse", "refs/heads/main"]), place.commits[1]);
        assert_eq!(place.ensure().await, []);
    }
    // Git moves refs into one file when it tidies up.
    place.git(&["pack-refs", "--all"]);
    assert_eq!(place.ensure().await, []);
    assert_eq!(place.git(&["rev-parse", "refs/heads/main"]), place.commits[1]);
}

#[tokio::test]
async fn damaged_refs_and_files_are_repaired_at_a_start() {
    let mut place = DamagedRepository::new().await;
    assert_eq!(place.restarted().await, []);
    // A list of refs that git cannot read makes every command fail.
    place.git(&["pack-refs", "--all"]);
    fs::write(place.path().join("packed-refs"), "\0\0\0\0\n").expect("written");
    assert_eq!(place.restarted().await, place.branch_again(1));
    // A damaged ref of another name has the same effect.
    fs::write(place.path().join("refs/heads/old"), "").expect("written");
    assert_eq!(place.restarted().await, []);
    assert_eq!(place.git(&["for-each-ref", "--format=%(refname)"]), "refs/heads/main");
    for name in ["HEAD", "config"] {
        fs::write(place.path().join(name), "").expect("written");
        assert_eq!(place.restarted().await, [Repair::Files(vec![name])]);
    }
    // The server accepted a push of a branch that is now missing.
    fs::remove_file(place.path().join("refs/heads/main")).expect("removed");
    assert_eq!(place.restarted().await, place.branch_again(1));
    // The branch points to a missing commit.
    fs::write(place.path().join("refs/heads/main"), format!("{}\n", "ab".repeat(20))).expect("written");
    assert_eq!(place.restarted().await, place.branch_again(1));
    // A branch at an older commit stays unchanged: the newer commit was never acknowledged.
    place.git(&["update-ref", "refs/heads/main", &place.commits[0]]);
    assert_eq!(place.restarted().await, []);
}

#[tokio::test]
async fn a_commit_whose_objects_are_damaged_is_gone_back_from() {
    let mut place = DamagedRepository::new().await;
    place.damage_pack(&place.commits[1]);
    assert_eq!(place.restarted().await, place.branch_again(0));
    assert_eq!(place.git(&["rev-parse", "refs/heads/main"]), place.commits[0]);
}

#[tokio::test]
async fn sets_aside_a_repository_without_a_complete_commit() {
    let mut place = DamagedRepository::new().await;
    for commit in &place.commits {
        place.damage_pack(commit);
    }
    let kept = place.folder.path().join("shop.git.damaged");
    assert_eq!(place.restarted().await, [Repair::Anew { kept: kept.clone() }]);
    assert!(kept.join("objects/pack").is_dir());
    assert_eq!(place.git(&["symbolic-ref", "HEAD"]), "refs/heads/main");
    assert_eq!(place.git(&["for-each-ref"]), "");
    assert_eq!(place.restarted().await, []);
    // The new repository takes a push as usual.
    place.commits = vec![place.commit(1)];
    assert_eq!(place.restarted().await, []);
    place.repositories.remove(&place.app).expect("removed");
    assert!(!kept.exists() && !place.path().exists());
}

#[tokio::test]
async fn removes_an_unfinished_repository() {
    let place = DamagedRepository::new().await;
    fs::create_dir_all(place.folder.path().join(".new-7/objects")).expect("made");
    let _ = open(place.folder.path());
    let mut names: Vec<String> = fs::read_dir(place.folder.path())
        .expect("read")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["hooks", "shop.git"]);
}
