//! Number of copies of an app's roles.

use std::collections::BTreeMap;

use gantry_model::{AppName, AuditAction, Release, RoleName};

use crate::{Actor, Admitted, Refusal, find_changeable_app};

/// Maximum number of roles of an app with a number of copies. Before the first release, any role can be scaled.
const ROLES_MAX: usize = 100;

impl Actor<'_> {
    /// Changes the number of copies of roles.
    ///
    /// # Errors
    /// When the app or a role is missing, or a number is too large.
    pub fn change_scale(&self, name: &AppName, roles: BTreeMap<RoleName, u32>) -> Admitted<()> {
        let mut app = find_changeable_app(self.records, name)?.clone();
        let release = app.current.and_then(|number| self.records.release(name, number));
        for (role, count) in &roles {
            if let Some(release) = release {
                check_role(release, role, *count)?;
            }
            let most = self.records.policy.max_copies();
            // A role may keep the number that it has under a lower limit.
            if *count > most && app.scale.get(role) != Some(count) {
                return Err(Refusal::TooManyCopies { role: role.clone(), count: *count, most });
            }
        }
        app.scale.extend(roles.clone());
        if app.scale.len() > ROLES_MAX {
            return Err(Refusal::TooManyRoles { count: app.scale.len(), most: ROLES_MAX });
        }
        self.changed(app, AuditAction::Scaled { roles })
    }
}

/// Refuses a role that the release lacks, a second copy of a role that is limited to one copy, and any number of copies
/// of a global role.
fn check_role(release: &Release, role: &RoleName, count: u32) -> Result<(), Refusal> {
    let Some(settings) = release.roles.get(role).filter(|settings| settings.is_service()) else {
        let known = release.services().map(|(role, _)| role.clone()).collect();
        return Err(Refusal::RoleNotFound { app: release.app.clone(), role: role.clone(), known });
    };
    if settings.placement.global && count > 0 {
        return Err(Refusal::GlobalRole { role: role.clone() });
    }
    if settings.stop_first() && count > 1 {
        return Err(Refusal::SingleWriter { role: role.clone() });
    }
    Ok(())
}
