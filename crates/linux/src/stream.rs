//! One end of a pipe or a terminal, read and written without a blocked thread.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;

/// One end of a pipe or a terminal.
#[derive(Debug)]
pub struct NonblockingStream(AsyncFd<OwnedFd>);

impl NonblockingStream {
    /// Takes over a descriptor and makes it non-blocking, also for other processes that share its open file.
    ///
    /// # Errors
    /// When the descriptor is a regular file, which is always ready, or there are too many descriptors.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&descriptor, fcntl_getfl(&descriptor)? | OFlags::NONBLOCK)?;
        // SAFETY: the registered object owns the descriptor, so the descriptor stays open for as long as it is
        // registered.
        Ok(Self(unsafe { AsyncFd::register(descriptor) }?))
    }

    /// Waits for input and reads it; 0 bytes mean the end.
    ///
    /// # Errors
    /// Any error of the system call; a terminal returns `EIO` at its end.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|inner| Ok(rustix::io::read(inner, &mut *buffer)?)) {
                return result;
            }
        }
    }

    /// Reads the available input without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if no input is available.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// Any error of the system call: `EPIPE` when no process reads any more.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|inner| Ok(rustix::io::write(inner, bytes)?)) {
                bytes = &bytes[written?..];
            }
        }
        Ok(())
    }
}

impl AsFd for NonblockingStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn carries_more_than_a_pipe_holds_up_to_its_end() {
        let (output, input) = io::pipe().expect("a pipe");
        let (output, input) = (
            NonblockingStream::new(output.into()).expect("taken"),
            NonblockingStream::new(input.into()).expect("taken"),
        );
        let mut buffer = vec![0; 1 << 20];
        assert_eq!(output.try_read(&mut buffer).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        let sent = vec![7; 1 << 20];
        let (reading, written) = tokio::join!(
            async {
                let mut count = 0;
                while count < sent.len() {
                    count += output.read(&mut buffer).await.expect("read");
                }
                count
            },
            input.write_all(&sent)
        );
        written.expect("written");
        assert_eq!(reading, sent.len());
        drop(input);
        assert_eq!(output.read(&mut buffer).await.expect("the end"), 0);
    }
}
