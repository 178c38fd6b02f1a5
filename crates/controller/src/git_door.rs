//! The git door's inside: the conversation with the hook of a push.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use gantry_api::types::Progress;
use gantry_git::hook::{Pushed, Update, Word};
use gantry_model::{AppName, Cause, DeployState};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::io::ReaderStream;

use crate::core::now;
use crate::{Server, ServerError, causes, follow, mutations};

/// Bytes of zeros at an archive's end.
const ARCHIVE_END: usize = 1024;

/// The largest source tree, as an archive; the hook counts what is in it before.
const SOURCE_MAX: u64 = 3 << 30;

/// After a push that could not be heard (too many open files), before the next.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// The longest that a hook may take to say what is pushed, and a tree to come.
const HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// Who pushes to what; known by a random name that only git's own process has.
#[derive(Default)]
pub(crate) struct Pushes(Mutex<HashMap<String, (AppName, String)>>);

impl Pushes {
    /// Names a push.
    pub(crate) fn begin(&self, app: &AppName, by: &str) -> String {
        let name = format!("{:032x}", rand::random::<u128>());
        self.lock().insert(name.clone(), (app.clone(), by.to_owned()));
        name
    }

    fn take(&self, name: &str) -> Option<(AppName, String)> {
        self.lock().remove(name)
    }

    /// Forgets a push whose hook never came.
    pub(crate) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (AppName, String)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Listens for hooks on a socket that only root reaches.
pub(crate) fn listen(server: &Arc<Server>) -> Result<impl Future<Output = ()> + use<>, ServerError> {
    let path = server.settings.run.join("git.sock");
    let failed = |action, source| ServerError::File { action, path: path.clone(), source };
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|source| failed("listen on", source))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(|source| failed("guard", source))?;
    let server = Arc::clone(server);
    Ok(async move {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => drop(tokio::spawn(converse(Arc::clone(&server), socket))),
                Err(error) => {
                    tracing::warn!(%error, "a push cannot be heard");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

async fn converse(server: Arc<Server>, socket: UnixStream) {
    let (reader, writer) = socket.into_split();
    let mut voice = Voice(writer);
    let accepted = match receive(&server, BufReader::new(reader), &mut voice).await {
        Ok(accepted) => accepted,
        Err(message) => {
            voice.say(&format!(" !     {message}")).await;
            false
        }
    };
    voice.word(&Word::Verdict(accepted)).await;
}

struct Voice(OwnedWriteHalf);

impl Voice {
    async fn word(&mut self, word: &Word) {
        if let Ok(mut line) = serde_json::to_vec(word) {
            line.push(b'\n');
            // A hook that went away no longer listens; the deploy goes on.
            let _ = self.0.write_all(&line).await;
        }
    }

    async fn say(&mut self, text: &str) {
        self.word(&Word::Say(text.to_owned())).await;
    }
}

async fn receive(
    server: &Arc<Server>,
    mut reader: BufReader<OwnedReadHalf>,
    voice: &mut Voice,
) -> Result<bool, String> {
    let mut line = String::new();
    tokio::time::timeout(HOOK_TIMEOUT, reader.read_line(&mut line))
        .await
        .map_err(|_| "the push said nothing in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let came = now();
    let pushed: Pushed = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    let (app, by) = server.pushes.take(&pushed.push).ok_or("this push is not known")?;
    let branch = {
        let view = server.core.view();
        mutations::app(&view.mirror, &app).map_err(|problem| problem.message)?.branch.clone()
    };
    let update = only_the_branch(&pushed.updates, &app, &branch)?;
    let hold = is_held(&pushed.options)?;
    let commit = update.new.clone();
    gantry_linux::step!("push.received");
    let hold_on_source = server.holds.take();
    voice.word(&Word::Archive(commit.clone())).await;
    // The last bytes of what came: an archive ends with two blocks of zeros, one that was cut does not.
    let mut tail = Vec::new();
    let mut size = 0;
    let mut bounded = move |piece: Bytes| {
        size += piece.len() as u64;
        let too_large = || io::Error::other(format!("the tree has more than {}", gantry_model::Bytes(SOURCE_MAX)));
        if size > SOURCE_MAX { Err(too_large()) } else { Ok(piece) }
    };
    let stream = ReaderStream::with_capacity(reader, 256 << 10)
        .map(move |piece| piece.and_then(&mut bounded))
        .inspect_ok(|piece| {
            tail.extend_from_slice(&piece[piece.len().saturating_sub(ARCHIVE_END)..]);
            tail.drain(..tail.len().saturating_sub(ARCHIVE_END));
        });
    let (source, _) = tokio::time::timeout(HOOK_TIMEOUT, server.blobs.put_stream(stream.boxed(), None))
        .await
        .map_err(|_| "the source did not come in time".to_owned())?
        .map_err(|error| format!("the source cannot be kept: {}", causes(&error)))?;
    if tail.len() < ARCHIVE_END || tail.iter().any(|byte| *byte != 0) {
        return Err("the source did not come whole; push again".to_owned());
    }
    gantry_linux::step!("push.kept");
    let cause = Cause::Push { commit, source };
    let name = app.clone();
    let base = mutations::Base { history: pushed.history, old: update.old.clone(), seen: came };
    let number = server
        .core
        .mutate(move |mirror, now| {
            mutations::is_built_on_others(mirror, &name, &base)?;
            mutations::start_deploy(mirror, now, &by, &name, cause, hold)
        })
        .await
        .map_err(|problem| match problem.hint {
            Some(hint) => format!("{}; {hint}", problem.message),
            None => problem.message,
        })?;
    drop(hold_on_source);
    gantry_linux::step!("push.begun");
    let mut progress = follow::follow(server, app, number);
    while let Some(event) = progress.recv().await {
        match event {
            Progress::Line { text } => voice.say(&text).await,
            Progress::End { deploy, url } if deploy.state == DeployState::Done => {
                let seconds = deploy.entered.since(deploy.created) / 1000;
                voice.say(&format!("-----> Done in {seconds} s")).await;
                voice.say(&url).await;
                return Ok(true);
            }
            Progress::End { deploy, url } if deploy.state == DeployState::Held => {
                voice.say(&url).await;
                return Ok(true);
            }
            Progress::End { .. } => return Ok(false),
        }
    }
    Err("the deploy can no longer be followed; `gantry status` tells how it goes".to_owned())
}

/// The option that a push may have: `git push -o hold`.
const HOLD: &str = "hold";

/// Whether a push's options ask for its release to be held.
fn is_held(options: &[String]) -> Result<bool, String> {
    match options.iter().find(|option| *option != HOLD) {
        None => Ok(!options.is_empty()),
        Some(unknown) => {
            let shown: String = unknown.chars().take(40).collect();
            Err(format!("{shown:?} is no option of a push; there is one, `git push -o {HOLD}`"))
        }
    }
}

/// Exactly one ref is pushed: the app's deploy branch, and not to remove it.
fn only_the_branch<'a>(updates: &'a [Update], app: &AppName, branch: &str) -> Result<&'a Update, String> {
    let wanted = format!("refs/heads/{branch}");
    let is_hash = |text: &str| text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match updates {
        [update] if update.name == wanted && is_hash(&update.new) && update.new.bytes().any(|byte| byte != b'0') => {
            Ok(update)
        }
        [update] if update.name == wanted => {
            Err(format!("{branch} is what {app} is deployed from and cannot be removed"))
        }
        _ => Err(format!("{app} is deployed from {branch} alone; push that: git push … HEAD:{branch}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_may_ask_to_be_held_and_for_nothing_else() {
        let held = |options: &[&str]| is_held(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>());
        assert_eq!((held(&[]), held(&["hold"])), (Ok(false), Ok(true)));
        let error = held(&["hold", "\x1b[2J--upload-pack"]).expect_err("refused");
        assert!(error.contains("-o hold") && !error.contains('\x1b'), "{error}");
    }

    #[test]
    fn only_the_deploy_branch_is_taken() {
        let app = AppName::parse("shop").expect("a name");
        let update = |name: &str, new: &str| Update { old: "0".repeat(40), new: new.repeat(40), name: name.into() };
        assert!(only_the_branch(&[update("refs/heads/main", "a")], &app, "main").is_ok());
        for bad in [
            vec![],
            vec![update("refs/heads/other", "a")],
            vec![update("refs/tags/main", "a")],
            vec![update("refs/heads/main", "0")],
            vec![update("refs/heads/main", "-")],
            vec![update("refs/heads/main", "a"), update("refs/heads/x", "a")],
        ] {
            let error = only_the_branch(&bad, &app, "main").expect_err("refused");
            assert!(error.contains("main"), "{error}");
        }
    }
}
