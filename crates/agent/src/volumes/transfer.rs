//! A volume as a tar stream, and back.
//!
//! The tar stream of an import is foreign: [`gantry_image::unpack_volume`] unpacks it with bounds, into a folder beside
//! the volume. The folder takes the volume's place once it is complete.

use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use gantry_api::frame::{Frame, PAYLOAD_MAX};
use gantry_api::volumes::{ExportVolume, VolumeReport};
use gantry_api::{ErrorCode, Problem};
use gantry_image::{Bounds, UnpackError, Unpacked};
use gantry_model::Bytes;
use tokio::sync::mpsc;

use super::{Key, TemporaryFolder, failed, in_use, is_empty, path_of, refuse_busy, remedy};
use crate::AgentContext;

/// A piece of an archive that a client sends.
pub(super) enum ArchiveChunk {
    Bytes(Vec<u8>),
    /// The client has sent all of the archive.
    End,
}

/// The archive that a client sends. A connection that ends before the archive is an error.
pub(super) struct IncomingArchive {
    pieces: mpsc::Receiver<ArchiveChunk>,
    piece: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl IncomingArchive {
    pub(super) fn new(pieces: mpsc::Receiver<ArchiveChunk>) -> Self {
        Self { pieces, piece: io::Cursor::default(), ended: false }
    }
}

impl Read for IncomingArchive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || self.ended || buffer.is_empty() {
                return Ok(count);
            }
            match self.pieces.blocking_recv() {
                Some(ArchiveChunk::Bytes(bytes)) => self.piece = io::Cursor::new(bytes),
                Some(ArchiveChunk::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the connection ended before the archive",
                    ));
                }
            }
        }
    }
}

/// The archive that goes to a client, in frames.
struct OutgoingArchive {
    frames: mpsc::Sender<Frame>,
}

impl Write for OutgoingArchive {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PAYLOAD_MAX as usize);
        let sent = self.frames.blocking_send(Frame::Output(bytes[..count].to_vec()));
        sent.map(|()| count).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the connection ended"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a volume as a tar stream, and warnings as error output.
pub(super) fn export(
    agent: &AgentContext,
    key: &Key,
    how: ExportVolume,
    frames: mpsc::Sender<Frame>,
) -> Result<(), Problem> {
    let (app, name) = key;
    let (_reading, top) = agent.volumes.read(&agent.settings, key)?;
    let warn = |text: String| drop(frames.blocking_send(Frame::Error(format!("{text}\n").into_bytes())));
    let users = in_use(&agent.settings, app, name.as_str());
    if !users.is_empty() {
        let remedy = remedy(&users);
        warn(format!(
            "warning: {} may write to volume {name} of {app} meanwhile, so its files may be of different moments",
            users.join(", ")
        ));
        warn(format!("for files of one moment, {remedy}; or use the program's own dump"));
    }
    let archived = gantry_image::export(&top, OutgoingArchive { frames: frames.clone() }, how.zstd);
    let archived = archived.map_err(|error| failed("export", key, &error))?;
    if archived.changed > 0 {
        warn(format!("warning: {} files changed during the export, so their content may be mixed", archived.changed));
    }
    Ok(())
}

/// Makes a volume of an archive.
pub(super) fn import(
    agent: &AgentContext,
    key: &Key,
    replace: bool,
    limit: Bytes,
    archive: impl Read,
) -> Result<VolumeReport, Problem> {
    let settings = &agent.settings;
    let path = path_of(settings, key);
    // Refuse at once what cannot be put in place at the end.
    refuse_busy(settings, key, &agent.volumes.lock(), "replaced")?;
    if path.exists() && !replace && !is_empty(&path) {
        return Err(not_empty(key));
    }
    let half = TemporaryFolder::make(settings, &key.0).map_err(|error| failed("import", key, &error))?;
    let unpacked = unpack(agent, key, limit, archive, &half.path)?;
    if !unpacked.has_root {
        adopt_owner(&path, &half.path).map_err(|error| failed("import", key, &error))?;
    }
    gantry_ledger::sync_file_system(&half.path).map_err(|error| failed("import", key, &error))?;
    gantry_failpoint::failpoint!("volume.unpacked");
    drop(agent.volumes.put(settings, key, half, replace)?);
    super::show(agent, key)
}

pub(super) fn not_empty((app, name): &Key) -> Problem {
    Problem::new(ErrorCode::VolumeNotEmpty, format!("volume {name} of {app} is not empty"))
        .hint("`--replace` replaces the content of the volume with the archive")
}

fn unpack(agent: &AgentContext, key: &Key, limit: Bytes, archive: impl Read, into: &Path) -> Result<Unpacked, Problem> {
    let room = gantry_linux::disk::free(&agent.settings.data).saturating_sub(agent.policy.reserve());
    let bounds = Bounds { bytes: limit.0.min(room), ..Bounds::default() };
    let (app, name) = key;
    gantry_image::unpack_volume(archive, into, bounds).map_err(|error| {
        let what = format!("cannot import volume {name} of {app}: {error}");
        match error {
            UnpackError::Make { .. } => Problem::internal(what),
            UnpackError::TooLarge(_) if room < limit.0 => Problem::new(ErrorCode::DiskFull, what)
                .hint(format!("the disk has room for {}; `gantry status` lists what uses the space", Bytes(room))),
            UnpackError::TooLarge(_) => Problem::new(ErrorCode::VolumeArchiveTooLarge, what)
                .hint(format!("the limit is {limit}, the disk limit of the role; `--limit SIZE` sets another limit")),
            UnpackError::Stream(_) | UnpackError::Entry { .. } | UnpackError::Cut => {
                Problem::new(ErrorCode::VolumeArchiveInvalid, what)
            }
        }
    })
}

/// Gives the folder `fresh` an owner and a mode, when its archive says nothing about the folder itself: those of the
/// previous volume, or else the owner of the first file inside.
fn adopt_owner(before: &Path, fresh: &Path) -> io::Result<()> {
    let old = std::fs::symlink_metadata(before);
    let mode = old.as_ref().map_or(0o755, |about| about.mode() & 0o7777);
    let first = || std::fs::read_dir(fresh)?.next().transpose()?.map(|entry| entry.metadata()).transpose();
    if let Some(model) = old.ok().map_or_else(first, |about| Ok(Some(about)))? {
        std::os::unix::fs::chown(fresh, Some(model.uid()), Some(model.gid()))?;
    }
    std::fs::set_permissions(fresh, std::fs::Permissions::from_mode(mode))
}
