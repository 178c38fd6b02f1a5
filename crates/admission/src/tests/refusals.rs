use std::collections::BTreeSet;

use gantry_error_codes::ErrorCode;
use gantry_model::execve::TooLong;
use gantry_model::{PolicyKey, RuleError};

use super::*;
use crate::FullList;

/// Returns one refusal of each kind.
fn samples() -> Vec<Refusal> {
    let (app, role, base, one) = (shop(), role_name("web"), base_name("debian"), "x".to_owned());
    let (deploy, release) = (DeployNumber(2), ReleaseNumber(3));
    vec![
        Refusal::AppNotFound { app: app.clone() },
        Refusal::AppExists { app: app.clone() },
        Refusal::AppBeingDestroyed { app: app.clone() },
        Refusal::RenameInProgress { from: app.clone(), to: app.clone() },
        Refusal::RenameDuringDeploy { app: app.clone(), deploy },
        Refusal::RenameWhilePaused { app: app.clone() },
        Refusal::FormerNameInUse { address: one.clone(), app: app.clone(), name: app.clone() },
        Refusal::NoVolumeFolder { app: app.clone() },
        Refusal::HostTaken { host: host("a.test"), app: app.clone() },
        Refusal::HostReserved { host: host("a.localhost"), domain: host("localhost") },
        Refusal::HostNotFound { app: app.clone(), host: host("a.test") },
        Refusal::TooManyHosts { most: 1 },
        Refusal::NoHostChange,
        Refusal::InvalidBranch { branch: one.clone() },
        Refusal::BaseNotFound { base: base.clone() },
        Refusal::BaseInUse { base, apps: vec![app.clone()] },
        Refusal::BuildInProgress { app: app.clone() },
        Refusal::InvalidVariableName { key: one.clone() },
        Refusal::ReservedVariable { key: one.clone() },
        Refusal::InvalidVariableValue { key: one.clone() },
        Refusal::ValueTooLong(TooLong::Variable { name: one.clone(), bytes: 1 }),
        Refusal::ConfigTooLarge { count: 1, bytes: 1, most_values: 1, most_bytes: 1 },
        Refusal::RollbackInProgress { app: app.clone() },
        Refusal::DeployInProgress { app: app.clone(), deploy, by: one.clone(), commit: one.clone() },
        Refusal::ReleaseNotFound { app: app.clone(), release },
        Refusal::NoRelease { app: app.clone() },
        Refusal::NoEarlierRelease { app: app.clone(), current: release },
        Refusal::NoHeldDeploy { app: app.clone() },
        Refusal::NoDeployInProgress { app: app.clone() },
        Refusal::RoleNotFound { app: app.clone(), role: role.clone(), known: vec![role.clone()] },
        Refusal::SingleWriter { role: role.clone() },
        Refusal::GlobalRole { role: role.clone() },
        Refusal::TooManyCopies { role, count: 2, most: 1 },
        Refusal::TooManyRoles { count: 2, most: 1 },
        Refusal::InvalidMaintenanceMessage { bytes: 2, most: 1 },
        Refusal::ZeroLimit,
        Refusal::InvalidPolicyValue { rule: PolicyKey::Drain, error: RuleError::Time(one.clone()) },
        Refusal::DomainTaken { address: one.clone(), app: app.clone(), other: app.clone() },
        Refusal::TooManyProxies { count: 2, most: 1 },
        Refusal::InvalidTokenName,
        Refusal::TokenExists { token: one.clone() },
        Refusal::TokenNotFound { token: one.clone() },
        Refusal::ZeroLifetime,
        Refusal::ImageNotFound { repository: one.clone(), reference: one.clone() },
        Refusal::RepositoryFull { list: FullList::Referrers { most: 1 } },
        Refusal::VolumeNotFound { volume: one.clone() },
        Refusal::TooManyVolumes { most: 1 },
        Refusal::VolumePathTaken { first: one.clone(), second: one.clone(), path: one },
    ]
}

#[test]
fn each_refusal_has_a_code_of_its_own() {
    let samples = samples();
    let kinds: BTreeSet<String> = samples.iter().map(kind).collect();
    let codes: BTreeSet<ErrorCode> = samples.iter().map(Refusal::code).collect();
    assert_eq!((kinds.len(), codes.len()), (samples.len(), samples.len()));
    for refusal in &samples {
        let status = refusal.code().description().status;
        assert!([400, 404, 409].contains(&status), "{refusal:?}: {status}");
    }
}

/// Returns the name of the variant.
fn kind(refusal: &Refusal) -> String {
    format!("{refusal:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
}

#[test]
fn a_name_that_is_taken_has_a_remedy() {
    for (refusal, remedy) in [
        (Refusal::AppExists { app: shop() }, "choose another name, or look at that app with `gantry app show shop`"),
        (Refusal::HostTaken { host: host("a.test"), app: shop() }, "`gantry app host shop --rm a.test` frees the host"),
        (
            Refusal::TokenExists { token: "ci".to_owned() },
            "choose another name, or remove that token with `gantry token revoke ci`",
        ),
    ] {
        assert_eq!(refusal.hint().as_deref(), Some(remedy));
    }
}

#[test]
fn texts_are_one_line_in_lower_case_without_a_full_stop() {
    for refusal in samples() {
        let text = refusal.to_string();
        assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
        assert!(!text.starts_with(|c: char| c.is_uppercase()), "{text}");
        let hint = refusal.hint().unwrap_or_default();
        assert!(!hint.contains('\n') && !text.contains(&hint) | hint.is_empty(), "{text}: {hint}");
    }
}
