//! Execution of commands.

use gantry_model::Moment;

use crate::{Command, CommandEffects, Keyspace, Operation, Refusal, Reply};

impl Keyspace {
    /// Executes a command. A refused command changes nothing.
    ///
    /// # Errors
    /// When the command is refused.
    pub fn execute(&mut self, command: Command, now: Moment) -> Result<(Reply, CommandEffects), Refusal> {
        let mut effects = self.begin_effects(now);
        match self.reply(command, now, &mut effects) {
            Ok(reply) => Ok((reply, effects)),
            Err(refusal) => {
                self.revert(effects);
                Err(refusal)
            }
        }
    }

    fn reply(&mut self, command: Command, now: Moment, effects: &mut CommandEffects) -> Result<Reply, Refusal> {
        Ok(match command {
            Command::One(operation) => {
                if let Operation::Nested(transaction) = &operation {
                    transaction.check(self.quota.operations)?;
                }
                Reply::One(self.operate(&operation, effects)?)
            }
            Command::Transact(transaction) => {
                transaction.check(self.quota.operations)?;
                Reply::Transact(self.transact(&transaction, effects)?)
            }
            Command::Compact(revision) => {
                if revision > self.revision {
                    return Err(Refusal::FutureRevision { asked: revision, newest: self.revision });
                }
                if revision <= self.history.compacted() {
                    return Err(Refusal::Compacted { asked: revision, compacted: self.history.compacted() });
                }
                // As in etcd, the named revision itself stays.
                self.history.compact(revision - 1);
                Reply::Done
            }
            Command::Watch(range, from) => Reply::Events(self.events(&range, from)?),
            Command::Grant { id, ttl } => Reply::Lease(self.grant(id, ttl, false, effects)?),
            Command::Revoke(id) => {
                self.revoke(id, effects)?;
                Reply::Done
            }
            Command::KeepAlive(id) => self.keep_alive(id, now).map_or(Reply::NoLease, Reply::Lease),
            Command::Lease(id) => self.lease_info(id, now).map_or(Reply::NoLease, Reply::Lease),
            Command::Leases => Reply::Leases(self.leases.keys().copied().collect()),
            Command::Enter { name, lease, ttl, value } => {
                if name.is_empty() {
                    return Err(Refusal::KeyMissing);
                }
                Reply::Place(self.enter(&name, lease, ttl, value, effects)?)
            }
            Command::Turn { key, token, name } => Reply::Turn(self.turn(&name, &key, token)),
            Command::Lock(name) => Reply::Lock(self.lock_state(&name)),
            Command::Renew { name, token, value } => Reply::Place(self.renew(&name, token, value, effects)?),
            Command::Leave { name, token } => {
                self.leave(&name, token, effects)?;
                Reply::Done
            }
        })
    }
}
