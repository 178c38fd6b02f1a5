//! Git repositories from which tests push to a test cluster.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Output, run};

/// A git repository to push from.
pub struct Repository {
    folder: PathBuf,
}

impl Repository {
    /// Creates a repository with a remote and, if given, a copy of a folder.
    pub(crate) fn create(folder: PathBuf, remote: &str, source: Option<&Path>) -> Self {
        std::fs::create_dir_all(&folder).expect("made");
        let repository = Self { folder };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        // A test may ask for the repository of an app again.
        repository.git(&["config", "remote.gantry.url", remote]);
        repository.git(&["config", "remote.gantry.fetch", "+refs/heads/*:refs/remotes/gantry/*"]);
        if let Some(source) = source {
            let mut copy = Command::new("cp");
            copy.arg("-a").arg(source.join(".")).arg(&repository.folder);
            let _ = run(copy).good();
        }
        repository
    }

    /// Runs git in the repository and asserts success.
    ///
    /// # Panics
    /// If git fails.
    pub fn git(&self, arguments: &[&str]) -> Output {
        self.try_git(arguments).good()
    }

    fn try_git(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("git");
        command
            .args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "protocol.version=2"])
            .args(arguments)
            .current_dir(&self.folder)
            .env("GIT_TERMINAL_PROMPT", "0")
            // The variable wins over the settings of the repository.
            .env_remove("GIT_SSL_CAINFO")
            .stdin(Stdio::null());
        run(command)
    }

    /// Writes a file in the repository.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    /// Adds a compile step made of shell commands.
    ///
    /// # Panics
    /// If the script cannot be written.
    pub fn compile_with(&self, commands: &str) {
        self.write("container/compile", &format!("#!/bin/sh\n{commands}\n"));
        let path = self.folder.join("container/compile");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("set");
    }

    /// Replaces a text in a file.
    ///
    /// # Panics
    /// If the file does not contain the text.
    pub fn replace(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.folder.join(path)).expect("a file");
        assert!(text.contains(from), "{path} has no {from:?}");
        self.write(path, &text.replace(from, to));
    }

    /// Commits all changes and returns the full SHA.
    ///
    /// # Panics
    /// If git fails.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"]).out.trim().to_owned()
    }

    /// Pushes HEAD to the app's branch.
    #[must_use]
    pub fn push(&self) -> Output {
        self.try_git(&["push", "gantry", "HEAD:main"])
    }

    /// Returns the commit of the app's branch, as the server reports it.
    ///
    /// # Panics
    /// If git fails.
    #[must_use]
    pub fn remote_head(&self) -> String {
        let listed = self.git(&["ls-remote", "gantry", "refs/heads/main"]).out;
        listed.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// Starts a push in the background.
    ///
    /// # Panics
    /// If git cannot be started.
    #[must_use]
    pub fn push_in_background(&self) -> Child {
        Command::new("git")
            .args(["push", "gantry", "HEAD:main"])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("git")
    }

    /// Runs any git command and returns its result, even on failure.
    #[must_use]
    pub fn attempt(&self, arguments: &[&str]) -> Output {
        self.try_git(arguments)
    }
}
