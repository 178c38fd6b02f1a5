//! The servers as a source of a layer's parts.
//!
//! ```text
//! Usable ─ failed ─► Paused ─ resume ─► Usable
//!    └─ failed for the last time ─► GivenUp
//! ```
//! Servers that do not answer are asked again for ever, as for every other piece of an image. Servers that answer and fail
//! are given up after some tries; machines may still complete the layer.

use std::io;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use gantry_api::ClientError;
use gantry_error::ErrorChain;
use gantry_model::Digest;
use gantry_supervision::{Backoff, Retry};
use tokio::time::Instant;

use crate::exchange::cache::PartError;
use crate::exchange::receiver::RangeReceiver;
use crate::images::FetchCause;

/// Failed parts in a row after which the servers are given up. Servers that do not answer are not counted. Also the number
/// of tries in a row without a byte after which a part has failed.
const SERVER_TRIES: u32 = 3;

/// First and longest time before the servers are asked again after a failure.
const SERVER_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The failures of the servers as a source of one layer.
pub(super) struct ServerSource {
    layer: Digest,
    retry: Retry,
    /// Failed parts in a row.
    faults: u32,
    state: ServerState,
}

enum ServerState {
    Usable,
    /// The servers send no part before this time.
    Paused(Instant),
    /// The servers send no further part.
    GivenUp(FetchCause),
}

impl ServerSource {
    pub(super) fn new(layer: &Digest) -> Self {
        let backoff = Backoff::new(SERVER_PAUSE, LONGEST_PAUSE);
        let retry = Retry::new("fetch of a layer from the servers", backoff);
        Self { layer: layer.clone(), retry, faults: 0, state: ServerState::Usable }
    }

    /// Takes note of a part that has arrived and is the right one.
    pub(super) fn succeeded(&mut self) {
        self.faults = 0;
        self.retry.succeeded();
    }

    /// Takes note of a part that failed.
    pub(super) fn failed(&mut self, cause: FetchCause) {
        let is_silent = matches!(cause, FetchCause::Server(ClientError::Unreachable { .. }));
        self.faults += u32::from(!is_silent);
        let cause = self.named(cause);
        self.state = if self.faults < SERVER_TRIES {
            ServerState::Paused(Instant::now() + self.retry.failed(&cause))
        } else {
            let (layer, error) = (self.layer.short(), ErrorChain(&cause));
            tracing::warn!(layer, %error, "cannot fetch a layer from the servers; trying the next source");
            ServerState::GivenUp(cause)
        };
    }

    /// Names the layer and the servers in an error.
    fn named(&self, cause: FetchCause) -> FetchCause {
        let layer = self.layer.clone();
        match cause {
            FetchCause::Part(source @ PartError::WrongPart { .. }) => FetchCause::WrongFromServers { layer, source },
            cause => FetchCause::FromServers { layer, source: Box::new(cause) },
        }
    }

    /// The time from which the servers may send again; none unless they are paused.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        match self.state {
            ServerState::Paused(time) => Some(time),
            ServerState::Usable | ServerState::GivenUp(_) => None,
        }
    }

    /// Ends a pause.
    pub(super) fn resume(&mut self) {
        self.state = ServerState::Usable;
    }

    /// Takes the error for which the servers were given up.
    pub(super) fn take_error(&mut self) -> Option<FetchCause> {
        match std::mem::replace(&mut self.state, ServerState::Usable) {
            ServerState::GivenUp(cause) => Some(cause),
            state => {
                self.state = state;
                None
            }
        }
    }
}

/// Receives a part from the servers. `ask` asks for a range of the layer. A transfer that breaks off goes on where the
/// transfer stopped, unless several tries in a row bring no byte.
pub(super) async fn receive<F>(receiver: &mut RangeReceiver, ask: impl Fn(Range<u64>) -> F) -> Result<(), FetchCause>
where
    F: Future<Output = Result<BoxStream<'static, io::Result<Bytes>>, ClientError>>,
{
    let mut tries = 0;
    while !receiver.has_enough() {
        let before = receiver.received();
        let pieces = ask(receiver.rest()).await.map_err(FetchCause::from);
        let received = match pieces {
            Ok(pieces) => receive_pieces(receiver, pieces).await,
            Err(error) => Err(error),
        };
        let Err(cause) = received else { continue };
        tries = if receiver.received() > before { 0 } else { tries + 1 };
        // Another source may begin a part without a byte as well.
        let is_over = receiver.received() == 0 || tries >= SERVER_TRIES;
        if is_over || matches!(cause, FetchCause::Part(PartError::Disk(_))) {
            return Err(cause);
        }
        if tries > 0 {
            tokio::time::sleep(SERVER_PAUSE).await;
        }
    }
    Ok(())
}

/// Receives the pieces of one response. The client ends a transfer that falls silent.
async fn receive_pieces(
    receiver: &mut RangeReceiver,
    mut pieces: BoxStream<'static, io::Result<Bytes>>,
) -> Result<(), FetchCause> {
    while !receiver.has_enough() {
        let Some(piece) = pieces.next().await else { break };
        receiver.write(&piece.map_err(FetchCause::Broken)?).await?;
    }
    Ok(receiver.check_length()?)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use futures_util::stream;
    use gantry_blobs::DigestHasher;

    use super::*;

    const CONTENT: &[u8] = b"a part of a layer";

    fn unreachable() -> ClientError {
        ClientError::Unreachable { url: "http://s".to_owned(), source: "refused".into() }
    }

    fn broken() -> FetchCause {
        FetchCause::Broken(io::Error::other("reset"))
    }

    /// Responses of the servers: each sends some bytes and breaks off; none is no response.
    async fn receive_from(responses: &[Option<usize>]) -> (Result<(), FetchCause>, Vec<u64>) {
        let file = tokio::fs::File::from_std(tempfile::tempfile().expect("a file"));
        let range = 0..CONTENT.len() as u64;
        let mut receiver = RangeReceiver::part(file, DigestHasher::of(b"layer"), range, Arc::default());
        let asked = RefCell::new(Vec::new());
        let received = receive(&mut receiver, |range| {
            let response = responses[asked.borrow().len()];
            asked.borrow_mut().push(range.start);
            async move {
                let Some(count) = response else { return Err(unreachable()) };
                let start = usize::try_from(range.start).expect("small");
                let piece = Bytes::from_static(CONTENT).slice(start..start + count);
                Ok(stream::iter([Ok(piece), Err(io::Error::other("reset"))]).boxed())
            }
        });
        let mut received = received.await;
        if received.is_ok() {
            let wrong = |found| PartError::WrongPart { part: 0, found };
            received = receiver.finish(&DigestHasher::of(CONTENT), wrong).await.map_err(FetchCause::from);
        }
        (received, asked.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_breaks_off_goes_on_where_it_stopped() {
        let (received, asked) =
            receive_from(&[Some(5), Some(1), Some(0), None, Some(1), Some(0), None, Some(10)]).await;
        received.expect("received");
        assert_eq!(asked, [0, 5, 6, 6, 6, 7, 7, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_fails_after_tries_without_a_byte() {
        let (received, asked) = receive_from(&[Some(5), Some(0), None, Some(0)]).await;
        assert!(matches!(received, Err(FetchCause::Broken(_))), "{received:?}");
        assert_eq!(asked, [0, 5, 5, 5]);
        let (received, asked) = receive_from(&[None]).await;
        assert!(matches!(received, Err(FetchCause::Server(ClientError::Unreachable { .. }))), "{received:?}");
        assert_eq!(asked, [0], "another source may begin the part");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_servers_are_asked_again_for_ever() {
        let mut servers = ServerSource::new(&DigestHasher::of(b"layer"));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            servers.failed(FetchCause::Server(unreachable()));
            pauses.push(servers.paused_until().expect("a pause") - Instant::now());
            servers.resume();
        }
        assert_eq!((pauses[0], pauses[7]), (SERVER_PAUSE, LONGEST_PAUSE));
        servers.succeeded();
        servers.failed(broken());
        assert_eq!(servers.paused_until(), Some(Instant::now() + SERVER_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_fail_are_given_up_with_an_error_that_names_the_layer() {
        let layer = DigestHasher::of(b"layer");
        let mut servers = ServerSource::new(&layer);
        for _ in 1..SERVER_TRIES {
            servers.failed(broken());
            assert!(servers.take_error().is_none());
        }
        servers.succeeded();
        let wrong = || FetchCause::Part(PartError::WrongPart { part: 3, found: DigestHasher::of(b"other") });
        for _ in 1..SERVER_TRIES {
            servers.failed(wrong());
            assert!(servers.paused_until().is_some());
        }
        servers.failed(wrong());
        assert_eq!(servers.paused_until(), None);
        let error = servers.take_error().expect("given up").to_string();
        assert_eq!(error, format!("the servers sent wrong bytes of layer {layer}; push the image again"));
    }
}
