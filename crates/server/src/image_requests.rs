//! Limits on the images that clients let agents make or fetch: bases, stacks and pulls.
//!
//! A request first takes a place. The task of the request goes on without its client, so the number of places bounds
//! these tasks. An order to an agent then takes a slot; a request without a slot waits, and its client is told. Builds of
//! deploys have slots of their own ([`crate::builds`]). Each agent has lower limits.

use std::sync::Arc;

use gantry_api::{ErrorCode, Problem};
use gantry_build::Output;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Maximum number of requests that run or wait.
const PLACES_MAX: usize = 100;

/// Maximum number of orders with an agent.
const SLOTS_MAX: usize = 16;

/// The requests under way.
pub(crate) struct ImageRequests {
    places: Arc<Semaphore>,
    slots: Semaphore,
}

/// A request under way. Dropping the place lets the next request in.
pub(crate) struct RequestPlace {
    _permit: OwnedSemaphorePermit,
}

impl Default for ImageRequests {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(PLACES_MAX)), slots: Semaphore::new(SLOTS_MAX) }
    }
}

impl ImageRequests {
    /// Admits a request, unless too many requests run or wait.
    pub(crate) fn admit(&self) -> Result<RequestPlace, Problem> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let message = format!("{PLACES_MAX} images are already being made or fetched; try again later");
            Problem::new(ErrorCode::TooManyImageRequests, message)
        })?;
        Ok(RequestPlace { _permit: permit })
    }

    /// Waits for a slot of an order. The output says so if there is none now. Returns none if the order is cancelled.
    pub(crate) async fn slot(&self, output: &Output) -> Option<SemaphorePermit<'_>> {
        output.wait_for("Waiting until another base or pull of the cluster ends", self.slots.acquire()).await?.ok()
    }
}

#[cfg(test)]
mod tests {
    use gantry_build::OutputEvent;

    use super::*;

    #[test]
    fn refuses_a_request_beyond_the_limit_until_another_ends() {
        let requests = ImageRequests::default();
        let mut places: Vec<_> = (0..PLACES_MAX).map(|_| requests.admit().expect("a place")).collect();
        let refused = requests.admit().err().map(|problem| problem.code);
        assert_eq!(refused, Some(ErrorCode::TooManyImageRequests.into()));
        drop(places.pop());
        assert!(requests.admit().is_ok());
    }

    #[tokio::test]
    async fn an_order_without_a_slot_waits_and_says_so() {
        let requests = ImageRequests::default();
        let (output, mut events) = Output::forwarded();
        let mut slots = Vec::new();
        for _ in 0..SLOTS_MAX {
            slots.push(requests.slot(&output).await.expect("a free slot"));
        }
        assert!(events.try_recv().is_err());
        let mut waiting = Box::pin(requests.slot(&output));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(matches!(events.try_recv(), Ok(OutputEvent::Note(note)) if note.starts_with("Waiting until")));
        drop(slots.pop());
        assert!(waiting.await.is_some());
    }
}
