//! `/v1/images`: reports about images of the registry.

use std::time::{Duration, Instant};

use gantry_api::endpoints::images as endpoints;
use gantry_api::types::{FileReport, ImageReport, LayerReport, SurplusKind, SurplusReport};
use gantry_api::{ErrorCode, Problem};
use gantry_image::{Reporter, Surplus};
use tokio::sync::Semaphore;

use super::HttpResult;
use super::call::{Call, Routes};
use super::registry::resolve;
use crate::causes;

/// Time in which all layers of an image must be read.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Reports that are made at the same time: each takes a processor.
static REPORTS: Semaphore = Semaphore::const_new(1);

/// Adds the endpoints of images.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(report)
}

async fn report(Call { server, caller, query, .. }: Call<endpoints::Report>) -> HttpResult<ImageReport> {
    let reference = query.reference;
    let image = resolve(&server, &caller, &reference).await?;
    let unusable = |why: &dyn std::error::Error| {
        Problem::new(ErrorCode::ImageUnusable, format!("{reference} cannot be read: {}", causes(why)))
    };
    let _turn = REPORTS.acquire().await.map_err(|error| Problem::internal(error.to_string()))?;
    let (manifest, _) = server.images.image(&image).await.map_err(|error| unusable(&error))?;
    let mut reporter = Reporter::new(Instant::now() + TIMEOUT);
    for layer in &manifest.layers {
        let file = server.images.file(&layer.digest).await.map_err(|error| unusable(&error))?;
        let read = tokio::task::spawn_blocking(move || reporter.layer(file).map(|()| reporter));
        let read = read.await.map_err(|error| Problem::internal(error.to_string()))?;
        reporter = read.map_err(|error| unusable(&error))?;
    }
    let report = reporter.finish();
    let layers = manifest.layers.iter().zip(&report.layers).map(|(named, read)| LayerReport {
        digest: named.digest.clone(),
        packed: named.size,
        size: read.size,
        files: read.files,
        hidden: read.hidden,
    });
    let surplus = report.surplus.into_iter().map(|(kind, size)| SurplusReport { kind: surplus_kind(kind), size });
    let largest = report.largest.into_iter().map(|file| FileReport {
        path: file.path,
        size: file.size,
        layer: file.layer as u64 + 1,
    });
    Ok(ImageReport {
        image,
        packed: manifest.layers.iter().map(|layer| layer.size).sum(),
        size: report.layers.iter().map(|layer| layer.size).sum(),
        layers: layers.collect(),
        surplus: surplus.collect(),
        largest: largest.collect(),
    })
}

fn surplus_kind(kind: Surplus) -> SurplusKind {
    match kind {
        Surplus::PackageCache => SurplusKind::PackageCache,
        Surplus::Documentation => SurplusKind::Documentation,
        Surplus::Compilers => SurplusKind::Compilers,
        Surplus::Caches => SurplusKind::Caches,
        Surplus::Repositories => SurplusKind::Repositories,
    }
}
