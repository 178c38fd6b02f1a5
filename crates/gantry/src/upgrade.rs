//! Upgrade check: a newer program takes over only after it has confirmed that it can.
//!
//! `up` holds its services' program as an open file, so that a file that replaces the program on disk has no effect
//! before the check. On SIGHUP, `up` runs the new program as `gantry upgrade-check`, with a timeout. Everything stays
//! as it is if the new program does not run, hangs, is not Gantry, or cannot read the store's format.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_records::schema;
use gantry_store::StoreAddress;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::args::Machine;
use crate::coded::{WithCode, coded, fail};
use crate::exit::{DONE, Exit};
use crate::machine::program;
use crate::printer::out;
use crate::server_process::ServerProcess;

/// Name of the subcommand.
pub(crate) const COMMAND: &str = "upgrade-check";

/// The confirmation of a program that can take over.
const READY: &str = "this gantry can take over";

/// Timeout of the check.
const DEADLINE: Duration = Duration::from_secs(10);

/// Maximum number of bytes read of the program's output.
const SAID_MAX: u64 = 4096;

/// Runs `gantry upgrade-check`: checks that this program can read the format of the store and the schema version of the
/// records. Of a store in etcd, the server checks the version when it starts.
pub(crate) fn check(machine: &Machine) -> anyhow::Result<Exit> {
    if let StoreAddress::File(path) = machine.store()
        && path.exists()
    {
        gantry_store::check_format(&path)?;
        let value = gantry_store::read_value(&path, schema::KEY)?;
        schema::version(value.as_deref()).map_err(|error| coded(ErrorCode::StoreNewer, error.to_string()))?;
    }
    out!("{READY}: {}", env!("CARGO_PKG_VERSION"));
    Ok(DONE)
}

/// A program file, held open independently of its name.
pub(crate) struct Program {
    file: File,
    path: PathBuf,
}

impl Program {
    /// The program of this process.
    pub(crate) fn of_this_process() -> anyhow::Result<Self> {
        Self::open(Path::new("/proc/self/exe"), program()?)
    }

    /// The program that now has this program's path; this program's file may have been moved away.
    pub(crate) fn newer(&self) -> anyhow::Result<Self> {
        Self::open(&self.path, self.path.clone())
    }

    fn open(at: &Path, path: PathBuf) -> anyhow::Result<Self> {
        let file = File::open(at).with_context(|| format!("cannot open the program {}", at.display()));
        let file = file.with_code(ErrorCode::UpgradeRefused)?;
        Ok(Self { file, path })
    }

    /// The program's usual path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs the program under its usual name.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(&self.path);
        command
    }

    /// Asks the program whether it can take over. The program runs as the server does, because it reads the store.
    ///
    /// # Errors
    /// The reason why the program cannot take over.
    pub(crate) async fn ask(&self, server: Option<&ServerProcess>, arguments: &[String]) -> anyhow::Result<()> {
        let path = self.path.display();
        let mut command = self.command();
        if let Some(server) = server {
            server.confine(command.as_std_mut(), self)?;
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{path} does not run"));
        let mut child = child.with_code(ErrorCode::UpgradeRefused)?;
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
            fail!(UpgradeRefused, "{path} does not answer `gantry {COMMAND}` in {} s", DEADLINE.as_secs());
        };
        let status = status.with_context(|| format!("{path} cannot be waited for"))?;
        if status.success() && out.starts_with(READY) {
            return Ok(());
        }
        let said = [err.lines().next(), out.lines().next()].into_iter().flatten().find(|line| !line.is_empty());
        fail!(
            UpgradeRefused,
            "{path} does not say that it can take over ({status}): {}",
            said.unwrap_or("it says nothing")
        )
    }
}
