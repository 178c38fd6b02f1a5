//! Recorded messages of every supported version of the protocol.
//!
//! `version-N.json` has each kind of message with every field set, as this program sends it to a peer of version N. The
//! types of today must read each recorded message, and write exactly the recorded text. A renamed field or value fails
//! here, although both ends of a live connection would agree on the new name.
//!
//! A recorded entry never changes, and no run rewrites a file:
//! - A new kind of message, or a new value of an enum, does not compile until it has a row in these modules. Add its
//!   entry to the files by hand; the failing test prints the entry.
//! - A new field does not compile until the samples name it. Leave the field out of the recorded messages, and add a
//!   sample that has it.
//! - A new version of the protocol gets a file of its own: `GANTRY_TEST_BLESS=1` writes the file of the newest version
//!   if there is none.

#[macro_use]
mod samples;
mod messages;
mod parts;
mod release;
mod sessions;
mod transcript;
mod words;

use gantry_control::ProtocolVersion;
use gantry_control::version::SUPPORTED_VERSIONS;
use transcript::Transcript;

#[test]
fn today_s_types_read_and_write_the_recorded_messages_of_every_version() {
    for version in (SUPPORTED_VERSIONS.oldest.0..=SUPPORTED_VERSIONS.newest.0).map(ProtocolVersion) {
        let mut transcript = Transcript::open(version);
        messages::record(&mut transcript);
        parts::record(&mut transcript);
        sessions::record(&mut transcript);
        words::record(&mut transcript);
        transcript.check();
    }
}
