//! The roles with one copy on every machine that fits. Such a role waits for no machine: a copy is wanted once a machine
//! fits. So a change of the machines, or of the copies beside which a copy may run, concerns the role's app.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{AppName, PlacementRules, ReleaseNumber, RoleName, RolePattern, Slot};
use gantry_records::RecordIndex;

/// The global roles of all apps, of the releases that run or are about to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GlobalRoles(BTreeMap<AppName, Vec<GlobalRole>>);

/// A global role and its relations to other roles.
#[derive(Debug, PartialEq, Eq)]
struct GlobalRole {
    name: RoleName,
    with: BTreeSet<RolePattern>,
    apart_from: BTreeSet<RolePattern>,
}

impl GlobalRoles {
    /// Finds the global roles of all records.
    pub(crate) fn of(records: &RecordIndex) -> Self {
        let mut roles = Self::default();
        records.apps.keys().for_each(|app| roles.follow_app(records, app));
        roles
    }

    /// Takes over a change of an app, its releases or its deploys.
    pub(crate) fn follow_app(&mut self, records: &RecordIndex, app: &AppName) {
        let known = records.apps.get(app);
        let current = known.and_then(|app| app.current);
        let upcoming_releases =
            known.into_iter().flat_map(|_| records.open_deploys(app)).filter_map(|deploy| deploy.release);
        let numbers: BTreeSet<ReleaseNumber> = current.into_iter().chain(upcoming_releases).collect();
        let releases = numbers.into_iter().filter_map(|number| records.release(app, number));
        let roles = releases.flat_map(|release| &release.roles).filter(|(_, role)| role.placement.global);
        let roles: Vec<GlobalRole> = roles.map(|(name, role)| GlobalRole::new(name, &role.placement)).collect();
        if roles.is_empty() {
            self.0.remove(app);
        } else {
            self.0.insert(app.clone(), roles);
        }
    }

    /// The apps with a global role.
    pub(crate) fn apps(&self) -> impl Iterator<Item = &AppName> {
        self.0.keys()
    }

    /// The apps with a global role for which a copy of another role matters. `rules` are those of the other role.
    pub(crate) fn related_to<'a>(
        &'a self,
        other: &'a Slot,
        rules: &'a PlacementRules,
    ) -> impl Iterator<Item = &'a AppName> {
        let has_related = move |(app, roles): &(&AppName, &Vec<GlobalRole>)| {
            roles.iter().any(|role| role.is_related_to(other) || role.is_refused_by(app, rules))
        };
        self.0.iter().filter(has_related).map(|(app, _)| app)
    }
}

impl GlobalRole {
    fn new(name: &RoleName, rules: &PlacementRules) -> Self {
        Self { name: name.clone(), with: rules.with.clone(), apart_from: rules.apart_from.clone() }
    }

    /// Reports whether a rule of this role names the other role.
    fn is_related_to(&self, other: &Slot) -> bool {
        self.with.iter().chain(&self.apart_from).any(|pattern| pattern.covers(&other.app, &other.role))
    }

    /// Reports whether the rules of another role keep this role from its machines.
    fn is_refused_by(&self, app: &AppName, rules: &PlacementRules) -> bool {
        rules.apart_from.iter().any(|pattern| pattern.covers(app, &self.name))
    }
}

#[cfg(test)]
mod tests {
    use gantry_model::{App, Deploy, DeployNumber, DeployState, Moment, Role, RoleCommand};
    use gantry_records::{RecordChange, StoreRecord};

    use super::*;
    use crate::tests::{app_name, cause, release_of, role_name};

    fn patterns(texts: &[&str]) -> BTreeSet<RolePattern> {
        texts.iter().map(|text| RolePattern::parse(text).expect("a pattern")).collect()
    }

    fn rules(global: bool, with: &[&str], apart_from: &[&str]) -> PlacementRules {
        let (with, apart_from) = (patterns(with), patterns(apart_from));
        PlacementRules { global, with, apart_from, ..PlacementRules::default() }
    }

    /// A release with a role `web` that has these rules.
    fn release(app: &str, number: u64, placement: PlacementRules) -> StoreRecord {
        let role = Role { placement, ..Role::new(RoleCommand::Shell("serve".into())) };
        StoreRecord::Release(release_of(app, number, [(role_name("web"), role)].into()))
    }

    fn app(name: &str, current: Option<u64>) -> StoreRecord {
        StoreRecord::App(App { current: current.map(ReleaseNumber), ..App::new(app_name(name), Moment(0)) })
    }

    fn deploy(app: &str, release: u64, state: DeployState) -> StoreRecord {
        let mut deploy = Deploy::new(app_name(app), DeployNumber(release), cause(), "test".into(), false, Moment(0));
        deploy.release = Some(ReleaseNumber(release));
        deploy.enter(state, Moment(1));
        StoreRecord::Deploy(deploy)
    }

    fn texts<'a>(apps: impl Iterator<Item = &'a AppName>) -> Vec<String> {
        apps.map(ToString::to_string).collect()
    }

    #[test]
    fn a_global_role_counts_in_the_current_release_and_in_one_that_is_deployed() {
        use DeployState::{Placing, Reverted};
        for (current, global, deployed, expected) in [
            (None, 1, None, false),
            (Some(1), 1, None, true),
            (Some(2), 1, None, false),
            (Some(1), 2, Some(Placing), true),
            (Some(1), 2, Some(Reverted), false),
            (None, 2, Some(Placing), true),
        ] {
            let mut records = RecordIndex::default();
            let releases = (1..=2).map(|number| release("shop", number, rules(number == global, &[], &[])));
            let deploys = deployed.map(|state| deploy("shop", 2, state));
            let all = [app("shop", current)].into_iter().chain(releases).chain(deploys);
            all.for_each(|record| records.apply(record.into()));
            let found = GlobalRoles::of(&records);
            assert_eq!(texts(found.apps()).len(), usize::from(expected), "{current:?} {global} {deployed:?}");
        }
    }

    #[test]
    fn a_copy_concerns_the_global_roles_that_name_its_role_or_that_its_role_refuses() {
        for (global, other, expected) in [
            (rules(true, &[], &[]), rules(false, &[], &[]), false),
            (rules(true, &["shop/web"], &[]), rules(false, &[], &[]), true),
            (rules(true, &["shop/worker"], &[]), rules(false, &[], &[]), false),
            (rules(true, &[], &["*/web"]), rules(false, &[], &[]), true),
            (rules(true, &[], &["*/worker"]), rules(false, &[], &[]), false),
            (rules(true, &[], &[]), rules(false, &[], &["guard/*"]), true),
            (rules(true, &[], &[]), rules(false, &[], &["guard/worker"]), false),
            (rules(true, &[], &[]), rules(false, &["guard/*"], &[]), false),
            (rules(false, &["shop/web"], &[]), rules(false, &[], &["guard/*"]), false),
        ] {
            let mut records = RecordIndex::default();
            let text = format!("{global:?} beside {other:?}");
            for record in [app("guard", Some(1)), release("guard", 1, global)] {
                records.apply(record.into());
            }
            let slot = Slot::parse("shop.v1.web-1").expect("a slot");
            let roles = GlobalRoles::of(&records);
            let found = texts(roles.related_to(&slot, &other));
            assert_eq!(found.len(), usize::from(expected), "{text}");
        }
    }

    #[test]
    fn roles_that_follow_each_change_equal_those_of_all_records() {
        let global = || rules(true, &["shop/*"], &[]);
        let mut records = RecordIndex::default();
        let mut roles = GlobalRoles::default();
        let changes: [RecordChange; 8] = [
            app("shop", None).into(),
            release("shop", 1, global()).into(),
            deploy("shop", 1, DeployState::Placing).into(),
            deploy("shop", 1, DeployState::Reverted).into(),
            app("shop", Some(1)).into(),
            release("shop", 2, rules(false, &[], &[])).into(),
            app("shop", Some(2)).into(),
            RecordChange::Remove("apps/shop".into()),
        ];
        let mut found = Vec::new();
        for change in changes {
            records.apply(change);
            roles.follow_app(&records, &app_name("shop"));
            assert_eq!(roles, GlobalRoles::of(&records));
            found.push(roles.apps().count());
        }
        assert_eq!(found, [0, 0, 1, 0, 1, 1, 0, 0]);
    }
}
