//! State that all requests share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_model::HostName;
use http::Response;
use tokio::sync::Semaphore;

use crate::client::buffer::BufferBudget;
use crate::exchange::access_log::AccessLog;
use crate::exchange::error_response;
use crate::exchange::response_body::ResponseBody;
use crate::routes::store::RouteStore;
use crate::settings::RouterSettings;

/// State that all requests share.
pub(crate) struct RouterState {
    pub(crate) settings: RouterSettings,
    pub(crate) routes: Arc<RouteStore>,
    pub(crate) access: AccessLog,
    /// Domain of the apps, for the error response to an unknown host name; none before the server named it.
    pub(crate) domain: RwLock<Option<HostName>>,
    /// Memory budget of buffered request bodies.
    pub(crate) budget: Arc<BufferBudget>,
    /// Permits to send layers to other machines.
    pub(crate) uploads: Arc<Semaphore>,
    /// The router is shutting down and ends its connections.
    pub(crate) ending: AtomicBool,
}

impl RouterState {
    /// Returns the response for a host name without a route.
    pub(super) fn no_route(&self, host: &str) -> Response<ResponseBody> {
        match self.routes.now().closed.get(host) {
            Some(closed) => error_response::closed(closed),
            None => {
                let domain = self.domain.read().unwrap_or_else(PoisonError::into_inner);
                error_response::unknown_host(host, domain.as_ref())
            }
        }
    }
}
