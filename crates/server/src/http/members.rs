//! Joining the cluster. `/internal/v1/join` and `/internal/v1/renew` serve machines whose key the TLS handshake has
//! proved; `/v1/cluster/join-tokens` makes the tokens.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use gantry_admission::{Actor, JOIN_LIFETIME_MILLIS, JoinRequest, Refusal};
use gantry_api::endpoint::{AccessScope, Endpoint};
use gantry_api::endpoints::cluster as endpoints;
use gantry_api::types::{JoinRoleInfo, NewJoinToken};
use gantry_api::{ErrorCode, Problem};
use gantry_control::endpoints::{Join, Renew, ServerAddresses};
use gantry_control::join::{JoinReply, RenewCall, RenewReply};
use gantry_model::{JoinRole, MachineName};
use gantry_store::StoreAddress;
use gantry_trust::{JoinToken, Peer, PublicKey};
use http::request::Parts;

use super::auth::not_member;
use super::call::{Call, EndpointCaller, Routes};
use super::{ErrorResponse, HttpResult};
use crate::Server;
use crate::core;
use crate::membership::{JOIN_RETRY_AFTER, Membership, servers};
use crate::settings::host_port;

/// Adds the endpoint of join tokens.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(create)
}

/// Adds the endpoint of the servers' addresses.
pub(super) fn internal_routes(routes: Routes) -> Routes {
    routes.endpoint(server_addresses)
}

/// Adds the endpoints of machines that prove a key.
pub(super) fn key_routes(routes: Routes<KeyCaller>) -> Routes<KeyCaller> {
    routes.endpoint(join).endpoint(renew)
}

async fn create(Call { server, caller, body, .. }: Call<endpoints::CreateJoinToken>) -> HttpResult<NewJoinToken> {
    let membership = membership(&server)?;
    let role = match body.role {
        JoinRoleInfo::Agent => JoinRole::Agent,
        JoinRoleInfo::Server => JoinRole::Server,
    };
    if role == JoinRole::Server && matches!(server.settings.store, StoreAddress::File(_)) {
        let message = "the store of this cloud is a file on its server's machine, and no other server can share it";
        return Err(Problem::new(ErrorCode::StoreNotShared, message).into());
    }
    let token = JoinToken::generate(role, membership.trust.authority.hash());
    let (hash, lifetime) = (token.hash().as_str().to_owned(), body.lifetime.unwrap_or(JOIN_LIFETIME_MILLIS));
    let expires = caller.mutate(&server, move |actor| actor.create_join_token(hash, role, lifetime)).await?;
    Ok(NewJoinToken {
        token: token.reveal(),
        ca_hash: membership.trust.authority.hash().to_string(),
        expires,
        servers: servers(&server.core.view().records),
    })
}

/// A machine that has proved its key in the TLS handshake.
pub(super) struct KeyCaller(PublicKey);

impl FromRequestParts<Arc<Server>> for KeyCaller {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> HttpResult<Self> {
        membership(server)?;
        Ok(Self(proved_key(parts.extensions.get::<Peer>())?))
    }
}

impl EndpointCaller for KeyCaller {
    fn permit<E: Endpoint>(&self, _: &E, _: &E::Query) -> HttpResult<()> {
        debug_assert_eq!(E::SCOPE, AccessScope::Key);
        Ok(())
    }
}

/// The refusal while too many machines ask to join.
fn join_rate_limited() -> Problem {
    Problem::new(ErrorCode::JoinRateLimited, "too many machines ask to join at the same time")
        .hint(format!("try again after {JOIN_RETRY_AFTER} s, with the same token"))
        .retry_after(JOIN_RETRY_AFTER)
}

/// Lets a machine join.
async fn join(Call { server, caller: KeyCaller(key), body: call, .. }: Call<Join, KeyCaller>) -> HttpResult<JoinReply> {
    let membership = membership(&server)?;
    if !membership.may_answer() {
        return Err(join_rate_limited().into());
    }
    let token: JoinToken = call.token.parse().map_err(|_| Refusal::JoinTokenUnknown)?;
    let advertise = call.advertise.unwrap_or_else(|| call.machine.to_string());
    let address = (call.role == JoinRole::Server).then(|| host_port(&advertise, call.port));
    let request = JoinRequest {
        token: token.hash().as_str().to_owned(),
        role: call.role,
        machine: call.machine,
        id: call.id,
        key: key.hash().to_string(),
        advertise: Some(advertise.clone()),
        server: address,
        labels: call.labels,
    };
    let actor = format!("machine {}", request.machine);
    let member = server.core.mutate(move |records, now| Actor::new(records, now, &actor).join(request)).await?;
    let chain = issue(membership, &key, &member.machine)?;
    let store = (member.role == JoinRole::Server).then(|| server.settings.store.to_string());
    Ok(JoinReply {
        chain,
        ca: membership.trust.authority.certificate_pem().to_owned(),
        subnet: member.subnet,
        advertise,
        servers: servers(&server.core.view().records),
        store,
    })
}

/// Gives a machine a new certificate for the key that it joined with. The old certificate may have expired: the record of
/// the machine and its key decide.
async fn renew(
    Call { server, caller: KeyCaller(key), body: RenewCall { machine }, .. }: Call<Renew, KeyCaller>,
) -> HttpResult<RenewReply> {
    let membership = membership(&server)?;
    let view = server.core.view();
    let member = view.records.members.get(&machine).filter(|member| member.key == key.hash().to_string());
    let member = member.ok_or_else(|| not_member(&machine))?;
    let chain = issue(membership, &key, &member.machine)?;
    Ok(RenewReply { chain, ca: membership.trust.authority.certificate_pem().to_owned() })
}

/// The addresses of the servers.
async fn server_addresses(Call { server, .. }: Call<ServerAddresses>) -> HttpResult<Vec<String>> {
    Ok(servers(&server.core.view().records))
}

fn membership(server: &Server) -> Result<&Membership, Refusal> {
    server.membership.as_ref().ok_or(Refusal::NoAuthority)
}

/// The key that the peer has proved to have.
fn proved_key(peer: Option<&Peer>) -> Result<PublicKey, Problem> {
    match peer {
        Some(Peer::Key(key) | Peer::Machine { key, .. }) => Ok(key.clone()),
        Some(Peer::Anonymous) | None => {
            Err(Problem::new(ErrorCode::InvalidRequest, "a machine joins over TLS, with a certificate of its key"))
        }
    }
}

fn issue(membership: &Membership, key: &PublicKey, machine: &MachineName) -> Result<String, Problem> {
    let issued = membership.trust.authority.issue(key, machine, false, core::now());
    issued.map_err(|error| Problem::internal(crate::causes(&error)))
}
