//! Build turns: at most one build per app at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gantry_model::AppName;
use tokio::sync::OwnedMutexGuard;

/// The turns of all apps. A cancelled build may still be ending when the next build of its app begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<AppName, Weak<tokio::sync::Mutex<()>>>>>);

impl Turns {
    /// Waits until the app has no other build in progress, and takes the turn.
    pub(crate) async fn take(&self, app: &AppName) -> OwnedMutexGuard<()> {
        self.of(app).lock_owned().await
    }

    /// Takes the turn if the app has no build in progress.
    pub(crate) fn try_take(&self, app: &AppName) -> Option<OwnedMutexGuard<()>> {
        self.of(app).try_lock_owned().ok()
    }

    fn of(&self, app: &AppName) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = turns.get(app).and_then(Weak::upgrade).unwrap_or_default();
        turns.insert(app.clone(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn builds_of_one_app_take_turns() {
        let (turns, shop, docs) =
            (Turns::default(), AppName::parse("shop").expect("a name"), AppName::parse("docs").expect("a name"));
        let first = turns.take(&shop).await;
        let _other = turns.take(&docs).await;
        let mut second = Box::pin(turns.take(&shop));
        assert!(futures_util::poll!(&mut second).is_pending(), "the first has not ended");
        assert!(turns.try_take(&shop).is_none() && turns.try_take(&docs).is_none());
        drop(first);
        assert!(futures_util::poll!(&mut second).is_ready());
        assert_eq!(turns.0.lock().expect("a map").len(), 2);
    }
}
