//! Admission: decides on every change that a person, a build or a report asks for.
//!
//! A command is a pure function of the records, the time and the caller's name. It returns the record changes to write
//! and a value for the caller, or a typed [`Refusal`]. The server's core writes the changes, and the planner runs
//! afterwards.
//!
//! Admission knows no HTTP, no store and no clock. Callers map a refusal to an HTTP response, an OCI error or a line of
//! a push by its [code](Refusal::code), and never by its text.
//!
//! Begin with [`Actor`]: its methods are the commands.

mod apps;
mod bases;
mod builds;
mod clock;
mod codes;
mod config;
mod deploys;
mod events;
mod identity;
mod images;
mod machines;
mod members;
mod policy;
mod push;
mod refusal;
mod rename;
mod scale;
#[cfg(test)]
mod tests;
mod tokens;
mod traffic;
mod volumes;

use gantry_model::app::Rename;
use gantry_model::{App, AppName, AuditAction, Moment};
use gantry_records::{EventRecord, RecordChange, RecordIndex, StoreRecord};

pub use apps::{HostChange, NewApp};
pub use bases::check_stack;
pub use builds::{BuiltRelease, build_failed, release_built};
pub use clock::{JumpedRecords, newest_stamp, stamps_ahead};
pub use codes::{CODES_MAX, REVISIONS_KEPT, UploadedCode, check_upload};
pub use config::{RequestedConfig, RequestedConfigError, RequestedValue, requested_config};
pub use deploys::rollback_target;
pub use events::{events_of_deploys, events_of_report};
pub use identity::adopt_identity;
pub use images::{NewManifest, app_of_repository_is_missing};
pub use machines::events_of_machines;
pub use members::{Founding, JOIN_LIFETIME_MILLIS, JoinRequest};
pub use policy::{PolicyChange, adopt_policy};
pub use push::{AncestorQuestion, PushBase, check_history};
pub use refusal::{FullList, Refusal};
pub use rename::{DecidedRename, decided_rename, decided_renames, finish_rename, undo_rename};
pub use tokens::{NewToken, ServerToken, server_token};
pub use traffic::TrafficChange;
pub use volumes::check_image_settings;

/// Limit on the manifests, and on the tags, of a repository.
pub const REPOSITORY_MAX: usize = 10_000;

/// Limit on the manifests that refer to the same image. Their list is a single response, and each entry needs a read of
/// one manifest.
pub const REFERRERS_MAX: usize = 200;

/// The changes to write and a value for the caller, or a refusal.
pub type Admitted<T> = Result<(Vec<RecordChange>, T), Refusal>;

/// The actor of a command, and the facts that the command is decided by.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    /// All records.
    pub records: &'a RecordIndex,
    /// The time.
    pub now: Moment,
    /// Name for the audit trail: a token's, or `gantry`.
    pub name: &'a str,
}

impl<'a> Actor<'a> {
    /// Creates a caller.
    #[must_use]
    pub fn new(records: &'a RecordIndex, now: Moment, name: &'a str) -> Self {
        Self { records, now, name }
    }

    /// Returns a new event for the audit trail.
    fn event(&self, app: Option<&AppName>, action: AuditAction) -> RecordChange {
        StoreRecord::Event(EventRecord::new(self.records.next_event(), self.now, self.name, app.cloned(), action))
            .into()
    }

    /// Records an action that changes nothing else.
    ///
    /// # Errors
    /// Never; the result has the form of a command.
    pub fn record(&self, app: Option<&AppName>, action: AuditAction) -> Admitted<()> {
        Ok((vec![self.event(app, action)], ()))
    }

    /// Writes an app together with an event.
    fn changed(&self, app: App, action: AuditAction) -> Admitted<()> {
        let event = self.event(Some(&app.name), action);
        Ok((vec![event, StoreRecord::App(app).into()], ()))
    }
}

/// Returns an app, unless the app is missing or being destroyed.
///
/// # Errors
/// [`Refusal::AppNotFound`], [`Refusal::AppBeingDestroyed`].
pub fn find_app<'a>(records: &'a RecordIndex, name: &AppName) -> Result<&'a App, Refusal> {
    match records.apps.get(name) {
        Some(app) if app.destroying => Err(Refusal::AppBeingDestroyed { app: name.clone() }),
        Some(app) => Ok(app),
        None => Err(Refusal::AppNotFound { app: name.clone() }),
    }
}

/// Returns an app that may be changed: [`find_app`], unless the app is being renamed.
///
/// # Errors
/// Those of [`find_app`], and [`Refusal::RenameInProgress`].
pub fn find_changeable_app<'a>(records: &'a RecordIndex, name: &AppName) -> Result<&'a App, Refusal> {
    let app = find_app(records, name)?;
    let name = name.clone();
    match &app.rename {
        Some(Rename::To { name: to }) => Err(Refusal::RenameInProgress { from: name, to: to.clone() }),
        Some(Rename::From { name: from }) => Err(Refusal::RenameInProgress { from: from.clone(), to: name }),
        None => Ok(app),
    }
}
