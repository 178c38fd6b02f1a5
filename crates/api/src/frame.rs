//! Frames of a session: `kind (1 octet) | length (4 octets, big-endian) | payload`, in both directions.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest payload of a frame.
pub const PAYLOAD_MAX: u32 = 64 << 10;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Standard input, from the client.
    Input(Vec<u8>),
    /// End of the input.
    InputEnd,
    /// Size of the terminal: columns, rows.
    Size(u16, u16),
    /// Standard output.
    Output(Vec<u8>),
    /// Standard error.
    Error(Vec<u8>),
    /// Exit status of the process. The last frame.
    Exit(i32),
    /// Cause of a failed session. The last frame.
    Failed(String),
    /// Result of work on volumes, as JSON; several frames if it is long.
    Answer(Vec<u8>),
}

impl Frame {
    fn parts(&self) -> (u8, std::borrow::Cow<'_, [u8]>) {
        match self {
            Self::Input(bytes) => (0, bytes.into()),
            Self::InputEnd => (1, (&[][..]).into()),
            Self::Size(columns, rows) => {
                let [a, b] = columns.to_be_bytes();
                let [c, d] = rows.to_be_bytes();
                (2, vec![a, b, c, d].into())
            }
            Self::Output(bytes) => (3, bytes.into()),
            Self::Error(bytes) => (4, bytes.into()),
            Self::Exit(status) => (5, status.to_be_bytes().to_vec().into()),
            Self::Failed(text) => (6, text.as_bytes().into()),
            Self::Answer(text) => (7, text.into()),
        }
    }

    fn from_parts(kind: u8, payload: Vec<u8>) -> Option<Self> {
        Some(match kind {
            0 => Self::Input(payload),
            1 => Self::InputEnd,
            2 => {
                let [a, b, c, d] = payload.try_into().ok()?;
                Self::Size(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
            }
            3 => Self::Output(payload),
            4 => Self::Error(payload),
            5 => Self::Exit(i32::from_be_bytes(payload.try_into().ok()?)),
            6 => Self::Failed(String::from_utf8_lossy(&payload).into_owned()),
            7 => Self::Answer(payload),
            _ => return None,
        })
    }

    /// Writes the frame. A payload longer than [`PAYLOAD_MAX`] becomes several frames.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (kind, payload) = self.parts();
        let mut rest = &payload[..];
        loop {
            let (now, later) = rest.split_at(rest.len().min(PAYLOAD_MAX as usize));
            to.write_u8(kind).await?;
            to.write_u32(u32::try_from(now.len()).unwrap_or(PAYLOAD_MAX)).await?;
            to.write_all(now).await?;
            rest = later;
            if rest.is_empty() {
                return to.flush().await;
            }
        }
    }

    /// Reads the next frame; `None` at the end of the connection.
    ///
    /// # Errors
    /// When the connection fails or the bytes are not a valid frame.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let kind = match from.read_u8().await {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = from.read_u32().await?;
        if length > PAYLOAD_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
        }
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload).await?;
        Self::from_parts(kind, payload)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("a frame of kind {kind}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let frames = [
            Frame::Input(b"ls\n".to_vec()),
            Frame::InputEnd,
            Frame::Size(80, 24),
            Frame::Error(vec![0xff; 10]),
            Frame::Exit(-1),
            Frame::Failed("why".into()),
            Frame::Answer(b"{}".to_vec()),
        ];
        for frame in &frames {
            frame.write(&mut near).await.expect("written");
        }
        Frame::Output(vec![1; 100_000]).write(&mut near).await.expect("written");
        drop(near);
        for frame in frames {
            assert_eq!(Frame::read(&mut far).await.expect("read"), Some(frame));
        }
        let mut rest = 0;
        while let Some(Frame::Output(bytes)) = Frame::read(&mut far).await.expect("read") {
            rest += bytes.len();
        }
        assert_eq!(rest, 100_000);
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        for bytes in [&[3, 0xff, 0xff, 0xff, 0xff][..], &[9, 0, 0, 0, 0], &[2, 0, 0, 0, 1, 0], &[5, 0, 0, 0, 9]] {
            let mut bytes = bytes;
            assert!(Frame::read(&mut bytes).await.is_err());
        }
    }
}
