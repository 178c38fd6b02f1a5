//! Prints an error with its causes, for messages, logs and the API.
//!
//! An error's own text names the step that failed and its object. The cause is the error's source, and the text does not
//! repeat the cause. A program that prints only the outermost error would therefore hide the reason: print an
//! [`ErrorChain`] instead.

use std::error::Error;
use std::fmt;

/// An error with all its causes: `cannot start the container: cannot mount /proc: Operation not permitted`.
#[derive(Clone, Copy)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        f.write_str(&text)?;
        for cause in std::iter::successors(self.0.source(), |error| (**error).source()) {
            let next = cause.to_string();
            // Some libraries (hyper, reqwest) repeat the cause in their text.
            if !text.ends_with(&next) {
                write!(f, ": {next}")?;
            }
            text = next;
        }
        Ok(())
    }
}

impl fmt::Debug for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum StartError {
        #[error("cannot start web-1")]
        Mount(#[source] MountError),
        #[error("cannot start web-1: {0}")]
        Repeats(#[source] MountError),
        #[error("web-1 is not wanted")]
        Unwanted,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot mount /proc")]
    struct MountError(#[source] io::Error);

    fn mount_error() -> MountError {
        MountError(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn prints_every_cause_once() {
        let printed = |error: StartError| ErrorChain(&error).to_string();
        let whole = "cannot start web-1: cannot mount /proc: permission denied";
        assert_eq!(printed(StartError::Mount(mount_error())), whole);
        assert_eq!(printed(StartError::Repeats(mount_error())), whole);
        assert_eq!(printed(StartError::Unwanted), "web-1 is not wanted");
    }
}
