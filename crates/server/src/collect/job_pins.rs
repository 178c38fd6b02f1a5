//! GC pins of container jobs: what the jobs that have not ended run.

use std::collections::BTreeSet;

use gantry_model::{AppName, Digest, ReleaseNumber};

use crate::Server;
use crate::jobs::{StoredWork, WorkSource};

/// Images and releases of the jobs that have not ended.
#[derive(Debug, Default)]
pub(super) struct JobPins {
    pub(super) images: Vec<Digest>,
    pub(super) releases: BTreeSet<(AppName, ReleaseNumber)>,
}

impl JobPins {
    /// Reads the pins. None if the queue cannot be read: then neither a release nor a blob is removed.
    ///
    /// A job that is queued after this runs the current release, which is kept.
    pub(super) async fn read(server: &Server) -> Option<Self> {
        let works = match server.jobs.read(|reader| reader.open_works()).await {
            Ok(works) => works,
            Err(error) => {
                tracing::error!(
                    error = crate::causes(&error),
                    "cannot read the jobs; no release and no blob is removed"
                );
                return None;
            }
        };
        let mut pins = Self::default();
        for open in works {
            let work: StoredWork = serde_json::from_slice(&open.work).ok()?;
            if let WorkSource::Role { release, .. } = work.source {
                pins.releases.insert((open.project, release));
            }
            pins.images.push(work.image);
        }
        Some(pins)
    }
}
