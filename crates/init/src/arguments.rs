//! Command line of `gantry-init`. The sandbox is the only caller, so the form is fixed and terse:
//!
//! `init <uid> <gid> <groups> <segment bytes> <fenced: 0 or 1> <durable: 0 or 1> <cwd> [command…]`
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
    /// True if the exit record is on the disk before the container ends.
    pub(crate) durable: bool,
    pub(crate) application: Application,
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

impl InitSettings {
    pub(crate) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Self, ArgumentError> {
        if words.next().unwrap_or_default() != "init" {
            return Err(ArgumentError::ByHand);
        }
        let mut next = |what: &'static str| words.next().ok_or(ArgumentError::Missing(what));
        let (uid, gid) = (number(&next("uid")?, "uid")?, number(&next("gid")?, "gid")?);
        let groups = next("groups")?;
        let groups = groups.to_str().unwrap_or("?").split(',').filter(|text| !text.is_empty());
        let groups: Result<Vec<u32>, ArgumentError> = groups.map(|text| number(OsStr::new(text), "group")).collect();
        let segment = number(&next("segment size")?, "segment size")?;
        let fenced = number::<u8>(&next("fence")?, "fence")? != 0;
        let durable = number::<u8>(&next("durability")?, "durability")? != 0;
        let cwd = PathBuf::from(next("working directory")?);
        let application = Application { uid, gid, groups: groups?, cwd, command: words.collect() };
        Ok(Self { segment, fenced, durable, application })
    }
}

fn number<N: std::str::FromStr>(word: &OsStr, what: &'static str) -> Result<N, ArgumentError> {
    word.to_str().and_then(|text| text.parse().ok()).ok_or(ArgumentError::Missing(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<InitSettings, ArgumentError> {
        InitSettings::parse(words.split(' ').map(OsString::from))
    }

    #[test]
    fn parses_what_the_sandbox_passes() {
        let read = parse("init 1000 7 4,27,65535 1024 1 0 /srv /bin/sh -c ").expect("parsed");
        let application = &read.application;
        assert_eq!((application.uid, application.gid, &application.groups[..]), (1000, 7, &[4, 27, 65_535][..]));
        assert_eq!((application.cwd.to_str(), application.command.len()), (Some("/srv"), 3));
        assert_eq!((read.segment, read.fenced, read.durable), (1024, true, false));
        let idle = parse("init 0 0  1024 0 1 /").expect("parsed");
        assert!(idle.application.groups.is_empty() && idle.application.command.is_empty() && idle.durable);
    }

    #[test]
    fn refuses_any_other_command_line() {
        let wrong = [
            "shim 1 1 4 /",
            "init 1 x",
            "init 1 1 4,x 1024 0 0 /",
            "init 1 1 4 1024 0 /",
            "init 1 1 4 1024 1",
            "by hand",
        ];
        for wrong in wrong {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
