//! Endpoints of the server for agents, routers and joining machines, each declared once. They are no part of the public
//! API, and may change with the protocol's version.
//!
//! The endpoints of servers for each other are in the server, which has both ends.

use gantry_api::endpoint::{Download, EndpointDescription, Json, NoBody, SessionStart, Upload, endpoints};
use gantry_model::{AppName, Digest, MachineName};

use crate::join::{JoinCall, JoinReply, RenewCall, RenewReply};

endpoints! {
    /// Open the control connection of a machine's agent
    AgentControl { machine: MachineName }: POST "/internal/v1/machines/{machine}/control", Machine,
        NoBody => SessionStart, [SessionRequired];
    /// Open the control connection of a machine's router
    RouterControl { machine: MachineName }: POST "/internal/v1/routers/{machine}/control", Machine,
        NoBody => SessionStart, [SessionRequired];
    /// Open a session that the server asked the machine's agent for
    CallBack { id: String }: POST "/internal/v1/sessions/{id}", MachineOfObject, NoBody => SessionStart,
        [SessionRequired, SessionNotFound];

    /// The names of all apps
    AppNames { machine: MachineName }: GET "/internal/v1/machines/{machine}/apps", Machine,
        NoBody => Json<Vec<AppName>>, [];
    /// The addresses of all servers
    ServerAddresses { machine: MachineName }: GET "/internal/v1/machines/{machine}/servers", Machine,
        NoBody => Json<Vec<String>>, [];

    /// Join the cluster
    Join: POST "/internal/v1/join", Key, Json<JoinCall> => Json<JoinReply>,
        [NoAuthority, JoinRateLimited, JoinTokenUnknown, JoinTokenExpired, JoinTokenUsed, JoinTokenRole,
         MachineNameTaken, NoFreeSubnet];
    /// Get a new certificate
    Renew: POST "/internal/v1/renew", Key, Json<RenewCall> => Json<RenewReply>, [NoAuthority];

    /// A blob, for the agent that carries out an order
    ReadBlob { id: String, digest: Digest }: GET "/internal/v1/builds/{id}/blobs/{digest}", MachineOfObject,
        NoBody => Download, [SessionNotFound, InvalidDigest, BlobNotFound];
    /// Store a blob of an order
    WriteBlob { id: String, digest: Digest }: POST "/internal/v1/builds/{id}/blobs/{digest}", MachineOfObject,
        Upload => NoBody, [SessionNotFound, InvalidDigest, DigestMismatch];
    /// Whether the server has a blob undamaged; the blob then stays for the order
    IsBlobIntact { id: String, digest: Digest }: GET "/internal/v1/builds/{id}/blobs/{digest}/intact", MachineOfObject,
        NoBody => Json<bool>, [SessionNotFound, InvalidDigest];
    /// Ask for room for an image of that many bytes
    CheckRoom { id: String }: POST "/internal/v1/builds/{id}/room", MachineOfObject, Json<u64> => NoBody,
        [SessionNotFound];
}

/// Describes every endpoint.
#[must_use]
pub fn all() -> Vec<EndpointDescription> {
    describe()
}

/// The path of the blobs of an order, without the digest.
#[must_use]
pub fn blobs_of_order(id: &str) -> String {
    format!("/internal/v1/builds/{id}/blobs")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gantry_api::endpoint::Endpoint;

    use super::*;

    #[test]
    fn each_endpoint_has_a_method_and_a_path_of_its_own() {
        let all = all();
        let distinct: BTreeSet<String> =
            all.iter().map(|endpoint| format!("{} {}", endpoint.method, endpoint.path)).collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|endpoint| endpoint.path.starts_with("/internal/v1/")));
    }

    #[test]
    fn the_blobs_of_an_order_are_in_one_folder() {
        let digest = Digest::from_hex(&"ab".repeat(32)).expect("a digest");
        let folder = blobs_of_order("0f");
        assert_eq!(ReadBlob { id: "0f".to_owned(), digest: digest.clone() }.path(), format!("{folder}/{digest}"));
    }
}
