//! Git endpoint: the server's conversations with the hooks of pushes, on a unix socket.
//!
//! - `open_pushes`: the pushes under way, by the random id that git's processes know.
//! - `conversation`: one push, from its report to the verdict.
//! - `target`: which ref of a push deploys; the options of a push.

mod conversation;
mod open_pushes;
mod target;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use gantry_git::hook::HookOpening;
use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};

use self::conversation::{HookSocket, PushConversation};
pub(crate) use self::open_pushes::OpenPushes;
use crate::tasks::{HOOK, INSPECTION};
use crate::{Server, ServerError, repositories};

/// Pause after a failed accept (such as too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens for hooks on a socket that only root can open.
pub(crate) fn listen(server: &Arc<Server>) -> Result<impl Future<Output = ()> + use<>, ServerError> {
    let path = server.settings.run.join("git.sock");
    let failed = |action, source| ServerError::File { action, path: path.clone(), source };
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|source| failed("listen on", source))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(|source| failed("guard", source))?;
    let server = Arc::clone(server);
    Ok(async move {
        server.tasks.spawn(INSPECTION, repositories::inspect_all(Arc::clone(&server)));
        loop {
            match listener.accept().await {
                Ok((socket, _)) => drop(server.tasks.spawn(HOOK, serve(Arc::clone(&server), socket))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept the connection of a git hook; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Serves one connection of a hook.
async fn serve(server: Arc<Server>, socket: UnixStream) {
    let (reader, writer) = socket.into_split();
    let mut socket = HookSocket { reader: BufReader::new(reader), writer };
    let verdict = match socket.read_line().await {
        Ok(HookOpening::Moved(push)) => return server.pushes.branch_moved(&push),
        Ok(HookOpening::Push(report)) => PushConversation { server: &server, socket: &mut socket }.run(&report).await,
        Err(error) => Err(error),
    };
    socket.finish(verdict).await;
}
