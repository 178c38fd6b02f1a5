//! Apps: their settings, releases and instances, and why they are as they are.

use std::collections::BTreeMap;

use gantry_model::{AllocationId, AppName};
use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, NoBody, QueryParameters, endpoints};
use crate::types::{
    AcceptedDeploy, AppInfo, ChangeBase, ChangeBranch, ChangeConfig, ChangeHosts, ChangeScale, ChangeTraffic,
    CreateApp, Explanation, InstanceInfo, ReleaseInfo, RenameApp,
};

/// Query of an explanation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WhyQuery {
    /// Only this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<AllocationId>,
}

impl QueryParameters for WhyQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[("instance", "only this instance")];
}

endpoints! {
    /// All apps
    List: GET "/v1/apps", Read, NoBody => Json<Vec<AppInfo>>, [];
    /// Create an app
    Create: POST "/v1/apps", Admin, Json<CreateApp> => Json<AppInfo>,
        [AppExists, AppBeingDestroyed, FormerNameInUse, HostTaken, HostReserved, TooManyHosts, BaseNotFound, InvalidBranch, NoVolumeFolder];
    /// An app
    Show { app: AppName }: GET "/v1/apps/{app}", Read, NoBody => Json<AppInfo>, [AppNotFound, AppBeingDestroyed];
    /// Destroy an app
    Destroy { app: AppName }: DELETE "/v1/apps/{app}", Admin, NoBody => NoBody,
        [AppNotFound, AppBeingDestroyed, RenameInProgress];
    /// Show the configuration of an app
    Config { app: AppName }: GET "/v1/apps/{app}/config", Deploy, NoBody => Json<BTreeMap<String, String>>,
        [AppNotFound, AppBeingDestroyed];
    /// Change its configuration; a deploy if something runs
    SetConfig { app: AppName }: PATCH "/v1/apps/{app}/config", Deploy,
        Json<ChangeConfig> => Json<Option<AcceptedDeploy>>,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, InvalidVariableName, ReservedVariable, InvalidVariableValue,
         ValueTooLong, ConfigTooLarge, RollbackInProgress];
    /// Change its base, from the next push on
    SetBase { app: AppName }: PUT "/v1/apps/{app}/base", Deploy, Json<ChangeBase> => NoBody,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, BaseNotFound];
    /// Change the branch that deploys
    SetBranch { app: AppName }: PUT "/v1/apps/{app}/branch", Deploy, Json<ChangeBranch> => NoBody,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, InvalidBranch];
    /// Add and remove host names
    SetHosts { app: AppName }: PATCH "/v1/apps/{app}/hosts", Admin, Json<ChangeHosts> => Json<AppInfo>,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, HostTaken, HostReserved, HostNotFound, TooManyHosts, NoChange];
    /// Give it another name; a deploy under that name if something runs
    Rename { app: AppName }: POST "/v1/apps/{app}/rename", Admin, Json<RenameApp> => Json<Option<AcceptedDeploy>>,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, RenameDuringDeploy, RenameWhilePaused, AppExists,
         FormerNameInUse, TooManyHosts];
    /// Change the number of copies of roles
    SetScale { app: AppName }: PUT "/v1/apps/{app}/scale", Deploy, Json<ChangeScale> => NoBody,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, RoleNotFound, SingleWriter, GlobalRole, TooManyCopies,
         TooManyRoles];
    /// Pause and resume requests, refuse or limit them
    SetTraffic { app: AppName }: POST "/v1/apps/{app}/traffic", Deploy, Json<ChangeTraffic> => NoBody,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, InvalidMaintenanceMessage, ZeroLimit, TooManyProxies];
    /// List the releases of an app
    Releases { app: AppName }: GET "/v1/apps/{app}/releases", Read, NoBody => Json<Vec<ReleaseInfo>>,
        [AppNotFound, AppBeingDestroyed];
    /// List the instances of an app
    Instances { app: AppName }: GET "/v1/apps/{app}/instances", Read, NoBody => Json<Vec<InstanceInfo>>,
        [AppNotFound, AppBeingDestroyed];
    /// Explain its state
    Why { app: AppName }: GET "/v1/apps/{app}/why" ? WhyQuery, Read, NoBody => Json<Explanation>,
        [AppNotFound, AppBeingDestroyed, InstanceNotFound];
}
