//! Limits of one container at the listener, so that no container takes the places of the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum number of connections of one container.
const CONNECTIONS_MAX: usize = 64;

/// Maximum number of connections of all containers.
const ALL_CONNECTIONS_MAX: usize = 4096;

/// Maximum number of request bodies of one container in memory, and of all containers. A body has at most 1 MiB.
const BODIES_MAX: usize = 4;
const ALL_BODIES_MAX: usize = 32;

/// The connected containers.
pub(super) struct Callers {
    by_address: Arc<Mutex<HashMap<IpAddr, OneCaller>>>,
    connections: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

/// A connected container.
struct OneCaller {
    connections: usize,
    bodies: Arc<Semaphore>,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            by_address: Arc::default(),
            connections: Arc::new(Semaphore::new(ALL_CONNECTIONS_MAX)),
            bodies: Arc::new(Semaphore::new(ALL_BODIES_MAX)),
        }
    }
}

/// The place of one connection. Dropping it frees the place.
pub(super) struct CallerLimits {
    address: IpAddr,
    by_address: Arc<Mutex<HashMap<IpAddr, OneCaller>>>,
    own_bodies: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    _connection: OwnedSemaphorePermit,
}

impl Callers {
    /// Takes a place for a connection; none if there is no free place.
    pub(super) fn connect(&self, address: IpAddr) -> Option<CallerLimits> {
        let connection = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let mut callers = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || OneCaller { connections: 0, bodies: Arc::new(Semaphore::new(BODIES_MAX)) };
        let caller = callers.entry(address).or_insert_with(fresh);
        if caller.connections >= CONNECTIONS_MAX {
            return None;
        }
        caller.connections += 1;
        Some(CallerLimits {
            address,
            by_address: Arc::clone(&self.by_address),
            own_bodies: Arc::clone(&caller.bodies),
            bodies: Arc::clone(&self.bodies),
            _connection: connection,
        })
    }
}

impl Drop for CallerLimits {
    fn drop(&mut self) {
        let mut callers = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = callers.get_mut(&self.address) {
            caller.connections -= 1;
            if caller.connections == 0 {
                callers.remove(&self.address);
            }
        }
    }
}

impl CallerLimits {
    /// Waits for the memory of a body: first for one of the container's own places, then for one of all.
    pub(super) async fn body(&self) -> (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>) {
        // The semaphores are never closed.
        let own = Arc::clone(&self.own_bodies).acquire_owned().await.ok();
        (own, Arc::clone(&self.bodies).acquire_owned().await.ok())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn no_container_takes_the_places_of_another() {
        let callers = Callers::default();
        let [greedy, modest] = [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(10, 83, 0, last)));
        let mut places: Vec<_> = (0..CONNECTIONS_MAX).filter_map(|_| callers.connect(greedy)).collect();
        assert!(places.len() == CONNECTIONS_MAX && callers.connect(greedy).is_none());
        let other = callers.connect(modest).expect("a place");
        let _bodies: Vec<_> =
            [places[0].body().await, places[1].body().await, places[2].body().await, places[3].body().await].into();
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), places[4].body()).await.is_err());
        let _ = other.body().await;
        places.pop();
        assert!(callers.connect(greedy).is_some());
        drop((places, other));
        assert!(callers.by_address.lock().expect("whole").is_empty());
    }
}
