//! A newer program takes over only when it says that it can.
//!
//! `up` holds the program that its services are started from as an open file, so that what is put in its place on disk has no say
//! before it was asked. On SIGHUP `up` runs the new one as `gantry upgrade-check`, with a deadline; one that does not run, hangs, is none of
//! Gantry's, or cannot read the store's format leaves everything as it is.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use gantry_store::Address;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::args::Machine;
use crate::exit::{DONE, Exit};
use crate::machine::program;
use crate::printer::out;

/// The subcommand.
pub(crate) const COMMAND: &str = "upgrade-check";

/// What a program says that can take over.
const READY: &str = "this gantry can take over";

/// The longest that it may take to say so.
const DEADLINE: Duration = Duration::from_secs(10);

/// The most that is read of what it says.
const SAID_MAX: u64 = 4096;

/// `gantry upgrade-check`: it runs, and reads the store that it would take over.
pub(crate) fn check(machine: &Machine) -> anyhow::Result<Exit> {
    if let Address::File(path) = machine.store()
        && path.exists()
    {
        gantry_store::check_format(&path)?;
    }
    out!("{READY}: {}", env!("CARGO_PKG_VERSION"));
    Ok(DONE)
}

/// A program file, whatever becomes of its name.
pub(crate) struct Program {
    file: File,
    path: PathBuf,
}

impl Program {
    /// The one that this process runs.
    pub(crate) fn of_this_process() -> anyhow::Result<Self> {
        Self::open(Path::new("/proc/self/exe"), program()?)
    }

    /// The one that has this one's name now; this one may have been moved away.
    pub(crate) fn newer(&self) -> anyhow::Result<Self> {
        Self::open(&self.path, self.path.clone())
    }

    fn open(at: &Path, path: PathBuf) -> anyhow::Result<Self> {
        let file = File::open(at).with_context(|| format!("cannot open the program {}", at.display()))?;
        Ok(Self { file, path })
    }

    /// A command of it, under its usual name.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(&self.path);
        command
    }

    /// Asks whether it can take over.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) async fn ask(&self, arguments: &[String]) -> anyhow::Result<()> {
        let path = self.path.display();
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{path} does not run"))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let asked = async {
            let read = |pipe: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>| async move {
                let mut text = Vec::new();
                if let Some(pipe) = pipe {
                    let _ = pipe.take(SAID_MAX).read_to_end(&mut text).await;
                }
                String::from_utf8_lossy(&text).trim().to_owned()
            };
            let out = read(stdout.map(|pipe| Box::new(pipe) as _));
            let err = read(stderr.map(|pipe| Box::new(pipe) as _));
            let (out, err) = tokio::join!(out, err);
            (out, err, child.wait().await)
        };
        let Ok((out, err, status)) = tokio::time::timeout(DEADLINE, asked).await else {
            bail!("{path} does not answer `gantry {COMMAND}` in {} s", DEADLINE.as_secs());
        };
        let status = status.with_context(|| format!("{path} cannot be waited for"))?;
        if status.success() && out.starts_with(READY) {
            return Ok(());
        }
        let said = [err.lines().next(), out.lines().next()].into_iter().flatten().find(|line| !line.is_empty());
        bail!("{path} does not say that it can take over ({status}): {}", said.unwrap_or("it says nothing"))
    }
}
