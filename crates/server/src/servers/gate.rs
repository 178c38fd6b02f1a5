//! The gate: gives each request to this server's own term or to the leader.
//!
//! ```text
//! waiting ◄──► following(leader) ──► waiting ──► leading(term) ──► waiting
//! ```
//! While no server leads, the gate holds requests for a moment: a change of leaders takes about a second. A request that
//! was forwarded once is not forwarded again, so no request goes in circles.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use gantry_api::{ErrorCode, Problem};
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::membership::Membership;
use super::transport::ServerConnection;
use super::{forward, transport};
use crate::http::ErrorResponse;
use crate::leadership::LeaderRecord;

/// Longest time that a request waits for a leader.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Pause between two attempts to reach the leader.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// This server's part in the cluster.
#[derive(Clone)]
enum ServerPart {
    /// No leader is known, or this server's term begins.
    Waiting,
    /// Another server leads. The token is cancelled once that is no longer so.
    Following(LeaderRecord, CancellationToken),
    /// This server leads.
    Leading(LeadingTerm),
}

/// A term of this server.
#[derive(Clone)]
pub(super) struct LeadingTerm {
    /// The routes of the term's server.
    pub(super) router: Router,
    /// The runtime of all its tasks.
    pub(super) runtime: Handle,
    /// Cancelled at the end of the term.
    pub(super) ended: CancellationToken,
}

/// The gate of one server.
pub(super) struct Gate {
    part: watch::Sender<ServerPart>,
    membership: Arc<Membership>,
}

impl Gate {
    /// A gate of a server that has just begun. `membership` connects to the leader.
    pub(super) fn new(membership: Arc<Membership>) -> Self {
        Self { part: watch::Sender::new(ServerPart::Waiting), membership }
    }

    /// Forwards requests to this leader.
    pub(super) fn follow(&self, leader: &LeaderRecord) {
        self.part.send_if_modified(|part| match part {
            ServerPart::Following(known, _) if known == leader => false,
            _ => {
                tracing::info!(leader = leader.name, "following the leader");
                leave(part);
                *part = ServerPart::Following(leader.clone(), CancellationToken::new());
                true
            }
        });
    }

    /// Returns the leader that this server follows.
    pub(super) fn leader(&self) -> Option<LeaderRecord> {
        match &*self.part.borrow() {
            ServerPart::Following(leader, _) => Some(leader.clone()),
            _ => None,
        }
    }

    /// Gives requests to this server's term.
    pub(super) fn begin_term(&self, term: LeadingTerm) {
        self.set(ServerPart::Leading(term));
    }

    /// Makes new requests wait.
    pub(super) fn wait(&self) {
        self.set(ServerPart::Waiting);
    }

    fn set(&self, next: ServerPart) {
        self.part.send_modify(|part| {
            leave(part);
            *part = next;
        });
    }
}

/// Ends the requests on their way to a deposed leader.
fn leave(part: &ServerPart) {
    if let ServerPart::Following(_, ended) = part {
        ended.cancel();
    }
}

/// Builds the router of one of several servers.
pub(super) fn router(gate: Arc<Gate>) -> Router {
    Router::new().fallback(pass).with_state(gate)
}

/// Answers a request.
async fn pass(State(gate): State<Arc<Gate>>, mut request: Request) -> Response {
    let mut parts = gate.part.subscribe();
    forward::restore_client(&mut request);
    let was_forwarded = forward::was_forwarded(request.headers());
    let deadline = tokio::time::Instant::now() + LEADER_WAIT_MAX;
    let mut why = "no server leads at this moment".to_owned();
    loop {
        let part = parts.borrow_and_update().clone();
        match part {
            ServerPart::Leading(term) => return serve(term, request).await,
            ServerPart::Following(LeaderRecord { name, address: Some(address), .. }, ended) if !was_forwarded => {
                match transport::connect(&gate.membership, &name, &address).await {
                    Ok(connection) => return forwarded(connection, request, ended).await,
                    Err(error) => why = crate::causes(&error),
                }
            }
            ServerPart::Following(LeaderRecord { name, address: None, .. }, _) => {
                why = format!("the leading server {name} is of an earlier version and takes no forwarded requests");
            }
            ServerPart::Following(leader, _) => why = format!("this server follows {}", leader.name),
            ServerPart::Waiting => {}
        }
        if tokio::time::Instant::now() >= deadline {
            return refuse(ErrorCode::LeaderUnreachable, &why);
        }
        let _ = tokio::time::timeout(RETRY_PAUSE, parts.changed()).await;
    }
}

/// Lets this server's term answer.
async fn serve(term: LeadingTerm, request: Request) -> Response {
    let LeadingTerm { router, runtime, ended } = term;
    match runtime.spawn(TowerToHyperService::new(router).call(request)).await {
        Ok(Ok(response)) => until(response, ended),
        // The runtime has ended.
        Err(_) => changed(),
    }
}

async fn forwarded(leader: ServerConnection, request: Request, ended: CancellationToken) -> Response {
    let sent = tokio::select! {
        sent = forward::forward(leader, request, &ended) => sent,
        () = ended.cancelled() => return changed(),
    };
    match sent {
        Ok(response) => until(response, ended),
        Err(error) => {
            tracing::debug!(error = crate::causes(&error), "a forwarded request got no response");
            changed()
        }
    }
}

/// The response to a request whose outcome is unknown.
fn changed() -> Response {
    refuse(ErrorCode::LeadershipChanged, "the leading server ended while it worked on this request")
}

fn refuse(code: ErrorCode, why: &str) -> Response {
    ErrorResponse(Problem::new(code, why).hint("try again in a few seconds")).into_response()
}

/// Cuts a running response when the server loses leadership. A client must not take the cut for the end.
fn until(response: Response, ended: CancellationToken) -> Response {
    if response.body().is_end_stream() {
        return response;
    }
    response.map(|body| Body::new(CutBody { body, ended: Box::pin(ended.cancelled_owned()) }))
}

/// Body of a response that ends with an error when the server loses leadership.
struct CutBody {
    body: Body,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl hyper::body::Body for CutBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { body, ended } = self.get_mut();
        if ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err("the server has lost leadership".into())));
        }
        Pin::new(body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
