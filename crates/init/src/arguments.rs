//! What init is told. Its one caller is the sandbox, so the form is fixed and terse:
//! `init <uid> <gid> <segment bytes> <cwd> [command…]` and `shim [command…]`.

use std::ffi::OsString;
use std::path::PathBuf;

/// What pid 1 needs to know.
pub(crate) struct Settings {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Where the application starts.
    pub(crate) cwd: PathBuf,
    /// The size at which a segment of the log is full.
    pub(crate) segment: u64,
    /// Empty: nothing is started, and the container waits to be told to end; others are run in it.
    pub(crate) command: Vec<OsString>,
}

/// Which of the two processes this is.
pub(crate) enum Mode {
    Init(Settings),
    Shim { command: Vec<OsString> },
}

impl Mode {
    pub(crate) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mode = words.next().unwrap_or_default();
        if mode == "shim" {
            return Ok(Self::Shim { command: words.collect() });
        }
        if mode != "init" {
            return Err("this is pid 1 of a Gantry container and not for use by hand".to_owned());
        }
        let mut number = |what: &str| -> Result<u64, String> {
            let word = words.next().unwrap_or_default();
            word.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| format!("no {what}"))
        };
        let id = |number: u64, what| u32::try_from(number).map_err(|_| format!("no {what}"));
        let (uid, gid, segment) = (number("uid")?, number("gid")?, number("segment size")?);
        let cwd = PathBuf::from(words.next().ok_or("no working directory")?);
        let (uid, gid) = (id(uid, "uid")?, id(gid, "gid")?);
        Ok(Self::Init(Settings { uid, gid, cwd, segment, command: words.collect() }))
    }
}
