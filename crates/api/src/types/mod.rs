//! Request and response types of the public API. They are types of their own: a change of a record in the store or of a
//! message to an agent does not change them. Only names, numbers and units are shared with the rest of Gantry.
//!
//! A value that programs act on is a field of its own; a text beside it is for people.

mod apps;
mod cause_code;
mod cluster;
mod deploys;
mod event_fields;
mod events;
mod explanation;
mod images;
mod machines;
mod openapi_document;
mod plan;
mod sessions;
mod tokens;

pub use apps::{
    AppInfo, ChangeBase, ChangeBranch, ChangeConfig, ChangeHosts, ChangeScale, ChangeTraffic, CreateApp, GoalInfo,
    InstanceInfo, PhaseInfo, RenameApp, RequestCountsInfo, TrafficInfo,
};
pub use cause_code::{CauseCode, CauseDescription};
pub use cluster::{
    BlobPlaces, ClusterStatus, FaultInfo, FaultKind, FindBlobs, MachineStatus, RouterStatus, ServerBlobs, ServerInfo,
    ServerSilence, StatusWarning, WarningKind,
};
pub use deploys::{
    AcceptedDeploy, CauseInfo, DeployCauseKind, DeployFailure, DeployInfo, DeployProgress, DeploySource,
    DeployStateInfo, ImageChange, ReleaseInfo, StartDeploy,
};
pub use event_fields::{BaseSourceInfo, DeployOrderInfo, EventFields, ExitInfo, LimitInfo};
pub use events::{AuditEvent, EventDetails, EventSubject, SubjectKind};
pub use explanation::{CauseObject, Explanation, ObjectKind};
pub use images::{
    BaseInfo, FileCount, FileReport, FolderReport, ImageProgress, ImageReport, LayerReport, OpensReport, PullImage,
    StackInfo, SurplusKind, SurplusReport,
};
pub use machines::{AvailabilityInfo, ChangeAvailability, ChangeLabels, MachineInfo, MachineStateInfo, StayInfo};
pub use openapi_document::OpenApiDocument;
pub use plan::{DeployPlan, PlanDeploy, PlannedCopy, PlannedRole, PlannedWait, RoleChange};
pub use sessions::{LogItem, LogLine, StartExec, StartRun, UnreachableMachine};
pub use tokens::{CreateJoinToken, CreateToken, JoinRoleInfo, NewJoinToken, NewToken, TokenInfo, TokenScope};
