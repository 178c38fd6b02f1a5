//! The part of `gantry check` that asks the other servers for blobs that this server lacks. Each blob is on two
//! servers, so a server of three lacks a third of them.

use std::collections::BTreeMap;
use std::path::Path;

use gantry_api::endpoints::cluster::FindBlobs;
use gantry_api::types::{BlobPlaces, FindBlobs as BlobQuery};
use gantry_api::{Client, ClientError};
use gantry_blobs::READ_MAX;
use gantry_error::ErrorChain;
use gantry_model::Digest;
use gantry_store::StoreAddress;

use crate::args::{Machine, Remote};
use crate::damage::{BlobReferences, Damage, Fault, digest_of_name};
use crate::remote;

/// Maximum number of digests of one question.
const DIGESTS_PER_REQUEST: usize = 5_000;

/// Manifests that only other servers have, by the hex digits of their digests.
pub(crate) type FetchedManifests = BTreeMap<String, Vec<u8>>;

/// The other servers of a cluster, asked as any other command asks: through the server that `--url` names, with a token of
/// an administrator.
pub(crate) struct OtherServers {
    client: Client,
}

impl OtherServers {
    /// None if the store is a file: its server is the only one.
    pub(crate) fn of(machine: &Machine, remote: &Remote) -> anyhow::Result<Option<Self>> {
        if let StoreAddress::File(_) = machine.store() {
            return Ok(None);
        }
        let data = remote.data.clone().or_else(|| Some(machine.data.clone()));
        Ok(Some(Self { client: remote::client(&Remote { data, ..remote.clone() })? }))
    }

    /// Reads the manifests that this server lacks, because manifests name further blobs. The check later reports a
    /// manifest that no server has.
    pub(crate) async fn manifests(&self, needed: &BlobReferences, blobs: &Path) -> FetchedManifests {
        let mut fetched = FetchedManifests::new();
        for digest in needed.missing_images(blobs) {
            if let Some(text) = self.manifest(&digest).await {
                fetched.insert(digest.hex().to_owned(), text);
            }
        }
        fetched
    }

    async fn manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        use futures_util::TryStreamExt;

        let mut pieces = self.client.stream(&format!("/v2/backup/blobs/{digest}")).await.ok()?;
        let mut text = Vec::new();
        while let Some(piece) = pieces.try_next().await.ok()? {
            text.extend_from_slice(&piece);
            if text.len() as u64 > READ_MAX {
                return None;
            }
        }
        (gantry_blobs::DigestHasher::of(&text) == *digest).then_some(text)
    }

    /// Returns the damage that is left once the other servers are asked: blobs that no server has, with the servers.
    pub(crate) async fn explain(&self, missing: Vec<Damage>) -> Vec<Damage> {
        let mut left = Vec::new();
        for part in missing.chunks(DIGESTS_PER_REQUEST) {
            let digests = part.iter().filter_map(digest_of).collect();
            let asked = self.client.submit(&FindBlobs {}, &BlobQuery { digests }).await;
            left.extend(part.iter().filter_map(|damage| judge(damage.clone(), &asked)));
        }
        left
    }
}

fn digest_of(damage: &Damage) -> Option<Digest> {
    Digest::from_hex(digest_of_name(Path::new(&damage.file))?).ok()
}

/// Returns the damage of a blob that this server lacks; none if another server has the blob.
fn judge(damage: Damage, asked: &Result<BlobPlaces, ClientError>) -> Option<Damage> {
    let places = match asked {
        Ok(places) => places,
        Err(error) => {
            let what = format!("is not on this server, and the other servers cannot be asked: {}", ErrorChain(error));
            return Some(Damage { fault: Fault::Wrong(what), ..damage });
        }
    };
    let digest = digest_of(&damage);
    if places.servers.values().any(|server| server.has.iter().any(|has| Some(has) == digest.as_ref())) {
        return None;
    }
    let (silent, lack): (Vec<_>, Vec<_>) = places.servers.iter().partition(|(_, server)| server.silent.is_some());
    let lack: Vec<&str> = lack.into_iter().map(|(name, _)| name.as_str()).collect();
    let silent = silent.into_iter().filter_map(|(name, server)| Some(format!("{name} {}", server.silent.as_ref()?)));
    let silent: Vec<String> = silent.collect();
    let what = match silent.is_empty() {
        true => format!("is missing on every server: {}", lack.join(", ")),
        false => format!("is missing on {}; not asked: {}", lack.join(", "), silent.join("; ")),
    };
    Some(Damage { fault: Fault::Wrong(what), ..damage })
}

#[cfg(test)]
mod tests {
    use gantry_api::types::{ServerBlobs, ServerSilence};

    use super::*;

    fn hex(c: char) -> String {
        c.to_string().repeat(64)
    }

    fn missing(c: char) -> Damage {
        let file = format!("blobs/sha256/{c}{c}/{}", hex(c));
        Damage { file, fault: Fault::Missing, needed_by: vec!["shop v1".to_owned()] }
    }

    #[test]
    fn a_blob_of_another_server_is_no_damage() {
        let server =
            |has: &[char]| ServerBlobs::of(has.iter().map(|c| Digest::from_hex(&hex(*c)).expect("a digest")).collect());
        let found = |c: char, servers: [(&str, ServerBlobs); 3]| {
            let servers = servers.into_iter().map(|(name, blobs)| (name.to_owned(), blobs)).collect();
            judge(missing(c), &Ok(BlobPlaces { servers })).map(|damage| damage.to_string())
        };
        let three = || [("m1", server(&[])), ("m2", server(&['a'])), ("m3", server(&[]))];
        assert_eq!(found('a', three()), None);
        let every = format!("blobs/sha256/bb/{} is missing on every server: m1, m2, m3 (shop v1)", hex('b'));
        assert_eq!(found('b', three()), Some(every));
        let [one, two, _] = three();
        let some = format!("blobs/sha256/bb/{} is missing on m1, m2; not asked: m3 is away (shop v1)", hex('b'));
        let away = ServerBlobs::unknown(ServerSilence::Away, "is away".to_owned());
        assert_eq!(found('b', [one, two, ("m3", away)]), Some(some));
        let unreachable = ClientError::Answer { url: "http://m1".to_owned(), what: "nothing".to_owned() };
        let text = judge(missing('a'), &Err(unreachable)).expect("a damage").to_string();
        assert!(text.contains("is not on this server, and the other servers cannot be asked: the server"), "{text}");
    }
}
