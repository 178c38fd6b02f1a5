//! Upgrade check: a newer program takes over only after it has confirmed that it can.
//!
//! `up` holds its services' program as an open file, so that a file that replaces the program on disk has no effect
//! before the check. On SIGHUP, `up` runs the new program as `gantry upgrade-check`, with a timeout. Everything stays
//! as it is if the new program does not run, hangs, is not Gantry, or cannot read the store's format or the files of agent
//! and router.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use gantry_agent::{INSTANCE_FILE, PLAN_FILE};
use gantry_error_codes::ErrorCode;
use gantry_ledger::FileSchema;
use gantry_records::schema;
use gantry_router::TABLE_FILE;
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

/// Beginning of the line with the newest versions of files that a program reads. The program cannot look itself: it runs
/// as the server does, and the files are root's.
const FILES: &str = "files: ";

/// Timeout of the check.
const DEADLINE: Duration = Duration::from_secs(10);

/// Maximum number of bytes read of the program's output.
const OUTPUT_MAX: u64 = 4096;

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
    let files = [PLAN_FILE, INSTANCE_FILE, TABLE_FILE].map(|FileSchema { name, version }| format!("{name} {version}"));
    out!("{FILES}{}", files.join(", "));
    Ok(DONE)
}

/// The newest versions of files that a program reads, by the file's name. A program from before the versions names none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KnownFiles(BTreeMap<String, u32>);

impl KnownFiles {
    fn parse(printed: &str) -> Self {
        let line = printed.lines().find_map(|line| line.strip_prefix(FILES)).unwrap_or_default();
        let pairs = line.split(", ").filter_map(|pair| pair.split_once(' '));
        Self(pairs.filter_map(|(name, version)| Some((name.to_owned(), version.parse().ok()?))).collect())
    }

    /// Refuses a program that cannot read a file in the data folder. A damaged file is no reason: any program replaces it.
    pub(crate) fn check(&self, data: &Path) -> anyhow::Result<()> {
        let containers = std::fs::read_dir(data.join("containers")).into_iter().flatten().flatten();
        let instances = containers.map(|entry| entry.path().join(INSTANCE_FILE.name));
        let files = [data.join(PLAN_FILE.name), data.join("router").join(TABLE_FILE.name)];
        for path in files.into_iter().chain(instances) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let (Some(known), Ok(content)) = (self.0.get(&*name), std::fs::read(&path)) else { continue };
            if let Ok(found) = FileSchema::version_of(&content)
                && found > *known
            {
                let path = path.display();
                fail!(
                    UpgradeRefused,
                    "{path} has schema version {found}, and the new program knows versions up to {known}"
                );
            }
        }
        Ok(())
    }
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

    /// Asks the program whether it can take over, and which files it reads. The program runs as the server does, because
    /// it reads the store.
    ///
    /// # Errors
    /// The reason why the program cannot take over.
    pub(crate) async fn query_files(
        &self,
        server: Option<&ServerProcess>,
        arguments: &[String],
    ) -> anyhow::Result<KnownFiles> {
        let path = self.path.display();
        let mut command = self.command();
        if let Some(server) = server {
            server.confine(command.as_std_mut(), self)?;
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot run the new program {path}"));
        let mut child = child.with_code(ErrorCode::UpgradeRefused)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let asked = async {
            let read = |pipe: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>| async move {
                let mut text = Vec::new();
                if let Some(pipe) = pipe {
                    let _ = pipe.take(OUTPUT_MAX).read_to_end(&mut text).await;
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
        let status = status.with_context(|| format!("cannot wait for the end of {path}"))?;
        if status.success() && out.starts_with(READY) {
            return Ok(KnownFiles::parse(&out));
        }
        let printed = [err.lines().next(), out.lines().next()].into_iter().flatten().find(|line| !line.is_empty());
        fail!(
            UpgradeRefused,
            "{path} did not confirm that it can replace the running version ({status}): {}",
            printed.unwrap_or("it printed no reason")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_program_that_cannot_read_a_file_of_this_machine() {
        let folder = tempfile::tempdir().expect("a folder");
        let instance = folder.path().join("containers/shop.v1.web-1");
        for made in [&folder.path().join("router"), &instance] {
            std::fs::create_dir_all(made).expect("made");
        }
        let earlier = KnownFiles::parse("this gantry can take over: 0.1.0");
        let known =
            KnownFiles::parse("this gantry can take over: 0.2.0\nfiles: plan.json 1, instance.json 1, table.json 2");
        for (path, newest) in [
            (folder.path().join("plan.json"), 1),
            (folder.path().join("router/table.json"), 2),
            (instance.join("instance.json"), 1),
        ] {
            let write = |content: String| std::fs::write(&path, content).expect("written");
            known.check(folder.path()).expect("no file");
            write("\0\0{ torn".to_owned());
            known.check(folder.path()).expect("a damaged file");
            for read in ["{}".to_owned(), format!(r#"{{"version":{newest}}}"#)] {
                write(read);
                known.check(folder.path()).expect("a known version");
            }
            write(format!(r#"{{"version":{}}}"#, newest + 1));
            let refused = known.check(folder.path()).expect_err("refused").to_string();
            assert!(refused.contains(&format!("knows versions up to {newest}")), "{refused}");
            earlier.check(folder.path()).expect("a program that says nothing of versions");
            std::fs::remove_file(&path).expect("removed");
        }
    }

    #[test]
    fn a_program_says_which_versions_it_knows() {
        let files = [PLAN_FILE, INSTANCE_FILE, TABLE_FILE];
        let printed = files.map(|FileSchema { name, version }| format!("{name} {version}")).join(", ");
        let known = KnownFiles::parse(&format!("{READY}: 1.0.0\n{FILES}{printed}"));
        assert_eq!(known, KnownFiles(files.map(|file| (file.name.to_owned(), file.version)).into()));
        assert_eq!(KnownFiles::parse(READY), KnownFiles(BTreeMap::new()));
    }
}
