//! Output of builds: a file for each deploy, and with several servers a blob beside it, which outlives the server.
//!
//! The file is bounded by `gantry_build::Output`, and removed with the record of its deploy. The blob goes with the record,
//! too: nothing else names it.

use std::path::PathBuf;

use futures_util::StreamExt;
use gantry_blobs::BlobError;
use gantry_model::{AppName, Deploy, DeployNumber, Digest};
use tokio::io::AsyncWriteExt;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::{Server, ServerSettings, causes};

/// Returns the path of a deploy's build log.
pub(crate) fn path(settings: &ServerSettings, app: &AppName, number: DeployNumber) -> PathBuf {
    settings.data.join("builds").join(format!("{app}-{}.log", number.0))
}

/// Stores the log of an ended build as a blob. A build is worth more than its log, so a failure is only reported.
pub(crate) async fn store_as_blob(server: &Server, app: &AppName, number: DeployNumber) -> Option<Digest> {
    server.servers.as_ref()?;
    let file = tokio::fs::File::open(path(&server.settings, app, number)).await.ok()?;
    match server.blobs.put_stream(ReaderStream::new(file).boxed(), None).await {
        Ok((digest, _)) => Some(digest),
        Err(error) => {
            tracing::warn!(%app, %number, error = causes(&error), "the output of a build is on this server alone");
            None
        }
    }
}

/// Fetches the log of a build that another server has led, unless this server has the log.
pub(crate) async fn fetch(server: &Server, deploy: &Deploy) {
    let path = path(&server.settings, &deploy.app, deploy.number);
    let Some(digest) = deploy.log.as_ref().filter(|_| !path.exists()) else { return };
    let fetched = async {
        let failed = |error: std::io::Error| BlobError::Backend { action: "copy", source: error.into() };
        let mut text = StreamReader::new(server.blobs.get(digest).await?.stream);
        let unfinished = path.with_extension("part");
        let mut file = tokio::fs::File::create(&unfinished).await.map_err(failed)?;
        tokio::io::copy(&mut text, &mut file).await.map_err(failed)?;
        file.flush().await.map_err(failed)?;
        tokio::fs::rename(&unfinished, &path).await.map_err(failed)
    };
    if let Err(error) = fetched.await {
        tracing::warn!(app = %deploy.app, number = %deploy.number, error = causes(&error), "the output of a build is lost");
    }
}
