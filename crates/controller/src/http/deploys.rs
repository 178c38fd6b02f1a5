//! `/v1/apps/{app}/deploys`, and the commands to promote or abort a deploy.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::StreamExt;
use gantry_api::Problem;
use gantry_api::types::{Accepted, StartDeploy, What};
use gantry_image::Remote;
use gantry_model::deploy::DeployOrder;
use gantry_model::{AppName, Deploy, DeployCause, DeployNumber, ImageSettings};
use http::{HeaderMap, header};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::{Answer, Params, UNBUFFERED, body, json, pulls, registry};
use crate::follow::FollowLimit;
use crate::records::RecordIndex;
use crate::{Server, follow, mutations};

/// Length limit of the stored origin of an image, in characters. Longer origins are cut.
const ORIGIN_MAX: usize = 500;

pub(crate) async fn list(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> Answer {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    mutations::app(&view.records, &app)?;
    let deploys: Vec<&Deploy> =
        view.records.deploys.get(&app).into_iter().flat_map(|deploys| deploys.values()).map(AsRef::as_ref).collect();
    json(&deploys)
}

pub(crate) async fn start(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    headers: HeaderMap,
    text: Bytes,
) -> Answer {
    let app = caller.deploy(&app)?;
    let request: StartDeploy = body(&text)?;
    let cause = match request.what {
        What::Image { reference, origin, settings } => {
            check_settings(&settings_of(&server.core.view().records, &app)?, &settings)?;
            let remote = Remote::parse(&reference).map_err(Problem::invalid)?;
            let reference = match remote {
                None => reference,
                Some(remote) => pulls::own_reference(&server, &headers, &remote).await.ok_or_else(|| {
                    Problem::invalid(format!("{reference} is in another registry")).hint("pull it first")
                })?,
            };
            let image = registry::resolve(&server, &caller, &reference).await?;
            let origin = origin.map(|origin| origin.chars().take(ORIGIN_MAX).collect());
            DeployCause::Image { reference: origin.unwrap_or(reference), image, change: settings }
        }
        What::Rollback { to } => {
            let view = server.core.view();
            DeployCause::Rollback { to: mutations::rollback_target(&view.records, &app, to)? }
        }
    };
    let by = caller.name;
    let deploy = server
        .core
        .mutate(move |records, now| mutations::start_deploy(records, now, &by, &app, cause, request.hold))
        .await?;
    json(&Accepted { deploy })
}

/// Limit on the volumes of an app's images.
const VOLUMES_MAX: usize = 20;

/// Returns the app's image settings as they will be after the open deploys.
fn settings_of(records: &RecordIndex, app: &AppName) -> Answer<ImageSettings> {
    let mut settings = mutations::app(records, app)?.image.clone();
    for deploy in records.open_deploys(app) {
        if let DeployCause::Image { change, .. } = &deploy.cause {
            settings.apply(change);
        }
    }
    Ok(settings)
}

/// Refuses image settings with invalid, unknown or too many volumes, or with two volumes at the same path.
fn check_settings(known: &ImageSettings, change: &ImageSettings) -> Answer<()> {
    for (name, path) in change.volumes.iter().filter(|(_, path)| !path.is_empty()) {
        gantry_build::check_volume(name, path).map_err(Problem::invalid)?;
    }
    let missing = change.volumes.iter().find(|(name, path)| path.is_empty() && !known.volumes.contains_key(*name));
    if let Some((name, _)) = missing {
        return Err(Problem::missing(format!("the app's images have no volume {name}")).into());
    }
    let mut all = known.clone();
    all.apply(change);
    if all.volumes.len() > VOLUMES_MAX {
        return Err(Problem::invalid(format!("an app's images have at most {VOLUMES_MAX} volumes")).into());
    }
    let mut places = std::collections::BTreeMap::new();
    for (name, path) in &all.volumes {
        let place = path.trim_end_matches('/');
        if let Some(other) = places.insert(place, name) {
            let why = format!("volumes {other} and {name} would both be at {place}");
            return Err(Problem::invalid(why)
                .hint(format!("`--volume {other}:` takes the first away; its data stays"))
                .into());
        }
    }
    Ok(())
}

/// Streams values as they arrive: as newline-delimited JSON, or as server-sent events if the client accepts them.
pub(crate) fn stream<T: serde::Serialize + Send + 'static>(headers: &HeaderMap, receiver: mpsc::Receiver<T>) -> Answer {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let events = accept.contains("text/event-stream");
    let (before, after) = if events { ("data: ", "\n\n") } else { ("", "\n") };
    let line = move |value: T| serde_json::to_string(&value).map(|text| Bytes::from(format!("{before}{text}{after}")));
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let stream = stream.map(line);
    let kind = if events { "text/event-stream" } else { "application/x-ndjson" };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, [UNBUFFERED], Body::from_stream(stream)).into_response())
}

/// Query parameters of `follow`: `?until=`.
#[derive(Deserialize)]
pub(crate) struct FollowQuery {
    until: Option<FollowUntil>,
}

/// The point up to which the client asks to follow a deploy.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FollowUntil {
    Serving,
    Verdict,
    /// The point in the server's settings.
    Setting,
}

pub(crate) async fn follow(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((app, number)): Path<(String, u64)>,
    Params(query): Params<FollowQuery>,
    headers: HeaderMap,
) -> Answer {
    let app = caller.read_app(&app)?;
    let until = match query.until {
        None | Some(FollowUntil::Verdict) => FollowLimit::Verdict,
        Some(FollowUntil::Serving) => FollowLimit::Serving,
        Some(FollowUntil::Setting) => server.settings.until,
    };
    let number = DeployNumber(number);
    let view = server.core.view();
    if view.records.deploys.get(&app).is_none_or(|deploys| !deploys.contains_key(&number)) {
        return Err(Problem::missing(format!("{app} has no deploy {number}")).into());
    }
    stream(&headers, follow::follow(&server, app, number, until))
}

pub(crate) async fn promote(server: State<Arc<Server>>, caller: Caller, app: Path<String>) -> Answer {
    order(server, caller, app, DeployOrder::Promote).await
}

pub(crate) async fn abort(server: State<Arc<Server>>, caller: Caller, app: Path<String>) -> Answer {
    order(server, caller, app, DeployOrder::Abort).await
}

async fn order(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    order: DeployOrder,
) -> Answer {
    let app = caller.deploy(&app)?;
    let by = caller.name;
    let deploy = server.core.mutate(move |records, now| mutations::order(records, now, &by, &app, order)).await?;
    json(&Accepted { deploy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_images_are_checked_with_those_that_are_there() {
        let settings = |volumes: &[(&str, &str)]| ImageSettings {
            volumes: volumes.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect(),
            port: None,
        };
        let known = settings(&[("data", "/data")]);
        let check =
            |change: &[(&str, &str)]| check_settings(&known, &settings(change)).map_err(|refusal| refusal.0.message);
        for good in [
            &[("data", "/var/data")][..],
            &[("data", "")],
            &[("cache", "/data/cache")],
            &[("data", ""), ("new", "/data")],
        ] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for (bad, wanted) in [
            (&[("cache", "/data/")][..], "volumes cache and data would both be at /data"),
            (&[("cache", "")], "no volume cache"),
            (&[("../x", "/x")], "cannot be the name of a volume"),
            (&[("x", "x")], "no place for a volume"),
            (&[("x", "/proc")], "no place for a volume"),
        ] {
            let why = check(bad).expect_err(wanted);
            assert!(why.contains(wanted), "{bad:?}: {why}");
        }
        let many: Vec<String> = (0..20).map(|n| format!("v{n}")).collect();
        let paths: Vec<String> = many.iter().map(|name| format!("/{name}")).collect();
        let many: Vec<(&str, &str)> =
            many.iter().zip(&paths).map(|(name, path)| (name.as_str(), path.as_str())).collect();
        assert!(check(&many).expect_err("too many").contains("at most 20"));
    }
}
