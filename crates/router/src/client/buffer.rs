//! Buffering of request bodies before an instance is chosen, so that a slow client occupies no instance.
//!
//! A body that arrived together with its head stays in the read buffer. The pieces of a slower body are copied, because
//! each piece would keep its whole read buffer alive. A [`BufferBudget`] bounds the memory of all clients' bodies. If the
//! budget is used up, or a body is longer than its role allows, the router sends the buffered part and streams the
//! rest.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Body;

use crate::trailers;

/// Maximum memory of all buffered bodies, in bytes.
const BUDGET: usize = 32 << 20;

/// Initial buffer size of a body that arrives in pieces.
const INITIAL_CAPACITY: usize = 256;

/// Memory budget that all buffered bodies share.
pub(crate) struct BufferBudget {
    used: AtomicUsize,
    most: usize,
}

impl Default for BufferBudget {
    fn default() -> Self {
        Self { used: AtomicUsize::new(0), most: BUDGET }
    }
}

/// Share of one body in the budget, returned on drop.
pub(crate) struct BudgetShare {
    budget: Arc<BufferBudget>,
    bytes: usize,
}

impl BudgetShare {
    pub(crate) fn none(budget: &Arc<BufferBudget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Takes more of the budget; returns false if the budget is used up.
    fn grow(&mut self, bytes: usize) -> bool {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.budget.most;
        if fits {
            self.bytes += bytes;
        } else {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Returns a part of the share to the budget.
    fn shrink(&mut self, bytes: usize) {
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }

    /// Takes an equal share for a copy of the body. The copy uses the same memory, so this share may exceed the budget.
    fn again(&self) -> Self {
        self.budget.used.fetch_add(self.bytes, Ordering::Relaxed);
        Self { budget: Arc::clone(&self.budget), bytes: self.bytes }
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Complete, buffered body.
pub(crate) struct BufferedBody {
    pub(crate) data: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    share: BudgetShare,
}

impl BufferedBody {
    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// Copies the body for a second attempt.
    pub(crate) fn again(&self) -> Self {
        Self { data: self.data.clone(), trailers: self.trailers.clone(), share: self.share.again() }
    }
}

/// Buffered beginning of a body whose rest is still to come.
pub(crate) struct BodyStart {
    pub(crate) pieces: VecDeque<Bytes>,
    pub(crate) trailers: Option<HeaderMap>,
    _share: BudgetShare,
}

/// Result of buffering.
pub(crate) enum BufferOutcome {
    Complete(BufferedBody),
    /// The body does not fit the limits.
    Partial(BodyStart),
}

/// A body that is being buffered.
pub(crate) struct BodyBuffer {
    most: usize,
    /// The first piece, kept without a copy until the body proves to be slow or longer.
    first: Bytes,
    /// Copy of all pieces, from the second piece or the first wait on.
    all: Vec<u8>,
    trailers: Option<HeaderMap>,
    share: BudgetShare,
}

impl BodyBuffer {
    pub(crate) fn new(most: usize, budget: &Arc<BufferBudget>) -> Self {
        Self { most, first: Bytes::new(), all: Vec::new(), trailers: None, share: BudgetShare::none(budget) }
    }

    /// Resolves once the body is complete, or may not be buffered any further. Calls `on_progress` for each piece.
    pub(crate) fn poll<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        body: &mut B,
        on_progress: impl Fn(),
        cx: &mut Context<'_>,
    ) -> Poll<Result<BufferOutcome, B::Error>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                // The body is slow: copy the first piece, which would otherwise keep its whole read buffer alive.
                let first = std::mem::take(&mut self.first);
                if !self.add(&first) {
                    return Poll::Ready(Ok(self.begun(first)));
                }
                self.share.shrink(first.len());
                return Poll::Pending;
            };
            let Some(frame) = frame.transpose()? else { return Poll::Ready(Ok(self.whole())) };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    on_progress();
                    if !self.take(&data) {
                        return Poll::Ready(Ok(self.begun(data)));
                    }
                }
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    trailers::keep_allowed(&mut trailers);
                    self.trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
                }
            }
            if body.is_end_stream() {
                return Poll::Ready(Ok(self.whole()));
            }
        }
    }

    /// Adds a piece; returns false if the piece does not fit.
    fn take(&mut self, data: &Bytes) -> bool {
        if self.first.len() + self.all.len() + data.len() > self.most {
            return false;
        }
        if self.first.is_empty() && self.all.is_empty() && self.share.grow(data.len()) {
            self.first = data.clone();
            return true;
        }
        let first = self.first.clone();
        let fits = self.add(&first);
        if fits {
            self.first = Bytes::new();
            self.share.shrink(first.len());
        }
        fits && self.add(data)
    }

    /// Appends a copy to the buffer.
    fn add(&mut self, data: &[u8]) -> bool {
        let (length, room) = (self.all.len() + data.len(), self.all.capacity());
        if length > room {
            let wanted = length.max(room * 2).max(INITIAL_CAPACITY).min(self.most.max(length));
            if !self.share.grow(wanted - room) {
                return false;
            }
            self.all.reserve_exact(wanted - self.all.len());
        }
        self.all.extend_from_slice(data);
        true
    }

    fn end(&mut self) -> (Bytes, Option<HeaderMap>, BudgetShare) {
        let data = if self.all.is_empty() {
            std::mem::take(&mut self.first)
        } else {
            Bytes::from(std::mem::take(&mut self.all))
        };
        let empty = BudgetShare::none(&self.share.budget);
        (data, self.trailers.take(), std::mem::replace(&mut self.share, empty))
    }

    fn whole(&mut self) -> BufferOutcome {
        let (data, trailers, share) = self.end();
        BufferOutcome::Complete(BufferedBody { data, trailers, share })
    }

    /// Returns the buffered pieces, and a last piece that did not fit.
    fn begun(&mut self, last: Bytes) -> BufferOutcome {
        let first = std::mem::take(&mut self.first);
        let (data, trailers, share) = self.end();
        let pieces = [data, first, last].into_iter().filter(|piece| !piece.is_empty()).collect();
        BufferOutcome::Partial(BodyStart { pieces, trailers, _share: share })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn budget(most: usize) -> Arc<BufferBudget> {
        Arc::new(BufferBudget { used: AtomicUsize::new(0), most })
    }

    /// Buffers `pieces`, with a wait between two pieces if `slow`; returns the result and the unread rest.
    async fn collect(
        pieces: &[Vec<u8>],
        slow: bool,
        most: usize,
        budget: &Arc<BufferBudget>,
    ) -> (BufferOutcome, Vec<u8>) {
        let frames = pieces.iter().cloned().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        let stream = futures_util::StreamExt::then(futures_util::stream::iter(frames), move |frame| async move {
            if slow {
                tokio::task::yield_now().await;
            }
            frame
        });
        let mut body = StreamBody::new(Box::pin(stream));
        let mut collecting = BodyBuffer::new(most, budget);
        let collected = std::future::poll_fn(|cx| collecting.poll(&mut body, || (), cx)).await;
        let rest = body.collect().await.expect("a body").to_bytes().to_vec();
        (collected.expect("nothing fails"), rest)
    }

    proptest! {
        #[test]
        fn buffered_part_and_rest_are_the_body_and_the_budget_is_returned(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..400), 0..8),
            slow in any::<bool>(),
            most in 1..2000usize,
            room in 0..4000usize,
        ) {
            let (budget, sent) = (budget(room), pieces.concat());
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let (collected, rest) = runtime.block_on(collect(&pieces, slow, most, &budget));
            prop_assert!(budget.used.load(Ordering::Relaxed) <= room);
            match collected {
                BufferOutcome::Complete(whole) => {
                    prop_assert!(sent.len() <= most && rest.is_empty());
                    prop_assert_eq!(&whole.data[..], &sent[..]);
                    let again = whole.again();
                    drop(whole);
                    prop_assert_eq!(&again.data[..], &sent[..]);
                }
                BufferOutcome::Partial(begun) => {
                    // The body is too long, or exceeds the budget, including the second copy of a slow body's first
                    // piece.
                    prop_assert!(sent.len() > most || room < 2 * sent.len() + INITIAL_CAPACITY);
                    let begun: Vec<u8> = begun.pieces.iter().flatten().copied().chain(rest).collect();
                    prop_assert_eq!(begun, sent);
                }
            }
            prop_assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn copies_only_slow_bodies() {
        let budget = budget(1 << 20);
        let data = Bytes::from(vec![7; 5000]);
        let mut body = http_body_util::Full::new(data.clone());
        let mut collecting = BodyBuffer::new(64 << 10, &budget);
        let collected = std::future::poll_fn(|cx| collecting.poll(&mut body, || (), cx)).await.expect("nothing fails");
        let BufferOutcome::Complete(whole) = collected else { panic!("it is whole") };
        assert_eq!(whole.data.as_ptr(), data.as_ptr());
        drop(whole);
        // The body arrives byte by byte, each byte in a large read buffer. The budget counts only the memory that is
        // kept.
        let pieces: Vec<_> = (0..1000).map(|_| vec![1]).collect();
        let (BufferOutcome::Complete(whole), _) = collect(&pieces, true, 64 << 10, &budget).await else {
            panic!("it is whole")
        };
        assert_eq!(whole.data.len(), 1000);
        assert!(budget.used.load(Ordering::Relaxed) <= 2048, "{}", budget.used.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn streams_bodies_beyond_the_budget() {
        let budget = budget(10_000);
        let body = [vec![1; 3000], vec![2; 3000]];
        let mut kept = Vec::new();
        for _ in 0..5 {
            kept.push(collect(&body, true, 64 << 10, &budget).await.0);
        }
        let whole = kept.iter().filter(|collected| matches!(collected, BufferOutcome::Complete(_))).count();
        assert_eq!(whole, 1);
        kept.clear();
        assert!(matches!(collect(&body, true, 64 << 10, &budget).await.0, BufferOutcome::Complete(_)));
    }
}
