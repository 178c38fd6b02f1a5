//! Remedies for failures that a program's last output reveals.

use crate::AppName;

/// Pairs of a text in a program's last lines and the remedy for it.
const REMEDIES: [(&str, &str); 18] = [
    ("ModuleNotFoundError", MISSING),
    ("Cannot find module", MISSING),
    ("cannot load such file", MISSING),
    ("ClassNotFoundException", MISSING),
    ("cannot open shared object file", "add the package that has this library to the base"),
    ("ddress already in use", "another process in the container uses that port; listen on $PORT once"),
    ("getaddrinfo", NAME),
    ("Name or service not known", NAME),
    ("Temporary failure in name resolution", NAME),
    ("could not translate host name", NAME),
    ("no such host", NAME),
    ("No space left on device", "the disk or volume is full; `gantry status` shows what uses the machine's disk"),
    ("ENOSPC", "the disk or volume is full; `gantry status` shows what uses the machine's disk"),
    ("Permission denied", NO_RIGHT),
    ("PermissionError", NO_RIGHT),
    ("EACCES", NO_RIGHT),
    ("Read-only file system", READ_ONLY),
    ("EROFS", READ_ONLY),
];

const MISSING: &str = "install it in container/compile, or in the base";

const NAME: &str = "only ready instances have DNS names; run `gantry why APP` for the app behind that name";

const NO_RIGHT: &str = "its user has no right to do that; /tmp and the volumes of the role are writable";

const READ_ONLY: &str = "that folder is read-only in a container; /tmp and the volumes of the role are writable";

/// Parts of lines, in lower case, with which programs report a certificate of an authority that they do not trust. From
/// OpenSSL (curl, Ruby, PHP, Python and pip), npm, GnuTLS (git, apt), wget, Go, Java, Rust and .NET.
const UNTRUSTED: [&str; 15] = [
    "certificate verify failed",
    "certificate verification failed",
    "ssl certificate problem",
    "self-signed certificate",
    "self signed certificate",
    "self_signed_cert",
    "unable to get local issuer",
    "unable_to_get_issuer_cert",
    "unable to verify the first certificate",
    "unable_to_verify_leaf_signature",
    "unable to locally verify the issuer",
    "certificate signed by unknown authority",
    "pkix path building failed",
    "unknownissuer",
    "untrustedroot",
];

/// Parts of such lines, in lower case, that name another fault of a certificate.
const OTHER_FAULTS: [&str; 6] =
    ["expired", "not yet valid", "mismatch", "not valid for", "does not match", "doesn't match"];

const AUTHORITY: &str = "the certificate is of an authority that the base does not trust; `gantry docs howto-company-ca` shows how to add the authority";

/// Reports whether a line says that a certificate is of an unknown authority.
fn names_unknown_authority(line: &str) -> bool {
    let line = line.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| line.contains(part));
    has(&UNTRUSTED) && !has(&OTHER_FAULTS)
}

/// Returns the remedy for a certificate of an unknown authority, if one of the last lines reports such a certificate.
#[must_use]
pub fn of_unknown_authority(tail: &[String]) -> Option<&'static str> {
    tail.iter().any(|line| names_unknown_authority(line)).then_some(AUTHORITY)
}

/// Texts that stand beside the name of a missing setting.
const UNSET: [&str; 8] = [
    "KeyError",
    "key not found",
    "unbound variable",
    "parameter not set",
    "parameter null or not set",
    "not set",
    "is required",
    "environment variable",
];

/// Returns the setting that the line reports as missing. Such names are in capitals and contain an underscore.
fn missing_setting(line: &str) -> Option<&str> {
    let is_name = |word: &&str| {
        word.len() > 3
            && word.contains('_')
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    UNSET.iter().any(|text| line.contains(text)).then_some(())?;
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').find(is_name)
}

/// The program before `complaint` at the end of a line: `sh: 1: bin/server: Permission denied`.
fn program_before<'a>(line: &'a str, complaint: &str) -> Option<&'a str> {
    let before = line.trim_end().strip_suffix(complaint)?;
    let program = before.rsplit(": ").next()?.trim_matches(['\'', '"', '‘', '’']);
    (!program.is_empty() && !program.contains(char::is_whitespace)).then_some(program)
}

/// Remedy for a program that a shell or `env` could not run.
fn not_run(code: i32, line: &str) -> Option<String> {
    let before = |complaint| program_before(line, complaint);
    match code {
        126 => {
            let wrong = |program| {
                let processor = std::env::consts::ARCH;
                format!(
                    "build {program} for this machine's processor ({processor}); a script needs a first line such as #!/bin/sh"
                )
            };
            let mode = |program| {
                format!(
                    "make it executable: chmod +x {program}, or git update-index --chmod=+x {program}, and push again"
                )
            };
            let denied = before(": Permission denied").filter(|program| program.contains('/'));
            before(": Exec format error").map(wrong).or_else(|| denied.map(mode))
        }
        127 => {
            let of_env = || before(": No such file or directory").filter(|_| line.contains("env: "));
            let program = before(": not found").or_else(|| before(": command not found")).or_else(of_env)?;
            if let Some(name) = program.strip_suffix("\\r").or_else(|| program.strip_suffix('\r')) {
                return Some(format!(
                    "the script that names {name} has lines that end with CR LF; let them end with LF"
                ));
            }
            Some(match program {
                "sudo" => "run the command without sudo: a container has no root rights to gain".to_owned(),
                path if path.contains('/') => format!(
                    "check that the image has {path}; a script also needs the interpreter of its first line, and lines that end with LF, not CR LF"
                ),
                name => format!(
                    "if {name} is spelled right, add the package that has {name} to the base, or install {name} in container/compile"
                ),
            })
        }
        _ => None,
    }
}

/// The program whose output suggests a remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program<'a> {
    /// A process of an app, with the app's configuration. `None` if the app is not known.
    Process(Option<&'a AppName>),
    /// The compile step of a build, which has no configuration.
    CompileStep,
}

impl Program<'_> {
    /// Remedy for a setting that the program misses.
    fn set(self, name: &str) -> String {
        match self {
            Self::Process(app) => format!("set {name} with `gantry config set {} {name}=VALUE`", in_command(app)),
            Self::CompileStep => format!("set {name} in container/compile, which sees none of the app's configuration"),
        }
    }
}

/// The name of an app in a command line.
pub(crate) fn in_command(app: Option<&AppName>) -> &str {
    app.map_or("APP", AppName::as_str)
}

/// Returns the remedy that the last lines of a failed program suggest. Later lines decide before earlier ones.
#[must_use]
pub fn of_output(program: Program<'_>, code: Option<i32>, tail: &[String]) -> Option<String> {
    let known = |line: &String| {
        let not_run = not_run(code.unwrap_or_default(), line);
        let authority = || names_unknown_authority(line).then(|| AUTHORITY.to_owned());
        let setting = || missing_setting(line).map(|name| program.set(name));
        let text = || REMEDIES.iter().find(|(text, _)| line.contains(text)).map(|(_, remedy)| (*remedy).to_owned());
        // A shell's complaint about a program is not one about a file.
        not_run.or_else(authority).or_else(setting).or_else(|| text().filter(|_| code != Some(126)))
    };
    tail.iter().rev().find_map(known).filter(|_| code != Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_output_suggests_a_remedy() {
        for (code, line, expected) in [
            (127, "/bin/sh: 1: exec: gunicorn: not found", Some("add the package that has gunicorn to the base")),
            (127, "bin/start: line 3: npm: command not found", Some("install npm in container/compile")),
            (127, "/usr/bin/env: 'ruby': No such file or directory", Some("add the package that has ruby")),
            (127, "/usr/bin/env: ‘node\\r’: No such file or directory", Some("end with CR LF; let them end with LF")),
            (127, "/bin/sh: 1: exec: bin/s: not found", Some("check that the image has bin/s; a script also needs")),
            (127, "/bin/sh: 1: sudo: not found", Some("without sudo")),
            (126, "/bin/sh: 1: exec: bin/s: Exec format error", Some("build bin/s for this machine's processor")),
            (126, "/bin/sh: 1: exec: bin/s: Permission denied", Some("chmod +x bin/s")),
            (126, "sh: 1: two words: Permission denied", None),
            (1, "touch: cannot touch '/etc/x': Permission denied", Some("/tmp and the volumes of the role")),
            (1, "PermissionError: [Errno 13] Permission denied: '/srv'", Some("/tmp and the volumes of the role")),
            (1, "OSError: [Errno 30] Read-only file system: '/proc/x'", Some("read-only in a container")),
            (1, "ssl.SSLCertVerificationError: certificate verify failed: certificate has expired (_ssl.c:1006)", None),
            (1, "KeyError: 'SECRET_KEY'", Some("set SECRET_KEY with")),
            (0, "KeyError: 'SECRET_KEY'", None),
            (1, "page: not found", None),
        ] {
            let found = of_output(Program::Process(None), Some(code), &[line.to_owned()]);
            match expected {
                Some(expected) => {
                    assert!(found.as_ref().is_some_and(|found| found.contains(expected)), "{line}: {found:?}")
                }
                None => assert_eq!(found, None, "{line}"),
            }
        }
    }

    #[test]
    fn a_missing_setting_is_set_where_the_program_sees_it() {
        let tail = ["KeyError: 'SECRET_KEY'".to_owned()];
        let shop = AppName::parse("shop").expect("a name");
        for (program, expected) in [
            (Program::Process(Some(&shop)), "set SECRET_KEY with `gantry config set shop SECRET_KEY=VALUE`"),
            (Program::Process(None), "set SECRET_KEY with `gantry config set APP SECRET_KEY=VALUE`"),
            (Program::CompileStep, "set SECRET_KEY in container/compile, which sees none of the app's configuration"),
        ] {
            assert_eq!(of_output(program, Some(1), &tail).as_deref(), Some(expected));
        }
    }

    #[test]
    fn an_unknown_authority_suggests_the_page_about_authorities() {
        for line in [
            // pip, after which pip only says that no version matches.
            "Could not fetch URL https://pypi.corp/simple/flask/: There was a problem confirming the ssl certificate: HTTPSConnectionPool(host='pypi.corp', port=443): Max retries exceeded with url: /simple/flask/ (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:1006)'))) - skipping",
            "npm error code SELF_SIGNED_CERT_IN_CHAIN",
            "npm ERR! request to https://npm.corp/x failed, reason: unable to get local issuer certificate",
            "curl: (60) SSL certificate problem: self-signed certificate in certificate chain",
            "fatal: unable to access 'https://git.corp/x/': server certificate verification failed. CAfile: none CRLfile: none",
            "Err:1 https://apt.corp bookworm InRelease  Certificate verification failed: The certificate is NOT trusted. The certificate issuer is unknown.",
            "Get \"https://proxy.corp/x\": tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "PKIX path building failed: unable to find valid certification path to requested target",
            "invalid peer certificate: UnknownIssuer",
        ] {
            let tail = [line, "ERROR: No matching distribution found for flask"].map(str::to_owned);
            for program in [Program::CompileStep, Program::Process(None)] {
                assert_eq!(of_output(program, Some(1), &tail).as_deref(), Some(AUTHORITY), "{line}");
            }
            assert_eq!(of_unknown_authority(&tail), Some(AUTHORITY), "{line}");
        }
        let expired = ["curl: (60) SSL certificate problem: certificate has expired".to_owned()];
        assert_eq!(of_output(Program::CompileStep, Some(60), &expired), None);
        assert_eq!(of_unknown_authority(&expired), None);
    }
}
