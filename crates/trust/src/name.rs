//! The names in certificates.

use gantry_model::MachineName;
use tokio_rustls::rustls::pki_types::ServerName;

/// Domain of the names of machines and servers.
const RESERVED: &str = ".gantry.internal";

/// Suffix of the name of each machine.
const MACHINE: &str = ".machine.gantry.internal";

/// Name of all servers.
const SERVER: &str = "server.gantry.internal";

/// The name by which a peer is verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerName {
    /// Any server of the cluster: `server.gantry.internal`.
    Server,
    /// One machine: `<machine>.machine.gantry.internal`.
    Machine(MachineName),
}

impl PeerName {
    /// The name for a TLS connection to the peer.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        // A machine's name is a DNS label of at most 40 characters, so the text is always a DNS name.
        ServerName::try_from(self.to_string()).unwrap_or_else(|_| unreachable!("a machine's name is a DNS label"))
    }

    /// Returns whether a host lies in the domain of the names of machines and servers.
    pub(crate) fn is_reserved(host: &str) -> bool {
        host.trim_end_matches('.').to_ascii_lowercase().ends_with(RESERVED)
    }

    /// Parses a name of a certificate; `None` for any other name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix(MACHINE) {
            Some(machine) => MachineName::parse(machine).ok().map(Self::Machine),
            None => (text == SERVER).then_some(Self::Server),
        }
    }
}

impl std::fmt::Display for PeerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server => f.write_str(SERVER),
            Self::Machine(machine) => write!(f, "{machine}{MACHINE}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_machines_and_servers_are_parsed() {
        let machine = PeerName::Machine("m1".parse().expect("a name"));
        assert_eq!(machine.to_string(), "m1.machine.gantry.internal");
        for name in [machine, PeerName::Server] {
            assert_eq!(PeerName::parse(&name.to_string()), Some(name));
        }
        for other in ["", "m1", ".machine.gantry.internal", "a.b.machine.gantry.internal", "*.machine.gantry.internal"]
        {
            assert_eq!(PeerName::parse(other), None, "{other}");
        }
    }
}
