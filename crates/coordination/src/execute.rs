//! Execution of commands.

use gantry_model::Moment;

use crate::{Command, Keyspace, Operation, Refusal, Reply, Step};

impl Keyspace {
    /// Executes a command. A refused command changes nothing.
    ///
    /// # Errors
    /// When the command is refused.
    pub fn execute(&mut self, command: Command, now: Moment) -> Result<(Reply, Step), Refusal> {
        let mut step = self.begin_step(now);
        match self.reply(command, now, &mut step) {
            Ok(reply) => Ok((reply, step)),
            Err(refusal) => {
                self.revert(step);
                Err(refusal)
            }
        }
    }

    fn reply(&mut self, command: Command, now: Moment, step: &mut Step) -> Result<Reply, Refusal> {
        Ok(match command {
            Command::One(operation) => {
                if let Operation::Nested(transaction) = &operation {
                    transaction.check(self.quota.operations)?;
                }
                Reply::One(self.operate(&operation, step)?)
            }
            Command::Transact(transaction) => {
                transaction.check(self.quota.operations)?;
                Reply::Transact(self.transact(&transaction, step)?)
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
            Command::Grant { id, ttl } => Reply::Lease(self.grant(id, ttl, false, step)?),
            Command::Revoke(id) => {
                self.revoke(id, step)?;
                Reply::Done
            }
            Command::KeepAlive(id) => self.keep_alive(id, now).map_or(Reply::NoLease, Reply::Lease),
            Command::Lease(id) => self.lease_info(id, now).map_or(Reply::NoLease, Reply::Lease),
            Command::Leases => Reply::Leases(self.leases.keys().copied().collect()),
            Command::Enter { name, lease, ttl, value } => {
                if name.is_empty() {
                    return Err(Refusal::KeyMissing);
                }
                Reply::Place(self.enter(&name, lease, ttl, value, step)?)
            }
            Command::Turn { key, token, name } => Reply::Turn(self.turn(&name, &key, token)),
            Command::Lock(name) => Reply::Lock(self.lock_state(&name)),
            Command::Renew { name, token, value } => Reply::Place(self.renew(&name, token, value, step)?),
            Command::Leave { name, token } => {
                self.leave(&name, token, step)?;
                Reply::Done
            }
        })
    }
}
