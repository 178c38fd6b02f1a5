//! Bare repositories, and the git processes that serve them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use gantry_error::ErrorChain;
use gantry_ledger::Replacement;
use gantry_model::AppName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use crate::health::{self, CheckedRepositories, LooseRef, Repair};
use crate::layout::{self, Layout};
use crate::opening::Opening;

/// Limit of a push's compressed pack, in bytes.
const PUSH_MAX: u64 = 1 << 30;

/// Limit of a request, in bytes: a pack, and the commands before the pack.
const REQUEST_MAX: u64 = PUSH_MAX + (64 << 20);

/// Timeouts of a request: the longest silence of a client in the middle of a request, and the longest whole request.
const CLIENT_STALL_TIMEOUT: Duration = Duration::from_secs(60);
const REQUEST_TIME: Duration = Duration::from_secs(3600);

/// Limits for git and each program that git starts, for one conversation: bytes of address space, and seconds of
/// processor time. A few kilobytes of deltas can stand for an object of gigabytes, which git loads into memory to
/// check.
const MEMORY_MAX: u64 = 1 << 30;
const PROCESSOR_MAX: u64 = 900;

/// Delay before the server cuts the response of a git that failed.
const RESPONSE_CUT_DELAY: Duration = Duration::from_millis(100);

/// File that tells the app of a repository from an app that had the same name.
const APP_FILE: &str = "gantry-app";

/// Age at which a lock counts as left over from a killed git: git holds a lock only while it writes a small file.
const LOCK_AGE: Duration = Duration::from_secs(60);

/// Parameters of a conversation with a client.
#[derive(Debug, Clone, Copy)]
pub struct Conversation<'a> {
    /// Service that the client asks for.
    pub service: Service,
    /// Protocol version that the client asks for.
    pub protocol: Option<&'a str>,
    /// Id of the push, for its hook.
    pub push: &'a str,
    /// Name of the branch that deploys.
    pub branch: &'a str,
}

/// Service of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// A clone or fetch.
    UploadPack,
    /// A push.
    ReceivePack,
}

impl Service {
    /// Parses `git-upload-pack` or `git-receive-pack`. Returns none for any other name, so that no other name reaches a
    /// command line.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "git-upload-pack" => Some(Self::UploadPack),
            "git-receive-pack" => Some(Self::ReceivePack),
            _ => None,
        }
    }

    /// Returns the service's name in the protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// Failure of a git operation.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// Git could not be run.
    #[error("git cannot be run: {0}")]
    Run(#[source] io::Error),
    /// Git ended with an error.
    #[error("git {what} failed: {output}")]
    Failed {
        /// First argument of the command.
        what: String,
        /// Git's error output.
        output: String,
    },
    /// A file of the repository could not be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
}

/// The bare repositories of all apps.
#[derive(Debug, Clone)]
pub struct Repositories {
    folder: PathBuf,
    hooks: PathBuf,
    socket: PathBuf,
    looked: CheckedRepositories,
    /// Program that hooks run instead of the one on disk: this process's own program, if it is Gantry.
    hooked: Option<String>,
}

impl Repositories {
    /// Opens the repositories in `folder`, whose hooks talk to `socket` through `program git-hook`.
    ///
    /// # Errors
    /// [`GitError::File`].
    pub fn in_folder(folder: &Path, program: &Path, socket: &Path) -> Result<Self, GitError> {
        let hooks = folder.join("hooks");
        let quoted = program.display().to_string().replace('\'', "'\\''");
        let write = |name: &str| -> io::Result<()> {
            let text =
                format!("#!/bin/sh\nprogram='{quoted}'\nexec \"${{GANTRY_PROGRAM:-$program}}\" git-hook {name}\n");
            // Skip a hook that is up to date, because the disk may take no writes.
            if std::fs::read_to_string(hooks.join(name)).is_ok_and(|known| known == text) {
                return Ok(());
            }
            std::fs::create_dir_all(&hooks)?;
            Replacement::of(&hooks.join(name)).mode(0o755).write(text.as_bytes())
        };
        for name in ["pre-receive", "proc-receive"] {
            write(name).map_err(|source| GitError::File { path: hooks.join(name), source })?;
        }
        // After an update the running program's file is "… (deleted)", and its successor has the name.
        let own = std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned();
        let is_own = own.strip_suffix(" (deleted)").unwrap_or(&own) == program.to_string_lossy();
        let hooked = is_own.then(|| format!("/proc/{}/exe", std::process::id()));
        let looked = CheckedRepositories::default();
        let repositories = Self { folder: folder.to_owned(), hooks, socket: socket.to_owned(), looked, hooked };
        repositories.sweep();
        Ok(repositories)
    }

    /// Removes the rest of killed pushes: unfinished repositories, objects that were never accepted, and locks.
    fn sweep(&self) {
        let repositories = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let repositories: Vec<PathBuf> = repositories.map(|entry| entry.path()).collect();
        repositories.iter().for_each(|path| unlock(path));
        let is_unfinished = |path: &&PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(layout::UNFINISHED_PREFIX))
        };
        for unfinished in repositories.iter().filter(is_unfinished) {
            if let Err(error) = gantry_linux::tree::remove(unfinished) {
                tracing::warn!(error = %ErrorChain(&error), "cannot remove an unfinished repository");
            }
        }
        let objects = repositories.iter().map(|path| path.join("objects"));
        let entries = objects.flat_map(|objects| std::fs::read_dir(objects).into_iter().flatten().flatten());
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if (name.starts_with("tmp_objdir-") || name.starts_with("incoming-"))
                && let Err(error) = gantry_linux::tree::remove(&entry.path())
            {
                tracing::warn!(error = %ErrorChain(&error), "cannot remove the leftovers of a push");
            }
        }
    }

    fn path(&self, app: &AppName) -> PathBuf {
        self.folder.join(format!("{app}.git"))
    }

    /// Prepares a git command that ignores the configuration of the machine and of users.
    fn git(&self, app: &AppName) -> Command {
        let mut command = Command::new("git");
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", "/nonexistent")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_DIR", self.path(app))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, app: &AppName, arguments: &[&str]) -> Result<Bytes, GitError> {
        let output = self.git(app).args(arguments).output().await.map_err(GitError::Run)?;
        if output.status.success() {
            return Ok(output.stdout.into());
        }
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(GitError::Failed { what: arguments.first().copied().unwrap_or_default().to_owned(), output })
    }

    /// Creates the app's repository, or repairs the damage in it. A second call changes nothing. `taken` lists the
    /// commits of accepted pushes, newest first; a branch that cannot be read goes back to one of them.
    ///
    /// The first call since the server started also checks that the repository has every object of the branch.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn ensure(&self, app: &AppName, branch: &str, taken: &[String]) -> Result<Vec<Repair>, GitError> {
        let path = self.path(app);
        let layout = Layout { hooks: &self.hooks, push_max: PUSH_MAX, branch };
        let failed = |source| GitError::File { path: path.clone(), source };
        let looked = self.looked.of(app);
        let mut looked = looked.lock().await;
        if !path.is_dir() {
            layout.make(&path).map_err(failed)?;
            *looked = true;
            return Ok(Vec::new());
        }
        let damaged = layout.repair(&path).map_err(failed)?;
        let mut mended: Vec<Repair> = (!damaged.is_empty()).then_some(Repair::Files(damaged)).into_iter().collect();
        if !*looked || health::read_loose_ref(&path, branch) == LooseRef::Damaged {
            mended.extend(self.check_branch(app, branch, taken).await?);
            if matches!(mended.last(), Some(Repair::Anew { .. })) {
                layout.make(&path).map_err(failed)?;
            }
            *looked = true;
        }
        Ok(mended)
    }

    /// Checks that the branch leads to a whole commit, and repairs the branch otherwise.
    async fn check_branch(&self, app: &AppName, branch: &str, taken: &[String]) -> Result<Option<Repair>, GitError> {
        let path = self.path(app);
        let failed = |source| GitError::File { path: path.clone(), source };
        let damaged = health::read_loose_ref(&path, branch) == LooseRef::Damaged;
        health::clear_refs(&path).map_err(failed)?;
        let name = format!("refs/heads/{branch}");
        // The result is also none for a branch that no push has created.
        let tip = self.run(app, &["rev-parse", "--quiet", "--verify", "--end-of-options", &name]).await.ok();
        let tip = tip.map(|tip| String::from_utf8_lossy(&tip).trim().to_owned());
        if let Some(tip) = &tip
            && self.is_whole(app, tip).await?
        {
            return Ok(None);
        }
        for commit in taken.iter().filter(|commit| is_hash(commit)).take(health::CANDIDATES_MAX) {
            if tip.as_ref() != Some(commit) && self.is_whole(app, commit).await? {
                self.run(app, &["update-ref", "--", &name, commit]).await?;
                return Ok(Some(Repair::Branch { branch: branch.to_owned(), commit: commit.clone() }));
            }
        }
        match tip.is_some() || damaged && !taken.is_empty() {
            true => Ok(Some(Repair::Anew { kept: health::move_aside(&path).map_err(failed)? })),
            false => Ok(None),
        }
    }

    /// Reports whether the repository has a commit. A pack arrives whole or not at all, so the commit's objects are there,
    /// too.
    ///
    /// # Errors
    /// [`GitError::Run`].
    pub async fn has_commit(&self, app: &AppName, commit: &str) -> Result<bool, GitError> {
        if !is_hash(commit) {
            return Ok(false);
        }
        let status = self.git(app).args(["cat-file", "-e", &format!("{commit}^{{commit}}")]).status().await;
        Ok(status.map_err(GitError::Run)?.success())
    }

    /// Adds the objects of a pack to an app's repository.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn add_pack(
        &self,
        app: &AppName,
        mut pack: impl Stream<Item = io::Result<Bytes>> + Unpin,
    ) -> Result<(), GitError> {
        let mut command = self.git(app);
        let mut child = command.args(["index-pack", "--stdin"]).stdin(Stdio::piped()).spawn().map_err(GitError::Run)?;
        if let Some(mut input) = child.stdin.take() {
            while let Some(piece) = pack.next().await {
                let piece = piece.map_err(GitError::Run)?;
                // A git that has failed reads no more, and says why at its end.
                if input.write_all(&piece).await.is_err() {
                    break;
                }
            }
        }
        let output = child.wait_with_output().await.map_err(GitError::Run)?;
        if output.status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(GitError::Failed { what: "index-pack".to_owned(), output })
    }

    /// Points the branch to a commit of the repository.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn point(&self, app: &AppName, branch: &str, commit: &str) -> Result<(), GitError> {
        self.run(app, &["update-ref", "--", &format!("refs/heads/{branch}"), commit]).await.map(drop)
    }

    /// Reports whether the repository has every object that the commit leads to.
    async fn is_whole(&self, app: &AppName, commit: &str) -> Result<bool, GitError> {
        let mut command = self.git(app);
        command.args(["rev-list", "--objects", "--quiet", commit, "--"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(GitError::Run)?;
        match tokio::time::timeout(health::CHECK_TIME, child.wait()).await {
            // A killed git proves no damage, so its commit counts as whole.
            Ok(status) => Ok(status.map_err(GitError::Run)?.code().is_none_or(|code| code == 0)),
            Err(_) => Ok(true),
        }
    }

    /// Removes stale locks, and packs an app's repository when it is untidy by git's own measure.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn maintain(&self, app: &AppName) -> Result<(), GitError> {
        if !self.path(app).join("HEAD").exists() {
            return Ok(());
        }
        unlock(&self.path(app));
        // Git prunes objects older than two weeks, its default. Objects of a push in progress are younger.
        let arguments =
            ["-c", "gc.auto=6700", "-c", "gc.autoPackLimit=50", "-c", "gc.autoDetach=false", "gc", "--auto"];
        self.run(app, &[&arguments[..], &["--quiet"]].concat()).await.map(drop)
    }

    /// Removes an app's repository if it has the mark of another app: one that had this name before.
    ///
    /// # Errors
    /// [`GitError::File`].
    pub fn remove_unless_marked(&self, app: &AppName, mark: &str) -> Result<(), GitError> {
        match std::fs::read_to_string(self.path(app).join(APP_FILE)) {
            Ok(known) if known != mark => self.remove(app),
            _ => Ok(()),
        }
    }

    /// Marks an app's repository as that of this app.
    ///
    /// # Errors
    /// [`GitError::File`].
    pub fn mark(&self, app: &AppName, mark: &str) -> Result<(), GitError> {
        let path = self.path(app).join(APP_FILE);
        if std::fs::read_to_string(&path).is_ok_and(|known| known == mark) {
            return Ok(());
        }
        Replacement::of(&path).mode(0o644).write(mark.as_bytes()).map_err(|source| GitError::File { path, source })
    }

    /// Removes an app's repository.
    ///
    /// # Errors
    /// [`GitError::File`].
    pub fn remove(&self, app: &AppName) -> Result<(), GitError> {
        self.looked.forget(app);
        let path = self.path(app);
        [layout::set_aside(&path), path].into_iter().try_for_each(|path| {
            gantry_linux::tree::remove(&path).map_err(|error| GitError::File { path, source: error.into() })
        })
    }

    /// Moves an app's repository to another name. A second call changes nothing.
    ///
    /// # Errors
    /// [`GitError::File`].
    pub fn rename(&self, from: &AppName, to: &AppName) -> Result<(), GitError> {
        let (old, new) = (self.path(from), self.path(to));
        if !old.exists() {
            return Ok(());
        }
        self.remove(to)?;
        self.looked.forget(from);
        let moved = std::fs::rename(&old, &new).and_then(|()| gantry_ledger::sync(old.parent().unwrap_or(&old)));
        moved.map_err(|source| GitError::File { path: old, source })
    }

    fn service(&self, app: &AppName, service: Service, protocol: Option<&str>) -> Command {
        let mut command = self.git(app);
        command.arg(&service.name()["git-".len()..]).arg("--stateless-rpc");
        // Pass on known versions only, because the value comes from the client.
        if let Some(protocol) = protocol.filter(|value| ["version=1", "version=2"].contains(value)) {
            command.env("GIT_PROTOCOL", protocol);
        }
        command
    }

    /// Returns the refs that git advertises first: `GET info/refs`.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn advertise(&self, app: &AppName, service: Service, protocol: Option<&str>) -> Result<Bytes, GitError> {
        let mut command = self.service(app, service, protocol);
        let output =
            command.arg("--http-backend-info-refs").arg(self.path(app)).output().await.map_err(GitError::Run)?;
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(GitError::Failed { what: service.name().to_owned(), output });
        }
        let line = format!("# service={}\n", service.name());
        let mut answer = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
        answer.extend_from_slice(&output.stdout);
        Ok(answer.into())
    }

    /// Runs the conversation: `POST git-receive-pack` or `git-upload-pack`. Keeps `guard` until git has ended.
    ///
    /// If a client disconnects before it has sent everything, git reaches the end of its input, cleans up and ends.
    /// Once the input is complete, git runs to its end even without a client: a lost connection does not stop a deploy
    /// that has begun.
    ///
    /// # Errors
    /// [`GitError::Run`].
    pub fn serve(
        &self,
        app: &AppName,
        conversation: Conversation<'_>,
        body: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
        guard: impl Send + 'static,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, GitError> {
        let Conversation { service, protocol, push, branch } = conversation;
        let mut child = self
            .service(app, service, protocol)
            .arg(self.path(app))
            .env("GANTRY_GIT_SOCKET", &self.socket)
            // The hook must run this very program, even if an update has replaced the file on disk.
            .envs(self.hooked.iter().map(|program| ("GANTRY_PROGRAM", program)))
            .env("GANTRY_PUSH", push)
            .env("GANTRY_BRANCH", branch)
            .envs(std::env::var_os(gantry_failpoint::VARIABLE).map(|folder| (gantry_failpoint::VARIABLE, folder)))
            .stdin(Stdio::piped())
            .spawn()
            .map_err(GitError::Run)?;
        // The limits come in time: git starts other programs only after it has read input.
        if let Some(pid) = child.id() {
            gantry_linux::process::bound(pid, MEMORY_MAX, PROCESSOR_MAX)
                .map_err(|error| GitError::Run(error.source))?;
        }
        if let Some(input) = child.stdin.take() {
            let opening = (service == Service::ReceivePack).then(Opening::default);
            tokio::spawn(send(input, opening, body));
        }
        Ok(receive(child, guard))
    }
}

/// Recognizes a full hash. An option or another name never matches.
fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes the locks that a killed git left on its configuration and refs. Each lock would block every change of its
/// file for ever.
fn unlock(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(is) = entry.metadata() else { continue };
        if is.is_dir() && entry.file_name() != "objects" {
            unlock(&entry.path());
        } else if is.is_file() && entry.path().extension().is_some_and(|end| end == "lock") {
            let age = is.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
            if age > LOCK_AGE && std::fs::remove_file(entry.path()).is_ok() {
                tracing::warn!(path = %entry.path().display(), "removed the lock of a git that was killed");
            }
        }
    }
}

/// Forwards the client's input to git, and closes git's input at the end.
async fn send(
    mut input: ChildStdin,
    mut opening: Option<Opening>,
    mut body: impl Stream<Item = io::Result<Bytes>> + Unpin,
) {
    let mut sent = 0u64;
    let mut reads = true;
    let end = tokio::time::Instant::now() + REQUEST_TIME;
    while let Ok(Some(Ok(piece))) =
        tokio::time::timeout_at(end.min(tokio::time::Instant::now() + CLIENT_STALL_TIMEOUT), body.next()).await
    {
        sent += piece.len() as u64;
        // Git itself limits the pack, and reports an excess. This limit is for input that is no pack.
        if sent > REQUEST_MAX {
            return;
        }
        // A git that has already refused the push reads no more. Read the rest of the input nevertheless: a client that
        // is still sending would not see the answer.
        let piece = match &mut opening {
            Some(opening) => opening.pass(piece),
            None => piece,
        };
        reads = reads && input.write_all(&piece).await.is_ok();
    }
    if let Some(opening) = &mut opening {
        let _ = input.write_all(&opening.rest()).await;
    }
}

/// Returns git's output, which is read to its end even if the client is gone.
fn receive(mut child: Child, guard: impl Send + 'static) -> BoxStream<'static, io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(16);
    tokio::spawn(async move {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let reading = async {
            if let Some(stdout) = stdout {
                let mut pieces = ReaderStream::new(stdout);
                while let Some(piece) = pieces.next().await {
                    let _ = sender.send(piece).await;
                }
            }
        };
        let complaining = async {
            let mut output = String::new();
            if let Some(stderr) = stderr {
                let _ = stderr.take(64 << 10).read_to_string(&mut output).await;
            }
        };
        tokio::join!(reading, complaining);
        // A client whose response ends early waits for the rest for ever. A client whose connection is cut reports an
        // error.
        if !child.wait().await.is_ok_and(|status| status.success()) {
            // Wait until git's last output is sent.
            tokio::time::sleep(RESPONSE_CUT_DELAY).await;
            let _ = sender.send(Err(io::Error::other("git did not end well"))).await;
        }
        drop(guard);
    });
    futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))).boxed()
}
