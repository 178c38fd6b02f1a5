//! `gantry machine`.

use gantry_api::Client;
use gantry_api::endpoints::machines;
use gantry_api::types::MachineInfo;

use crate::args::MachineCommand;
use crate::exit::{DONE, Exit};
use crate::printer::{age, json as print_json, out, table};

pub(crate) async fn run(client: &Client, command: MachineCommand, json: bool) -> anyhow::Result<Exit> {
    match command {
        MachineCommand::Ls => {
            let machines = client.fetch(&machines::List {}).await?;
            if json {
                print_json(&machines)?;
            } else {
                table(&["machine", "state", "instances", "cpu", "memory", "seen"], machines.iter().map(row));
            }
        }
        MachineCommand::Show { name } => {
            let machine = client.fetch(&machines::Show { name }).await?;
            if json { print_json(&machine)? } else { show(&machine) }
        }
    }
    Ok(DONE)
}

fn row(machine: &MachineInfo) -> Vec<String> {
    vec![
        machine.name.to_string(),
        machine.state.word().to_owned(),
        machine.instances.to_string(),
        cpu(machine),
        machine.memory.to_string(),
        seen(machine),
    ]
}

fn show(machine: &MachineInfo) {
    let version = format!("{} (control protocol {})", machine.program, machine.protocol);
    let fields = [
        ("machine", machine.name.to_string()),
        ("id", machine.id.to_string()),
        ("state", machine.state.word().to_owned()),
        ("instances", machine.instances.to_string()),
        ("cpu", cpu(machine)),
        ("memory", machine.memory.to_string()),
        ("version", version),
        ("registered", format!("{} ago", age(machine.registered))),
        ("seen", seen(machine)),
    ];
    for (name, value) in fields {
        out!("{name:<11} {value}");
    }
}

fn cpu(machine: &MachineInfo) -> String {
    (f64::from(machine.cpu.0) / 1000.0).to_string()
}

fn seen(machine: &MachineInfo) -> String {
    machine.seen.map_or_else(|| "not yet".to_owned(), |seen| format!("{} ago", age(seen)))
}
