//! The API for applications, at `GANTRY_API` in every container: services, keys, locks and elections of the container's
//! app, and the JSON gateway of etcd.
//!
//! The paths are those that a container uses. An agent knows the app of a container by the container's address, and
//! asks the server in the name of the app.

use gantry_model::{AppName, RoleName};
use serde::{Deserialize, Serialize};

use super::locks::TokenQuery;
use crate::endpoint::{ForeignJson, Json, JsonOrBytes, JsonOrEmpty, NoBody, QueryParameters, RawBytes, endpoints};
use crate::keys::{DeletedKey, KeyInfo, ListedKeys, WrittenKey};
use crate::locks::{self, HeldLock, LockInfo};
use crate::services::ServiceInfo;
use crate::types::OpenApiDocument;

/// Query of a look at a service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ServiceQuery {
    /// Wait for a revision of the app's routes after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u64>,
}

impl QueryParameters for ServiceQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] =
        &[("wait", "wait up to 50 s for a revision of the app's routes after this one")];
}

/// Query of a read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReadKeyQuery {
    /// Wait for a change after this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<i64>,
    /// Respond with the value alone.
    #[serde(default)]
    pub raw: bool,
}

impl QueryParameters for ReadKeyQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[
        ("wait", "wait up to 50 s for a change after this revision"),
        ("raw", "`true`: respond with the value alone; the header `gantry-revision` has its revision"),
    ];
}

/// Query of a list.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListKeysQuery {
    /// Prefix of the keys.
    #[serde(default)]
    pub prefix: String,
    /// Respond with the changes after this revision, and wait for the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<i64>,
}

impl QueryParameters for ListKeysQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[
        ("prefix", "only keys with this prefix"),
        ("wait", "respond with the changes after this revision; wait up to 50 s for the first one"),
    ];
}

/// Query of a write.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WriteKeyQuery {
    /// The revision that the key must have; zero means that the key must not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cas: Option<i64>,
    /// Seconds after which the key ends, unless it is written again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<i64>,
}

impl QueryParameters for WriteKeyQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[
        ("cas", "the revision that the key must have; 0 means that the key must not exist"),
        ("ttl", "seconds after which the key ends, unless it is written again"),
    ];
}

/// Query of a look at a lock.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WatchLockQuery {
    /// Wait until the holder differs from the one of this token; zero waits for the first holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<i64>,
}

impl QueryParameters for WatchLockQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] =
        &[("wait", "wait up to 50 s until the holder is not the one of this token; 0 waits for the first holder")];
}

endpoints! {
    /// This document
    OpenApi: GET "/v1/openapi.json", Container, NoBody => Json<OpenApiDocument>, [];
    /// The ready instances of a role of any app
    Service { app: AppName, role: RoleName }: GET "/v1/services/{app}/{role}" ? ServiceQuery, Container,
        NoBody => Json<ServiceInfo>, [RoleNotFound];

    /// The keys with a prefix, or their changes
    ListKeys: GET "/v1/kv" ? ListKeysQuery, Container, NoBody => Json<ListedKeys>, [InvalidKey, RevisionCompacted];
    /// A key with its value, or the value alone
    ShowKey { key: String }: GET "/v1/kv/{*key}" ? ReadKeyQuery, Container, NoBody => JsonOrBytes<KeyInfo>,
        [InvalidKey, RevisionCompacted, KeyNotFound];
    /// Set a key to the body
    PutKey { key: String }: PUT "/v1/kv/{*key}" ? WriteKeyQuery, Container, RawBytes => Json<WrittenKey>,
        [InvalidKey, KeyNotFound, RevisionConflict];
    /// Remove a key
    DeleteKey { key: String }: DELETE "/v1/kv/{*key}" ? WriteKeyQuery, Container, NoBody => Json<DeletedKey>,
        [InvalidKey, KeyNotFound, RevisionConflict];

    /// The holder of a lock
    ShowLock { name: String }: GET "/v1/locks/{name}" ? WatchLockQuery, Container, NoBody => Json<LockInfo>,
        [InvalidKey];
    /// Acquire a lock
    AcquireLock { name: String }: POST "/v1/locks/{name}", Container, JsonOrEmpty<locks::AcquireLock> => Json<HeldLock>,
        [InvalidKey, LockHeld, LockLost, KeyNotFound];
    /// Renew a lock
    RenewLock { name: String }: PUT "/v1/locks/{name}", Container, Json<locks::RenewLock> => Json<HeldLock>,
        [InvalidKey, LockLost, KeyNotFound];
    /// Release a lock
    ReleaseLock { name: String }: DELETE "/v1/locks/{name}" ? TokenQuery, Container, NoBody => NoBody,
        [InvalidKey, LockLost, KeyNotFound];

    /// The leader of an election
    ShowElection { name: String }: GET "/v1/elections/{name}" ? WatchLockQuery, Container, NoBody => Json<LockInfo>,
        [InvalidKey];
    /// Become the leader
    WinElection { name: String }: POST "/v1/elections/{name}", Container,
        JsonOrEmpty<locks::AcquireLock> => Json<HeldLock>, [InvalidKey, LockHeld, LockLost, KeyNotFound];
    /// Stay the leader, or change the leader's text
    RenewElection { name: String }: PUT "/v1/elections/{name}", Container, Json<locks::RenewLock> => Json<HeldLock>,
        [InvalidKey, LockLost, KeyNotFound];
    /// Step down
    ResignElection { name: String }: DELETE "/v1/elections/{name}" ? TokenQuery, Container, NoBody => NoBody,
        [InvalidKey, LockLost, KeyNotFound];

    /// The holder of a lock of the container's app, at the path of the API for people
    ShowAppLock { app: AppName, name: String }: GET "/v1/apps/{app}/locks/{name}" ? WatchLockQuery, ContainerOfApp,
        NoBody => Json<LockInfo>, [InvalidKey];
    /// Acquire a lock of the container's app
    AcquireAppLock { app: AppName, name: String }: POST "/v1/apps/{app}/locks/{name}", ContainerOfApp,
        JsonOrEmpty<locks::AcquireLock> => Json<HeldLock>, [InvalidKey, LockHeld, LockLost, KeyNotFound];
    /// Renew a lock of the container's app
    RenewAppLock { app: AppName, name: String }: PUT "/v1/apps/{app}/locks/{name}", ContainerOfApp,
        Json<locks::RenewLock> => Json<HeldLock>, [InvalidKey, LockLost, KeyNotFound];
    /// Release a lock of the container's app
    ReleaseAppLock { app: AppName, name: String }: DELETE "/v1/apps/{app}/locks/{name}" ? TokenQuery, ContainerOfApp,
        NoBody => NoBody, [InvalidKey, LockLost, KeyNotFound];

    /// The version of etcd whose gateway is spoken
    EtcdVersion: GET "/version", Container, NoBody => ForeignJson, [];
    /// A call of etcd's JSON gateway, such as `kv/range`
    Etcd { call: String }: POST "/v3/{*call}", Container, ForeignJson => ForeignJson, [];
    /// A call of etcd's JSON gateway, at its path in earlier versions of etcd
    EtcdBeta { call: String }: POST "/v3beta/{*call}", Container, ForeignJson => ForeignJson, [];
}
