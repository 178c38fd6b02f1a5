//! Gantry's vocabulary as types: what users ask for, what agents and routers report, and what the planner decides.
//!
//! | module | holds |
//! |---|---|
//! | [`name`] | names of apps, roles, machines, base images and hosts, checked when parsed |
//! | [`unit`] | sizes, shares of a processor, moments, generations |
//! | [`role`] | how one role of an app runs: command, limits, health checks, volumes |
//! | [`app`], [`release`], [`deploy`] | what users ask for |
//! | [`clock`] | a clock that no jump of the wall clock disturbs |
//! | [`policy`] | the rules of the cluster, with their names, defaults and bounds |
//! | [`PlacementRules`], [`PlacementRefusal`] | what a role asks of its machine, and why machines refuse |
//! | [`proxies`] | the trusted proxies in front of the routers |
//! | [`execve`] | the kernel's bounds on the arguments and environment of a process |
//! | [`audit`] | the actions of the audit trail |
//! | [`traffic`] | traffic policy of an app, and the counts of its requests |
//! | [`observed`] | what machines and routers report |
//! | [`plan`] | what the planner decides: the next state of every machine and router |
//! | [`output`] | the most informative line of a program's output |
//! | [`exit_text`] | ends of processes and reached limits in words |
//! | [`reason`] | why an operation was done, failed, or waits |
//!
//! # Forms that several boundaries share
//!
//! | types | control protocol | records of the store | files of a machine |
//! |---|---|---|---|
//! | [`InstanceSpec`] with [`Role`] and [`ReleaseConfig`] | plans, jobs, one-offs | plans; releases have the roles | plan, instances, jobs |
//! | [`Route`], [`ClosedRoute`], [`AppNames`], [`TrafficPolicy`], [`RequestTimeouts`] | routes | routes | routing table |
//! | [`ExitStatus`], [`FailedProbe`] | reports | deploys, in their [`Reason`] | instances (the exit) |
//! | [`MachineCapacity`], [`TunnelAddress`], [`MachineSubnet`], [`Architecture`] | greetings | machines | – |
//!
//! Such a type has one form for places with different needs. A message is read at once, by a program that is at most one
//! version of the protocol apart: the recorded messages in `control/tests/transcripts` fix its form. A record and a file
//! are read years later, by every later program, and by the previous program after an update that was taken back. A new
//! field therefore has a default and is left out while unset; a field or a value with another name needs a migration in
//! `records`, and a new version of the protocol. `MachinePlan` and the reports are shared in memory alone: `control::part`
//! has their form in messages.
//!
//! This crate reads no clock, no file and no socket. Begin with [`plan`]: the other modules lead to the plan.

mod allocation;
pub mod app;
mod app_url;
pub mod audit;
mod build_phase;
pub mod clock;
mod cluster_id;
mod config;
pub mod defaults;
pub mod deploy;
mod digest;
mod endpoint;
pub mod execve;
pub mod exit_text;
mod machine;
mod machine_subnet;
pub mod name;
pub mod network;
pub mod observed;
pub mod output;
mod placement;
pub mod plan;
pub mod policy;
pub mod proxies;
pub mod reason;
pub mod release;
mod release_number;
pub mod remedy;
pub mod role;
mod router_id;
mod scope;
mod serialized_plan;
mod serialized_spec;
mod service_address;
pub mod traffic;
mod tunnel_address;
mod tunnels;
pub mod unit;

pub use allocation::{AllocationError, AllocationId, AllocationNumbers, Slot};
pub use app::{App, ImageSettings};
pub use app_url::{AppUrl, AppUrlError};
pub use audit::{AuditAction, BaseSource, ExitFacts};
pub use build_phase::BuildPhase;
pub use cluster_id::{ClusterId, ClusterIdError};
pub use config::ReleaseConfig;
pub use deploy::{Deploy, DeployCause, DeployNumber, DeployState};
pub use digest::{Digest, DigestError};
pub use endpoint::{Endpoint, MachineAddress};
pub use machine::{JoinRole, JoinRoleError, Machine, MachineCapacity, MachineId, MachineIdError, MachineState};
pub use machine_subnet::{MachineSubnet, MachineSubnetError};
pub use name::{AppName, BaseName, HostName, LabelKey, LabelValue, MachineName, NameError, RoleName, VolumeName};
pub use network::{NetworkFault, NetworkFlow, NetworkPart};
pub use observed::{
    ExitStatus, FailedProbe, InstancePhase, LimitHit, ObservedCluster, ObservedInstance, ObservedMachine,
    ObservedRouter, OutputLine, RoleLimit, StopReason,
};
pub use placement::{
    Architecture, MachineAvailability, MachineRefusal, PlacementRefusal, PlacementRules, RefusingMachines, RolePattern,
    RolePatternError,
};
pub use plan::{
    AppNames, AppRoutes, Assignment, ClosedReason, ClosedRoute, InstanceGoal, InstanceSpec, MachinePlan, Plan, Route,
    RoutingHead, RoutingTable, instances_of,
};
pub use policy::{ClusterPolicy, EVENTS_MAX, PolicyKey, RuleError, RuleValue, UnknownRule, WaitFor};
pub use proxies::{Subnet, SubnetError, TrustedProxies};
pub use reason::{FailureKind, Reason};
pub use release::Release;
pub use release_number::{ReleaseNumber, ReleaseNumberError};
pub use role::{Exposure, HealthSettings, Kind, ResourceLimits, Role, RoleCommand};
pub use router_id::{RouterId, RouterIdError};
pub use scope::Scope;
pub use service_address::{VIRTUAL_NETWORK, VIRTUAL_PORT, VirtualAddresses};
pub use traffic::{FailureRun, RequestCounts, RequestFailure, RequestTimeouts, TrafficPolicy};
pub use tunnel_address::{TunnelAddress, TunnelAddressError};
pub use tunnels::MachineTunnels;
pub use unit::{Bytes, Generation, MilliCpu, Moment, Seconds, SizeError, TimeSpan};
