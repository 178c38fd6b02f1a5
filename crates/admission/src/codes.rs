//! Commands on uploaded code.

use gantry_model::{AppName, AuditAction, BaseName, Digest, RoleName};
use gantry_records::{CodeRecord, CodeRevision, RecordChange, RecordIndex, StoreRecord, code_key};

use crate::{Actor, Admitted, Refusal, find_changeable_app};

/// Maximum number of revisions of a code that are kept. Jobs that wait keep the image of theirs, however old.
pub const REVISIONS_KEPT: usize = 20;

/// Maximum number of codes of an app.
pub const CODES_MAX: usize = 1000;

/// An uploaded code whose image is in the blobs.
#[derive(Debug, Clone)]
pub struct UploadedCode {
    /// The app.
    pub app: AppName,
    /// Name of the code.
    pub name: RoleName,
    /// The image.
    pub image: Digest,
    /// Stack of the code.
    pub stack: BaseName,
    /// Image of the stack, over which the code is a layer.
    pub base: Digest,
    /// Command of the code.
    pub command: Vec<String>,
    /// Number of files.
    pub files: u64,
    /// Size of all files in bytes.
    pub size: u64,
}

impl Actor<'_> {
    /// Makes an uploaded code the current revision of its name. An upload that equals the current revision changes
    /// nothing.
    ///
    /// # Errors
    /// Those of [`check_upload`], and [`Refusal::BaseChanged`].
    pub fn upload_code(&self, code: UploadedCode) -> Admitted<CodeRecord> {
        let UploadedCode { app, name, image, stack, base, command, files, size } = code;
        check_upload(self.records, &app, &name)?;
        let known = self.records.code(&app, &name).map(|known| (**known).clone());
        let mut record =
            known.unwrap_or_else(|| CodeRecord { app: app.clone(), name: name.clone(), revisions: Vec::new() });
        let newest = record.current();
        if newest.is_some_and(|newest| newest.image == image && newest.stack == stack) {
            return Ok((Vec::new(), record));
        }
        // Nothing else protects the layers of a base from garbage collection.
        if self.records.bases.get(&stack).is_none_or(|known| known.image != base) {
            return Err(Refusal::BaseChanged { base: stack });
        }
        let number = newest.map_or(1, |newest| newest.number + 1);
        let (by, created) = (self.name.to_owned(), self.now);
        record.revisions.push(CodeRevision { number, image, stack, command, files, size, by, created });
        let surplus = record.revisions.len().saturating_sub(REVISIONS_KEPT);
        record.revisions.drain(..surplus);
        let event = self.event(Some(&app), AuditAction::CodeUploaded { code: name, revision: number });
        Ok((vec![event, StoreRecord::Code(record.clone()).into()], record))
    }

    /// Removes a code with all its revisions. Jobs that were queued still run.
    ///
    /// # Errors
    /// When the app or the code is missing.
    pub fn remove_code(&self, app: &AppName, name: &RoleName) -> Admitted<()> {
        find_changeable_app(self.records, app)?;
        if self.records.code(app, name).is_none() {
            return Err(Refusal::CodeNotFound { app: app.clone(), code: name.clone() });
        }
        let event = self.event(Some(app), AuditAction::CodeRemoved { code: name.clone() });
        Ok((vec![event, RecordChange::Remove(code_key(app, name))], ()))
    }
}

/// Refuses an upload that cannot become a code.
///
/// # Errors
/// When the app is missing or cannot be changed now, has a role of that name, or has too many codes.
pub fn check_upload(records: &RecordIndex, app: &AppName, name: &RoleName) -> Result<(), Refusal> {
    let current = find_changeable_app(records, app)?.current;
    let release = current.and_then(|number| records.release(app, number));
    if release.is_some_and(|release| release.roles.contains_key(name)) {
        return Err(Refusal::CodeIsRole { app: app.clone(), role: name.clone() });
    }
    let codes = records.codes.get(app);
    let is_new = codes.is_none_or(|codes| !codes.contains_key(name));
    if is_new && codes.is_some_and(|codes| codes.len() >= CODES_MAX) {
        return Err(Refusal::TooManyCodes { app: app.clone(), most: CODES_MAX });
    }
    Ok(())
}
