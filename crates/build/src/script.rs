//! Start method of `container/compile`, by the first bytes of the file. The kernel refuses some files with an unhelpful
//! error. This module refuses the same files earlier and names the cause.

use crate::text;

/// Number of bytes to inspect. The kernel reads 256 bytes of a `#!` line.
pub(crate) const HEAD: usize = 512;

/// Start method of a compile step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compile {
    /// A native executable, or a link to a program that only the image has.
    Program,
    /// A script; the kernel starts its interpreter.
    Script {
        /// The absolute path after `#!`.
        interpreter: String,
    },
    /// A script without `#!`: `/bin/sh` reads the script, as shells do for such a file.
    Shell,
}

/// Reason why a file cannot run. The text goes on after the name of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScriptError {
    #[error("is {0}; it must be a program or a script in UTF-8")]
    Encoding(&'static str),
    #[error("begins with a byte order mark, before which no `#!` is seen; save it without one")]
    ByteOrderMark,
    #[error(
        "has lines that end with CR LF, as Windows writes them; save it with LF, and add the line \
         `container/compile text eol=lf` to .gitattributes"
    )]
    CarriageReturns,
    #[error("has the interpreter {0:?}, which must be an absolute path, such as /bin/sh")]
    RelativeInterpreter(String),
    #[error("has a `#!` line that names no interpreter; write for example #!/bin/sh")]
    NoInterpreter,
}

/// Inspects the first bytes of a compile step.
///
/// # Errors
/// The reason why the file cannot run, and the remedy.
pub(crate) fn inspect(head: &[u8]) -> Result<Compile, ScriptError> {
    if head.starts_with(b"\x7fELF") {
        return Ok(Compile::Program);
    }
    if let Some(encoding) = text::foreign(head) {
        return Err(ScriptError::Encoding(encoding));
    }
    if head.starts_with(b"\xef\xbb\xbf") {
        return Err(ScriptError::ByteOrderMark);
    }
    let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if first.ends_with(b"\r") {
        return Err(ScriptError::CarriageReturns);
    }
    let Some(line) = first.strip_prefix(b"#!") else { return Ok(Compile::Shell) };
    let line = String::from_utf8_lossy(line);
    match line.split([' ', '\t']).find(|word| !word.is_empty()) {
        Some(path) if path.starts_with('/') => Ok(Compile::Script { interpreter: path.to_owned() }),
        Some(path) => Err(ScriptError::RelativeInterpreter(path.to_owned())),
        None => Err(ScriptError::NoInterpreter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_a_program_by_its_first_bytes() {
        let script = |path: &str| Compile::Script { interpreter: path.to_owned() };
        for (head, expected) in [
            (&b"#!/bin/sh -e\nmake\n"[..], script("/bin/sh")),
            (b"#! /usr/bin/env node\n", script("/usr/bin/env")),
            (b"#!/bin/sh", script("/bin/sh")),
            (b"\x7fELF\x02\x01\x01\0\0\0", Compile::Program),
            (b"echo hi\n", Compile::Shell),
            (b"", Compile::Shell),
        ] {
            assert_eq!(inspect(head), Ok(expected), "{:?}", String::from_utf8_lossy(head));
        }
        for (head, expected) in [
            (&b"#!/bin/sh\r\necho hi\r\n"[..], "CR LF"),
            (b"echo hi\r\n", "CR LF"),
            (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
            (b"\xff\xfe#\0!\0", "UTF-16"),
            (b"#!sh\n", "absolute path"),
            (b"#! \n", "names no interpreter"),
            (b"PK\x03\x04\0\0\0\0", "zero bytes"),
        ] {
            let error = inspect(head).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
