//! Bare repositories, and git running in them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use gantry_model::AppName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

/// The largest push: a pack, compressed.
const PUSH_MAX: u64 = 1 << 30;

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

/// Settings of every repository. Objects are checked on receipt; no client option reaches a program.
const SETTINGS: [(&str, &str); 8] = [
    // Refs are moved by the hook: see `hook`.
    ("receive.procReceiveRefs", "refs/heads/"),
    ("receive.fsckObjects", "true"),
    ("transfer.fsckObjects", "true"),
    ("receive.advertisePushOptions", "false"),
    ("receive.denyDeletes", "true"),
    ("receive.autogc", "false"),
    ("gc.auto", "0"),
    ("uploadpack.allowFilter", "true"),
];

/// All repositories.
#[derive(Debug, Clone)]
pub struct Repositories {
    folder: PathBuf,
    hooks: PathBuf,
    socket: PathBuf,
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
            std::fs::create_dir_all(&hooks)?;
            let fresh = hooks.join(format!("{name}.new"));
            std::fs::write(&fresh, format!("#!/bin/sh\nexec '{quoted}' git-hook {name}\n"))?;
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
            std::fs::rename(fresh, hooks.join(name))
        };
        for name in ["pre-receive", "proc-receive"] {
            write(name).map_err(|source| GitError::File { path: hooks.join(name), source })?;
        }
        Ok(Self { folder: folder.to_owned(), hooks, socket: socket.to_owned() })
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

    /// The app's repository is there, with its settings. Done again it changes nothing.
    ///
    /// # Errors
    /// [`GitError`].
    pub async fn ensure(&self, app: &AppName, branch: &str) -> Result<(), GitError> {
        let path = self.path(app);
        if !path.join("gantry-ready").exists() {
            let head = format!("--initial-branch={branch}");
            self.run(app, &["init", "--quiet", "--bare", "--template=", &head]).await?;
            let hooks = self.hooks.display().to_string();
            let limit = PUSH_MAX.to_string();
            let own = [("core.hooksPath", hooks.as_str()), ("receive.maxInputSize", limit.as_str())];
            for (name, value) in SETTINGS.iter().copied().chain(own) {
                self.run(app, &["config", name, value]).await?;
            }
            let write = || -> io::Result<()> {
                std::fs::create_dir_all(path.join("info"))?;
                // What is pushed is what is built: no attribute of the tree leaves files out or rewrites them.
                std::fs::write(path.join("info/attributes"), "* -export-ignore -export-subst -ident -filter -text\n")?;
                std::fs::write(path.join("gantry-ready"), "")
            };
            write().map_err(|source| GitError::File { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// Removes an app's repository.
    ///
    /// # Errors
    /// [`GitError::File`].
    pub fn remove(&self, app: &AppName) -> Result<(), GitError> {
        let path = self.path(app);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(GitError::File { path, source }),
            _ => Ok(()),
        }
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

    /// The conversation itself: `POST git-receive-pack` or `git-upload-pack`. `push` names the push to the hook; `guard`
    /// is kept until git has ended.
    ///
    /// Git is killed if the client goes away before it has sent everything; after that it goes on to its end, client or
    /// no client, for a deploy that has begun is not stopped by a lost connection.
    ///
    /// # Errors
    /// [`GitError::Run`].
    pub async fn serve(
        &self,
        app: &AppName,
        service: Service,
        protocol: Option<&str>,
        push: &str,
        body: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
        guard: impl Send + 'static,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, GitError> {
        let mut child = self
            .service(app, service, protocol)
            .arg(self.path(app))
            .env("GANTRY_GIT_SOCKET", &self.socket)
            .env("GANTRY_PUSH", push)
            .stdin(Stdio::piped())
            .spawn()
            .map_err(GitError::Run)?;
        send(&mut child, body).await.map_err(GitError::Run)?;
        Ok(receive(child, guard))
    }
}

async fn send(child: &mut Child, mut body: impl Stream<Item = io::Result<Bytes>> + Unpin) -> io::Result<()> {
    let Some(mut input) = child.stdin.take() else {
        return Ok(());
    };
    let mut sent = 0u64;
    while let Some(piece) = body.next().await {
        let piece = piece?;
        sent += piece.len() as u64;
        if sent > PUSH_MAX {
            return Err(io::Error::other("the push is larger than 1 GiB"));
        }
        // Git that has refused already no longer reads; its answer says why.
        if input.write_all(&piece).await.is_err() {
            break;
        }
    }
    let _ = input.shutdown().await;
    Ok(())
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
        let _ = child.wait().await;
        drop(guard);
    });
    futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))).boxed()
}
