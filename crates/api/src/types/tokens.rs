//! Tokens.

use gantry_model::{AppName, JoinRole, MachineName, Moment, Scope};
use serde::{Deserialize, Serialize};

/// Permissions of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TokenScope {
    /// Every operation.
    Admin,
    /// Every read except configuration values; no changes.
    Read,
    /// Every operation on a single app except to create and destroy the app.
    Deploy {
        /// The app.
        app: AppName,
    },
    /// The operations that the agent and router of a machine need.
    Machine {
        /// The machine.
        machine: MachineName,
    },
}

impl From<Scope> for TokenScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Admin => Self::Admin,
            Scope::Read => Self::Read,
            Scope::Deploy { app } => Self::Deploy { app },
            Scope::Machine { machine } => Self::Machine { machine },
        }
    }
}

impl From<TokenScope> for Scope {
    fn from(scope: TokenScope) -> Self {
        match scope {
            TokenScope::Admin => Self::Admin,
            TokenScope::Read => Self::Read,
            TokenScope::Deploy { app } => Self::Deploy { app },
            TokenScope::Machine { machine } => Self::Machine { machine },
        }
    }
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Name of the token in lists and in the audit trail.
    pub name: String,
    /// Permissions of the token.
    pub scope: TokenScope,
    /// Time of creation.
    pub created: Moment,
    /// Time of expiry; `None` if the token is valid until an administrator revokes the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}

/// A new token. Only this response ever contains the secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// The token.
    pub info: TokenInfo,
    /// The secret, for use as the password or bearer token.
    pub secret: String,
}

/// Leaves out the secret.
impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Body of `POST /v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateToken {
    /// Name of the token.
    pub name: String,
    /// Permissions of the token.
    pub scope: TokenScope,
    /// Lifetime in milliseconds; `None` if the token is valid until an administrator revokes the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<u64>,
}

/// Role of the machine in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinRoleInfo {
    /// A machine that runs workloads.
    Agent,
    /// A machine that also runs a server.
    Server,
}

impl From<JoinRole> for JoinRoleInfo {
    fn from(role: JoinRole) -> Self {
        match role {
            JoinRole::Agent => Self::Agent,
            JoinRole::Server => Self::Server,
        }
    }
}

/// Body of `POST /v1/cluster/join-tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateJoinToken {
    /// Role of the machine in the cluster.
    pub role: JoinRoleInfo,
    /// Lifetime in milliseconds; one hour by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<u64>,
}

/// A new join token. Only this response ever contains the token.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewJoinToken {
    /// The token's text.
    pub token: String,
    /// Hash of the cluster's authority, for `gantry login`.
    pub ca_hash: String,
    /// Time of expiry.
    pub expires: Moment,
    /// Addresses of the servers, each `host:port`.
    pub servers: Vec<String>,
}

/// Leaves out the token.
impl std::fmt::Debug for NewJoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewJoinToken")
            .field("ca_hash", &self.ca_hash)
            .field("expires", &self.expires)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_leaves_out_the_secrets_of_tokens() {
        let info = TokenInfo { name: "ci".to_owned(), scope: TokenScope::Read, created: Moment(0), expires: None };
        let token = format!("{:?}", NewToken { info, secret: "token-secret".to_owned() });
        assert!(token.contains("ci") && !token.contains("token-secret"), "{token}");
        let servers = vec!["m1:7000".to_owned()];
        let (token, ca_hash) = ("token-secret".to_owned(), "ca".to_owned());
        let token = format!("{:?}", NewJoinToken { token, ca_hash, expires: Moment(0), servers });
        assert!(token.contains("m1:7000") && !token.contains("token-secret"), "{token}");
    }
}
