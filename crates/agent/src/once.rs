//! One-off containers, for `gantry run`. The container idles. The command runs in the container as `exec` does, and
//! both end together.

use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_model::{AppName, Bytes, InstanceSpec, ReleaseNumber};
use gantry_sandbox::{Container, ExecSpec, launch};
use serde::{Deserialize, Serialize};

use crate::container::{self, Names};
use crate::instance::STUCK;
use crate::records::Places;
use crate::{Agent, images, supervisor};

/// Name of the file with a one-off's metadata.
const NOTE: &str = "once.json";

/// Metadata of a one-off container, besides its image. The disk accounting and a restarted agent read it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) disk: Bytes,
    pub(crate) address: Ipv4Addr,
}

/// A running one-off container.
pub(crate) struct Once {
    agent: Arc<Agent>,
    name: String,
    address: Ipv4Addr,
    pub(crate) container: Container,
    /// The specification of the command that runs in the container.
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

/// Removes a one-off and releases its address. The wait is limited to [`STUCK`]; a container that the kernel does not
/// release keeps its address until the removal succeeds.
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

/// Reads the metadata of a one-off.
pub(crate) fn noted(places: &Places) -> Option<Note> {
    serde_json::from_slice(&std::fs::read(places.folder.join(NOTE)).ok()?).ok()
}
