//! The installation by `gantry machine add`: of a program, or of a release tarball with the program, its unit and its manual.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use flate2::read::GzDecoder;
use gantry_error_codes::ErrorCode;

use super::survey::architecture_of;
use crate::coded::{WithCode, fail};

/// Path of the program on the machine, for both kinds.
pub(super) const PROGRAM: &str = "/usr/local/bin/gantry";

/// The service of the package, for a program in another place.
const UNIT: &str = include_str!("../../../../packaging/gantry.service");
const UNIT_PROGRAM: &str = "/usr/bin/gantry";

/// Installs the program as a whole, and only if the program runs on the machine.
const INSTALL_PROGRAM: &str = "cat >/usr/local/bin/.gantry-new && chmod 755 /usr/local/bin/.gantry-new && \
                               /usr/local/bin/.gantry-new --version && mv /usr/local/bin/.gantry-new /usr/local/bin/gantry";

/// Runs the tarball's own script, in a folder that is removed afterwards. Programs in `/tmp` may be forbidden to run.
const INSTALL_TARBALL: &str = "set -e; folder=/usr/local/.gantry-new; trap 'rm -rf $folder' EXIT; \
                               rm -rf $folder; mkdir -p $folder; tar -xzf - -C $folder; $folder/gantry-*/install";

const START_OWN_UNIT: &str = "cat >/etc/systemd/system/gantry.service && systemctl daemon-reload && \
                              systemctl enable --quiet --now gantry";

const START_INSTALLED_UNIT: &str = "systemctl enable --quiet --now gantry";

/// For machines without systemd.
const START_ALONE: &str = "setsid nohup /usr/local/bin/gantry up >>/var/log/gantry.log 2>&1 </dev/null &";

/// First bytes of a gzip file (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Number of bytes that tell the architecture of a program.
const HEAD: u64 = 64;

/// Commands of a POSIX shell, and their input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RemoteStep {
    pub(super) commands: &'static str,
    pub(super) input: Vec<u8>,
}

/// The content of a program or of a release tarball.
#[derive(Debug)]
pub(super) struct Installation {
    content: Vec<u8>,
    is_tarball: bool,
    /// The architecture as `uname -m` names it; none if there is no Linux program.
    pub(super) architecture: Option<&'static str>,
}

impl Installation {
    /// Reads a program or a tarball.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let read = std::fs::read(path).with_context(|| format!("cannot read the program {}", path.display()));
        let content = read.with_code(ErrorCode::FileUnreadable)?;
        let named = || format!("cannot read the release tarball {}", path.display());
        Self::of(content).with_context(named)
    }

    fn of(content: Vec<u8>) -> anyhow::Result<Self> {
        let is_tarball = content.starts_with(&GZIP);
        let architecture =
            if is_tarball { architecture_of(&head_of_program(&content)?) } else { architecture_of(&content) };
        Ok(Self { content, is_tarball, architecture })
    }

    /// The step that installs the program.
    pub(super) fn install(self) -> RemoteStep {
        let commands = if self.is_tarball { INSTALL_TARBALL } else { INSTALL_PROGRAM };
        RemoteStep { commands, input: self.content }
    }

    /// The step that starts the service once the machine has joined.
    pub(super) fn start(&self, has_systemd: bool) -> RemoteStep {
        match (has_systemd, self.is_tarball) {
            (false, _) => RemoteStep { commands: START_ALONE, input: Vec::new() },
            (true, true) => RemoteStep { commands: START_INSTALLED_UNIT, input: Vec::new() },
            (true, false) => {
                let unit = UNIT.replace(UNIT_PROGRAM, PROGRAM);
                RemoteStep { commands: START_OWN_UNIT, input: unit.into_bytes() }
            }
        }
    }
}

/// The first bytes of the program in a release tarball.
fn head_of_program(content: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut head = None;
    gantry_image::members(GzDecoder::new(content), anyhow::Error::from, |entry| {
        if head.is_none() && entry.path_bytes().ends_with(b"/bin/gantry") {
            let mut bytes = Vec::new();
            entry.take(HEAD).read_to_end(&mut bytes)?;
            head = Some(bytes);
        }
        Ok(())
    })
    .with_code(ErrorCode::FileUnreadable)?;
    match head {
        Some(head) => Ok(head),
        None => fail!(FileUnreadable, "it has no bin/gantry; `tools/package tarball` makes a release tarball"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::coded::code_of;

    /// A tarball with one file.
    fn tarball(path: &str, content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).expect("added");
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&builder.into_inner().expect("ended")).expect("compressed");
        gzip.finish().expect("compressed")
    }

    fn program() -> Vec<u8> {
        let mut program = vec![0; 4096];
        program[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        program[18] = 62;
        program
    }

    #[test]
    fn a_tarball_has_the_architecture_of_its_program() {
        for content in [program(), tarball("gantry-0.1.0-linux-x86_64/bin/gantry", &program())] {
            let installation = Installation::of(content.clone()).expect("readable");
            assert_eq!(installation.architecture, Some("x86_64"));
            assert_eq!(installation.install().input, content);
        }
    }

    #[test]
    fn a_tarball_without_the_program_and_a_cut_one_are_refused() {
        let whole = tarball("gantry-0.1.0-linux-x86_64/bin/gantry", &program());
        for content in [tarball("other/bin/program", &program()), whole[..whole.len() / 2].to_vec()] {
            let error = Installation::of(content).expect_err("no release tarball");
            assert_eq!(code_of(&error), Some(ErrorCode::FileUnreadable), "{error:#}");
        }
    }

    #[test]
    fn each_kind_starts_its_own_unit() {
        let bare = Installation::of(program()).expect("a program");
        let own = bare.start(true);
        let unit = String::from_utf8(own.input).expect("text");
        assert!(unit.contains("ExecStart=/usr/local/bin/gantry up") && !unit.contains("/usr/bin/"), "{unit}");
        let release = Installation::of(tarball("gantry-1-linux/bin/gantry", &program())).expect("a tarball");
        assert_eq!(release.start(true).commands, START_INSTALLED_UNIT);
        assert_eq!(bare.start(false).commands, START_ALONE);
        assert_eq!(release.start(false).commands, START_ALONE);
    }
}
