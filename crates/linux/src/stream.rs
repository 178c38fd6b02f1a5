//! A pipe or a terminal's end, read and written without a thread that waits.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;

/// One end of a pipe or terminal.
#[derive(Debug)]
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// Takes a descriptor on; whatever shares its open file no longer waits on it either.
    ///
    /// # Errors
    /// When it is a file, which is always ready, or there is no more room for descriptors.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&descriptor, fcntl_getfl(&descriptor)? | OFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned by what is registered, so it stays open for as long as it is watched.
        Ok(Self(unsafe { AsyncFd::register(descriptor) }?))
    }

    /// Reads what there is, once there is something; 0 at the end.
    ///
    /// # Errors
    /// What the kernel said; a terminal says `EIO` at its end.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|inner| Ok(rustix::io::read(inner, &mut *buffer)?)) {
                return result;
            }
        }
    }

    /// Reads what there is now.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }

    /// Writes everything.
    ///
    /// # Errors
    /// What the kernel said: `EPIPE` when nobody reads any more.
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

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_than_a_pipe_holds_goes_through_and_its_end_is_seen() {
        let (output, input) = io::pipe().expect("a pipe");
        let (output, input) = (Stream::new(output.into()).expect("taken"), Stream::new(input.into()).expect("taken"));
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
