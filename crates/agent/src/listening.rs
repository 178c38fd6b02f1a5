//! Listening sockets of a container, from its own `/proc/<pid>/net/tcp`. They explain a failed check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kernel's number for a listening socket (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// Addresses and ports of all listening sockets in the network namespace of `pid`.
pub(crate) fn listening_sockets(pid: i32) -> Vec<(IpAddr, u16)> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(format!("/proc/{pid}/net/{file}")).ok())
        .flat_map(|text| text.lines().skip(1).filter_map(parse_socket).collect::<Vec<_>>())
        .collect()
}

fn parse_socket(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // The kernel prints the address as 32-bit words in the machine's byte order.
    let words: Option<Vec<u32>> = (0..address.len() / 8)
        .map(|n| u32::from_str_radix(&address[n * 8..n * 8 + 8], 16).ok().map(u32::from_le))
        .collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let address = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some((address, port))
}

/// Number of ports that a message names; a container may listen on thousands.
const PORTS_SHOWN: usize = 10;

/// Explains why nothing accepts connections on `port`. The role of a `foreign` image cannot be edited, so the remedy is
/// a flag of `gantry deploy`.
pub(crate) fn explain(sockets: &[(IpAddr, u16)], port: u16, foreign: bool) -> String {
    let on_port: Vec<_> = sockets.iter().filter(|(_, other)| *other == port).collect();
    if !on_port.is_empty() && on_port.iter().all(|(address, _)| address.is_loopback()) {
        return format!(
            "connection refused: the application listens only on {}:{port}; make it bind 0.0.0.0",
            on_port[0].0
        );
    }
    // A socket on `::` also accepts IPv4 unless the application set IPV6_V6ONLY. Because the connection was refused,
    // the application did set IPV6_V6ONLY.
    let widest = on_port.iter().find(|(address, _)| address.is_unspecified()).or(on_port.first());
    if let Some((address, _)) = widest {
        let (shown, remedy) = match address {
            IpAddr::V6(_) => {
                (format!("on [{address}]:{port} for IPv6 only"), "make it bind 0.0.0.0, or :: without IPV6_V6ONLY")
            }
            IpAddr::V4(_) if address.is_unspecified() => {
                (format!("on port {port} but accepts no connection"), "let it accept connections")
            }
            IpAddr::V4(_) => (format!("only on {address}:{port}"), "make it bind 0.0.0.0"),
        };
        return format!("connection refused: the application listens {shown}; {remedy}");
    }
    let mut others: Vec<u16> = sockets.iter().map(|(_, port)| *port).collect();
    others.sort_unstable();
    others.dedup();
    match others.as_slice() {
        [other] if foreign => format!(
            "connection refused: the application listens on port {other}, not on {port}; say so once: `gantry deploy APP --image REF --port {other}`"
        ),
        [_, ..] if foreign => {
            let others: Vec<String> = others.iter().take(PORTS_SHOWN).map(u16::to_string).collect();
            format!(
                "connection refused: the application listens on ports {}, not on {port}; say once which is meant: `gantry deploy APP --image REF --port {}`",
                others.join(" and "),
                others[0]
            )
        }
        [] => format!("connection refused: the application listens on no port yet; make it listen on $PORT, {port}"),
        _ => {
            let others: Vec<String> = others.iter().take(PORTS_SHOWN).map(u16::to_string).collect();
            format!(
                "connection refused: the application listens on port {}, not on $PORT, {port}; make it listen on $PORT, or set `port` of the role",
                others.join(" and ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_kernel_s_socket_table() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0";
        assert_eq!(parse_socket(line), Some((IpAddr::from([127, 0, 0, 1]), 8080)));
        let line = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0";
        assert_eq!(parse_socket(line), Some((IpAddr::from(Ipv6Addr::LOCALHOST), 80)));
        assert_eq!(parse_socket("   0: 0100007F:1F90 00000000:0000 01 0"), None);
        assert_eq!(parse_socket("nonsense"), None);
    }

    #[test]
    fn names_the_cause_of_a_refused_connection() {
        let at = |port| (IpAddr::from([127, 0, 0, 1]), port);
        assert!(explain(&[at(8080)], 8080, false).contains("bind 0.0.0.0"));
        assert!(explain(&[at(3000)], 8080, false).contains("port 3000, not on $PORT, 8080"));
        let foreign = explain(&[at(80)], 443, true);
        assert!(foreign.contains("listens on port 80, not on 443") && foreign.contains("--port 80`"), "{foreign}");
        let foreign = explain(&[at(81), at(80), at(80)], 443, true);
        assert!(foreign.contains("listens on ports 80 and 81, not on 443"), "{foreign}");
        assert!(explain(&[], 8080, true).contains("no port yet"));
        let six = |address: Ipv6Addr, port| (IpAddr::V6(address), port);
        for (sockets, expected) in [
            (&[six(Ipv6Addr::UNSPECIFIED, 8080)][..], "listens on [::]:8080 for IPv6 only; make it bind 0.0.0.0"),
            (&[six(Ipv6Addr::UNSPECIFIED, 8080), at(8080)], "for IPv6 only"),
            (&[at(3000), six(Ipv6Addr::UNSPECIFIED, 8080)], "listens on [::]:8080 for IPv6 only"),
            (&[six("fe80::1".parse().expect("an address"), 8080)], "[fe80::1]:8080 for IPv6 only"),
            (&[(IpAddr::from([10, 9, 9, 9]), 8080)], "listens only on 10.9.9.9:8080; make it bind 0.0.0.0"),
            (&[six(Ipv6Addr::LOCALHOST, 8080)], "listens only on ::1:8080"),
            (&[six(Ipv6Addr::UNSPECIFIED, 3000)], "port 3000, not on $PORT, 8080"),
        ] {
            let told = explain(sockets, 8080, false);
            assert!(told.contains(expected), "{told}");
        }
    }
}
