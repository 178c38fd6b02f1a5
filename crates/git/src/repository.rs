//! Bare repositories, and git running in them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use gantry_model::AppName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use crate::health::{self, Looked, Loose, Mended};
use crate::layout::{self, Layout};
use crate::opening::Opening;

/// The largest push: a pack, compressed.
const PUSH_MAX: u64 = 1 << 30;

/// The largest request: a pack, and the commands before it.
const REQUEST_MAX: u64 = PUSH_MAX + (64 << 20);

/// The longest that a client may say nothing in the middle of a request, and that all of it may take.
const SILENCE: Duration = Duration::from_secs(60);
const REQUEST_TIME: Duration = Duration::from_secs(3600);

/// What git, and each program that it starts, may have of the machine for one conversation: bytes of address space, and seconds of
/// processor time. A few kilobytes of deltas can stand for an object of gigabytes, which git has in memory to look at.
const MEMORY_MAX: u64 = 1 << 30;
const PROCESSOR_MAX: u64 = 900;

/// Before the answer of a git that did not end well is cut.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A lock this old is of a git that was killed: git holds one for as long as it writes a small file.
const LOCK_AGE: Duration = Duration::from_secs(60);

/// A conversation with a client, before it begins.
#[derive(Debug, Clone, Copy)]
pub struct Conversation<'a> {
    /// Which.
    pub service: Service,
    /// The protocol's version, as the client asks for it.
    pub protocol: Option<&'a str>,
    /// The push's name, for its hook.
    pub push: &'a str,
    /// The branch that deploys.
    pub branch: &'a str,
}

/// Which conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// A clone or fetch.
    UploadPack,
    /// A push.
    ReceivePack,
}

impl Service {
    /// `git-upload-pack` or `git-receive-pack`; none for any other name, so that it never reaches a command line.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "git-upload-pack" => Some(Self::UploadPack),
            "git-receive-pack" => Some(Self::ReceivePack),
            _ => None,
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// Why git could not be used.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It could not be run.
    #[error("git cannot be run: {0}")]
    Run(#[source] io::Error),
    /// It ended with an error.
    #[error("git {what} failed: {said}")]
    Failed {
        /// Its first word.
        what: String,
        /// What it said.
        said: String,
    },
    /// A file of the repository could not be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// All repositories.
#[derive(Debug, Clone)]
pub struct Repositories {
    folder: PathBuf,
    hooks: PathBuf,
    socket: PathBuf,
    looked: Looked,
    /// What hooks run instead of the program on disk: the one that this process runs, where it is Gantry.
    hooked: Option<String>,
}

impl Repositories {
    /// Repositories in `folder`, whose hooks talk to `socket` through `program git-hook`.
    ///
    /// # Errors
    /// [`GitError::File`].
    pub fn in_folder(folder: &Path, program: &Path, socket: &Path) -> Result<Self, GitError> {
        use std::os::unix::fs::PermissionsExt;
        let hooks = folder.join("hooks");
        let quoted = program.display().to_string().replace('\'', "'\\''");
        let write = |name: &str| -> io::Result<()> {
            let text =
                format!("#!/bin/sh\nprogram='{quoted}'\nexec \"${{GANTRY_PROGRAM:-$program}}\" git-hook {name}\n");
            // A disk may take no writes.
            if std::fs::read_to_string(hooks.join(name)).is_ok_and(|known| known == text) {
                return Ok(());
            }
            std::fs::create_dir_all(&hooks)?;
            let fresh = hooks.join(format!("{name}.new"));
            std::fs::write(&fresh, text)?;
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
            std::fs::rename(fresh, hooks.join(name))
        };
        for name in ["pre-receive", "proc-receive"] {
            write(name).map_err(|source| GitError::File { path: hooks.join(name), source })?;
        }
        // After an update the running program's file is "… (deleted)"; its successor has the name.
        let own = std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned();
        let is_own = own.strip_suffix(" (deleted)").unwrap_or(&own) == program.to_string_lossy();
        let hooked = is_own.then(|| format!("/proc/{}/exe", std::process::id()));
        let looked = Looked::default();
        let repositories = Self { folder: folder.to_owned(), hooks, socket: socket.to_owned(), looked, hooked };
        repositories.sweep();
        Ok(repositories)
    }

    /// Takes away what a push left that was killed: objects that were never accepted, and locks.
    fn sweep(&self) {
        let repositories = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let repositories: Vec<PathBuf> = repositories.map(|entry| entry.path()).collect();
        repositories.iter().for_each(|path| unlock(path));
        let is_unfinished =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(layout::FRESH));
        for unfinished in repositories.iter().filter(is_unfinished) {
            if let Err(error) = gantry_linux::tree::remove(unfinished) {
                tracing::warn!(%error, "a repository that was not finished stays");
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
                tracing::warn!(%error, "what a push left stays");
            }
        }
    }

    fn path(&self, app: &AppName) -> PathBuf {
        self.folder.join(format!("{app}.git"))
    }

    /// Git with nothing of the machine's or a user's configuration.
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
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(GitError::Failed { what: arguments.first().copied().unwrap_or_default().to_owned(), said })
    }

    /// Makes the app's repository, or puts right what is damaged in it. Done again it changes nothing. `taken` are the commits
    /// of pushes that were accepted, the newest first: what a branch that cannot be read goes back to.
    ///
    /// The first call since the server started also looks whether everything that the branch names is there.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn ensure(&self, app: &AppName, branch: &str, taken: &[String]) -> Result<Vec<Mended>, GitError> {
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
        let damaged = layout.mend(&path).map_err(failed)?;
        let mut mended: Vec<Mended> = (!damaged.is_empty()).then_some(Mended::Files(damaged)).into_iter().collect();
        if !*looked || health::loose(&path, branch) == Loose::Damaged {
            mended.extend(self.look(app, branch, taken).await?);
            if matches!(mended.last(), Some(Mended::Anew { .. })) {
                layout.make(&path).map_err(failed)?;
            }
            *looked = true;
        }
        Ok(mended)
    }

    /// Looks whether the branch leads to something whole, and puts it right if it does not.
    async fn look(&self, app: &AppName, branch: &str, taken: &[String]) -> Result<Option<Mended>, GitError> {
        let path = self.path(app);
        let failed = |source| GitError::File { path: path.clone(), source };
        let damaged = health::loose(&path, branch) == Loose::Damaged;
        health::clear_refs(&path).map_err(failed)?;
        let name = format!("refs/heads/{branch}");
        // None of a branch that no push has made, too.
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
                return Ok(Some(Mended::Branch { branch: branch.to_owned(), commit: commit.clone() }));
            }
        }
        match tip.is_some() || damaged && !taken.is_empty() {
            true => Ok(Some(Mended::Anew { kept: health::keep_aside(&path).map_err(failed)? })),
            false => Ok(None),
        }
    }

    /// Everything that a commit leads to is there.
    async fn is_whole(&self, app: &AppName, commit: &str) -> Result<bool, GitError> {
        let mut command = self.git(app);
        command.args(["rev-list", "--objects", "--quiet", commit, "--"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(GitError::Run)?;
        match tokio::time::timeout(health::CHECK_TIME, child.wait()).await {
            // One that was killed found nothing out.
            Ok(status) => Ok(status.map_err(GitError::Run)?.code().is_none_or(|code| code == 0)),
            Err(_) => Ok(true),
        }
    }

    /// Removes stale locks, and packs an app's repository when it has grown untidy by git's own measure.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn tidy(&self, app: &AppName) -> Result<(), GitError> {
        if !self.path(app).join("HEAD").exists() {
            return Ok(());
        }
        unlock(&self.path(app));
        // Objects of a push under way are younger than what is pruned: two weeks, git's default.
        let arguments =
            ["-c", "gc.auto=6700", "-c", "gc.autoPackLimit=50", "-c", "gc.autoDetach=false", "gc", "--auto"];
        self.run(app, &[&arguments[..], &["--quiet"]].concat()).await.map(drop)
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

    fn service(&self, app: &AppName, service: Service, protocol: Option<&str>) -> Command {
        let mut command = self.git(app);
        command.arg(&service.name()["git-".len()..]).arg("--stateless-rpc");
        // Version numbers alone: the value comes from the client.
        if let Some(protocol) = protocol.filter(|value| ["version=1", "version=2"].contains(value)) {
            command.env("GIT_PROTOCOL", protocol);
        }
        command
    }

    /// What the client is told first: `GET info/refs`.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn advertise(&self, app: &AppName, service: Service, protocol: Option<&str>) -> Result<Bytes, GitError> {
        let mut command = self.service(app, service, protocol);
        let output =
            command.arg("--http-backend-info-refs").arg(self.path(app)).output().await.map_err(GitError::Run)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(GitError::Failed { what: service.name().to_owned(), said });
        }
        let line = format!("# service={}\n", service.name());
        let mut answer = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
        answer.extend_from_slice(&output.stdout);
        Ok(answer.into())
    }

    /// The conversation itself: `POST git-receive-pack` or `git-upload-pack`. `guard` is kept until git
    /// has ended.
    ///
    /// A client that goes away before it has sent everything leaves git at the end of its input, where it clears up and
    /// ends. After that git goes on to its end, client or no client: a deploy that has begun is not stopped by a lost
    /// connection.
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
            // This very program, whatever has been put in its place on disk since.
            .envs(self.hooked.iter().map(|program| ("GANTRY_PROGRAM", program)))
            .env("GANTRY_PUSH", push)
            .env("GANTRY_BRANCH", branch)
            .envs(std::env::var_os(gantry_linux::steps::VARIABLE).map(|folder| (gantry_linux::steps::VARIABLE, folder)))
            .stdin(Stdio::piped())
            .spawn()
            .map_err(GitError::Run)?;
        // It starts others only when it has read something.
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

/// A full hash; never an option or another name.
fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes the locks that a killed git left on its configuration and refs: each would stop every change of that file for ever.
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

/// Hands the client's words to git, and closes its input at their end.
async fn send(
    mut input: ChildStdin,
    mut opening: Option<Opening>,
    mut body: impl Stream<Item = io::Result<Bytes>> + Unpin,
) {
    let mut sent = 0u64;
    let mut reads = true;
    let end = tokio::time::Instant::now() + REQUEST_TIME;
    while let Ok(Some(Ok(piece))) =
        tokio::time::timeout_at(end.min(tokio::time::Instant::now() + SILENCE), body.next()).await
    {
        sent += piece.len() as u64;
        // The pack is bounded by git itself, which says so; this is for what is no pack.
        if sent > REQUEST_MAX {
            return;
        }
        // Git that has refused already no longer reads. The rest is read all the same: a client that is still sending
        // would not see the answer.
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

/// Git's answer, read to its end whether or not anybody listens.
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
            let mut said = String::new();
            if let Some(stderr) = stderr {
                let _ = stderr.take(64 << 10).read_to_string(&mut said).await;
            }
        };
        tokio::join!(reading, complaining);
        // A client whose answer just ends waits for the rest of it for ever; one that is cut says so.
        if !child.wait().await.is_ok_and(|status| status.success()) {
            // What it said last is on its way first.
            tokio::time::sleep(LAST_WORDS).await;
            let _ = sender.send(Err(io::Error::other("git did not end well"))).await;
        }
        drop(guard);
    });
    futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))).boxed()
}
