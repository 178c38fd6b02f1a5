//! Garbage collection in a repository that has received many pushes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use gantry_git::Repositories;
use gantry_model::AppName;

fn packs(repository: &Path) -> usize {
    let entries = fs::read_dir(repository.join("objects/pack")).expect("read").flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "pack")).count()
}

/// Adds a commit in a pack of its own, as a push leaves it.
fn commit(repository: &Path, number: usize) {
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(repository).args(["-c", "fastimport.unpackLimit=0", "fast-import", "--quiet", "--force"]);
    let mut child = git.stdin(Stdio::piped()).spawn().expect("git");
    let text = format!(
        "commit refs/heads/main\ncommitter A <a@example> {number} +0000\ndata 1\nx\n\
         M 644 inline file\ndata <<END\n{number}\nEND\n\n"
    );
    child.stdin.take().expect("open").write_all(text.as_bytes()).expect("written");
    assert!(child.wait().expect("waited").success());
}

fn log(repository: &Path) -> usize {
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(repository).args(["rev-list", "--all", "--count"]);
    String::from_utf8(git.output().expect("git").stdout).expect("text").trim().parse().expect("a number")
}

#[tokio::test]
async fn combines_packs_and_removes_the_lock_of_a_killed_git() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = AppName::parse("shop").expect("a name");
    let repositories =
        Repositories::in_folder(folder.path(), Path::new("/bin/true"), Path::new("/nonexistent")).expect("a folder");
    repositories.ensure(&app, "main", &[]).await.expect("made");
    let repository = folder.path().join("shop.git");
    (0..60).for_each(|number| commit(&repository, number));
    let before = (packs(&repository), log(&repository));
    assert!(before.0 > 50, "{before:?}");
    let [old, new] = ["refs/heads/old.lock", "refs/heads/new.lock"].map(|name| repository.join(name));
    for lock in [&old, &new] {
        fs::write(lock, "").expect("written");
    }
    let then = SystemTime::now() - Duration::from_secs(120);
    fs::File::options().write(true).open(&old).and_then(|file| file.set_modified(then)).expect("set");
    repositories.maintain(&app).await.expect("tidied");
    // Git keeps the largest pack as it is.
    assert!(packs(&repository) <= 2, "{}", packs(&repository));
    assert_eq!(log(&repository), before.1, "nothing is lost");
    assert!(!old.exists() && new.exists(), "one that may be somebody's stays");
}
