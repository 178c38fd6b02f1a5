//! Choice of an instance.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use crate::exchange::error_response;
use crate::exchange::http_exchange::{ChosenTarget, HttpExchange};
use crate::exchange::response_body::ResponseBody;

/// Poll interval while every instance is ejected: an instance may recover without a change of the table.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl HttpExchange {
    /// Finds an instance; waits while there is none.
    pub(super) async fn find(&mut self) -> Result<ChosenTarget, Box<Response<ResponseBody>>> {
        if self.tried.is_empty() && !std::mem::take(&mut self.stale) {
            if let Some(chosen) = self.choose() {
                return Ok(chosen);
            }
        } else if let Some(chosen) = self.search()? {
            return Ok(chosen);
        }
        let Some(place) = self.route.gate.wait() else {
            return Err(Box::new(error_response::unavailable(
                self.route.app.as_str(),
                "too many requests wait for an instance",
            )));
        };
        let mut changes = self.router.routes.changes();
        loop {
            // Each instance was tried and did not take the request: start over with all instances.
            self.tried.clear();
            let _ = tokio::time::timeout(POLL_INTERVAL, changes.changed()).await;
            if let Some(chosen) = self.search()? {
                place.mark_admitted();
                return Ok(chosen);
            }
        }
    }

    /// Searches the current table: an address of the table that the request first saw may belong to another app by now.
    fn search(&mut self) -> Result<Option<ChosenTarget>, Box<Response<ResponseBody>>> {
        let Some(route) = self.router.routes.now().routes.get(&self.route.host).cloned() else {
            return Err(Box::new(self.router.no_route(&self.route.host)));
        };
        self.entry.route = Some(Arc::clone(&route));
        self.route = route;
        let app = self.route.app.as_str();
        self.now = Instant::now();
        if self.now >= self.deadline {
            let paused = self.route.traffic.paused;
            let why = if paused { "paused for maintenance" } else { "no instance is ready" };
            return Err(Box::new(error_response::unavailable(app, why)));
        }
        if let Some(message) = &self.route.traffic.maintenance {
            return Err(Box::new(error_response::maintenance(app, message)));
        }
        Ok(self.choose())
    }

    fn choose(&self) -> Option<ChosenTarget> {
        if self.route.traffic.paused {
            return None;
        }
        let target = self.route.choose(&self.tried, self.now.into_std())?;
        Some(ChosenTarget { target: Arc::clone(target), active: target.begin() })
    }
}
