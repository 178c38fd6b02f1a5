//! Serialized machine plan with deduplicated specs: copies with equal specs share one spec.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::{AllocationId, Assignment, Generation, InstanceGoal, InstanceSpec, MachinePlan};

/// The form that is written.
#[derive(Serialize)]
struct WrittenPlan<'a> {
    generation: Generation,
    /// The distinct specs.
    specs: Vec<&'a InstanceSpec>,
    instances: BTreeMap<&'a AllocationId, WrittenAssignment>,
}

#[derive(Serialize)]
struct WrittenAssignment {
    /// Index into `specs`, from 0.
    spec: usize,
    goal: InstanceGoal,
}

impl Serialize for MachinePlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut specs: Vec<&InstanceSpec> = Vec::new();
        let mut instances = BTreeMap::new();
        for (id, Assignment { spec, goal }) in &self.instances {
            instances.insert(id, WrittenAssignment { spec: index_of(&mut specs, spec), goal: *goal });
        }
        WrittenPlan { generation: self.generation, specs, instances }.serialize(serializer)
    }
}

/// The index of a spec among the distinct specs. The search runs from the end, because copies of a role are adjacent.
fn index_of<'a>(specs: &mut Vec<&'a InstanceSpec>, spec: &'a InstanceSpec) -> usize {
    let same = specs.iter().rposition(|known| std::ptr::eq(*known, spec));
    same.or_else(|| specs.iter().rposition(|known| *known == spec)).unwrap_or_else(|| {
        specs.push(spec);
        specs.len() - 1
    })
}

/// The form that is read.
#[derive(Deserialize)]
pub(crate) struct SerializedPlan {
    generation: Generation,
    #[serde(default)]
    specs: Vec<InstanceSpec>,
    instances: BTreeMap<AllocationId, SerializedAssignment>,
}

#[derive(Deserialize)]
struct SerializedAssignment {
    spec: SpecRef,
    goal: InstanceGoal,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecRef {
    /// Index into `specs`, from 0.
    Index(usize),
    /// The spec itself, as earlier versions wrote it.
    Inline(Box<InstanceSpec>),
}

impl TryFrom<SerializedPlan> for MachinePlan {
    type Error = String;

    fn try_from(SerializedPlan { generation, specs, instances }: SerializedPlan) -> Result<Self, String> {
        let specs: Vec<Arc<InstanceSpec>> = specs.into_iter().map(Arc::new).collect();
        let assignment = |(id, SerializedAssignment { spec, goal }): (AllocationId, SerializedAssignment)| {
            let spec = match spec {
                SpecRef::Inline(spec) => Arc::from(spec),
                SpecRef::Index(index) => specs
                    .get(index)
                    .cloned()
                    .ok_or_else(|| format!("{id} refers to spec {index}, which the plan does not contain"))?,
            };
            Ok((id, Assignment { spec, goal }))
        };
        let instances = instances.into_iter().map(assignment).collect::<Result<_, String>>()?;
        Ok(Self { generation, instances })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;
    use crate::role::RoleCommand;
    use crate::{AppName, Digest, Moment, ReleaseNumber, Role, RoleName, Slot};

    fn part(copies: u32) -> MachinePlan {
        let instance = |index: u32| {
            let role = if index.is_multiple_of(2) { "web" } else { "worker" };
            let slot = Slot {
                app: AppName::parse("shop").expect("a name"),
                release: ReleaseNumber(7),
                role: RoleName::parse(role).expect("a name"),
                index,
            };
            let id = slot.numbered(1);
            let spec = InstanceSpec {
                image: Digest::from_hex(&"a".repeat(64)).expect("a digest"),
                commit: None,
                config: BTreeMap::from([("SECRET".to_owned(), "x".repeat(1024))]),
                role: Role::new(RoleCommand::Shell(format!("run {role}"))),
                volumes_of: None,
            };
            let goal = match index % 3 {
                0 => InstanceGoal::Stop,
                1 => InstanceGoal::Retire { removed_in: Generation(4), since: Moment(5) },
                _ => InstanceGoal::Run,
            };
            (id, Assignment { spec: Arc::new(spec), goal })
        };
        MachinePlan { generation: Generation(3), instances: (1..=copies).map(instance).collect() }
    }

    #[test]
    fn writes_each_distinct_spec_once() {
        let plan = part(5000);
        let text = serde_json::to_vec(&plan).expect("written");
        // The size limit of a value in etcd.
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
        assert_eq!(serde_json::from_slice::<MachinePlan>(&text).expect("read"), plan);
        assert_eq!(to_value(&plan).expect("written")["specs"].as_array().map(Vec::len), Some(2));
        assert_eq!(to_value(MachinePlan::default()).expect("written")["specs"], json!([]));
    }

    #[test]
    fn reads_inline_specs_and_refuses_a_missing_spec() {
        let plan = part(4);
        let of = |a: &Assignment| json!({ "spec": to_value(&*a.spec).expect("a spec"), "goal": to_value(a.goal).expect("a goal") });
        let lines: BTreeMap<String, _> = plan.instances.iter().map(|(id, a)| (id.to_string(), of(a))).collect();
        let before = json!({ "generation": 3, "instances": lines });
        assert_eq!(from_value::<MachinePlan>(before).expect("read"), plan);
        let mut odd = to_value(&plan).expect("written");
        odd["specs"] = json!([]);
        let error = from_value::<MachinePlan>(odd).expect_err("refused").to_string();
        assert!(error.contains("shop.v7.web-2 refers to spec 0"), "{error}");
    }
}
