//! `gantry machine`.

use gantry_api::Client;
use gantry_api::endpoints::machines;
use gantry_api::endpoints::machines::RemoveMachineQuery;
use gantry_api::types::{AvailabilityInfo, ChangeAvailability, ChangeLabels, MachineInfo, MachineStateInfo, StayInfo};
use gantry_model::MachineName;

use crate::args::MachineCommand;
use crate::exit::{DONE, Exit};
use crate::machine_add;
use crate::printer::{age, clock, fields, json as print_json, out, status, table};

pub(crate) async fn run(client: &Client, command: MachineCommand, json: bool) -> anyhow::Result<Exit> {
    match command {
        MachineCommand::Ls => {
            let machines = client.fetch(&machines::List {}).await?;
            if json {
                print_json(&machines)?;
            } else {
                table(&["machine", "state", "instances", "cpu", "memory", "seen", "labels"], machines.iter().map(row));
            }
        }
        MachineCommand::Add(arguments) => return machine_add::run(client, &arguments, json).await,
        MachineCommand::Show { name } => {
            let machine = client.fetch(&machines::Show { name }).await?;
            if json { print_json(&machine)? } else { show(&machine) }
        }
        MachineCommand::Label { name, labels } => {
            let change = ChangeLabels { labels: labels.into_iter().collect() };
            changed(&client.submit(&machines::Label { name }, &change).await?, json)?;
        }
        MachineCommand::Cordon { name, message } => {
            make(client, name, AvailabilityInfo::Cordoned, message, None, json).await?;
        }
        MachineCommand::Uncordon { name } => {
            make(client, name, AvailabilityInfo::Schedulable, None, None, json).await?;
        }
        MachineCommand::Drain { name, deadline, message } => {
            let machine = make(client, name, AvailabilityInfo::Draining, message, deadline, json).await?;
            if !json && let Some(note) = no_destination(&machine, &client.fetch(&machines::List {}).await?) {
                status!("{note}");
            }
        }
        MachineCommand::Rm { name, force } => {
            let query = RemoveMachineQuery { force };
            changed(&client.fetch_with(&machines::Remove { name }, &query).await?, json)?;
        }
    }
    Ok(DONE)
}

/// Changes whether a machine takes copies, and prints the machine.
async fn make(
    client: &Client,
    name: MachineName,
    availability: AvailabilityInfo,
    reason: Option<String>,
    within: Option<u64>,
    json: bool,
) -> anyhow::Result<MachineInfo> {
    let change = ChangeAvailability { availability, reason, within };
    let machine = client.submit(&machines::SetAvailability { name }, &change).await?;
    changed(&machine, json)?;
    Ok(machine)
}

/// Note on a drain that cannot move any copy, because no other machine takes copies; none for any other drain.
fn no_destination(drained: &MachineInfo, machines: &[MachineInfo]) -> Option<String> {
    let takes_copies = |machine: &MachineInfo| {
        machine.state == MachineStateInfo::Ready && machine.availability == AvailabilityInfo::Schedulable
    };
    let others: Vec<&MachineInfo> = machines.iter().filter(|machine| machine.name != drained.name).collect();
    if others.iter().any(|machine| takes_copies(machine)) {
        return None;
    }
    let cause = match others.as_slice() {
        [] => "the cloud has no other machine".to_owned(),
        others => others.iter().map(|other| format!("{}: {}", other.name, state(other))).collect::<Vec<_>>().join("; "),
    };
    let copies = match drained.instances {
        0 => "It has no copies".to_owned(),
        1 => "Its copy goes on running there".to_owned(),
        count => format!("Its {count} copies go on running there"),
    };
    Some(format!(
        "No machine takes the copies of {name} ({cause}). {copies}; new copies wait. Add a machine (`gantry machine add root@HOST`), and the drain goes on by itself; or end the drain: `gantry machine uncordon {name}`.",
        name = drained.name
    ))
}

/// Prints a machine after its change.
fn changed(machine: &MachineInfo, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(machine);
    }
    let labels = if machine.labels.is_empty() { String::new() } else { format!(", labels {}", labels(machine)) };
    out!("{}: {}{labels}", machine.name, state(machine));
    Ok(())
}

/// State of a machine, and its operator's wish if that differs.
fn state(machine: &MachineInfo) -> String {
    match (machine.state, machine.availability) {
        (state, AvailabilityInfo::Schedulable) => state.word().to_owned(),
        (MachineStateInfo::Ready, availability) => availability.word().to_owned(),
        (state, availability) => format!("{}, {}", state.word(), availability.word()),
    }
}

fn labels(machine: &MachineInfo) -> String {
    machine.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn row(machine: &MachineInfo) -> Vec<String> {
    vec![
        machine.name.to_string(),
        state(machine),
        machine.instances.to_string(),
        cpu(machine),
        machine.memory.to_string(),
        seen(machine),
        labels(machine),
    ]
}

fn show(machine: &MachineInfo) {
    let version = format!("{} (control protocol {})", machine.program, machine.protocol);
    let always = [
        ("machine", machine.name.to_string()),
        ("id", machine.id.to_string()),
        ("state", state(machine)),
        ("instances", machine.instances.to_string()),
        ("cpu", cpu(machine)),
        ("memory", machine.memory.to_string()),
        ("version", version),
        ("registered", format!("{} ago", age(machine.registered))),
        ("seen", seen(machine)),
    ];
    fields(11, always);
    let deadline = machine.deadline.map(|deadline| format!("all copies are to have left by {}", clock(deadline)));
    let addresses = machine.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let reserved = (machine.reserved_memory.0 > 0).then(|| format!("{} of memory", machine.reserved_memory));
    let optional = [
        ("reason", machine.reason.clone()),
        ("deadline", deadline),
        ("labels", Some(labels(machine)).filter(|labels| !labels.is_empty())),
        ("addresses", Some(addresses).filter(|addresses| !addresses.is_empty())),
        ("reserved", reserved),
    ];
    fields(11, optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    fields(11, machine.stays.iter().map(|StayInfo { text, .. }| ("stays", text.clone())));
}

fn cpu(machine: &MachineInfo) -> String {
    (f64::from(machine.cpu.0) / 1000.0).to_string()
}

fn seen(machine: &MachineInfo) -> String {
    machine.seen.map_or_else(|| "not yet".to_owned(), |seen| format!("{} ago", age(seen)))
}

#[cfg(test)]
mod tests {
    use gantry_api::samples::Sample;

    use super::*;

    /// A machine with copies.
    fn machine(name: &str, state: MachineStateInfo, availability: AvailabilityInfo, instances: usize) -> MachineInfo {
        let name = MachineName::parse(name).expect("a name");
        MachineInfo { name, state, availability, instances, ..MachineInfo::sample() }
    }

    #[test]
    fn a_drain_without_another_machine_names_cause_effect_and_remedy() {
        use AvailabilityInfo::{Cordoned, Draining, Schedulable};
        use MachineStateInfo::{Lost, Ready};
        let drained = |instances| machine("m1", Ready, Draining, instances);
        let remedy = "new copies wait. Add a machine (`gantry machine add root@HOST`), and the drain goes on by \
                      itself; or end the drain: `gantry machine uncordon m1`.";
        let alone = |copies| no_destination(&drained(copies), &[drained(copies)]).expect("a note");
        let cause = "No machine takes the copies of m1 (the cloud has no other machine).";
        assert_eq!(alone(2), format!("{cause} Its 2 copies go on running there; {remedy}"));
        assert_eq!(alone(1), format!("{cause} Its copy goes on running there; {remedy}"));
        assert_eq!(alone(0), format!("{cause} It has no copies; {remedy}"));

        let [closed, lost] = [machine("m2", Ready, Cordoned, 1), machine("m3", Lost, Schedulable, 0)];
        let note = no_destination(&drained(3), &[drained(3), closed.clone(), lost.clone()]).expect("a note");
        assert!(note.starts_with("No machine takes the copies of m1 (m2: cordoned; m3: lost)."), "{note}");
        let open = machine("m4", Ready, Schedulable, 0);
        assert_eq!(no_destination(&drained(3), &[drained(3), closed, lost, open]), None);
    }
}
