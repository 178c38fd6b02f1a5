//! Requests that wait while no instance of their app is ready. Bounded for each app, so that one whose instances are all
//! down holds up nobody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_model::AppName;

/// The most requests that wait for one app.
const WAITING_MAX: usize = 1000;

/// How many wait, by app.
#[derive(Clone, Default)]
pub(crate) struct Waiting(Arc<Mutex<BTreeMap<AppName, usize>>>);

/// A place among those that wait, for as long as it lives.
pub(crate) struct Place {
    waiting: Waiting,
    app: AppName,
}

impl Waiting {
    /// A place; none when there are too many already.
    pub(crate) fn enter(&self, app: &AppName) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(app.clone()).or_default();
        if *count >= WAITING_MAX {
            return None;
        }
        *count += 1;
        Some(Place { waiting: self.clone(), app: app.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.app) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.app);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let (waiting, app) = (Waiting::default(), AppName::parse("shop").expect("a name"));
        let places: Vec<_> = std::iter::from_fn(|| waiting.enter(&app)).collect();
        assert_eq!(places.len(), WAITING_MAX);
        assert!(waiting.enter(&AppName::parse("other").expect("a name")).is_some());
        drop(places);
        assert!(waiting.enter(&app).is_some());
    }
}
