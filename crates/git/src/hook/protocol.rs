//! Messages between the hooks and the server, one JSON value per line.
//!
//! Each connection to the server's socket begins with a [`HookOpening`]. After [`HookOpening::Push`]:
//!
//! | from | message |
//! |---|---|
//! | server | [`ServerMessage::Say`]: a line to show, any number of times, at any point |
//! | server | [`ServerMessage::Ancestors`]: the hook answers with one line, a JSON list of the commits that are ancestors |
//! | server | [`ServerMessage::Archive`]: the hook answers with the tree, in chunks (`write_chunk`) |
//! | server | [`ServerMessage::Pack`]: the hook answers with a pack, in the same chunks |
//! | server | [`ServerMessage::Verdict`]: the last message |
//!
//! [`HookOpening::Moved`] has no answer.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// First line of a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookOpening {
    /// `pre-receive` reports a push and waits for the verdict.
    Push(PushReport),
    /// `proc-receive` has moved the branch of the push with this id.
    Moved(String),
}

/// A push, as the hook reports it to the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushReport {
    /// Id of the push, given by the server.
    pub push: String,
    /// The branch that deploys, as configured when the push began.
    pub branch: String,
    /// The pushed refs: the branch first, if the push contains it, and at most [`OTHERS_MAX`] others.
    pub updates: Vec<RefUpdate>,
    /// Number of all other refs in the push.
    pub others: usize,
    /// Number of branches among the other refs.
    pub branches: usize,
    /// Options given with `git push -o`.
    pub options: Vec<String>,
}

/// Limit of refs beside the branch that the hook reports to the server.
pub const OTHERS_MAX: usize = 20;

/// Update of one ref.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefUpdate {
    /// The commit that the ref had; zeros for none.
    pub old: String,
    /// The commit that the ref should have; zeros to remove the ref.
    pub new: String,
    /// Full name of the ref: `refs/heads/main`.
    pub name: String,
}

/// A message of the server to the hook.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerMessage {
    /// The hook shows this line to the user.
    Say(String),
    /// The hook answers which of these commits the pushed commit contains. Before the answer, the hook compares the
    /// branch with the push again, and refuses the push if the branch has moved to a commit that the push lacks.
    Ancestors(Vec<String>),
    /// The hook sends the tree of the pushed commit.
    Archive,
    /// The hook sends the objects of the pushed commit as a pack, except those that these commits lead to.
    Pack(Vec<String>),
    /// The push is accepted (true) or refused (false).
    Verdict(bool),
}

/// Size of an archive's chunks.
const CHUNK: usize = 128 << 10;

/// Sends an archive: each chunk after its length (four bytes, big-endian). [`end_archive`] marks the end, so that a
/// truncated archive is never taken for a whole one.
pub(super) fn write_archive(mut archive: impl Read, socket: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 4 + CHUNK];
    loop {
        let length = archive.read(&mut buffer[4..])?;
        if length == 0 {
            return Ok(());
        }
        buffer[..4].copy_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_be_bytes());
        socket.write_all(&buffer[..4 + length])?;
    }
}

/// Marks the end of a whole archive: a chunk of length zero.
pub(super) fn end_archive(socket: &mut impl Write) -> io::Result<()> {
    socket.write_all(&[0; 4])
}
