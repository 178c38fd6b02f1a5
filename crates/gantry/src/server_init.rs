//! `gantry server init`: prepares the first machine of a cluster.
//!
//! ```text
//! key ─► founding file (authority, first member, first token) ─► certificate ─► identity
//! ```
//! A command that is killed between two steps continues from the files that exist. The server adopts the founding file
//! into the store at its next start. The store is not written here, because the server is its only writer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gantry_admission::JOIN_LIFETIME_MILLIS;
use gantry_error_codes::ErrorCode;
use gantry_failpoint::failpoint;
use gantry_ledger::Replacement;
use gantry_linux::confinement::UserIds;
use gantry_model::{JoinRole, MachineSubnet, Moment};
use gantry_records::{AUTHORITY_KEY, AuthorityRecord, JoinTokenRecord, MemberRecord};
use gantry_server::{FOUNDING_FILE, FoundingFile};
use gantry_store::StoreAddress;
use gantry_trust::{CertificateAuthority, Identity, JoinToken, MachineKey};

use crate::args::Machine;
use crate::coded::{WithCode, coded, fail};
use crate::exit::{DONE, Exit};
use crate::machine::{host_port, require_root};
use crate::membership::{self, CLUSTER_PORT};
use crate::printer::{out, status};
use crate::server_files::ServerFiles;
use crate::services::make_folders;
use crate::up;

/// Runs `gantry server init`.
pub(crate) async fn run(machine: &Machine) -> anyhow::Result<Exit> {
    require_root()?;
    make_folders(machine)?;
    let _lock = up::lock(machine)?;
    let folder = membership::folder(machine);
    let founding_path = folder.join(FOUNDING_FILE);
    let known = membership::identity(machine)?;
    if let Some(identity) = &known
        && !founding_path.exists()
    {
        status!("machine {} belongs to a cluster already", identity.machine);
        status!("Start it with `gantry up`. `gantry cluster join-token create --role agent` makes the join command.");
        return Ok(DONE);
    }
    let Some(advertise) = machine.advertise.clone() else {
        fail!(InvalidArguments, "name this machine as others reach it: --advertise HOST");
    };
    check_store(machine).await?;
    let key = Identity::prepare_key(&folder)?;
    failpoint!("init.key");
    let port = machine.cluster_listen.map_or(CLUSTER_PORT, |address| address.port());
    let server = host_port(&advertise, port);
    let id = gantry_agent::machine_id(&machine.data).context("cannot make this machine's id")?;
    let network = MachineSubnet::containing(machine.network.0, machine.network.1);
    let Some(subnet) = network else { fail!(InvalidArguments, "--network needs a prefix of 8 to 30 bits") };
    let now = Moment(gantry_linux::clock::wall());
    let authority = match read_founding(&founding_path)? {
        Some(founding) => CertificateAuthority::from_pem(&founding.authority.certificate, &founding.authority.key)?,
        None => match restored_authority(machine)? {
            Some(known) => CertificateAuthority::from_pem(&known.certificate, &known.key)?,
            None => CertificateAuthority::generate(now)?,
        },
    };
    let token = JoinToken::generate(JoinRole::Agent, authority.hash());
    let name = machine.name()?;
    let member = MemberRecord {
        machine: name.clone(),
        id: id.clone(),
        role: JoinRole::Server,
        key: key.public().hash().to_string(),
        subnet,
        advertise: Some(advertise.clone()),
        server: Some(server.clone()),
        labels: BTreeMap::new(),
        joined: now,
    };
    write_founding(&founding_path, &authority, member, &token, now)?;
    failpoint!("init.founding");
    store_identity(
        &folder,
        &authority,
        &key,
        now,
        Identity {
            machine: name.clone(),
            id,
            is_server: true,
            servers: vec![server.clone()],
            subnet: Some(subnet),
            advertise: Some(advertise),
            store: machine.store.as_ref().map(ToString::to_string),
        },
    )?;
    status!("machine {name} is ready to be the first of a cluster; start it with `gantry up`");
    status!("CA hash, for `gantry login URL --ca-hash HASH`: {}", authority.hash());
    status!("Then, within an hour, on another machine:");
    out!("gantry join {server} --token {}", token.reveal());
    Ok(DONE)
}

fn write_founding(
    path: &Path,
    authority: &CertificateAuthority,
    member: MemberRecord,
    token: &JoinToken,
    now: Moment,
) -> anyhow::Result<()> {
    let expires = Moment(now.0 + JOIN_LIFETIME_MILLIS);
    let record = JoinTokenRecord { role: token.role(), created: now, expires, used: None };
    let founding = FoundingFile {
        authority: AuthorityRecord { certificate: authority.certificate_pem().to_owned(), key: authority.key_pem() },
        member,
        tokens: vec![(token.hash().as_str().to_owned(), record)],
    };
    let written = Replacement::of(path).mode(0o600).write_json(&founding);
    written.with_context(|| format!("cannot write {}", path.display())).with_code(ErrorCode::FileUnwritable)
}

fn store_identity(
    folder: &Path,
    authority: &CertificateAuthority,
    key: &MachineKey,
    now: Moment,
    identity: Identity,
) -> anyhow::Result<()> {
    let chain = authority.issue(&key.public(), &identity.machine, false, now)?;
    Identity::store_certificate(folder, &chain, authority.certificate_pem())?;
    failpoint!("init.certificate");
    Ok(identity.store(folder)?)
}

/// Fails if the store cannot be reached, or belongs to a cluster already. A file belongs to this machine alone.
async fn check_store(machine: &Machine) -> anyhow::Result<()> {
    let Some(address @ StoreAddress::Etcd { .. }) = &machine.store else { return Ok(()) };
    if gantry_store::open(address).await?.get(AUTHORITY_KEY).await?.is_some() {
        fail!(
            OtherAuthority,
            "the store {address} belongs to a cluster already; `gantry join SERVER:PORT --token TOKEN` with a server's join token adds this machine"
        );
    }
    Ok(())
}

/// The authority in the store's file: a backup was restored, and the identity of the first machine was lost.
fn restored_authority(machine: &Machine) -> anyhow::Result<Option<AuthorityRecord>> {
    let address = machine.store();
    let StoreAddress::File(path) = &address else { return Ok(None) };
    let record = ServerFiles::of(machine)?.act_async(async || {
        if !path.exists() {
            return Ok(None);
        }
        Ok(gantry_store::open(&address).await?.get(AUTHORITY_KEY).await?)
    })?;
    let parsed = record.map(|entry| serde_json::from_slice(&entry.value)).transpose();
    parsed.map_err(|_| coded(ErrorCode::StoreDamaged, "cannot read the authority in the store"))
}

fn read_founding(path: &Path) -> anyhow::Result<Option<FoundingFile>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let parsed = serde_json::from_slice(&text);
    parsed
        .map(Some)
        .map_err(|error| coded(ErrorCode::InvalidIdentity, format!("cannot read {}: {error}", path.display())))
}

/// Hands the founding file over to the server. The copy comes first, so that a kill in between loses nothing; the server
/// may adopt the file twice.
pub(crate) fn hand_over(data: &Path, server: &Path, user: UserIds) -> anyhow::Result<()> {
    let own: PathBuf = data.join(gantry_trust::FOLDER).join(FOUNDING_FILE);
    let text = match std::fs::read(&own) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.with_context(|| format!("cannot read {}", own.display()))?,
    };
    let given = Replacement::of(&server.join(FOUNDING_FILE)).mode(0o600).owner(user.uid, user.gid).write(&text);
    failpoint!("init.given");
    given
        .and_then(|()| std::fs::remove_file(&own))
        .and_then(|()| gantry_ledger::sync(&data.join(gantry_trust::FOLDER)))
        .context("cannot hand the cluster's first records to the server")
        .with_code(ErrorCode::FileUnwritable)
}
