//! Commands on tokens. Secrets stay outside: a command knows the hash of a secret alone.

use gantry_model::{AuditAction, Moment, Scope};
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
        let token = TokenRecord { name, scope, created: self.now, expires };
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

/// Creates the token for a secret in a file. The token of a new secret replaces the tokens of the same name.
#[must_use]
pub fn first_token(
    records: &RecordIndex,
    now: Moment,
    hash: String,
    name: String,
    scope: Scope,
    is_new: bool,
) -> Vec<RecordChange> {
    // A revoked administrator's token stays revoked, even if the file still holds its secret.
    let has_other = scope == Scope::Admin && records.tokens.values().any(|token| token.scope == Scope::Admin);
    if records.tokens.contains_key(&hash) || (has_other && !is_new) {
        return Vec::new();
    }
    let namesakes = records.tokens.iter().filter(|(_, token)| token.name == name);
    let mut changes: Vec<RecordChange> = namesakes.map(|(hash, _)| RecordChange::Remove(token_key(hash))).collect();
    let token = TokenRecord { name, scope, created: now, expires: None };
    changes.push(StoreRecord::Token { hash, token }.into());
    changes
}
