//! Serialized machine plan: each distinct spec once by its digest, and each distinct configuration once by its digest.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::serialized_spec::{MissingConfig, SerializedSpec};
use crate::{AllocationId, Assignment, Digest, Generation, InstanceGoal, InstanceSpec, MachinePlan, ReleaseConfig};

/// The form that is written.
#[derive(Serialize)]
struct WrittenPlan<'a, S> {
    generation: Generation,
    configs: BTreeMap<&'a Digest, &'a ReleaseConfig>,
    specs: BTreeMap<Digest, S>,
    instances: BTreeMap<&'a AllocationId, WrittenAssignment>,
}

#[derive(Serialize)]
struct WrittenAssignment {
    spec: Digest,
    goal: InstanceGoal,
}

impl Serialize for MachinePlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut known = DistinctSpecs::default();
        let mut instances = BTreeMap::new();
        for (id, Assignment { spec, goal }) in &self.instances {
            instances.insert(id, WrittenAssignment { spec: known.digest(spec), goal: *goal });
        }
        let configs = known.0.iter().map(|(spec, _)| (spec.config.digest(), &spec.config)).collect();
        let specs = known.0.iter().map(|(spec, digest)| (digest.clone(), spec.by_reference())).collect();
        WrittenPlan { generation: self.generation, configs, specs, instances }.serialize(serializer)
    }
}

/// The distinct specs of a plan with their digests.
#[derive(Default)]
struct DistinctSpecs<'a>(Vec<(&'a InstanceSpec, Digest)>);

impl<'a> DistinctSpecs<'a> {
    /// The digest of a spec. The search runs from the end, because copies of a role are adjacent, and share their spec.
    fn digest(&mut self, spec: &'a InstanceSpec) -> Digest {
        if let Some((_, digest)) = self.0.iter().rev().find(|(known, _)| std::ptr::eq(*known, spec)) {
            return digest.clone();
        }
        let digest = spec.digest();
        self.0.push((spec, digest.clone()));
        digest
    }
}

/// The form that is read.
#[derive(Deserialize)]
pub(crate) struct SerializedPlan {
    generation: Generation,
    #[serde(default)]
    configs: BTreeMap<Digest, ReleaseConfig>,
    #[serde(default)]
    specs: SpecsForm,
    instances: BTreeMap<AllocationId, SerializedAssignment>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecsForm {
    ByDigest(BTreeMap<Digest, SerializedSpec>),
    /// As earlier versions wrote them.
    List(Vec<SerializedSpec>),
}

impl Default for SpecsForm {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

#[derive(Deserialize)]
struct SerializedAssignment {
    spec: SpecForm,
    goal: InstanceGoal,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecForm {
    Reference(Digest),
    /// Index into the list, from 0, as earlier versions wrote it.
    Index(usize),
    /// The spec itself, as still earlier versions wrote it.
    Inline(Box<InstanceSpec>),
}

/// A serialized plan that lacks something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IncompletePlan {
    #[error("{0} refers to a spec that the plan does not contain")]
    Spec(AllocationId),
    #[error(transparent)]
    Config(#[from] MissingConfig),
}

impl TryFrom<SerializedPlan> for MachinePlan {
    type Error = IncompletePlan;

    fn try_from(plan: SerializedPlan) -> Result<Self, IncompletePlan> {
        let SerializedPlan { generation, configs, specs, instances } = plan;
        let resolve = |spec: SerializedSpec| spec.resolve(&configs).map(Arc::new);
        let (mut named, mut listed) = (BTreeMap::new(), Vec::new());
        match specs {
            SpecsForm::List(specs) => listed = specs.into_iter().map(resolve).collect::<Result<_, _>>()?,
            SpecsForm::ByDigest(specs) => {
                let entry = |(digest, spec)| Ok::<_, MissingConfig>((digest, resolve(spec)?));
                named = specs.into_iter().map(entry).collect::<Result<_, _>>()?;
            }
        }
        let assignment = |(id, SerializedAssignment { spec, goal }): (AllocationId, SerializedAssignment)| {
            let spec = match spec {
                SpecForm::Inline(spec) => Some(Arc::from(spec)),
                SpecForm::Index(index) => listed.get(index).cloned(),
                SpecForm::Reference(digest) => named.get(&digest).cloned(),
            };
            let spec = spec.ok_or_else(|| IncompletePlan::Spec(id.clone()))?;
            Ok((id, Assignment { spec, goal }))
        };
        let instances = instances.into_iter().map(assignment).collect::<Result<_, IncompletePlan>>()?;
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
                config: BTreeMap::from([("SECRET".to_owned(), "x".repeat(1024))]).into(),
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
        let text = to_value(&plan).expect("written");
        let count = |part: &str| text[part].as_object().map(serde_json::Map::len);
        assert_eq!((count("specs"), count("configs")), (Some(2), Some(1)));
        assert_eq!(to_value(MachinePlan::default()).expect("written")["specs"], json!({}));
    }

    #[test]
    fn reads_the_forms_of_earlier_versions() {
        let plan = part(4);
        let specs: Vec<&InstanceSpec> = plan.instances.values().map(|assignment| &*assignment.spec).collect();
        let with = |spec: &dyn Fn(usize) -> serde_json::Value| -> serde_json::Value {
            let line = |(index, (id, a)): (usize, (&AllocationId, &Assignment))| {
                (id.to_string(), json!({ "spec": spec(index), "goal": to_value(a.goal).expect("a goal") }))
            };
            plan.instances.iter().enumerate().map(line).collect()
        };
        let inline = with(&|index| to_value(specs[index]).expect("a spec"));
        let listed = with(&|index| json!(index));
        for (specs, instances) in [(json!([]), inline), (to_value(&specs).expect("specs"), listed)] {
            let before = json!({ "generation": 3, "specs": specs, "instances": instances });
            assert_eq!(from_value::<MachinePlan>(before).expect("read"), plan);
        }
    }

    #[test]
    fn refuses_a_plan_without_a_spec_or_a_configuration() {
        for (lacks, error) in [("specs", "shop.v7.web-2 refers to a spec"), ("configs", "the configuration sha256:")] {
            let mut odd = to_value(part(4)).expect("written");
            odd[lacks] = json!({});
            let refused = from_value::<MachinePlan>(odd).expect_err("refused").to_string();
            assert!(refused.contains(error), "{refused}");
        }
    }
}
