//! Sessions: each joins a person's connection with an agent's connection. The server opens no connection to an agent;
//! their control connections name the sessions, and agents call back for each session.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use gantry_control::sessions::{SessionKind, SessionRequest};
use gantry_model::MachineName;
use hyper::upgrade::Upgraded;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Timeout for an agent to call back.
const CALL_BACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval at which a request that no agent has called back for is offered again.
const OFFER_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of sessions that wait for one machine's agent.
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
    called: HashMap<String, CalledAgent>,
    /// Ids of the orders that agents carry out, each with the agent's machine.
    orders: HashMap<String, MachineName>,
}

/// A session that an agent was asked for.
struct CalledAgent {
    machine: MachineName,
    connection: oneshot::Sender<Upgraded>,
}

/// Reason why an agent opened no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{WAITING_MAX} sessions already wait for the agent of machine {0}; try again later")]
    TooMany(MachineName),
    #[error("the agent of machine {machine} did not respond in {seconds} s; `gantry status` shows whether it runs")]
    Silent { machine: MachineName, seconds: u64 },
}

/// A session in which an agent carries out an order. Dropping the value closes the order.
pub(crate) struct OrderSession<'a> {
    pub(crate) connection: Upgraded,
    _order: OpenOrder<'a>,
}

/// A session that waits for an agent. Dropping the value withdraws the request.
struct WaitingSession<'a> {
    broker: &'a SessionBroker,
    id: String,
    machine: &'a MachineName,
}

impl Drop for WaitingSession<'_> {
    fn drop(&mut self) {
        let mut state = self.broker.lock();
        state.called.remove(&self.id);
        if let Some(queue) = state.waiting.get_mut(self.machine) {
            queue.retain(|request| request.id != self.id);
        }
    }
}

/// Registration of an open order.
struct OpenOrder<'a> {
    broker: &'a SessionBroker,
    id: String,
}

impl Drop for OpenOrder<'_> {
    fn drop(&mut self) {
        self.broker.lock().orders.remove(&self.id);
    }
}

impl SessionBroker {
    /// Requests a session from a machine's agent, and returns the agent's connection once the agent has called back.
    pub(crate) async fn open(&self, machine: &MachineName, kind: SessionKind) -> Result<Upgraded, OpenError> {
        self.open_within(CALL_BACK_TIMEOUT, machine, kind).await
    }

    /// Requests a session as [`Self::open`] does, with a timeout of its own for the call back.
    pub(crate) async fn open_within(
        &self,
        timeout: Duration,
        machine: &MachineName,
        kind: SessionKind,
    ) -> Result<Upgraded, OpenError> {
        self.open_as(new_id(), timeout, machine, kind).await
    }

    /// Requests a session in which the agent carries out an order. Until the result is dropped, the session's id is the
    /// agent's right to the blobs.
    pub(crate) async fn open_order(
        &self,
        machine: &MachineName,
        kind: SessionKind,
    ) -> Result<OrderSession<'_>, OpenError> {
        let order = OpenOrder { broker: self, id: new_id() };
        self.lock().orders.insert(order.id.clone(), machine.clone());
        let connection = self.open_as(order.id.clone(), CALL_BACK_TIMEOUT, machine, kind).await?;
        Ok(OrderSession { connection, _order: order })
    }

    /// The machine whose agent carries out the order of this id; none if the order is not open.
    pub(crate) fn machine_of_order(&self, id: &str) -> Option<MachineName> {
        self.lock().orders.get(id).cloned()
    }

    async fn open_as(
        &self,
        id: String,
        timeout: Duration,
        machine: &MachineName,
        kind: SessionKind,
    ) -> Result<Upgraded, OpenError> {
        let (sender, mut receiver) = oneshot::channel();
        let request = SessionRequest { id: id.clone(), kind };
        {
            let mut state = self.lock();
            let queue = state.waiting.entry(machine.clone()).or_default();
            if queue.len() >= WAITING_MAX {
                return Err(OpenError::TooMany(machine.clone()));
            }
            queue.push_back(request.clone());
            state.called.insert(id.clone(), CalledAgent { machine: machine.clone(), connection: sender });
        }
        let _waiting = WaitingSession { broker: self, id, machine };
        self.added.notify_waiters();
        let silent = || OpenError::Silent { machine: machine.clone(), seconds: timeout.as_secs() };
        let deadline = Instant::now() + timeout;
        loop {
            match tokio::time::timeout(OFFER_INTERVAL, &mut receiver).await {
                Ok(connection) => return connection.map_err(|_| silent()),
                Err(_) if Instant::now() >= deadline => return Err(silent()),
                Err(_) => self.offer_again(machine, &request),
            }
        }
    }

    /// Offers a request again that was taken and not called back for: the agent that took it may have been killed.
    fn offer_again(&self, machine: &MachineName, request: &SessionRequest) {
        let mut state = self.lock();
        if !state.called.contains_key(&request.id) {
            return;
        }
        let queue = state.waiting.entry(machine.clone()).or_default();
        if !queue.iter().any(|waiting| waiting.id == request.id) {
            queue.push_back(request.clone());
            drop(state);
            self.added.notify_waiters();
        }
    }

    /// Waits for the next session for a machine's agent. A dropped call loses no session.
    pub(crate) async fn next(&self, machine: &MachineName) -> SessionRequest {
        loop {
            let added = self.added.notified();
            if let Some(request) = self.lock().waiting.get_mut(machine).and_then(VecDeque::pop_front) {
                return request;
            }
            added.await;
        }
    }

    /// The machine whose agent was asked for a session; none if no client waits for the session.
    pub(crate) fn machine_of_session(&self, id: &str) -> Option<MachineName> {
        self.lock().called.get(id).map(|called| called.machine.clone())
    }

    /// Returns the recipient of an agent's connection.
    pub(crate) fn claim(&self, id: &str) -> Option<oneshot::Sender<Upgraded>> {
        Some(self.lock().called.remove(id)?.connection)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BrokerState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Makes a session's id, which cannot be guessed.
fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use gantry_control::builds::BaseOrder;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_order_is_open_only_while_its_session_is() {
        let (broker, machine) = (SessionBroker::default(), MachineName::parse("m").expect("a name"));
        let order = SessionKind::Base(BaseOrder { recipe: String::new() });
        let agent_side = async {
            let request = broker.next(&machine).await;
            assert_eq!(broker.machine_of_order(&request.id).as_ref(), Some(&machine));
            assert_eq!(broker.machine_of_session(&request.id).as_ref(), Some(&machine));
            assert_eq!((broker.machine_of_order("another"), broker.machine_of_session("another")), (None, None));
            request.id
        };
        let (opened, id) = tokio::join!(broker.open_order(&machine, order), agent_side);
        assert!(matches!(opened, Err(OpenError::Silent { .. })), "no agent called back");
        assert_eq!(broker.machine_of_order(&id), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_a_killed_agent_took_is_offered_again() {
        let (broker, machine) = (SessionBroker::default(), MachineName::parse("m").expect("a name"));
        let order = SessionKind::Base(BaseOrder { recipe: String::new() });
        let agent_side = async {
            let first = broker.next(&machine).await;
            let second = broker.next(&machine).await;
            assert_eq!(first.id, second.id);
            // Once an agent has called back, the request is no longer offered.
            let _waiting = broker.claim(&second.id).expect("a client waits");
            let again = tokio::time::timeout(Duration::from_secs(5), broker.next(&machine)).await;
            assert!(again.is_err());
        };
        let (opened, ()) = tokio::join!(broker.open(&machine, order), agent_side);
        assert!(opened.is_err());
    }

    #[tokio::test]
    async fn a_client_that_leaves_withdraws_its_session() {
        let (broker, machine) = (SessionBroker::default(), MachineName::parse("m").expect("a name"));
        let order = SessionKind::Base(BaseOrder { recipe: String::new() });
        let mut opening = Box::pin(broker.open(&machine, order));
        assert!(futures_util::poll!(&mut opening).is_pending());
        drop(opening);
        assert!(futures_util::poll!(&mut Box::pin(broker.next(&machine))).is_pending());
    }
}
