//! The words of Gantry as types: what is asked for, what was seen, what was decided.
//!
//! | module | holds |
//! |---|---|
//! | [`name`] | names of apps, roles, machines, bases and hosts, checked when parsed |
//! | [`unit`] | sizes, shares of a processor, moments, generations |
//! | [`role`] | how one role of an app runs: command, limits, health, volumes |
//! | [`app`], [`release`], [`deploy`] | what is asked for |
//! | [`clock`] | time that passes whatever the wall clock does |
//! | [`proxies`] | proxies in front of the routers that are trusted |
//! | [`execve`] | what a process can be given when it starts |
//! | [`traffic`] | what is to become of an app's requests |
//! | [`observed`] | what machines and routers said of themselves |
//! | [`plan`] | what was decided: the next state of every machine and router |
//! | [`output`] | which line of a program's output tells most |
//! | [`reason`] | why a thing was done, failed, or waits |
//!
//! Nothing here reads a clock, a file or a socket. Begin with [`plan`]: it is what everything else leads to.

pub mod app;
pub mod clock;
pub mod deploy;
pub mod execve;
pub mod name;
pub mod network;
pub mod observed;
pub mod output;
pub mod plan;
pub mod proxies;
pub mod reason;
pub mod release;
pub mod role;
mod router_id;
pub mod traffic;
pub mod unit;
mod written;

pub use app::{App, ImageSettings};
pub use deploy::{Cause, Deploy, DeployNumber, DeployState};
pub use name::{AppName, BaseName, HostName, MachineName, NameError, RoleName};
pub use network::{Flow, NetworkFault, NetworkPart};
pub use observed::{
    Exit, Limit, LimitHit, Observed, ObservedInstance, ObservedMachine, ObservedRouter, Phase, Probe, Said, Stop,
};
pub use plan::{
    Assignment, ClosedReason, ClosedRoute, Endpoint, Goal, InstanceId, InstanceSpec, MachinePlan, Plan, Route, Table,
};
pub use proxies::{ClusterPolicy, Subnet, SubnetError, TrustedProxies};
pub use reason::Reason;
pub use release::{Digest, Release, ReleaseNumber};
pub use role::{Command, Health, Limits, Role};
pub use router_id::RouterId;
pub use traffic::{FailureRun, Patience, RequestCounts, RequestFailure, Traffic};
pub use unit::{Bytes, Generation, MilliCpu, Moment, Seconds, Span};
