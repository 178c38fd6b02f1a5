//! Apps and instances whose next step depends on time: deadlines of deploys, and drains of retired instances.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{AllocationId, AppName, InstanceGoal, MachineName, MachinePlan};

use gantry_records::RecordIndex;

/// Deadlines and timeouts in progress. Without one, a tick plans nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Apps with an open deploy, and apps that are being destroyed.
    busy: BTreeSet<AppName>,
    /// Retired instances: out of the routes, and finishing their requests.
    retiring: BTreeMap<MachineName, BTreeSet<AllocationId>>,
    /// The number of machines with each retired instance. Reports of routers ask for many instances.
    retired: BTreeMap<AllocationId, usize>,
}

impl Activity {
    /// Derives the activity from all records.
    pub(crate) fn of(records: &RecordIndex) -> Self {
        let mut activity = Self::default();
        records.apps.keys().for_each(|app| activity.follow_app(records, app));
        records.plan.machines.iter().for_each(|(machine, part)| activity.follow_machine(machine, part));
        activity
    }

    /// Takes over a change of an app or of its deploys.
    pub(crate) fn follow_app(&mut self, records: &RecordIndex, app: &AppName) {
        let destroying = records.apps.get(app).is_some_and(|app| app.destroying);
        if destroying || records.open_deploys(app).next().is_some() {
            self.busy.insert(app.clone());
        } else {
            self.busy.remove(app);
        }
    }

    /// Takes over a change of a machine's part of the plan.
    pub(crate) fn follow_machine(&mut self, machine: &MachineName, part: &MachinePlan) {
        let retires = |goal| matches!(goal, InstanceGoal::Retire { .. });
        let ids: BTreeSet<AllocationId> =
            part.instances.iter().filter(|(_, a)| retires(a.goal)).map(|(id, _)| id.clone()).collect();
        let before = self.retiring.remove(machine).unwrap_or_default();
        for id in before.difference(&ids) {
            if let Some(machines) = self.retired.get_mut(id) {
                *machines -= 1;
                if *machines == 0 {
                    self.retired.remove(id);
                }
            }
        }
        for id in ids.difference(&before) {
            *self.retired.entry(id.clone()).or_default() += 1;
        }
        if !ids.is_empty() {
            self.retiring.insert(machine.clone(), ids);
        }
    }

    /// Returns whether the requests of an instance decide when the instance may stop.
    pub(crate) fn is_retiring(&self, id: &AllocationId) -> bool {
        self.retired.contains_key(id)
    }

    /// Returns the apps for which the passing of time matters.
    pub(crate) fn apps(&self) -> BTreeSet<AppName> {
        let retiring = self.retiring.values().flatten().map(|id| &id.slot.app);
        self.busy.iter().chain(retiring).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use gantry_model::{App, Deploy, DeployCause, DeployNumber, DeployState, Moment};
    use gantry_records::{RecordChange, StoreRecord};

    use super::*;
    use crate::tests::{app_name, instance_id, machine_name, part, retire};

    fn app(destroying: bool) -> StoreRecord {
        StoreRecord::App(App { destroying, ..App::new(app_name("shop"), Moment(0)) })
    }

    fn deploy(number: u64, state: DeployState) -> StoreRecord {
        let cause = DeployCause::Config { keys: Vec::new() };
        let mut deploy = Deploy::new(app_name("shop"), DeployNumber(number), cause, "test".into(), false, Moment(0));
        deploy.enter(state, Moment(1));
        StoreRecord::Deploy(deploy)
    }

    fn on(machine: &str, assigned: &[(&str, InstanceGoal)]) -> StoreRecord {
        StoreRecord::Machine(machine_name(machine), part(assigned).into())
    }

    fn records(records: impl IntoIterator<Item = StoreRecord>) -> RecordIndex {
        let mut index = RecordIndex::default();
        records.into_iter().for_each(|record| index.apply(record.into()));
        index
    }

    fn names(activity: &Activity) -> Vec<String> {
        activity.apps().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_app_waits_for_time_while_a_deploy_is_open() {
        use DeployState::*;
        for (states, expected) in [
            (vec![], false),
            (vec![Queued], true),
            (vec![Building], true),
            (vec![Placing], true),
            (vec![Starting], true),
            (vec![Verifying], true),
            (vec![Held], true),
            (vec![Promoting], true),
            (vec![Draining], true),
            (vec![Reverting], true),
            (vec![Done], false),
            (vec![Reverted], false),
            (vec![Superseded], false),
            (vec![Done, Superseded, Reverted], false),
            (vec![Done, Building], true),
        ] {
            let deploys = states.iter().zip(1..).map(|(state, number)| deploy(number, *state));
            let activity = Activity::of(&records([app(false)].into_iter().chain(deploys)));
            assert_eq!(!names(&activity).is_empty(), expected, "{states:?}");
        }
        assert_eq!(names(&Activity::of(&records([app(true)]))), ["shop"], "an app that is being destroyed");
    }

    #[test]
    fn an_app_waits_for_time_while_an_instance_retires() {
        let (run, stop) = (InstanceGoal::Run, InstanceGoal::Stop);
        for (assigned, expected) in [
            (vec![], vec![]),
            (vec![("shop.v1.web-1", run), ("blog.v1.web-1", stop)], vec![]),
            (vec![("shop.v1.web-1", run), ("blog.v1.web-1", retire())], vec!["blog"]),
            (
                vec![("shop.v1.web-1", retire()), ("shop.v1.web-2", retire()), ("blog.v1.web-1", retire())],
                vec!["blog", "shop"],
            ),
        ] {
            let activity = Activity::of(&records([on("m", &assigned)]));
            assert_eq!(names(&activity), expected, "{assigned:?}");
            for (id, goal) in assigned {
                let retires = matches!(goal, InstanceGoal::Retire { .. });
                assert_eq!(activity.is_retiring(&instance_id(id)), retires, "{id}");
            }
        }
    }

    #[test]
    fn an_instance_on_two_machines_retires_until_it_does_on_neither() {
        let id = instance_id("shop.v1.web-1");
        let mut activity = Activity::default();
        let mut seen = Vec::new();
        for (machine, goal) in [("m", true), ("n", true), ("m", false), ("n", false)] {
            let assigned: &[(&str, InstanceGoal)] = if goal { &[("shop.v1.web-1", retire())] } else { &[] };
            activity.follow_machine(&machine_name(machine), &part(assigned));
            seen.push(activity.is_retiring(&id));
        }
        assert_eq!(seen, [true, true, true, false]);
        assert_eq!(activity, Activity::default());
    }

    #[test]
    fn an_activity_that_follows_each_change_equals_one_derived_from_all_records() {
        let (run, stop) = (InstanceGoal::Run, InstanceGoal::Stop);
        let mut records = RecordIndex::default();
        let mut activity = Activity::default();
        let changes: Vec<RecordChange> = vec![
            app(false).into(),
            deploy(1, DeployState::Placing).into(),
            on("m", &[("shop.v1.web-1", run)]).into(),
            on("n", &[("shop.v1.web-2", run)]).into(),
            deploy(1, DeployState::Done).into(),
            on("m", &[("shop.v1.web-1", retire()), ("blog.v1.web-1", retire())]).into(),
            on("n", &[("shop.v1.web-2", retire())]).into(),
            on("m", &[("shop.v1.web-1", stop)]).into(),
            on("n", &[]).into(),
            deploy(2, DeployState::Queued).into(),
            deploy(3, DeployState::Queued).into(),
            deploy(2, DeployState::Superseded).into(),
            RecordChange::Remove("deploys/shop/00000003".into()),
            app(true).into(),
            RecordChange::Remove("apps/shop".into()),
        ];
        for change in changes {
            records.apply(change.clone());
            activity.follow_app(&records, &app_name("shop"));
            for (machine, part) in &records.plan.machines {
                activity.follow_machine(machine, part);
            }
            assert_eq!(activity, Activity::of(&records), "after {change:?}");
        }
        assert_eq!(names(&activity), [""; 0]);
    }
}
