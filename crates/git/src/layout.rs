//! The files of a repository that Gantry writes itself: creates them, and repairs damaged ones.
//!
//! A repository is created under another name, synced, and then renamed: after a power loss the repository is whole or
//! does not exist.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Settings of every repository. Git checks objects on receipt. Only the server's hook reads the client's push options.
const SETTINGS: [(&str, &str, &str); 18] = [
    ("core", "repositoryformatversion", "0"),
    ("core", "filemode", "true"),
    ("core", "bare", "true"),
    // Git's default syncs neither refs nor pack indexes: after a power loss these would be empty.
    ("core", "fsync", "all"),
    // Keep packs packed: git then reads objects as it needs them, and never loads a large object into memory.
    ("receive", "unpackLimit", "1"),
    ("core", "bigFileThreshold", "64m"),
    // Map packs in pieces and use few threads, to stay below `MEMORY_MAX`.
    ("core", "packedGitWindowSize", "32m"),
    ("core", "packedGitLimit", "256m"),
    ("pack", "threads", "2"),
    ("pack", "windowMemory", "128m"),
    // The hook moves the refs, see `hook`.
    ("receive", "procReceiveRefs", "refs"),
    ("receive", "fsckObjects", "true"),
    ("transfer", "fsckObjects", "true"),
    ("receive", "advertisePushOptions", "true"),
    ("receive", "denyDeletes", "true"),
    ("receive", "autogc", "false"),
    ("gc", "auto", "0"),
    ("uploadpack", "allowFilter", "true"),
];

/// Attributes that make the build's tree equal to the pushed tree, byte for byte: no attribute of the tree leaves files
/// out or rewrites them. `git archive` converts files as a checkout does (gitattributes(5)).
const ATTRIBUTES: &str = "* -export-ignore -export-subst -ident -filter -text -eol -crlf -working-tree-encoding\n";

/// The folders of an empty repository, parents first.
const FOLDERS: [&str; 7] = ["objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags", "info"];

/// Parameters of a repository's own files.
pub(crate) struct Layout<'a> {
    /// The folder of the server's hooks.
    pub(crate) hooks: &'a Path,
    /// The largest push, in bytes.
    pub(crate) push_max: u64,
    /// Name of the branch that deploys.
    pub(crate) branch: &'a str,
}

impl Layout<'_> {
    fn files(&self) -> [(&'static str, String); 3] {
        let own = [
            ("core", "hooksPath", self.hooks.display().to_string()),
            ("receive", "maxInputSize", self.push_max.to_string()),
        ];
        let settings = SETTINGS.iter().map(|(section, name, value)| (*section, *name, (*value).to_owned()));
        let config = settings.chain(own).map(|(section, name, value)| setting(section, name, &value)).collect();
        [
            ("HEAD", format!("ref: refs/heads/{}\n", self.branch)),
            ("config", config),
            ("info/attributes", ATTRIBUTES.to_owned()),
        ]
    }

    /// Creates an empty repository at `path`, durably. Does nothing if another task creates the repository meanwhile.
    pub(crate) fn make(&self, path: &Path) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let parent = path.parent().unwrap_or(Path::new("."));
        let fresh = parent.join(format!("{UNFINISHED_PREFIX}{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        gantry_linux::tree::remove(&fresh)?;
        std::fs::create_dir(&fresh)?;
        self.fill(&fresh)?;
        gantry_ledger::sync_tree(&fresh)?;
        if let Err(error) = std::fs::rename(&fresh, path) {
            gantry_linux::tree::remove(&fresh)?;
            if !path.is_dir() {
                return Err(error);
            }
        }
        gantry_ledger::sync(parent)
    }

    fn fill(&self, folder: &Path) -> io::Result<()> {
        FOLDERS.iter().try_for_each(|name| std::fs::create_dir(folder.join(name)))?;
        self.files().iter().try_for_each(|(name, text)| std::fs::write(folder.join(name), text))
    }

    /// Rewrites the files that have the wrong content, and returns the names of the damaged ones. A file written by
    /// another version of Gantry, or for another branch, does not count as damaged.
    pub(crate) fn repair(&self, path: &Path) -> io::Result<Vec<&'static str>> {
        for folder in FOLDERS.iter().map(|name| path.join(name)).filter(|folder| !folder.is_dir()) {
            std::fs::create_dir_all(folder)?;
        }
        let mut damaged = Vec::new();
        for (name, text) in self.files() {
            let found = std::fs::read(path.join(name)).unwrap_or_default();
            if found == text.as_bytes() {
                continue;
            }
            gantry_ledger::replace(&path.join(name), text.as_bytes())?;
            if found.is_empty() || found.contains(&0) {
                damaged.push(name);
            }
        }
        Ok(damaged)
    }
}

/// Prefix of the name of an unfinished repository.
pub(crate) const UNFINISHED_PREFIX: &str = ".new-";

/// Returns the path at which an unreadable repository is kept, one per app.
pub(crate) fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

/// Formats a line of git's configuration with its section. The value may contain any character of a path.
fn setting(section: &str, name: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("[{section}]\n\t{name} = \"{escaped}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(branch: &str) -> Layout<'_> {
        Layout { hooks: Path::new("/a \"b\\c;#/hooks"), push_max: 1 << 30, branch }
    }

    fn git(path: &Path, arguments: &[&str]) -> String {
        let mut git = std::process::Command::new("git");
        git.arg("--git-dir").arg(path).args(arguments).env_clear().env("PATH", "/usr/bin:/bin");
        let output = git.output().expect("git");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    #[test]
    fn git_accepts_the_created_repository() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shop.git");
        layout("team/main").make(&path).expect("made");
        layout("team/main").make(&path).expect("made again");
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 1, "nothing is left beside it");
        assert_eq!(git(&path, &["symbolic-ref", "HEAD"]), "refs/heads/team/main");
        assert_eq!(git(&path, &["config", "core.hooksPath"]), "/a \"b\\c;#/hooks");
        assert_eq!(git(&path, &["config", "core.fsync"]), "all");
        assert_eq!(git(&path, &["rev-parse", "--is-bare-repository"]), "true");
        assert_eq!(git(&path, &["count-objects"]), "0 objects, 0 kilobytes");
    }

    #[test]
    fn rewrites_and_names_damaged_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shop.git");
        layout("main").make(&path).expect("made");
        assert_eq!(layout("main").repair(&path).expect("mended"), [""; 0]);
        for name in ["HEAD", "config", "info/attributes"] {
            for text in [&b""[..], b"\0\0\0\0"] {
                std::fs::write(path.join(name), text).expect("written");
                assert_eq!(layout("main").repair(&path).expect("mended"), [name]);
                assert_eq!(layout("main").repair(&path).expect("mended"), [""; 0]);
            }
            std::fs::remove_file(path.join(name)).expect("removed");
            assert_eq!(layout("main").repair(&path).expect("mended"), [name]);
        }
        // A change of the deployed branch is no damage.
        assert_eq!(layout("live").repair(&path).expect("mended"), [""; 0]);
        assert_eq!(git(&path, &["symbolic-ref", "HEAD"]), "refs/heads/live");
        std::fs::remove_dir_all(path.join("refs")).expect("removed");
        layout("live").repair(&path).expect("mended");
        assert_eq!(git(&path, &["for-each-ref"]), "");
    }
}
