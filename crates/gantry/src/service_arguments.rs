//! Command lines of the services that `gantry up` starts.

use crate::args::Machine;

/// Command line of a service. All settings are explicit, so that the process list shows them.
pub(crate) fn arguments(name: &str, machine: &Machine) -> anyhow::Result<Vec<String>> {
    let path = |path: &std::path::Path| path.display().to_string();
    let mut arguments = vec![name.to_owned()];
    let mut add = |flag: &str, value: String| arguments.extend([format!("--{flag}"), value]);
    add("machine", machine.name()?.to_string());
    add("data", path(&machine.data));
    add("run", path(&machine.run));
    add("listen", machine.listen.to_string());
    add("http", machine.http.to_string());
    add("server-user", machine.server_user.to_string());
    add("network", format!("{}/{}", machine.network.0, machine.network.1));
    add("bridge", machine.bridge.clone());
    if !machine.host_ports.is_empty() {
        add("host-ports", comma_separated(&machine.host_ports));
    }
    if !machine.metadata.is_empty() {
        add("metadata", comma_separated(&machine.metadata));
    }
    for (flag, address) in [("cluster-listen", machine.cluster_listen), ("tunnel", machine.tunnel)] {
        if let Some(address) = address {
            add(flag, address.to_string());
        }
    }
    if let Some(host) = &machine.advertise {
        add("advertise", host.clone());
    }
    add("cgroup", machine.cgroup.clone());
    if let Some(jobs) = machine.jobs {
        add("jobs", jobs.to_string());
    }
    machine.policy.given_rules().for_each(|(rule, value)| add(rule.name(), value.to_owned()));
    if let Some(store) = &machine.store {
        add("store", store.to_string());
    }
    if let Some(store) = &machine.job_store {
        add("job-store", store.to_string());
    }
    if let (Some(address), Some(certificate), Some(key)) = (machine.https, &machine.tls_cert, &machine.tls_key) {
        add("https", address.to_string());
        add("tls-cert", path(certificate));
        add("tls-key", path(key));
    }
    Ok(arguments)
}

fn comma_separated(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::{Args, Command, ServerArgs};

    fn machine(words: &[String]) -> Machine {
        match Args::try_parse_from(["gantry".to_owned()].iter().chain(words)).expect("a command line").command {
            Command::Up(machine) | Command::Server(ServerArgs { machine, .. }) => machine,
            _ => panic!("{words:?}"),
        }
    }

    #[test]
    fn a_service_gets_every_setting_of_up() {
        let given = "up --machine m --data /d --run /r --listen 127.0.0.1:1 --http 127.0.0.1:2 --https 127.0.0.1:3 --tls-cert /c \
                     --tls-key /k --domain example --server-user u --store etcd://h:2379/p \
                     --job-store postgres://u@h/d?password=/p --network 10.1.0.1/24 --bridge b --host-ports 5432 \
                     --metadata 169.254.169.254 --cluster-listen 127.0.0.1:4 --tunnel 127.0.0.1:5 --advertise m --cgroup g --bake-time 1 --wait-for bake --drain 2 --deadline 3 --compile-time 4 \
                     --collect-every 5 --collect-grace 6 --reserve 7M --builds 8 --jobs 9 --compile-memory 8M --compile-disk 9M";
        let up = machine(&given.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let passed = arguments("server", &up).expect("arguments");
        assert_eq!(format!("{:?}", machine(&passed)), format!("{up:?}"));
        // The command line above names every setting there is.
        let mut command = Args::command();
        let server = command.find_subcommand_mut("server").expect("the service");
        for setting in server.get_arguments().filter_map(clap::Arg::get_long) {
            let known = passed.contains(&format!("--{setting}"));
            assert!(known || setting == "help", "--{setting} is not passed on");
        }
    }
}
