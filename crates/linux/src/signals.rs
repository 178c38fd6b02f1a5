//! Signals of a process with one thread, read from a descriptor instead of being handled.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

/// Size of the kernel's record of a signal (`struct signalfd_siginfo`). The record begins with the signal's number.
const RECORD: usize = 128;

/// Signals of this process that wait until [`SignalReader::take`] reads them. The signals are blocked: they interrupt
/// nothing, and the kernel keeps them for a pid 1, too.
#[derive(Debug)]
pub struct SignalReader(OwnedFd);

impl SignalReader {
    /// Blocks the signals, and opens a descriptor that becomes readable when one of them arrives.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn block(signals: &[Signal]) -> std::io::Result<Self> {
        let set = set_of(signals);
        // SAFETY: the set is initialized and lives through both calls.
        let descriptor = unsafe {
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened the descriptor for this call.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Returns the signals that arrived since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<Signal> {
        let mut records = [0; RECORD * 16];
        let length = rustix::io::read(&self.0, &mut records).unwrap_or_default();
        let number = |record: &[u8]| Some(i32::from_ne_bytes(record.get(..4)?.try_into().ok()?));
        records[..length].chunks(RECORD).filter_map(number).filter_map(Signal::from_named_raw).collect()
    }
}

impl AsFd for SignalReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Unblocks every signal of this process, as a program expects at its start.
pub fn unblock_all() {
    let set = set_of(&[]);
    // SAFETY: the set is initialized and lives through the call.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the first call initializes the set; the others change it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends to the test's own thread, because the other tests' threads do not block the signal.
    #[test]
    fn a_blocked_signal_is_read_once() {
        let reader = SignalReader::block(&[Signal::USR2]).expect("a descriptor");
        assert_eq!(reader.take(), []);
        // SAFETY: the call sends a blocked signal to the calling thread.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) }, 0);
        assert_eq!(reader.take(), [Signal::USR2]);
        assert_eq!(reader.take(), []);
    }
}
