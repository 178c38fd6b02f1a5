//! Reads the machine's firewall rules, with limits on time and size.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::firewall::{self, Ruleset};

/// Timeout of a program that lists rules.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum output of such a program, in bytes. On a machine with more rules, Gantry does not look for faults.
const OUTPUT_MAX: u64 = 16 << 20;

/// The output of a program; `None` if the program is missing, fails, takes too long or prints too much.
pub(super) async fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let mut output = child.stdout.take()?.take(OUTPUT_MAX);
    let mut text = String::new();
    let read = async {
        let length = output.read_to_string(&mut text).await.ok()?;
        (u64::try_from(length).ok()? < OUTPUT_MAX).then_some(())?;
        child.wait().await.ok()?.success().then_some(())
    };
    tokio::time::timeout(TIMEOUT, read).await.ok()??;
    Some(text)
}

/// Reads all rules on the machine.
pub(super) async fn ruleset() -> Option<Ruleset> {
    let nft = printed("nft", &["-j", "list", "ruleset"]).await?;
    let mut saved = Vec::new();
    // iptables keeps its rules in tables of nftables, and nft does not show their conditions.
    if nft.contains("\"FORWARD\"") || nft.contains("\"INPUT\"") || nft.contains("\"OUTPUT\"") {
        saved.extend(first_of(&[("iptables-nft-save", "iptables"), ("iptables-save", "iptables")]).await);
    }
    if has_legacy_tables() {
        saved.extend(first_of(&[("iptables-legacy-save", "iptables-legacy"), ("iptables-save", "iptables")]).await);
    }
    Some(firewall::read(&nft, &saved))
}

/// Returns whether the legacy iptables backend of the kernel has tables.
pub(super) fn has_legacy_tables() -> bool {
    std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|names| !names.trim().is_empty())
}

async fn first_of(programs: &[(&str, &str)]) -> Option<(String, String)> {
    for (program, command) in programs {
        if let Some(text) = printed(program, &[]).await {
            return Some(((*command).to_owned(), text));
        }
    }
    None
}

/// The device of the default route, from the kernel's routing table.
pub(super) fn uplink(routes: &str) -> Option<String> {
    let fields = |line: &str| -> Option<String> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")).then(|| fields[0].to_owned())
    };
    routes.lines().skip(1).find_map(fields)
}

/// Returns whether the kernel's routing table has a route to a network over a device.
pub(super) fn has_route(routes: &str, device: &str, network: Ipv4Addr, prefix: u8) -> bool {
    let hexadecimal = |address: Ipv4Addr| format!("{:08X}", u32::from_ne_bytes(address.octets()));
    let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or_default());
    let (network, mask) = (hexadecimal(network), hexadecimal(mask));
    let is_it = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.first(), fields.get(1), fields.get(7)) == (Some(&device), Some(&network.as_str()), Some(&mask.as_str()))
    };
    routes.lines().any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_device_of_the_default_route() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      gantry0\t0000530A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                      eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(uplink(routes).as_deref(), Some("eth0"));
        let has = |device: &str, network: [u8; 4], prefix| has_route(routes, device, network.into(), prefix);
        assert!(has("gantry0", [10, 83, 0, 0], 16));
        assert!(
            !has("gantry1", [10, 83, 0, 0], 16)
                && !has("gantry0", [10, 84, 0, 0], 16)
                && !has("gantry0", [10, 83, 0, 0], 24)
        );
        assert_eq!(uplink("Iface\tDestination\n"), None);
        assert_eq!(uplink(""), None);
    }
}
