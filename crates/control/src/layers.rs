//! Layers of images on the control connection.
//!
//! An agent reports the layers that it has and wants after each change, and when it connects. The server names a source
//! of each wanted layer, or none while the machine has to wait.

use std::collections::BTreeSet;

use gantry_model::{Digest, MachineName, TunnelAddress};
use serde::{Deserialize, Serialize};

/// Source of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LayerSource {
    /// The servers.
    Server,
    /// The router of a machine that has the layer.
    Machine {
        /// Name of the machine.
        machine: MachineName,
        /// Addresses where the router listens for tunnels; empty in reports.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<TunnelAddress>,
    },
    /// A source of a newer version.
    #[serde(other)]
    Unknown,
}

/// A layer that a machine wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedLayer {
    /// Digest of the layer.
    pub digest: Digest,
    /// Machines that failed as sources.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub failed: BTreeSet<MachineName>,
    /// Source of the transfer under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<LayerSource>,
}

/// Report of an agent: the layers of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayersReport {
    /// Verified layers that the machine's router sends to other machines.
    pub has: Vec<Digest>,
    /// Layers that the machine wants.
    pub wants: Vec<WantedLayer>,
}

/// The source of a wanted layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerOrder {
    /// Digest of the layer.
    pub digest: Digest,
    /// The source; none while the machine has to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<LayerSource>,
    /// Further sources, for an agent that fetches the layer in parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<LayerSource>,
}

/// The parts of a layer, as a server lists them. Servers of earlier versions list none; an agent then fetches the layer
/// as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerParts {
    /// Size of the layer.
    pub size: u64,
    /// Size of each part but the last one.
    pub part_size: u64,
    /// Digest of each part.
    pub digests: Vec<Digest>,
}

/// Orders for an agent: the sources of all layers that it wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerOrders {
    /// The sources.
    pub sources: Vec<LayerOrder>,
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::{PeerMessage, ServerMessage};

    fn digest() -> Digest {
        Digest::from_hex(&"ab".repeat(32)).expect("a digest")
    }

    #[test]
    fn reads_reports_and_orders_that_lack_or_add_fields() {
        let want = WantedLayer { digest: digest(), failed: BTreeSet::new(), from: None };
        let lean = json!({"type": "layers", "wants": [{"digest": digest()}], "colour": "blue"});
        let report = LayersReport { has: Vec::new(), wants: vec![want] };
        assert_eq!(from_value::<PeerMessage>(lean).expect("read"), PeerMessage::Layers(report));
        let later = json!({"type": "layers", "sources": [
            {"digest": digest(), "source": {"kind": "satellite", "orbit": 3}},
            {"digest": digest(), "source": {"kind": "machine", "machine": "m1"}, "colour": []},
            {"digest": digest(), "more": [{"kind": "machine", "machine": "m2"}, {"kind": "satellite"}]},
        ]});
        let machine = MachineName::parse("m1").expect("a name");
        let sources = [Some(LayerSource::Unknown), Some(LayerSource::Machine { machine, addresses: Vec::new() }), None];
        let sources = sources.into_iter().map(|source| LayerOrder { digest: digest(), source, more: Vec::new() });
        let mut sources: Vec<LayerOrder> = sources.collect();
        let second = MachineName::parse("m2").expect("a name");
        sources[2].more = vec![LayerSource::Machine { machine: second, addresses: Vec::new() }, LayerSource::Unknown];
        assert_eq!(from_value::<ServerMessage>(later).expect("read"), ServerMessage::Layers(LayerOrders { sources }));
    }
}
