//! Locks of an app, from outside its containers.

use gantry_model::AppName;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, NoBody, QueryParameters, endpoints};
use crate::locks::{AcquireLock, HeldLock, LockInfo, RenewLock};

/// Query of a release.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TokenQuery {
    /// The token of the lock.
    #[serde(default)]
    pub token: i64,
}

impl QueryParameters for TokenQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[("token", "the token of the lock")];
}

endpoints! {
    /// The holder of a lock
    Show { app: AppName, name: String }: GET "/v1/apps/{app}/locks/{name}", Read, NoBody => Json<LockInfo>,
        [AppNotFound, AppBeingDestroyed, InvalidKey, AppQuotaExceeded];
    /// Acquire a lock
    Acquire { app: AppName, name: String }: POST "/v1/apps/{app}/locks/{name}", Deploy,
        Json<AcquireLock> => Json<HeldLock>,
        [AppNotFound, AppBeingDestroyed, InvalidKey, AppQuotaExceeded, LockHeld, LockLost];
    /// Renew a lock
    Renew { app: AppName, name: String }: PUT "/v1/apps/{app}/locks/{name}", Deploy,
        Json<RenewLock> => Json<HeldLock>,
        [AppNotFound, AppBeingDestroyed, InvalidKey, AppQuotaExceeded, LockLost];
    /// Release a lock
    Release { app: AppName, name: String }: DELETE "/v1/apps/{app}/locks/{name}" ? TokenQuery, Deploy,
        NoBody => NoBody, [AppNotFound, AppBeingDestroyed, InvalidKey, AppQuotaExceeded, LockLost];
}
