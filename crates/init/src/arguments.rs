//! Command line of `gantry-init`. The sandbox is the only caller, so the form is fixed and terse:
//!
//! - `init <uid> <gid> <groups> <segment bytes> <fenced: 0 or 1> <cwd> [command…]`
//! - `shim <uid> <gid> <groups> <cwd> [command…]`
//!
//! `groups` lists the supplementary groups, separated by commas.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// The application: its user, its working directory and its command.
pub(crate) struct Application {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) cwd: PathBuf,
    /// The command. If the command is empty, pid 1 starts no application and waits for a stop signal. The sandbox runs
    /// other processes in such a container (`gantry run`).
    pub(crate) command: Vec<OsString>,
}

/// Settings of pid 1.
pub(crate) struct InitSettings {
    /// Size at which a log segment is full, in bytes.
    pub(crate) segment: u64,
    /// True if the container ends once its lease is over.
    pub(crate) fenced: bool,
    pub(crate) application: Application,
}

impl Application {
    /// Arguments for the shim, in the form that [`ProcessRole::parse`] reads.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let numbers = [self.uid.to_string(), self.gid.to_string(), groups.join(",")].map(OsString::from);
        let cwd = std::iter::once(self.cwd.clone().into());
        numbers.into_iter().chain(cwd).chain(self.command.iter().cloned()).collect()
    }
}

/// Reason why the command line is refused.
#[derive(Debug)]
pub(crate) enum ArgumentError {
    /// A person runs the program.
    ByHand,
    /// An argument is missing or no number.
    Missing(&'static str),
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByHand => f.write_str("gantry-init is pid 1 of a Gantry container and cannot be run by hand"),
            Self::Missing(what) => write!(f, "no {what}"),
        }
    }
}

impl std::error::Error for ArgumentError {}

/// Role of this process: pid 1 or pid 2.
pub(crate) enum ProcessRole {
    Init(InitSettings),
    Shim(Application),
}

impl ProcessRole {
    pub(crate) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Self, ArgumentError> {
        let mode = words.next().unwrap_or_default();
        if mode != "init" && mode != "shim" {
            return Err(ArgumentError::ByHand);
        }
        let mut next = |what: &'static str| words.next().ok_or(ArgumentError::Missing(what));
        let (uid, gid) = (number(&next("uid")?, "uid")?, number(&next("gid")?, "gid")?);
        let groups = next("groups")?;
        let groups = groups.to_str().unwrap_or("?").split(',').filter(|text| !text.is_empty());
        let groups: Result<Vec<u32>, ArgumentError> = groups.map(|text| number(OsStr::new(text), "group")).collect();
        let segment = if mode == "init" { number(&next("segment size")?, "segment size")? } else { 0 };
        let fenced = mode == "init" && number::<u8>(&next("fence")?, "fence")? != 0;
        let cwd = PathBuf::from(next("working directory")?);
        let application = Application { uid, gid, groups: groups?, cwd, command: words.collect() };
        Ok(if mode == "init" {
            Self::Init(InitSettings { segment, fenced, application })
        } else {
            Self::Shim(application)
        })
    }
}

fn number<N: std::str::FromStr>(word: &OsStr, what: &'static str) -> Result<N, ArgumentError> {
    word.to_str().and_then(|text| text.parse().ok()).ok_or(ArgumentError::Missing(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_arguments_that_init_passes_to_the_shim() {
        for groups in [vec![], vec![4], vec![4, 27, 65_535]] {
            let command = ["/bin/sh", "-c", ""].map(OsString::from).to_vec();
            let application = Application { uid: 1000, gid: 7, groups, cwd: "/srv/a b".into(), command };
            let words = std::iter::once("shim".into()).chain(application.words());
            let Ok(ProcessRole::Shim(read)) = ProcessRole::parse(words) else { panic!("not the shim's") };
            assert_eq!((read.uid, read.gid, &read.groups), (1000, 7, &application.groups));
            assert_eq!((read.cwd, read.command), (application.cwd, application.command));
        }
        let init = "init 0 0 4 1024 1 / /bin/true".split(' ').map(OsString::from);
        let Ok(ProcessRole::Init(read)) = ProcessRole::parse(init) else { panic!("not init's") };
        assert_eq!((read.segment, read.fenced, read.application.command.len()), (1024, true, 1));
        for wrong in ["shim", "shim 1 x", "shim 1 1 4,x /", "init 1 1 4 /", "init 1 1 4 1024 /", "by hand"] {
            assert!(ProcessRole::parse(wrong.split(' ').map(OsString::from)).is_err(), "{wrong}");
        }
    }
}
