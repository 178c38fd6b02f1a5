//! Commands on tokens. Secrets stay outside: a command knows the hash of a secret alone.

use std::collections::BTreeSet;

use gantry_model::{AuditAction, MachineName, Moment, Scope};
use gantry_records::{RecordChange, RecordIndex, StoreRecord, TokenRecord, token_key};

use crate::{Actor, Admitted, Refusal, find_app};

/// Longest name of a token, in bytes.
const NAME_MAX: usize = 100;

/// A new token.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Name of the token.
    pub name: String,
    /// Permissions of the token.
    pub scope: Scope,
    /// Lifetime in milliseconds; `None` for a token without an end.
    pub lifetime: Option<u64>,
    /// Hash of the token's secret.
    pub hash: String,
}

impl Actor<'_> {
    /// Creates a token.
    ///
    /// # Errors
    /// When the name is invalid or taken, the scope's app is missing, or the lifetime is zero.
    pub fn create_token(&self, new: NewToken) -> Admitted<TokenRecord> {
        let NewToken { name, scope, lifetime, hash } = new;
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
            return Err(Refusal::InvalidTokenName);
        }
        if self.records.tokens.values().any(|token| token.name == name) {
            return Err(Refusal::TokenExists { token: name });
        }
        if let Scope::Deploy { app } = &scope {
            find_app(self.records, app)?;
        }
        if lifetime == Some(0) {
            return Err(Refusal::ZeroLifetime);
        }
        let expires = lifetime.map(|millis| Moment(self.now.0.saturating_add(millis)));
        let event = self.event(None, AuditAction::TokenCreated { token: name.clone() });
        let token = TokenRecord { name, scope, created: self.now, expires, server: None };
        Ok((vec![event, StoreRecord::Token { hash, token: token.clone() }.into()], token))
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// When no token has the name.
    pub fn revoke_token(&self, name: &str) -> Admitted<()> {
        let named = self.records.tokens.iter().filter(|(_, token)| token.name == name);
        let removed: Vec<RecordChange> = named.map(|(hash, _)| RecordChange::Remove(token_key(hash))).collect();
        if removed.is_empty() {
            return Err(Refusal::TokenNotFound { token: name.to_owned() });
        }
        let event = self.event(None, AuditAction::TokenRevoked { token: name.to_owned() });
        Ok((std::iter::once(event).chain(removed).collect(), ()))
    }
}

/// A token whose secret a server has in a file.
#[derive(Debug, Clone)]
pub struct ServerToken {
    /// Name of the token. An administrator's token of a further server has the name of the machine, too.
    pub name: String,
    /// Permissions of the token.
    pub scope: Scope,
    /// Hash of the token's secret.
    pub hash: String,
    /// The secret is new: the token replaces the server's earlier one.
    pub is_new: bool,
    /// Machine of the server.
    pub machine: MachineName,
}

impl ServerToken {
    /// The token's name beside an administrator's token of another server.
    fn name_beside_others(&self) -> String {
        format!("{} {}", self.name, self.machine)
    }

    /// Reports whether a token is an earlier one of this server. With `several` servers, the plain name of an
    /// administrator's token may be that of another server's token.
    fn replaces(&self, token: &TokenRecord, several: bool) -> bool {
        if !several || self.scope != Scope::Admin {
            return token.name == self.name;
        }
        match &token.server {
            Some(server) => *server == self.machine && token.scope == self.scope,
            None => token.name == self.name_beside_others(),
        }
    }
}

/// Records the token of a server. The token of a new secret replaces the server's earlier one, whose secret is lost.
/// With `several` servers, the token of one server does not replace that of another.
#[must_use]
pub fn server_token(records: &RecordIndex, now: Moment, own: ServerToken, several: bool) -> Vec<RecordChange> {
    if let Some(known) = records.tokens.get(&own.hash) {
        // A record of an earlier version gets its server, so that a new secret finds the token to replace.
        let token = TokenRecord { server: Some(own.machine), ..known.clone() };
        let change: RecordChange = StoreRecord::Token { hash: own.hash, token }.into();
        return if known.server.is_none() { vec![change] } else { Vec::new() };
    }
    // A revoked administrator's token stays revoked, even if the file still holds its secret.
    let has_other = own.scope == Scope::Admin && records.tokens.values().any(|token| token.scope == Scope::Admin);
    if has_other && !own.is_new {
        return Vec::new();
    }
    let earlier = records.tokens.iter().filter(|(_, token)| own.replaces(token, several));
    let mut replaced: BTreeSet<&String> = earlier.map(|(hash, _)| hash).collect();
    if several && replaced.is_empty() {
        replaced.extend(unclaimed_token(records, &own));
    }
    let mut kept = records.tokens.iter().filter(|(hash, _)| !replaced.contains(hash));
    let is_taken = kept.any(|(_, token)| token.name == own.name);
    let name = if is_taken { own.name_beside_others() } else { own.name };
    let token = TokenRecord { name, scope: own.scope, created: now, expires: None, server: Some(own.machine) };
    let removed = replaced.into_iter().map(|hash| RecordChange::Remove(token_key(hash)));
    removed.chain([StoreRecord::Token { hash: own.hash, token }.into()]).collect()
}

/// Returns the administrator's token with the plain name, if no server has claimed the record of an earlier version. It
/// is the token of the first server: the machine was here before, and has no token of its own name.
fn unclaimed_token<'a>(records: &'a RecordIndex, own: &ServerToken) -> Option<&'a String> {
    let of_machine = Scope::Machine { machine: own.machine.clone() };
    if own.scope != Scope::Admin || !records.tokens.values().any(|token| token.scope == of_machine) {
        return None;
    }
    let is_unclaimed =
        |token: &TokenRecord| token.server.is_none() && token.name == own.name && token.scope == own.scope;
    records.tokens.iter().find(|(_, token)| is_unclaimed(token)).map(|(hash, _)| hash)
}
