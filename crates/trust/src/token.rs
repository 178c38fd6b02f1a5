//! Join tokens: the text that lets one machine join a cluster once.
//!
//! The text is `gantry-join-<agent|server>-<hash of the CA>-<secret>`. The records have only the hash of the secret.

use std::fmt;
use std::str::FromStr;

use gantry_model::JoinRole;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::authority::CaHash;

const PREFIX: &str = "gantry-join-";

/// A join token with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    role: JoinRole,
    ca: CaHash,
    secret: [u8; 16],
}

/// The text is not a join token. The message contains nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a join token; `gantry cluster join-token create` prints one, which begins with `gantry-join-`")]
pub struct JoinTokenError;

impl JoinToken {
    /// Makes a token.
    #[must_use]
    pub fn generate(role: JoinRole, ca: CaHash) -> Self {
        Self { role, ca, secret: rand::random() }
    }

    /// The purpose that the token's text names.
    #[must_use]
    pub fn role(&self) -> JoinRole {
        self.role
    }

    /// Hash of the authority that the server must show.
    #[must_use]
    pub fn ca(&self) -> &CaHash {
        &self.ca
    }

    /// Hash of the secret, by which the records know the token.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(hex::encode(Sha256::digest(self.secret)))
    }

    /// The text of the token. The text is secret.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}-{}-{}", self.role, self.ca, hex::encode(self.secret))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, secret)", self.role)
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;
    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let parts: Vec<&str> = text.trim().strip_prefix(PREFIX).ok_or(JoinTokenError)?.splitn(4, '-').collect();
        let [role, ca, secret] = parts.as_slice() else { return Err(JoinTokenError) };
        let is_lower = secret.bytes().all(|byte| !byte.is_ascii_uppercase());
        let secret = hex::decode(secret).ok().filter(|_| is_lower).ok_or(JoinTokenError)?;
        Ok(Self {
            role: role.parse().map_err(|_| JoinTokenError)?,
            ca: ca.parse().map_err(|_| JoinTokenError)?,
            secret: secret.try_into().map_err(|_| JoinTokenError)?,
        })
    }
}

/// Hash of a token's secret: 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(String);

impl TokenHash {
    /// The hash as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash() -> CaHash {
        "ab".repeat(32).parse().expect("a hash")
    }

    #[test]
    fn a_token_is_read_from_its_text_and_not_printed() {
        for role in [JoinRole::Agent, JoinRole::Server] {
            let token = JoinToken::generate(role, hash());
            let text = token.reveal();
            let read: JoinToken = text.parse().expect("read");
            assert_eq!((read.role(), read.ca(), read.hash()), (role, &hash(), token.hash()));
            assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
            assert!(!format!("{token:?}").contains(&text[text.len() - 32..]));
            assert_ne!(JoinToken::generate(role, hash()).hash(), token.hash());
        }
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let text = JoinToken::generate(JoinRole::Agent, hash()).reveal();
        let secret = &text[text.len() - 32..];
        let ca = hash().to_string();
        for wrong in [
            String::new(),
            text[..text.len() - 1].to_owned(),
            format!("{text}0"),
            format!("{text}-0"),
            text.replace("agent", "router"),
            text.to_uppercase(),
            format!("gantry-join-agent-{ca}-{}", secret.replace(|_: char| true, "g")),
            format!("gantry-join-agent-{}-{secret}", &ca[2..]),
            format!("gantry-join-agent-{ca}"),
            format!("gantry-join-{ca}-{secret}"),
            "é".repeat(200),
        ] {
            assert_eq!(wrong.parse::<JoinToken>(), Err(JoinTokenError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_crashes_the_parser(text in "\\PC*", tail in "[-a-f0-9]{0,140}") {
            prop_assert!(text.parse::<JoinToken>().is_err());
            let text = format!("gantry-join-agent-{tail}");
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.reveal(), text);
            }
        }
    }
}
