//! The status, the cluster policy, and the audit trail.

use gantry_model::AppName;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, NoBody, QueryParameters, endpoints};
use crate::policy::{ChangePolicy, PolicyInfo};
use crate::types::{AuditEvent, BlobPlaces, ClusterStatus, NewJoinToken, OpenApiDocument};

/// Query of the audit trail.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Only events of this app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
}

impl QueryParameters for EventsQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[("app", "only events of this app")];

    fn app(&self) -> Option<&AppName> {
        self.app.as_ref()
    }
}

endpoints! {
    /// This document
    OpenApi: GET "/v1/openapi.json", Open, NoBody => Json<OpenApiDocument>, [];
    /// The API for applications, which containers find at `GANTRY_API`
    ApplicationApi: GET "/v1/openapi-apps.json", Open, NoBody => Json<OpenApiDocument>, [];
    /// Machines, routers, apps, space
    Status: GET "/v1/status", Read, NoBody => Json<ClusterStatus>, [];
    /// The rules of the cluster
    Policy: GET "/v1/cluster/policy", Read, NoBody => Json<PolicyInfo>, [];
    /// Change rules of the cluster; null gives a rule its default again
    ChangeRules: PATCH "/v1/cluster/policy", Admin, Json<ChangePolicy> => Json<PolicyInfo>,
        [PolicyRuleNotFound, InvalidPolicyValue, DomainTaken];
    /// Create a join token; its text is shown once
    CreateJoinToken: POST "/v1/cluster/join-tokens", Admin, Json<crate::types::CreateJoinToken> => Json<NewJoinToken>,
        [NoAuthority, InvalidJoinLifetime, StoreNotShared];
    /// Name the servers that have these blobs
    FindBlobs: POST "/v1/cluster/blobs", Admin, Json<crate::types::FindBlobs> => Json<BlobPlaces>, [];
    /// The audit trail
    Events: GET "/v1/events" ? EventsQuery, Read, NoBody => Json<Vec<AuditEvent>>, [];
}
