//! The cluster's records: their types, their keys in the store, and the index of all records in memory.
//!
//! [`RecordIndex`] is a value. It reads no store and no clock: the server's core loads the records, applies each
//! [`RecordChange`] that the store has committed, and hands the records to the deciders.
//!
//! | key | record |
//! |---|---|
//! | `apps/<app>` | [`App`] |
//! | `destroyed-apps/<app>` | [`DestroyedApp`] |
//! | `configs/<digest>` | [`ReleaseConfig`] |
//! | `releases/<app>/<number>` | [`Release`] |
//! | `deploys/<app>/<number>` | [`Deploy`] |
//! | `builds/<app>/<commit>` | [`BuildRecord`] |
//! | `bases/<name>` | [`BaseRecord`] |
//! | `codes/<app>/<name>` | [`CodeRecord`] |
//! | `tags/<repository>/<tag>` | a digest |
//! | `manifests/<repository>/<digest>` | [`PushedManifest`] |
//! | `tokens/<hash>` | [`TokenRecord`] |
//! | `events/<number mod 1000>` | [`EventRecord`] |
//! | `cluster/id` | [`ClusterId`] |
//! | `cluster/policy` | [`ClusterPolicy`] |
//! | `machines/<name>` | [`Machine`] |
//! | `members/<name>` | [`MemberRecord`] |
//! | `join-tokens/<hash>` | [`JoinTokenRecord`] |
//! | `trust/authority` | [`AuthorityRecord`] |
//! | `schema` | the version of all records, see [`schema`] |
//! | `packs/<app>` | the packs of an app's repository, for clusters with several servers |
//! | `plan/allocations/<app>` | the numbers of an app's allocations |
//! | `plan/machines/<machine>` | a machine's part of the plan |
//! | `plan/routes/<app>` | routes of an app |
//! | `plan/routing` | what all routes share |
//!
//! The keys under `coordination/` are no records of this crate: they belong to the apps.

mod code;
mod destroyed_app;
mod git_packs;
mod index;
mod migrations;
mod record;
pub mod schema;
mod stored;
mod trust;

pub use code::{CodeRecord, CodeRevision, RevisionNumber, code_key};
pub use destroyed_app::{DestroyedApp, destroyed_key};
pub use git_packs::{GitPack, GitPacks};
pub use index::RecordIndex;
pub use record::{
    BaseRecord, BuildRecord, CLUSTER_ID_KEY, EventRecord, PushedManifest, RecordChange, RecordError, StoreRecord,
    TokenRecord, app_of_key, base_key, build_key, config_key, deploy_key, event_keys, machine_of_part_key,
    manifest_key, numbers_key, packs_key, parse_cluster_id, part_key, release_key, routes_key, tag_key, token_key,
};
pub use trust::{AUTHORITY_KEY, AuthorityRecord, JoinTokenRecord, MemberRecord, TokenUse, join_token_key, member_key};

/// Number of keys of the audit trail: a bound on the records if garbage collection does not keep pace. It is twice the
/// greatest value of the rule `event-retention`.
pub const EVENT_KEYS: u64 = 2 * gantry_model::EVENTS_MAX;

/// Number of keys of the audit trail before the rule `event-retention`.
const EARLIER_EVENT_KEYS: u64 = 1000;
