//! The machine's surroundings: what containers and builds reach outside, and what becomes of them when somebody changes the
//! machine's network.

mod site;

use std::collections::BTreeMap;

use gantry_testbed::namespace::{MACHINE, Namespace, OUTSIDE, serve};
use gantry_testbed::{World, run};
use site::site;

/// Says of each target, `tcp ADDRESS PORT` or `udp ADDRESS PORT`, whether it answers.
const PROBE: &str = r#"
import socket, sys
for target in sys.argv[1:]:
    protocol, address, port = target.split()
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    answer = "closed"
    try:
        family, _, _, _, at = socket.getaddrinfo(address, int(port), type=kind)[0]
        s = socket.socket(family, kind)
        s.settimeout(2)
        s.connect(at)
        s.send(b"hello")
        answer = "open" if s.recv(64) else "closed"
    except OSError:
        pass
    print(target, answer)
"#;

/// What a probe printed: each target, and whether it answered.
fn answers(text: &str) -> BTreeMap<&str, bool> {
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines.filter(|(_, word)| ["open", "closed"].contains(word)).map(|(target, word)| (target, word == "open")).collect()
}

/// An app whose build and whose instances probe `targets`.
fn prober(world: &World, targets: &[String]) {
    let repository = site(world, "shop", 1);
    let quoted: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
    repository.write("probe.py", PROBE);
    repository.compile_with(&format!("python3 probe.py {} > built.txt", quoted.join(" ")));
    site::push_site(&repository, "one");
}

fn probed(world: &World, command: &str, targets: &[&str]) -> String {
    world.gantry(&[&[command, "shop", "--", "python3", "probe.py"], targets].concat()).good().out
}

/// The bridge's link-local address, as a container names it.
fn link_local(world: &World) -> String {
    let mut ip = std::process::Command::new("ip");
    ip.args(["-6", "-o", "address", "show", "dev", world.name(), "scope", "link"]);
    let text = run(ip).good().out;
    let address = text.split_ascii_whitespace().find(|word| word.starts_with("fe80:")).expect("an address");
    format!("{}%eth0", address.split('/').next().unwrap_or_default())
}

#[test]
fn what_containers_and_builds_reach_of_the_machine_and_of_metadata_is_what_the_settings_open() {
    let machine = Namespace::enter("reach");
    for address in ["169.254.169.254/32", "100.100.100.200/32", "168.63.129.16/32"] {
        machine.outside_has(address);
    }
    machine.serve_outside(80);
    for port in [9997, 9998, 9999] {
        serve(port);
    }
    // As Docker publishes a container's port.
    let publish = format!(
        "table ip published {{\n chain p {{\n type nat hook prerouting priority dstnat\n \
         tcp dport 9990 dnat to {OUTSIDE}:80\n }}\n }}"
    );
    let mut nft = std::process::Command::new("nft");
    nft.arg(publish);
    let _ = run(nft).good();
    let mut world = World::start(&[]);
    let resolver = world.resolver().replace(":53", "");
    world.wait("the bridge has an address of IPv6", |world| {
        let mut ip = std::process::Command::new("ip");
        ip.args(["-6", "-o", "address", "show", "dev", world.name(), "scope", "link"]);
        let text = run(ip).out;
        (text.contains("fe80") && !text.contains("tentative")).then_some(())
    });
    let local = link_local(&world);
    let closed: Vec<String> = [
        "tcp 169.254.169.254 80".to_owned(),
        "tcp 100.100.100.200 80".to_owned(),
        "tcp 168.63.129.16 80".to_owned(),
        format!("tcp {resolver} 9998"),
        format!("udp {resolver} 9998"),
        format!("tcp {MACHINE} 9998"),
        format!("tcp {MACHINE} 9990"),
        format!("tcp {local} 9998"),
        format!("udp {local} 9998"),
        format!("tcp {resolver} {}", world.api_port()),
    ]
    .to_vec();
    let opened: Vec<String> = [
        format!("tcp {resolver} 9997"),
        format!("tcp {local} 9997"),
        format!("tcp {MACHINE} 9997"),
        "tcp host.internal 9997".to_owned(),
        format!("udp {resolver} 9999"),
    ]
    .to_vec();
    let outside = format!("tcp {OUTSIDE} 80");
    let all: Vec<String> = closed.iter().chain(&opened).chain([&outside]).cloned().collect();
    prober(&world, &all);
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let built = world.gantry(&["exec", "shop", "--", "cat", "built.txt"]).good().out;
    for text in [built, probed(&world, "exec", &names), probed(&world, "run", &names)] {
        let found = answers(&text);
        assert_eq!(found.len(), all.len(), "{text}");
        let open: Vec<&&str> = found.iter().filter(|(_, is_open)| **is_open).map(|(target, _)| target).collect();
        assert_eq!(open, [&outside.as_str()], "only what is outside answers: {text}");
    }

    // The same targets with the settings that open some of them, so that it is seen that they are there.
    world.kill_up();
    world.up_with(&["--host-ports", "9997,9999/udp", "--metadata", "169.254.169.254"]);
    let wanted: Vec<&str> =
        opened.iter().map(String::as_str).chain([outside.as_str(), "tcp 169.254.169.254 80"]).collect();
    let text = probed(&world, "exec", &names);
    let found = answers(&text);
    for (target, is_open) in found {
        assert_eq!(is_open, wanted.contains(&target), "{target}: {text}");
    }
    drop(world);
}
