//! Layers of images for agents of other machines.
//!
//! The agent of this machine puts each layer into a folder once it has verified the layer's digest. The router reads the
//! folder and sends a layer as it is. The receiver verifies the digest again, so a damaged file costs a transfer and no
//! more. The request is one digest and two numbers; the digest is parsed before it becomes part of a path.

use std::io::{self, SeekFrom};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;

use crate::exchange::router_state::RouterState;
use crate::http2::body::Http2Writer;
use crate::tunnel::wire::{LayerRequest, TunnelRefusal};

/// Maximum number of layers that a router sends at once: more than the servers ask of a machine, because a new leader
/// may not know yet of transfers under way.
pub(crate) const UPLOADS_MAX: usize = 8;

/// Longest time for which a receiver may take nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Size of one read.
const PIECE: usize = 256 << 10;

/// An opened layer, from the requested offset on.
pub(super) struct OpenLayer {
    file: File,
    /// Number of bytes to send.
    pub(super) length: u64,
    _permit: OwnedSemaphorePermit,
}

/// Opens a layer. A refusal has its reason.
pub(super) async fn open(router: &RouterState, layer: &LayerRequest) -> Result<OpenLayer, (TunnelRefusal, String)> {
    let permit = std::sync::Arc::clone(&router.uploads).try_acquire_owned();
    let permit = permit.map_err(|_| (TunnelRefusal::Busy, format!("{UPLOADS_MAX} layers are being sent")))?;
    let path = router.settings.layers.join(layer.digest.hex());
    let missing = |error: io::Error| {
        (TunnelRefusal::Unknown, format!("this machine cannot read layer {}: {error}", layer.digest.short()))
    };
    let mut options = tokio::fs::OpenOptions::new();
    options.read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let mut file = options.open(&path).await.map_err(missing)?;
    let size = file.metadata().await.map_err(missing)?.len();
    let Some(rest) = size.checked_sub(layer.offset) else {
        return Err((TunnelRefusal::Unknown, format!("layer {} has {size} bytes", layer.digest.short())));
    };
    let length = layer.length.map_or(rest, |length| length.min(rest));
    file.seek(SeekFrom::Start(layer.offset)).await.map_err(missing)?;
    Ok(OpenLayer { file, length, _permit: permit })
}

impl OpenLayer {
    /// Sends the layer. The receiver of a part sees the stream reset, and no end.
    pub(super) async fn send(mut self, mut receiver: Http2Writer) {
        let mut piece = vec![0; PIECE];
        let mut left = self.length;
        while left > 0 {
            let read_size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = match self.file.read(&mut piece[..read_size]).await {
                Ok(read) if read > 0 => read,
                _ => return,
            };
            let sent = tokio::time::timeout(STALL_TIMEOUT, receiver.write_all(&piece[..read])).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
            left -= read as u64;
        }
        let _ = receiver.shutdown().await;
    }
}
