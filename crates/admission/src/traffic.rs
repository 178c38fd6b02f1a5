//! Traffic policy of an app.

use gantry_model::proxies::PROXIES_MAX;
use gantry_model::{AppName, AuditAction, Subnet, TrustedProxies};

use crate::{Actor, Admitted, Refusal, find_changeable_app};

/// Longest maintenance message, in bytes.
const MESSAGE_MAX: usize = 500;

/// A change of an app's traffic policy.
#[derive(Debug, Clone, PartialEq)]
pub enum TrafficChange {
    /// Requests wait.
    Pause,
    /// Waiting requests continue.
    Resume,
    /// Requests are refused with a message; without a message, they reach the app again.
    Maintenance(Option<String>),
    /// Requests are limited at each router; `None` removes a limit.
    Limit {
        /// Requests per second.
        rate: Option<u32>,
        /// Concurrent requests.
        concurrent: Option<u32>,
    },
    /// The app trusts these proxies in addition to the cluster's.
    TrustedProxies(Vec<Subnet>),
}

impl Actor<'_> {
    /// Changes the traffic policy of an app.
    ///
    /// # Errors
    /// When the app is missing, or a value is invalid.
    pub fn change_traffic(&self, name: &AppName, change: TrafficChange) -> Admitted<()> {
        let mut app = find_changeable_app(self.records, name)?.clone();
        match change {
            TrafficChange::Pause => app.traffic.paused = true,
            TrafficChange::Resume => app.traffic.paused = false,
            TrafficChange::Maintenance(message) => {
                let wrong = |text: &&String| text.len() > MESSAGE_MAX || text.contains(char::is_control);
                if let Some(text) = message.as_ref().filter(wrong) {
                    return Err(Refusal::InvalidMaintenanceMessage { bytes: text.len(), most: MESSAGE_MAX });
                }
                app.traffic.maintenance = message;
            }
            TrafficChange::Limit { rate: Some(0), .. } | TrafficChange::Limit { concurrent: Some(0), .. } => {
                return Err(Refusal::ZeroLimit);
            }
            TrafficChange::Limit { rate, concurrent } => {
                (app.traffic.rate, app.traffic.concurrent) = (rate, concurrent);
            }
            TrafficChange::TrustedProxies(proxies) => {
                app.traffic.trusted_proxies = checked_proxies(proxies)?;
                let proxies = app.traffic.trusted_proxies.clone();
                return self.changed(app, AuditAction::TrustedProxiesChanged { app: name.clone(), proxies });
            }
        }
        let traffic = app.traffic.clone();
        self.changed(app, AuditAction::TrafficChanged { app: name.clone(), traffic })
    }
}

/// Refuses a list of trusted proxies that is too long.
fn checked_proxies(proxies: Vec<Subnet>) -> Result<TrustedProxies, Refusal> {
    let proxies = TrustedProxies::new(proxies);
    if proxies.len() > PROXIES_MAX {
        return Err(Refusal::TooManyProxies { count: proxies.len(), most: PROXIES_MAX });
    }
    Ok(proxies)
}
