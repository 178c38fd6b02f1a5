//! The agent's connection to servers of other versions, over a real socket.
//!
//! An older server never sends a field, a value or a message that it lacks. A newer server sends fields, values and
//! messages that this agent does not know. In both cases the agent follows the plan, reports, and keeps its connection.

use std::collections::BTreeMap;

use gantry_api::Client;
use gantry_api::frame::Frame;
use gantry_control::UpdateSender;
use gantry_control::jobs::{Fence, JobId, JobOrder, JobRef};
use gantry_fixtures::{
    ContentChanges, DEADLINE, OtherServer, Script, ServerObservation, other_servers, scripted_server,
};
use gantry_model::{Assignment, Digest, InstanceGoal, InstanceSpec, Moment, Role, RoleCommand};
use serde_json::{Value, json};

use super::*;
use crate::AgentSettings;

fn id(text: &str) -> AllocationId {
    AllocationId::parse(text).expect("an id")
}

/// The third placement of a slot, which version 1 has no name for.
fn moved() -> AllocationId {
    id("shop.v1.web-1.3")
}

fn spec() -> InstanceSpec {
    InstanceSpec {
        image: Digest::from_hex(&"a".repeat(64)).expect("a digest"),
        commit: None,
        config: BTreeMap::from([("COLOR".to_owned(), "blue".to_owned())]).into(),
        role: Role::new(RoleCommand::Shell("run".to_owned())),
        volumes_of: None,
    }
}

const RETIRE: InstanceGoal = InstanceGoal::Retire { removed_in: Generation(1), since: Moment(7) };

/// The plan that a server of this version sends, as two updates.
fn updates() -> [Update; 2] {
    let assigned = |goal| Assignment { spec: Arc::new(spec()), goal };
    let first = [(moved(), assigned(InstanceGoal::Run)), (id("shop.v1.web-2"), assigned(InstanceGoal::Run))];
    let first = MachinePlan { generation: Generation(1), instances: first.into() };
    let mut second = MachinePlan { generation: Generation(2), ..first.clone() };
    second.instances.insert(id("shop.v1.web-3"), assigned(RETIRE));
    let mut sender = UpdateSender::new(None);
    [first, second].map(|plan| sender.next(plan.generation.0, &plan).expect("an update"))
}

fn update(update: &Update) -> Value {
    serde_json::to_value(ServerMessage::Update(update.clone())).expect("JSON")
}

/// The messages of a server of this version.
fn lines() -> Script {
    let [first, second] = updates();
    vec![
        json!({"type": "welcome", "version": 3, "lease_millis": 10_000}),
        json!({"type": "policy", "builds": 7}),
        update(&first),
        json!({"type": "lease", "asked": 1, "millis": 1, "revision": 1}),
        json!({"type": "jobs", "acknowledged": [{"job": 1, "fence": 1}]}),
        json!({"type": "layers", "sources": []}),
        json!({"type": "resend"}),
        update(&second),
    ]
}

/// Changes the items of an update whose keys begin with `kind`.
fn change_items(line: &mut Value, kind: &str, change: impl Fn(&mut Value)) {
    let items = line.get_mut("set").and_then(Value::as_object_mut).into_iter().flatten();
    items.filter(|(key, _)| key.starts_with(kind)).for_each(|(_, item)| change(item));
}

fn lack_fields(mut lines: Script) -> Script {
    for line in &mut lines {
        change_items(line, "spec/", |spec| {
            let fields = spec.as_object_mut().expect("fields");
            fields.remove("once").expect("written");
            let role = fields["role"].as_object_mut().expect("fields");
            for field in ["kind", "exposure", "protocol"] {
                role.remove(field).expect("written");
            }
        });
    }
    lines
}

fn add_fields(mut lines: Script) -> Script {
    for line in &mut lines {
        line["zone"] = json!("b");
        for kind in ["allocation/", "spec/"] {
            change_items(line, kind, |item| item["zone"] = json!({"name": "b"}));
        }
        change_items(line, "allocation/", |item| item["goal"]["zone"] = json!(["b"]));
        change_items(line, "spec/", |item| item["role"]["zone"] = json!(7));
    }
    lines
}

/// A server before the goal "retire" stops the copy at once.
fn lack_values(mut lines: Script) -> Script {
    for line in &mut lines {
        change_items(line, "allocation/shop.v1.web-3", |item| item["goal"] = json!({"kind": "stop"}));
    }
    lines
}

fn add_values(mut lines: Script) -> Script {
    for line in &mut lines {
        change_items(line, "allocation/shop.v1.web-3", |item| item["goal"] = json!({"kind": "freeze", "depth": 2}));
    }
    let order = JobOrder {
        lease: JobRef { job: JobId(5), fence: Fence(2) },
        queue: "shop/mail".parse().expect("a queue"),
        release: String::new(),
        spec: Box::new(spec()),
        network: true,
        timeout: 60,
        payload: String::new(),
    };
    let mut order = serde_json::to_value(order).expect("JSON");
    order["spec"]["role"]["command"] = json!({"wasm": "run"});
    let source = json!({"kind": "satellite", "orbit": 3});
    let news = [
        json!({"type": "session", "request": {"id": "s1", "what": {"kind": "teleport", "to": "m2"}}}),
        json!({"type": "jobs", "run": [order]}),
        json!({"type": "layers", "sources": [{"digest": spec().image, "source": source}]}),
    ];
    lines.splice(2..2, news);
    lines
}

/// Expected behaviour of the agent in a test.
#[derive(Clone)]
struct Expected {
    /// Goal of the third copy; none if the agent cannot read the copy.
    goal: Option<InstanceGoal>,
    /// Name of the moved copy in the reports of the agent.
    reported: &'static str,
}

const USUAL: Expected = Expected { goal: Some(RETIRE), reported: "instance/shop.v1.web-1.3" };

fn servers() -> [OtherServer<Expected>; 8] {
    let content = ContentChanges {
        lack_fields: (lack_fields, USUAL),
        add_fields: (add_fields, USUAL),
        lack_values: (lack_values, Expected { goal: Some(InstanceGoal::Stop), ..USUAL }),
        add_values: (add_values, Expected { goal: None, ..USUAL }),
    };
    other_servers(USUAL, content, Expected { reported: "instance/shop.v1.web-2000001", ..USUAL })
}

/// An agent with a copy that is ready, and the folder of its files.
fn agent(url: &str) -> (tempfile::TempDir, Arc<AgentContext>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, run) = (folder.path().join("data"), folder.path().join("run"));
    for folder in [&data, &run] {
        std::fs::create_dir(folder).expect("made");
    }
    let init = gantry_sandbox::install_init(&data.join("init")).expect("init");
    let settings = AgentSettings { data, run, ..AgentSettings::for_tests() };
    let agent = AgentContext::open(settings, Client::new(url, "token"), None, init, false).expect("an agent");
    agent.status.set(&moved(), ObservedInstance::new(InstancePhase::Ready, Moment(7)));
    (folder, Arc::new(agent))
}

/// Messages of the agent that a server has received.
#[derive(Debug, Default)]
struct ReceivedMessages {
    connections: u32,
    /// The instances that the reports name, each with its last status.
    instances: BTreeMap<String, Value>,
    /// The ends of jobs.
    ended: Vec<Value>,
    /// The frames of sessions.
    frames: Vec<(String, Frame)>,
}

impl ReceivedMessages {
    fn take(&mut self, heard: ServerObservation) {
        match heard {
            ServerObservation::Connected => self.connections += 1,
            ServerObservation::Frame(session, frame) => self.frames.push((session, frame)),
            ServerObservation::Message(message) => {
                let items = message["set"].as_object().cloned().into_iter().flatten();
                self.instances.extend(items.filter(|(key, _)| key.starts_with("instance/")));
                self.ended.extend(message["ended"].as_array().cloned().into_iter().flatten());
            }
        }
    }

    /// Reports whether the agent has refused everything that it could not read.
    fn is_refused(&self) -> bool {
        self.instances.contains_key("instance/shop.v1.web-3") && !self.ended.is_empty() && !self.frames.is_empty()
    }
}

/// Runs the agent's connection to a server until the agent has the whole plan and has reported.
async fn follow_server(other: OtherServer<Expected>) {
    let Expected { goal, reported } = other.expected;
    let lines = (other.change)(lines());
    let lacks_policy = !lines.iter().any(|line| line["type"] == "policy");
    let (url, mut heard) = scripted_server(lines).await;
    let (_folder, agent) = agent(&url);
    let (plans, mut arrived) = watch::channel(None);
    let mut received = ReceivedMessages::default();
    let wanted = async {
        let is_last = |plan: &Option<MachinePlan>| plan.as_ref().is_some_and(|plan| plan.generation.0 == 2);
        let plan = arrived.wait_for(is_last).await.expect("the agent runs").clone().expect("a plan");
        while !received.instances.contains_key(reported) || (goal.is_none() && !received.is_refused()) {
            received.take(heard.recv().await.expect("the server runs"));
        }
        plan
    };
    let plan = tokio::select! {
        plan = tokio::time::timeout(DEADLINE, wanted) => plan,
        () = follow(&agent, None, &plans) => unreachable!("the agent follows for ever"),
    };
    let plan = plan.unwrap_or_else(|_| panic!("{}: the server heard {received:?}", other.name));

    assert_eq!(received.connections, 1, "{}: the connection stays", other.name);
    let goals = [(moved(), InstanceGoal::Run), (id("shop.v1.web-2"), InstanceGoal::Run)].into_iter();
    let goals: BTreeMap<_, _> = goals.chain(goal.map(|goal| (id("shop.v1.web-3"), goal))).collect();
    let planned = plan.instances.iter().map(|(id, assignment)| (id.clone(), assignment.goal)).collect();
    assert_eq!(goals, planned, "{}", other.name);
    assert!(plan.instances.values().all(|assignment| *assignment.spec == spec()), "{}", other.name);
    let builds = if lacks_policy { PeerPolicy::default().builds } else { 7 };
    assert_eq!(agent.policy.now().builds, builds, "{}", other.name);
    if goal.is_none() {
        refused(&received);
    }
}

/// Asserts that the agent has said why it refuses a copy, a job and a session.
fn refused(received: &ReceivedMessages) {
    let names = |text: &str, value| assert!(text.contains(value) && text.contains("update the machine"), "{text}");
    let copy = &received.instances["instance/shop.v1.web-3"];
    assert_eq!(copy["phase"], "failed");
    names(copy["failure"].as_str().expect("a text"), "freeze");
    let job = &received.ended[0];
    assert_eq!((&job["job"], &job["fence"], &job["outcome"]), (&json!(5), &json!(2), &json!("failed")));
    names(job["details"]["failure"].as_str().expect("a text"), "wasm");
    let (session, Frame::Failed(why)) = &received.frames[0] else { panic!("{received:?}") };
    assert_eq!(session, "s1");
    names(why, "teleport");
}

#[tokio::test]
async fn follows_servers_of_other_versions() {
    for other in servers() {
        follow_server(other).await;
    }
}
