//! Content-addressed bytes over `object_store`: a local folder today. S3 and similar services would take the same
//! calls.
//!
//! A blob is written under a temporary name, and renamed to its digest once the digest is known and verified. A blob
//! named by a digest is therefore whole. Writes are synced; a crash leaves at most an unfinished upload.
//!
//! ```text
//! sha256/ab/abcd…   a blob
//! parts/ab/abcd…    the digests of a blob's parts
//! uploads/…         an unfinished upload of a large blob
//! ```

mod error;
mod hash;
mod parts;
mod replicas;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use error::BlobError;
pub use hash::DigestHasher;
pub use parts::{BlobParts, PART_SIZE};
pub use replicas::Replicas;
pub use store::{BlobStore, OpenBlob, READ_MAX};
pub use writer::BlobWriter;
