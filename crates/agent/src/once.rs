//! One-off containers: `gantry run`. The container idles, the command is run in it as `exec` does, and goes with it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::{AppName, Bytes, InstanceSpec, ReleaseNumber};
use gantry_sandbox::{Container, ExecSpec, launch};
use serde::{Deserialize, Serialize};

use crate::container::{self, Names};
use crate::instance::STUCK;
use crate::records::Places;
use crate::{Agent, images, supervisor};

/// The file that says how much a one-off may write, and where it is.
const NOTE: &str = "once.json";

/// What whoever comes by must know of a one-off, besides the image that it runs on.
#[derive(Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) disk: Bytes,
    pub(crate) address: Ipv4Addr,
}

/// A one-off container that runs.
pub(crate) struct Once {
    agent: Arc<Agent>,
    name: String,
    address: Ipv4Addr,
    pub(crate) container: Container,
    /// What an exec in it is made of.
    pub(crate) exec: ExecSpec,
}

impl Once {
    pub(crate) async fn start(
        agent: &Arc<Agent>,
        app: AppName,
        release: ReleaseNumber,
        mut spec: InstanceSpec,
        command: Vec<String>,
        terminal: bool,
    ) -> Result<Self, String> {
        let name = format!("run-{app}-{:08x}", rand::random::<u32>());
        let places = Places::named(&agent.settings, &name, agent.settings.data.join("containers").join(&name));
        let digest = spec.image.hex().to_owned();
        let _held = agent.layers.hold().map_err(|error| error.to_string())?;
        let image = images::fetch(agent, &app, &spec.image).await?;
        let address = agent.addresses.give().ok_or("the machine's network has no free address")?;
        let names = Names { app, short: "run".to_owned(), release: release.to_string(), role: "run".to_owned() };
        spec.role.command = gantry_model::Command::Argv(Vec::new());
        let made = container::prepare(agent, &places, &names, &spec, &image, address)
            .and_then(|made| note(&places, &digest, &Note { disk: spec.role.limits.disk, address }).map(|()| made));
        let started = match made {
            Ok(made) => launch(&made).await.map(|container| (container, made)).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match started {
            Ok((container, made)) => {
                let exec = ExecSpec {
                    cgroup: made.cgroup,
                    args: command,
                    env: made.env,
                    cwd: made.cwd,
                    user: made.user,
                    groups: made.groups,
                    terminal,
                };
                Ok(Self { agent: Arc::clone(agent), name, address, container, exec })
            }
            Err(error) => {
                take_away(agent, name, address).await;
                Err(error)
            }
        }
    }

    pub(crate) async fn end(self) {
        take_away(&self.agent, self.name, self.address).await;
    }
}

/// Removes a one-off, and gives its address back; what the kernel does not let go keeps its address, and nobody waiting.
async fn take_away(agent: &Arc<Agent>, name: String, address: Ipv4Addr) {
    let agent = Arc::clone(agent);
    let going = tokio::spawn(async move {
        supervisor::clear(&agent, &name, |_| {}).await;
        agent.addresses.release(address);
    });
    let _ = tokio::time::timeout(STUCK, going).await;
}

fn note(places: &Places, image: &str, note: &Note) -> std::io::Result<()> {
    std::fs::write(places.folder.join("image"), image)?;
    std::fs::write(places.folder.join(NOTE), serde_json::to_vec(note)?)
}

/// What was noted of a one-off.
pub(crate) fn noted(places: &Places) -> Option<Note> {
    serde_json::from_slice(&std::fs::read(places.folder.join(NOTE)).ok()?).ok()
}
