//! Images of other registries.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use gantry_api::Problem;
use gantry_api::types::{Making, PullImage};
use gantry_image::{Credentials, PullError, Remote};
use gantry_model::{BaseName, Digest};
use http::HeaderMap;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::{Answer, bases, body, deploys, name};
use crate::collect::pulled_tag;
use crate::mirror::Record;
use crate::room::has_room;
use crate::{Server, causes, mutations};

/// `POST /v1/apps/{app}/pull`: into the app's own repository.
pub(crate) async fn image(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    headers: HeaderMap,
    text: Bytes,
) -> Answer {
    let app = caller.deploy(&app)?;
    mutations::app(&server.core.view().mirror, &app)?;
    let pull = Pull::read(&caller, &text)?;
    run(&headers, async move |sender| {
        let _hold = server.holds.take();
        let digest = pull.run(&server, &sender).await?;
        let (by, reference) = (caller.name, format!("{app}@{digest}"));
        let what = format!("pulled image {}", pull.remote);
        let change = move |mirror: &crate::mirror::Mirror, now| {
            let event = mutations::event(mirror, now, &by, Some(&app), what);
            // A name of its own, so that it is kept for as long as any pushed image.
            let tag = Record::Tag { repository: app.to_string(), tag: pulled_tag(&digest), digest };
            Ok((vec![event, tag.into()], ()))
        };
        server.core.mutate(change).await?;
        Ok(Making::Image { reference })
    })
}

/// `POST /v1/bases/{name}/pull`.
pub(crate) async fn base(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(base): Path<String>,
    headers: HeaderMap,
    text: Bytes,
) -> Answer {
    caller.admin()?;
    let base: BaseName = name(&base)?;
    let pull = Pull::read(&caller, &text)?;
    run(&headers, async move |sender| {
        let _hold = server.holds.take();
        let image = pull.run(&server, &sender).await?;
        let what = format!("imported base {base} from {}", pull.remote);
        let info = bases::keep(&server, caller.name, base, image, pull.remote.to_string(), what).await?;
        Ok(Making::Base { base: info })
    })
}

/// The work as a stream; it goes on when whoever asked goes away.
pub(crate) fn run<F>(headers: &HeaderMap, work: impl FnOnce(mpsc::Sender<Making>) -> F) -> Answer
where
    F: Future<Output = Result<Making, Problem>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(64);
    let working = work(sender.clone());
    tokio::spawn(async move {
        let last = working.await.unwrap_or_else(|problem| Making::Failed { problem });
        let _ = sender.send(last).await;
    });
    deploys::stream(headers, receiver)
}

struct Pull {
    remote: Remote,
    credentials: Option<Credentials>,
}

impl Pull {
    fn read(caller: &Caller, text: &Bytes) -> Answer<Self> {
        let PullImage { reference, username, password } = body(text)?;
        let remote = Remote::parse(&reference).map_err(Problem::invalid)?;
        let remote = remote.ok_or_else(|| Problem::invalid(format!("{reference:?} names no registry")))?;
        // What listens on the server's own loopback is not for everyone who may deploy.
        if remote.is_local() {
            caller.admin()?;
        }
        let credentials = username.zip(password).map(|(username, password)| Credentials { username, password });
        Ok(Self { remote, credentials })
    }

    async fn run(&self, server: &Server, sender: &mpsc::Sender<Making>) -> Result<Digest, Problem> {
        has_room(&server.settings, "a pull", 0)?;
        let fits = |bytes| has_room(&server.settings, "a pull", bytes).map_err(|full| full.message);
        let tell = |text| drop(sender.try_send(Making::Line { text }));
        let pulled = gantry_image::pull(&self.remote, self.credentials.as_ref(), &server.blobs, tell, fits).await;
        pulled.map_err(|error| match &error {
            PullError::Unreachable { .. } => Problem::new(502, error.to_string()),
            PullError::NoRoom(why) => Problem::new(507, why.clone()),
            _ => Problem::new(422, format!("{} cannot be pulled: {}", self.remote, causes(&error))),
        })
    }
}
