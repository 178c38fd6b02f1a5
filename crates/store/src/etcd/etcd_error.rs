//! Errors of etcd and of its client, as kinds.
//!
//! etcd answers several errors with one gRPC code and tells them apart by text alone: its own clients compare texts, too.
//! The texts are constants of etcd's API (`api/v3rpc/rpctypes/error.go`; `etcdserver/api/v3rpc/rpctypes` in 3.4). This
//! module is the only one that knows texts, and the conformance suite provokes the errors in a real etcd.

use std::error::Error;

use etcd_client::Error as ClientError;
use tonic::{Code, ConnectError, Status};

/// Kind of an error that a decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EtcdError {
    /// The connection was not made: no member has taken the call.
    NotConnected,
    /// The cluster has no leader: no member has taken the call.
    NoLeader,
    /// The lease ran out, or was revoked.
    LeaseGone,
    /// The revision was compacted.
    Compacted,
    /// The data of etcd reached the quota.
    OverQuota,
}

/// Errors that have their gRPC code in common with others: code, text of `rpctypes`, kind.
const BY_TEXT: [(Code, &str, EtcdError); 3] = [
    // ErrGRPCNoLeader. The code also stands for calls whose outcome is unknown.
    (Code::Unavailable, "etcdserver: no leader", EtcdError::NoLeader),
    // ErrGRPCCompacted. The code also stands for a revision of the future.
    (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", EtcdError::Compacted),
    // ErrGRPCNoSpace. The code also stands for a message that is too large.
    (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", EtcdError::OverQuota),
];

/// Part of a member's status while etcd takes no writes: the text form of `AlarmMember`. The typed list of alarms needs a
/// leader, and the status of a member does not.
const NO_SPACE_ALARM: &str = "alarm:NOSPACE";

impl EtcdError {
    /// Returns the kind of an error; none for an error that no decision depends on.
    pub(super) fn of(error: &ClientError) -> Option<Self> {
        match error {
            ClientError::GRpcStatus(status) if is_not_connected(status) => Some(Self::NotConnected),
            ClientError::GRpcStatus(status) if status.code() == Code::NotFound => Some(Self::LeaseGone),
            ClientError::GRpcStatus(status) => {
                let mut known = BY_TEXT.iter();
                let found = known.find(|(code, text, _)| *code == status.code() && *text == status.message());
                found.map(|(_, _, kind)| *kind)
            }
            ClientError::LeaseKeepAliveError(_) => Some(Self::LeaseGone),
            _ => None,
        }
    }
}

/// Reports whether the client failed to make the connection for a call.
fn is_not_connected(status: &Status) -> bool {
    std::iter::successors(status.source(), |&error| error.source()).any(|error| error.is::<ConnectError>())
}

/// Reports whether the errors in a member's status include the alarm about the quota.
pub(super) fn has_no_space_alarm(errors: &[String]) -> bool {
    errors.iter().any(|error| error.contains(NO_SPACE_ALARM))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn kind(code: Code, text: &str) -> Option<EtcdError> {
        EtcdError::of(&ClientError::GRpcStatus(Status::new(code, text)))
    }

    #[test]
    fn an_error_is_known_by_code_and_text() {
        for (code, text, known) in BY_TEXT {
            assert_eq!(kind(code, text), Some(known));
            assert_eq!(kind(Code::Unknown, text), None, "another code: {text}");
            assert_eq!(kind(code, &format!("{text} or not")), None, "another text: {text}");
        }
        assert_eq!(kind(Code::NotFound, "etcdserver: requested lease not found"), Some(EtcdError::LeaseGone));
        let gone = ClientError::LeaseKeepAliveError(String::new());
        assert_eq!(EtcdError::of(&gone), Some(EtcdError::LeaseGone));
    }

    #[tokio::test]
    async fn a_refused_connection_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let closed = listener.expect("a port").to_string();
        let client = etcd_client::Client::connect([closed], None).await.expect("a client, which connects later");
        let refused = client.kv_client().get("key", None).await.expect_err("nothing listens");
        assert_eq!(EtcdError::of(&refused), Some(EtcdError::NotConnected), "{refused:?}");
    }

    #[test]
    fn a_connection_that_was_not_made_is_known_by_its_type() {
        let mut status = Status::unavailable("no text matters");
        status.set_source(Arc::new(ConnectError("refused".into())));
        assert_eq!(EtcdError::of(&ClientError::GRpcStatus(status)), Some(EtcdError::NotConnected));
        assert_eq!(kind(Code::Unavailable, "tcp connect error"), None, "the text of another program");
    }

    #[test]
    fn the_alarm_of_the_quota_is_one_of_several() {
        let errors = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert!(has_no_space_alarm(&errors(&["etcdserver: no leader", "memberID:7 alarm:NOSPACE "])));
        assert!(!has_no_space_alarm(&errors(&["memberID:7 alarm:CORRUPT "])) && !has_no_space_alarm(&[]));
    }
}
