//! Sessions: each joins a person's connection with an agent's connection. The server opens no connection to an agent;
//! agents poll for sessions, and call back for each session.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use gantry_api::types::{SessionKind, SessionRequest};
use gantry_model::MachineName;
use hyper::upgrade::Upgraded;
use tokio::sync::{Notify, oneshot};

/// Timeout for an agent to call back.
const CALL_BACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Most sessions that wait for one machine's agent.
const WAITING_MAX: usize = 100;

/// Sessions that are not joined yet.
#[derive(Default)]
pub(crate) struct SessionBroker {
    state: Mutex<BrokerState>,
    added: Notify,
}

#[derive(Default)]
struct BrokerState {
    waiting: HashMap<MachineName, VecDeque<SessionRequest>>,
    called: HashMap<String, oneshot::Sender<Upgraded>>,
}

impl SessionBroker {
    /// Requests a session from a machine's agent, and returns the agent's connection once the agent has called back.
    pub(crate) async fn open(&self, machine: &MachineName, kind: SessionKind) -> Result<Upgraded, String> {
        let id = format!("{:032x}", rand::random::<u128>());
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.lock();
            let queue = state.waiting.entry(machine.clone()).or_default();
            if queue.len() >= WAITING_MAX {
                return Err(format!(
                    "{WAITING_MAX} sessions already wait for the agent of machine {machine}; try again later"
                ));
            }
            queue.push_back(SessionRequest { id: id.clone(), kind });
            state.called.insert(id.clone(), sender);
        }
        self.added.notify_waiters();
        let connection = tokio::time::timeout(CALL_BACK_TIMEOUT, receiver).await;
        let mut state = self.lock();
        state.called.remove(&id);
        if let Some(queue) = state.waiting.get_mut(machine) {
            queue.retain(|request| request.id != id);
        }
        match connection {
            Ok(Ok(connection)) => Ok(connection),
            _ => Err(format!(
                "the agent of machine {machine} did not respond in {} s; `gantry status` shows whether it runs",
                CALL_BACK_TIMEOUT.as_secs()
            )),
        }
    }

    /// Waits for the next session for a machine's agent. Returns `None` if none comes within `timeout`.
    pub(crate) async fn next(&self, machine: &MachineName, timeout: Duration) -> Option<SessionRequest> {
        let waiting = async {
            loop {
                let added = self.added.notified();
                if let Some(request) = self.lock().waiting.get_mut(machine).and_then(VecDeque::pop_front) {
                    return request;
                }
                added.await;
            }
        };
        tokio::time::timeout(timeout, waiting).await.ok()
    }

    /// Returns the recipient of an agent's connection.
    pub(crate) fn claim(&self, id: &str) -> Option<oneshot::Sender<Upgraded>> {
        self.lock().called.remove(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BrokerState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
