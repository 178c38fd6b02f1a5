//! Pulls of images from other registries. An agent fetches the image: the server connects to no other registry.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use gantry_admission::find_app;
use gantry_api::endpoints;
use gantry_api::types::{ImageProgress, PullImage};
use gantry_api::{ErrorCode, Problem};
use gantry_build::{Output, OutputEvent};
use gantry_control::builds::{PullOrder, RegistryCredentials};
use gantry_control::sessions::SessionKind;
use gantry_image::Remote;
use gantry_model::{BaseSource, Digest};
use gantry_supervision::TaskSet;
use http::{HeaderMap, header};
use tokio::sync::mpsc;

use super::auth::Caller;
use super::call::Call;
use super::{ErrorResponse, HttpResult, bases, registry};
use crate::build_orders::OrderError;
use crate::collect::pulled_tag;
use crate::disk_reserve::check_reserve;
use crate::image_requests::RequestPlace;
use crate::images::ImageReadError;
use crate::tasks::IMAGE_REQUEST;
use crate::{Server, build_orders, causes};

/// Timeout for resolving a registry's host name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Pulls an image into the app's own repository. An image that is already in this registry is not copied.
pub(super) async fn image(
    Call { server, caller, at, body, headers, .. }: Call<endpoints::deploys::Pull>,
) -> HttpResult<mpsc::Receiver<ImageProgress>> {
    let app = at.app;
    find_app(&server.core.view().records, &app)?;
    let pull = Pull::read(&server, &caller, &headers, body).await?;
    Ok(run_streamed(&server.tasks.clone(), server.image_requests.admit()?, async move |sender| {
        let _pin = server.gc_pins.take();
        let digest = match pull.run(&server, &caller, &sender).await? {
            Pulled::Own { reference, .. } => return Ok(ImageProgress::Image { reference }),
            Pulled::Foreign(digest) => digest,
        };
        let reference = format!("{app}@{digest}");
        let (tag, origin) = (pulled_tag(&digest), pull.remote.to_string());
        caller.mutate(&server, move |actor| actor.keep_pulled_image(&app, digest, tag, origin)).await?;
        Ok(ImageProgress::Image { reference })
    }))
}

/// Pulls an image and names it as a base.
pub(super) async fn base(
    Call { server, caller, at, body, headers, .. }: Call<endpoints::bases::Pull>,
) -> HttpResult<mpsc::Receiver<ImageProgress>> {
    let pull = Pull::read(&server, &caller, &headers, body).await?;
    Ok(run_streamed(&server.tasks.clone(), server.image_requests.admit()?, async move |sender| {
        let _pin = server.gc_pins.take();
        let image = match pull.run(&server, &caller, &sender).await? {
            Pulled::Own { image, reference } => {
                let unfit = |error: ImageReadError| {
                    let why = format!("{reference} cannot be a base: {}", causes(&error));
                    Problem::new(ErrorCode::BaseUnusable, why)
                };
                server.images.image(&image).await.map_err(unfit)?;
                image
            }
            Pulled::Foreign(image) => image,
        };
        let from = pull.remote.to_string();
        let source = BaseSource::Registry { reference: from.clone() };
        let info = bases::store_base(&server, &caller, at.name, image, from, source).await?;
        Ok(ImageProgress::Base { base: info })
    }))
}

/// Runs `work` in a task and streams its progress. The task continues when the client disconnects, and gives up the place
/// at its end.
pub(super) fn run_streamed<F>(
    tasks: &TaskSet,
    place: RequestPlace,
    work: impl FnOnce(mpsc::Sender<ImageProgress>) -> F,
) -> mpsc::Receiver<ImageProgress>
where
    F: Future<Output = HttpResult<ImageProgress>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(64);
    let working = work(sender.clone());
    tasks.spawn(IMAGE_REQUEST, async move {
        let _place = place;
        let last = working.await.unwrap_or_else(|ErrorResponse(problem)| ImageProgress::Failed { problem });
        let _ = sender.send(last).await;
    });
    receiver
}

/// Returns the reference within this registry, if `remote` names this server as its registry. Two forms name this
/// server: the host name of the current request, and this server's port on an address of this machine.
pub(crate) async fn own_reference(server: &Server, headers: &HeaderMap, remote: &Remote) -> Option<String> {
    let reached_by = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let own = reached_by.is_some_and(|host| host.eq_ignore_ascii_case(&remote.registry))
        || resolves_to(&remote.registry, server.settings.listen).await;
    own.then(|| remote.local())
}

/// Returns whether `registry` (`host:port`) resolves to the address that this server listens on.
async fn resolves_to(registry: &str, listen: SocketAddr) -> bool {
    let Some((host, port)) = registry.rsplit_once(':') else { return false };
    if port.parse() != Ok(listen.port()) {
        return false;
    }
    let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), listen.port()));
    let Ok(Ok(addresses)) = tokio::time::timeout(LOOKUP_TIMEOUT, found).await else { return false };
    // A socket can be bound only to an address of this machine.
    let is_own = |ip: IpAddr| listen.ip().is_unspecified() && UdpSocket::bind((ip, 0)).is_ok();
    addresses.map(|address| address.ip()).any(|ip| ip == listen.ip() || is_own(ip))
}

/// Outcome of a pull.
enum Pulled {
    /// The image was already in this registry, under this reference.
    Own { image: Digest, reference: String },
    /// The image came from another registry and is now stored here.
    Foreign(Digest),
}

struct Pull {
    remote: Remote,
    credentials: Option<RegistryCredentials>,
    /// The reference within this registry, if the registry is this server.
    own: Option<String>,
}

impl Pull {
    async fn read(server: &Server, caller: &Caller, headers: &HeaderMap, pull: PullImage) -> HttpResult<Self> {
        let PullImage { reference, username, password } = pull;
        let remote = Remote::parse(&reference)
            .map_err(|error| Problem::new(ErrorCode::InvalidImageReference, error.to_string()))?;
        let no_registry = || Problem::new(ErrorCode::InvalidImageReference, format!("{reference:?} names no registry"));
        let remote = remote.ok_or_else(no_registry)?;
        let own = own_reference(server, headers, &remote).await;
        // Other services on the server's loopback interface are not open to every token that may deploy.
        if own.is_none() && remote.is_local() {
            caller.admin()?;
        }
        let credentials = username.zip(password).map(|(username, password)| RegistryCredentials { username, password });
        Ok(Self { remote, credentials, own })
    }

    async fn run(&self, server: &Server, caller: &Caller, sender: &mpsc::Sender<ImageProgress>) -> HttpResult<Pulled> {
        if let Some(reference) = &self.own {
            return resolve_own(server, caller, reference.clone()).await;
        }
        check_reserve(server, "a pull", 0)?;
        let order = SessionKind::Pull(PullOrder {
            reference: self.remote.to_string(),
            credentials: self.credentials.clone(),
            own: server.registry_id.clone(),
        });
        let (output, mut events) = Output::forwarded();
        let mut pulling = std::pin::pin!(build_orders::carry_out(server, order, &output));
        let pulled = loop {
            tokio::select! {
                biased;
                Some(OutputEvent::Step(text) | OutputEvent::Note(text) | OutputEvent::Program(text)) = events.recv() => {
                    let _ = sender.try_send(ImageProgress::Line { text });
                }
                pulled = &mut pulling => break pulled,
            }
        };
        match pulled {
            Ok(digest) => Ok(Pulled::Foreign(digest)),
            // The registry turned out to be this server, reached through a proxy under another name.
            Err(OrderError::OwnRegistry) => resolve_own(server, caller, self.remote.local()).await,
            Err(OrderError::Refused(problem)) => Err(problem.into()),
            Err(OrderError::Failed(error)) => {
                let message = format!("{} cannot be pulled: {}", self.remote, error.message);
                Err(Problem::new(ErrorCode::PullFailed, message).into())
            }
        }
    }
}

async fn resolve_own(server: &Server, caller: &Caller, reference: String) -> HttpResult<Pulled> {
    let image = registry::resolve(server, caller, &reference).await?;
    Ok(Pulled::Own { image, reference })
}
