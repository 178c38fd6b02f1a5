//! `/v1/bases`: base images.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_api::endpoints::bases as endpoints;
use gantry_api::types::{BaseInfo, ImageProgress};
use gantry_api::{ErrorCode, Problem};
use gantry_build::bases::{BaseRecipe, BaseRecipeError};
use gantry_build::{BuildError, Output};
use gantry_control::builds::BaseOrder;
use gantry_control::sessions::SessionKind;
use gantry_model::{BaseName, BaseSource, Digest, Role, RoleCommand, execve};
use gantry_records::BaseRecord;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::call::{Call, Routes};
use super::{HttpResult, pulls};
use crate::disk_reserve::{ReserveCheck, check_reserve};
use crate::images::ImageReadError;
use crate::{Server, build_orders, causes};

/// Adds the endpoints of bases.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(list).endpoint(create).endpoint(import).endpoint(pulls::base).endpoint(remove)
}

async fn list(Call { server, .. }: Call<endpoints::List>) -> HttpResult<Vec<BaseInfo>> {
    Ok(server.core.view().records.bases.values().cloned().map(base_info).collect())
}

/// Imports a base image. The body is an OCI archive (`skopeo copy … oci-archive:FILE`).
async fn import(Call { server, caller, at, body, .. }: Call<endpoints::Import>) -> HttpResult<BaseInfo> {
    check_reserve(&server, "a base", 0)?;
    let _pin = server.gc_pins.take();
    let disk_full = Arc::new(OnceLock::new());
    let (own, mut room, refusal) = (Arc::clone(&server), ReserveCheck::new("a base"), Arc::clone(&disk_full));
    let mut fits = move |piece: Bytes| {
        room.take(&own, piece.len()).map(|()| piece).map_err(|problem| {
            let _ = refusal.set(problem);
            std::io::Error::other("the disk is full")
        })
    };
    let pieces =
        body.into_data_stream().map(move |piece| piece.map_err(std::io::Error::other).and_then(&mut fits)).boxed();
    let image = gantry_image::import(pieces, &server.blobs, server.images.scratch()).await.map_err(|error| {
        // If the disk was full, that error is reported instead of an invalid archive.
        let problem = || Problem::new(ErrorCode::BaseImportFailed, format!("the archive cannot be imported: {error}"));
        disk_full.get().cloned().unwrap_or_else(problem)
    })?;
    store_base(&server, &caller, at.name, image, "an OCI archive".to_owned(), BaseSource::Archive).await
}

async fn remove(Call { server, caller, at, .. }: Call<endpoints::Remove>) -> HttpResult<()> {
    caller.mutate(&server, move |actor| actor.remove_base(&at.name)).await
}

/// Names an image in this registry as a base. `from` describes the image's origin.
pub(crate) async fn store_base(
    server: &Server,
    caller: &Caller,
    name: BaseName,
    image: Digest,
    from: String,
    source: BaseSource,
) -> HttpResult<BaseInfo> {
    check_environment(server, &name, &image).await?;
    caller.mutate(server, move |actor| actor.store_base(name, image, from, source)).await.map(base_info)
}

pub(super) fn base_info(base: BaseRecord) -> BaseInfo {
    let BaseRecord { name, image, from, created, stack: _ } = base;
    BaseInfo { name, image, from, created }
}

/// Refuses a base whose environment the kernel would reject at `execve`.
async fn check_environment(server: &Server, name: &BaseName, image: &Digest) -> Result<(), Problem> {
    let found = server.images.image(image).await;
    let failed = |error: ImageReadError| Problem::internal(format!("the image of base {name}: {}", causes(&error)));
    let (_, image) = found.map_err(failed)?;
    let nothing = Role::new(RoleCommand::Argv(Vec::new()));
    let environment = image.config.env.unwrap_or_default();
    execve::check_role(&format!("base {name}"), &nothing, &environment, &BTreeMap::new())
        .map_err(|error| Problem::new(ErrorCode::BaseUnusable, format!("base {name}: {error}")))
}

async fn create(
    Call { server, caller, at, body, .. }: Call<endpoints::Create>,
) -> HttpResult<mpsc::Receiver<ImageProgress>> {
    let invalid = |why: BaseRecipeError| Problem::new(ErrorCode::InvalidBaseRecipe, format!("base.toml: {why}"));
    let (text, recipe) = BaseRecipe::read(&body).map_err(invalid)?;
    Ok(pulls::run_streamed(&server.tasks.clone(), server.image_requests.admit()?, async move |sender| {
        Ok(ImageProgress::Base {
            base: build_base(&server, &caller, at.name, (text, &recipe), BaseSource::Recipe, &sender).await?,
        })
    }))
}

/// Makes a base of Debian packages on an agent.
pub(super) async fn build_base(
    server: &Arc<Server>,
    caller: &Caller,
    base: BaseName,
    (text, recipe): (String, &BaseRecipe),
    source: BaseSource,
    sender: &mpsc::Sender<ImageProgress>,
) -> HttpResult<BaseInfo> {
    check_reserve(server, "a base", 0)?;
    // App names have no dots, so garbage collection of build logs ignores this file.
    let path = server.settings.data.join("builds").join(format!("{base}.base.log"));
    let output = Output::to(&path);
    let _pin = server.gc_pins.take();
    let order = SessionKind::Base(BaseOrder { recipe: text });
    let making = build_orders::carry_out(server, order, &output);
    let mut making = std::pin::pin!(making);
    let mut shown = 0;
    let image = loop {
        let ended = tokio::time::timeout(Duration::from_millis(100), &mut making).await;
        let text = tokio::fs::read_to_string(&path).await.unwrap_or_default();
        for line in text.lines().skip(shown) {
            shown += 1;
            let _ = sender.send(ImageProgress::Line { text: line.to_owned() }).await;
        }
        if let Ok(result) = ended {
            let failed =
                |error: BuildError| Problem::new(ErrorCode::BaseBuildFailed, error.message).hint(error.tail.join("\n"));
            break result.map_err(BuildError::from).map_err(failed)?;
        }
    };
    store_base(server, caller, base, image, recipe.summary(), source).await
}
