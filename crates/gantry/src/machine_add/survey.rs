//! State of a machine before the machine joins, and the check that the machine can join. Pure.

use gantry_error_codes::ErrorCode;

use crate::coded::{coded, fail, require};

/// Commands of a POSIX shell that describe the machine, one fact a line.
pub(super) const COMMANDS: &str = r#"PATH=$PATH:/usr/sbin:/sbin
echo "user=$(id -u)"
echo "architecture=$(uname -m)"
if [ -e /var/lib/gantry/cluster/identity.json ]; then echo state=member; fi
if [ -e /var/lib/gantry/server/store.db ]; then echo state=cloud; fi
if [ -d /run/systemd/system ]; then echo systemd=yes; fi
for program in git ip nft pgrep setsid; do
  command -v $program >/dev/null || echo "missing=$program"
done"#;

/// The machine as its own commands describe it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    is_root: bool,
    architecture: String,
    /// The machine belongs to a cluster.
    is_member: bool,
    /// The machine has a cloud of its own.
    has_cloud: bool,
    pub(super) has_systemd: bool,
    missing: Vec<String>,
}

impl Survey {
    /// Reads what [`COMMANDS`] wrote. A shell's start files may write lines of their own.
    pub(super) fn parse(text: &str) -> Self {
        let mut survey = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.trim_end().split_once('=')) {
            match (key, value) {
                ("user", user) => survey.is_root = user == "0",
                ("architecture", architecture) => architecture.clone_into(&mut survey.architecture),
                ("state", "member") => survey.is_member = true,
                ("state", "cloud") => survey.has_cloud = true,
                ("systemd", "yes") => survey.has_systemd = true,
                ("missing", program) => survey.missing.push(program.to_owned()),
                _ => {}
            }
        }
        survey
    }

    /// Fails if the machine cannot join with a program for an architecture.
    pub(super) fn check(&self, program: Option<&str>, target: &str) -> anyhow::Result<()> {
        require!(
            self.is_root,
            RootRequired,
            "the user of {target} is not root, and Gantry needs root there; name root as the user: root@HOST"
        );
        let Some(program) = program else {
            fail!(WrongArchitecture, "the program is not a 64-bit Linux program; name such a program with --program");
        };
        require!(
            self.architecture == program,
            WrongArchitecture,
            "{target} is a machine for {}, and the program is for {program}; name a program for the machine with --program",
            self.architecture
        );
        require!(
            !self.is_member,
            MachineIsMember,
            "{target} belongs to a cluster already; start it there with `gantry up`, or see `gantry machine ls`"
        );
        require!(
            !self.has_cloud,
            StoreExists,
            "{target} has a cloud of its own, whose records are in /var/lib/gantry/server; move the folder away first"
        );
        if self.missing.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{target} lacks {}; on Debian: apt-get install git iproute2 nftables procps util-linux",
            self.missing.join(", ")
        );
        Err(coded(ErrorCode::ProgramsMissing, message))
    }
}

/// The architecture of an ELF program as `uname -m` names it; `None` if it is no such program of Linux.
pub(super) fn architecture_of(program: &[u8]) -> Option<&'static str> {
    // A little-endian file of 64 bits (ELF-64 Object File Format, "ELF Header").
    let rest = program.strip_prefix(b"\x7fELF\x02\x01")?;
    match rest.get(12..14)? {
        [62, 0] => Some("x86_64"),
        [183, 0] => Some("aarch64"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coded::code_of;

    const GOOD: &str = "motd=hello\nuser=0\narchitecture=x86_64\nsystemd=yes\n";

    #[test]
    fn each_obstacle_has_its_code() {
        let check = |text: &str| Survey::parse(text).check(Some("x86_64"), "root@m5");
        check(GOOD).expect("it can join");
        assert!(Survey::parse(GOOD).has_systemd);
        for (text, code) in [
            (GOOD.replace("user=0", "user=1000"), ErrorCode::RootRequired),
            (String::new(), ErrorCode::RootRequired),
            (GOOD.replace("x86_64", "aarch64"), ErrorCode::WrongArchitecture),
            (format!("{GOOD}state=member\nstate=cloud\n"), ErrorCode::MachineIsMember),
            (format!("{GOOD}state=cloud\n"), ErrorCode::StoreExists),
            (format!("{GOOD}missing=nft\nmissing=git\n"), ErrorCode::ProgramsMissing),
        ] {
            let error = check(&text).expect_err(&text);
            assert_eq!(code_of(&error), Some(code), "{error:#}");
        }
        let missing = check(&format!("{GOOD}missing=nft\nmissing=git\n")).expect_err("missing").to_string();
        assert!(missing.contains("lacks nft, git"), "{missing}");
    }

    #[test]
    fn a_program_tells_its_architecture() {
        let own = std::fs::read(std::env::current_exe().expect("this program")).expect("read");
        assert_eq!(architecture_of(&own), Some(std::env::consts::ARCH));
        for other in [&b"#!/bin/sh"[..], b"\x7fELF\x02\x01", b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0", b""]
        {
            assert_eq!(architecture_of(other), None);
        }
    }
}
