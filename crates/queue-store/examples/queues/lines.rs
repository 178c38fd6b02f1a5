//! Connections to servers with protocols of lines.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::Outcome;

/// A connection. Requests go in one write, and their answers are read in order.
pub(crate) struct Lines {
    stream: BufReader<TcpStream>,
    pub(crate) requests: Vec<u8>,
}

impl Lines {
    pub(crate) async fn connect(place: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(place).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(64 << 10, stream), requests: Vec::new() })
    }

    /// Sends the requests.
    pub(crate) async fn send(&mut self) -> Outcome<()> {
        self.stream.get_mut().write_all(&self.requests).await?;
        self.requests.clear();
        Ok(())
    }

    /// The next line of the answers.
    pub(crate) async fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        Ok(line.trim_end().to_owned())
    }

    /// The next `length` bytes of the answers, and their line end.
    pub(crate) async fn bytes(&mut self, length: usize) -> Outcome<Vec<u8>> {
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes).await?;
        bytes.truncate(length);
        Ok(bytes)
    }
}
