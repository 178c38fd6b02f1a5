//! The machine's rules, in the syntax of nft. Pure.
//!
//! | chain | hook | purpose |
//! |---|---|---|
//! | `out` | postrouting | translates the source of outgoing packets to the machine's address |
//! | `asked`, by `first` | prerouting, before any other address translation | closes metadata addresses, and passes packets for the machine itself to `host` |
//! | `virtual` | prerouting | leads connections to virtual addresses of roles to the router, on a machine of a cluster |
//! | `to_host` | input | passes all packets for the machine itself to `host`, also after address translation |
//! | `host` | – | accepts names, the API for applications, ping, the router and the openings; rejects the rest |
//! | `in` | forward | drops connections from outside that bypass the router and the machine itself |
//!
//! For containers, a closed port or address rejects the connection instead of dropping packets. A rejected connection
//! ends at once. Programs that look for metadata give up quickly, and a person sees that the port is closed and not
//! slow.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};

use gantry_model::{VIRTUAL_NETWORK, VIRTUAL_PORT};

use super::openings::{CLOSED4, CLOSED6, HostPorts, PortProtocol};
use crate::{AgentSettings, app_api};

/// The whole table, replaced in one transaction. Idempotent.
pub(super) fn rules(settings: &AgentSettings) -> String {
    let AgentSettings { bridge, gateway, prefix, .. } = settings;
    let mask = u32::MAX << (32 - u32::from(*prefix));
    let network = Ipv4Addr::from(u32::from(*gateway) & mask);
    let asked = lines(&[allowed(settings), closed()].concat());
    let host = lines(&openings(settings));
    let services = services(settings);
    format!(
        "{drop_old}table inet {bridge}\ndelete table inet {bridge}\ntable inet {bridge} {{\n\
         chain out {{\n type nat hook postrouting priority srcnat; policy accept;\n\
         ip saddr {network}/{prefix} ip daddr != {network}/{prefix} masquerade\n }}\n\
         chain first {{\n type filter hook prerouting priority dstnat - 10; policy accept;\n\
         iifname \"{bridge}\" ct state {{ new, untracked }} jump asked\n }}\n\
         {services}chain to_host {{\n type filter hook input priority filter; policy accept;\n\
         iifname \"{bridge}\" ct state {{ new, untracked }} jump host\n\
         iifname != \"{bridge}\" ip daddr {gateway} tcp dport {api} reject with tcp reset\n }}\n\
         chain asked {{\n{asked} fib daddr type local jump host\n }}\n\
         chain host {{\n\
         ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept\n\
         ip daddr {gateway} tcp dport {api} accept\n\
         icmp type echo-request accept\n\
         icmpv6 type {{ echo-request, nd-neighbor-solicit, nd-neighbor-advert }} accept\n\
         {host} meta l4proto tcp reject with tcp reset\n reject with icmpx admin-prohibited\n }}\n\
         chain in {{\n type filter hook forward priority filter; policy accept;\n\
         oifname \"{bridge}\" iifname != \"{bridge}\" ct state new drop\n }}\n}}\n",
        drop_old = remove_ip_table(bridge),
        api = app_api::PORT,
    )
}

/// Removes the whole table; not an error if there is none.
pub(super) fn removal(bridge: &str) -> String {
    format!("{}table inet {bridge}\ndelete table inet {bridge}\n", remove_ip_table(bridge))
}

/// An earlier version kept its rules in a table for IPv4 only.
fn remove_ip_table(bridge: &str) -> String {
    format!("table ip {bridge}\ndelete table ip {bridge}\n")
}

fn lines(rules: &[String]) -> String {
    rules.iter().map(|rule| format!(" {rule}\n")).collect()
}

/// The chain that leads connections to virtual addresses to the router; empty on the only machine of a cloud.
fn services(settings: &AgentSettings) -> String {
    if settings.addresses.is_empty() {
        return String::new();
    }
    let (bridge, (network, prefix)) = (&settings.bridge, VIRTUAL_NETWORK);
    format!(
        "chain virtual {{\n type nat hook prerouting priority dstnat; policy accept;\n\
         iifname \"{bridge}\" ip daddr {network}/{prefix} meta l4proto tcp redirect to :{VIRTUAL_PORT}\n }}\n\
         "
    )
}

/// Exceptions for the metadata addresses that the settings open.
fn allowed(settings: &AgentSettings) -> Vec<String> {
    let open = |metadata: &crate::MetadataAddress| format!("{} daddr {metadata} return", family(metadata.address));
    settings.metadata.iter().map(open).collect()
}

/// Rules that reject metadata addresses. Link-local addresses of IPv6 are left to `fib`: no machine forwards them, and
/// neighbours on the bridge use them.
fn closed() -> Vec<String> {
    let refuse = |family: &str, nets: String| format!("{family} daddr {{ {nets} }} reject with icmpx admin-prohibited");
    let routed = CLOSED6.iter().filter(|(address, _)| !address.is_unicast_link_local());
    vec![refuse("ip", joined(CLOSED4.iter())), refuse("ip6", joined(routed))]
}

fn joined<'a, A: Display + 'a>(nets: impl Iterator<Item = &'a (A, u8)>) -> String {
    nets.map(|(address, prefix)| format!("{address}/{prefix}")).collect::<Vec<_>>().join(", ")
}

/// Rules that accept the router's ports and the host ports that the settings open.
fn openings(settings: &AgentSettings) -> Vec<String> {
    let opening = |ports: &HostPorts| {
        let at = ports.address.map(|address| format!("{} daddr {address} ", family(address))).unwrap_or_default();
        let protocol = match ports.protocol {
            PortProtocol::Tcp => "tcp",
            PortProtocol::Udp => "udp",
        };
        format!("{at}{protocol} dport {}-{} accept", ports.first, ports.last)
    };
    let gateway = settings.gateway;
    let services =
        (!settings.addresses.is_empty()).then(|| format!("ip daddr {gateway} tcp dport {VIRTUAL_PORT} accept"));
    settings.host_ports.iter().map(opening).chain(services).collect()
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MetadataAddress;

    #[test]
    fn places_each_opening_before_the_rule_that_closes() {
        let mut settings = AgentSettings::for_tests();
        settings.host_ports =
            ["5432", "8125/udp", "9000-9010"].iter().map(|text| HostPorts::parse(text).expect("ports")).collect();
        settings.host_ports.extend(HostPorts::of_service("203.0.113.9:80".parse().expect("an address")));
        settings.metadata = ["169.254.169.254", "fd00:ec2::254"]
            .iter()
            .map(|text| MetadataAddress::parse(text).expect("metadata"))
            .collect();
        let text = rules(&settings);
        let place = |rule: &str| text.find(rule).unwrap_or_else(|| panic!("there is no {rule:?} in\n{text}"));
        let refused = place("meta l4proto tcp reject with tcp reset");
        for rule in [
            "tcp dport 5432-5432 accept",
            "udp dport 8125-8125 accept",
            "tcp dport 9000-9010 accept",
            "ip daddr 203.0.113.9 tcp dport 80-80 accept",
        ] {
            assert!(place(rule) < refused, "{text}");
        }
        assert!(place("ip daddr 169.254.169.254/32 return") < place("169.254.0.0/16"), "{text}");
        assert!(place("ip6 daddr fd00:ec2::254/128 return") < place("fd00:ec2::/32"), "{text}");
        assert!(!text.contains("fe80"), "neighbours talk to each other:\n{text}");
    }

    #[test]
    fn leads_virtual_addresses_to_the_router_of_a_cluster() {
        let mut settings = AgentSettings::for_tests();
        assert!(!rules(&settings).contains("redirect"), "the only machine of a cloud has no virtual addresses");
        settings.addresses.push("10.0.0.7:7001".parse().expect("an address"));
        let bridge = &settings.bridge;
        let rule = format!("iifname \"{bridge}\" ip daddr 198.19.0.0/16 meta l4proto tcp redirect to :7002");
        assert!(rules(&settings).contains(&rule), "{}", rules(&settings));
    }

    #[test]
    fn closes_the_api_for_applications_to_all_but_the_bridge() {
        let text = rules(&AgentSettings::for_tests());
        let closed = "iifname != \"gantry0\" ip daddr 10.83.0.1 tcp dport 4690 reject";
        assert!(text.contains("ip daddr 10.83.0.1 tcp dport 4690 accept") && text.contains(closed), "{text}");
    }

    #[test]
    fn writes_a_network_by_its_first_address() {
        let mut settings = AgentSettings::for_tests();
        (settings.gateway, settings.prefix) = (Ipv4Addr::new(10, 84, 3, 129), 25);
        assert!(rules(&settings).contains("ip saddr 10.84.3.128/25 ip daddr != 10.84.3.128/25 masquerade"));
    }
}
