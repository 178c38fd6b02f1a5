//! Commands on bases.

use gantry_model::{App, AppName, AuditAction, BaseName, BaseSource, DeployState, Digest};
use gantry_records::{BaseRecord, RecordChange, RecordIndex, StoreRecord, base_key};

use crate::{Actor, Admitted, Refusal};

impl Actor<'_> {
    /// Names an image in this registry as a base. `from` describes the image's origin.
    ///
    /// # Errors
    /// When a stack would replace a base that an operator made.
    pub fn store_base(&self, name: BaseName, image: Digest, from: String, source: BaseSource) -> Admitted<BaseRecord> {
        let stack = source == BaseSource::Stack;
        if stack {
            check_stack(self.records, &name)?;
        }
        let event = self.event(None, AuditAction::BaseStored { base: name.clone(), source });
        let base = BaseRecord { name, image, from, created: self.now, stack };
        Ok((vec![event, StoreRecord::Base(base.clone()).into()], base))
    }

    /// Removes a base that no app uses. Images built on the base keep the layers they need.
    ///
    /// # Errors
    /// When the base is missing, an app is on the base, or a build may use the base.
    pub fn remove_base(&self, base: &BaseName) -> Admitted<()> {
        self.known_base(base)?;
        let uses = |app: &&App| app.base.as_ref() == Some(base) && !app.destroying;
        let apps: Vec<AppName> =
            self.records.apps.values().map(AsRef::as_ref).filter(uses).map(|app| app.name.clone()).collect();
        if !apps.is_empty() {
            return Err(Refusal::BaseInUse { base: base.clone(), apps });
        }
        // The build may use this base, and no record references the image's parts before the build is done.
        let builds =
            |app: &&AppName| self.records.open_deploys(app).any(|deploy| deploy.state == DeployState::Building);
        if let Some(app) = self.records.apps.keys().find(builds) {
            return Err(Refusal::BuildInProgress { app: app.clone() });
        }
        let event = self.event(None, AuditAction::BaseRemoved { base: base.clone() });
        Ok((vec![event, RecordChange::Remove(base_key(base))], ()))
    }

    /// Refuses a base that does not exist.
    pub(crate) fn known_base(&self, base: &BaseName) -> Result<(), Refusal> {
        let known = self.records.bases.contains_key(base);
        known.then_some(()).ok_or_else(|| Refusal::BaseNotFound { base: base.clone() })
    }
}

/// Refuses to make a stack whose name a base of an operator has.
///
/// # Errors
/// [`Refusal::StackNameTaken`].
pub fn check_stack(records: &RecordIndex, name: &BaseName) -> Result<(), Refusal> {
    let taken = records.bases.get(name).is_some_and(|base| !base.stack);
    if taken { Err(Refusal::StackNameTaken { base: name.clone() }) } else { Ok(()) }
}
