//! Commands on the membership of machines: the authority, join tokens, joining, and removal.

use std::collections::BTreeMap;

use gantry_model::{
    AuditAction, JoinRole, LabelKey, LabelValue, MachineAvailability, MachineId, MachineName, MachineSubnet, Moment,
};
use gantry_records::{
    AuthorityRecord, JoinTokenRecord, MemberRecord, RecordChange, StoreRecord, TokenUse, join_token_key,
};

use crate::{Actor, Admitted, Refusal};

/// Validity of a join token, unless its creator names another time: an hour.
pub const JOIN_LIFETIME_MILLIS: u64 = 3600 * 1000;

/// Longest validity of a join token: seven days.
const JOIN_LIFETIME_MAX: u64 = 7 * 24 * 3600 * 1000;

/// Time for which the record of an expired token is kept, so that a machine that comes late gets the reason.
const EXPIRED_KEPT_MILLIS: u64 = 24 * 3600 * 1000;

/// A machine's request to join.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// Hash of the token's secret.
    pub token: String,
    /// Role of the machine in the cluster.
    pub role: JoinRole,
    /// Name of the machine.
    pub machine: MachineName,
    /// Id of the machine.
    pub id: MachineId,
    /// Hash of the key that the machine has proved to have.
    pub key: String,
    /// Host name or IP address by which other machines reach this one.
    pub advertise: Option<String>,
    /// Address of the machine's server, `host:port`.
    pub server: Option<String>,
    /// Labels that the machine gets when it registers.
    pub labels: BTreeMap<LabelKey, LabelValue>,
}

/// The first machine of a cluster, and the authority that was made there.
#[derive(Debug, Clone)]
pub struct Founding {
    /// The authority.
    pub authority: AuthorityRecord,
    /// The first machine.
    pub member: MemberRecord,
    /// The first join tokens, by the hash of their secret.
    pub tokens: Vec<(String, JoinTokenRecord)>,
}

impl Actor<'_> {
    /// Gives the cluster its authority. A repetition changes nothing. On a restored cluster, the first machine gets its
    /// new key.
    ///
    /// # Errors
    /// When the cluster has another authority.
    pub fn found_cluster(&self, founding: Founding) -> Admitted<()> {
        let Founding { authority, mut member, tokens } = founding;
        if self.records.authority.as_ref().is_some_and(|known| **known != authority) {
            return Err(Refusal::OtherAuthority);
        }
        if let Some(known) = self.records.members.get(&member.machine) {
            member.joined = known.joined;
            if **known == member {
                return Ok((Vec::new(), ()));
            }
        }
        member.joined = self.now;
        let event = self.event(None, AuditAction::ClusterFounded { machine: member.machine.clone() });
        let tokens = tokens.into_iter().map(|(hash, token)| StoreRecord::JoinToken { hash, token }.into());
        let first = [event, StoreRecord::Authority(authority).into(), StoreRecord::Member(member).into()];
        Ok((first.into_iter().chain(tokens).collect(), ()))
    }

    /// Creates a join token, and removes the records of tokens that expired long ago.
    ///
    /// # Errors
    /// When the cluster has no authority, or the lifetime is out of bounds.
    pub fn create_join_token(&self, hash: String, role: JoinRole, lifetime: u64) -> Admitted<Moment> {
        if self.records.authority.is_none() {
            return Err(Refusal::NoAuthority);
        }
        if !(1000..=JOIN_LIFETIME_MAX).contains(&lifetime) {
            return Err(Refusal::InvalidJoinLifetime);
        }
        let expires = Moment(self.now.0.saturating_add(lifetime));
        let token = JoinTokenRecord { role, created: self.now, expires, used: None };
        let old = self.records.join_tokens.iter().filter(|(_, old)| self.now.since(old.expires) > EXPIRED_KEPT_MILLIS);
        let mut changes: Vec<RecordChange> =
            old.take(100).map(|(hash, _)| RecordChange::Remove(join_token_key(hash))).collect();
        changes.push(self.event(None, AuditAction::JoinTokenCreated { role }));
        changes.push(StoreRecord::JoinToken { hash, token }.into());
        Ok((changes, expires))
    }

    /// Lets a machine join with a token, and assigns the network of its containers. A machine that joins again keeps its
    /// network. The machine that used a token may repeat its request, because it may have missed the response.
    ///
    /// # Errors
    /// When the token is not valid for this machine, the name belongs to another machine, or no network is free.
    pub fn join(&self, request: JoinRequest) -> Admitted<MemberRecord> {
        let JoinRequest { token: hash, role, machine, id, key, advertise, server, labels } = request;
        let token = self.records.join_tokens.get(&hash).ok_or(Refusal::JoinTokenUnknown)?;
        let by = TokenUse { machine: id.clone(), key: key.clone() };
        check_token(token, role, &by, self.now)?;
        self.check_name(&machine, &id)?;
        let known = self.records.members.get(&machine);
        let subnet = match known {
            Some(known) => known.subnet,
            None => self.free_subnet()?,
        };
        let member = MemberRecord { machine, id, role, key, subnet, advertise, server, labels, joined: self.now };
        let member = match known {
            Some(known) if MemberRecord { joined: known.joined, ..member.clone() } == **known => (**known).clone(),
            _ => member,
        };
        if token.used.is_some() && known.is_some_and(|known| **known == member) {
            return Ok((Vec::new(), member));
        }
        let (machine, id) = (member.machine.clone(), member.id.clone());
        let event = self.event(None, AuditAction::MachineJoined { machine, id, role });
        let token = JoinTokenRecord { used: Some(by), ..token.clone() };
        let changes =
            vec![event, StoreRecord::JoinToken { hash, token }.into(), StoreRecord::Member(member.clone()).into()];
        Ok((changes, member))
    }

    /// Checks that no other machine has the name. The name of a removed machine is free.
    fn check_name(&self, machine: &MachineName, id: &MachineId) -> Result<(), Refusal> {
        let member = self.records.members.get(machine).map(|member| &member.id);
        let registered = self.records.machines.get(machine);
        let registered = registered.filter(|known| known.availability != MachineAvailability::Removed);
        let registered = registered.map(|machine| &machine.id);
        match member.or(registered) {
            Some(known) if known != id => {
                Err(Refusal::MachineNameTaken { name: machine.clone(), known: known.clone(), id: id.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The first network of the policy's range that no machine has.
    fn free_subnet(&self) -> Result<MachineSubnet, Refusal> {
        let members = self.records.members.values().map(|member| member.subnet);
        let registered = self.records.machines.values().filter_map(|machine| machine.subnet);
        let taken: Vec<MachineSubnet> = members.chain(registered).collect();
        let (range, prefix) = (self.records.policy.cluster_subnet(), self.records.policy.machine_prefix());
        let prefix = u8::try_from(prefix).unwrap_or(u8::MAX);
        range.first_free(prefix, &taken).ok_or(Refusal::NoFreeSubnet { range })
    }
}

/// Decides whether a machine may join with a token.
fn check_token(token: &JoinTokenRecord, requested: JoinRole, by: &TokenUse, now: Moment) -> Result<(), Refusal> {
    match &token.used {
        _ if requested != token.role => Err(Refusal::JoinTokenRole { role: token.role, requested }),
        Some(used) if used != by => Err(Refusal::JoinTokenUsed),
        _ if token.expires <= now => Err(Refusal::JoinTokenExpired { millis: now.since(token.expires) }),
        _ => Ok(()),
    }
}
