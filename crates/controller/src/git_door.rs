//! Git endpoint: the server's conversation with the hook of a push.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use gantry_api::types::Progress;
use gantry_git::hook::{OTHERS_MAX, Pushed, Update, Word};
use gantry_model::{AppName, DeployCause, DeployState};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::io::ReaderStream;

use crate::follow::FollowLimit;
use crate::{Server, ServerError, causes, follow, mutations, repositories};

/// Number of zero bytes at the end of a complete tar archive.
const ARCHIVE_END: usize = 1024;

/// Largest source tree, as bytes of its archive. Before that, the hook counts the contents of the tree.
const SOURCE_MAX: u64 = 3 << 30;

/// Pause after a failed accept (such as too many open files).
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Timeout for a hook to describe its push, and for the source tree to arrive.
const HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// Pushes under way: the app and the user, by a random name that only git's own process knows.
#[derive(Default)]
pub(crate) struct Pushes(Mutex<HashMap<String, (AppName, String)>>);

impl Pushes {
    /// Registers a push and returns its random name.
    pub(crate) fn begin(&self, app: &AppName, by: &str) -> String {
        let name = format!("{:032x}", rand::random::<u128>());
        self.lock().insert(name.clone(), (app.clone(), by.to_owned()));
        name
    }

    fn take(&self, name: &str) -> Option<(AppName, String)> {
        self.lock().remove(name)
    }

    /// Removes a push whose hook never connected.
    pub(crate) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (AppName, String)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

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
        drop(tokio::spawn(repositories::look_at_all(Arc::clone(&server))));
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

/// Serves one hook: receives the push and sends the verdict.
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

/// Sender of messages to a hook.
struct Voice(OwnedWriteHalf);

impl Voice {
    async fn word(&mut self, word: &Word) {
        if let Ok(mut line) = serde_json::to_vec(word) {
            line.push(b'\n');
            // A hook that exited reads nothing more; the deploy goes on.
            let _ = self.0.write_all(&line).await;
        }
    }

    /// Sends the app's URL, if there is one, as the last line of a successful push.
    async fn address(&mut self, url: Option<String>) {
        if let Some(url) = url {
            self.say(&url).await;
        }
    }

    async fn say(&mut self, text: &str) {
        self.word(&Word::Say(text.to_owned())).await;
    }
}

/// Receives a push: stores its source tree, starts a deploy and reports the progress. Returns the verdict on the push.
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
    let came = server.core.view().now;
    let pushed: Pushed = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    let (app, by) = server.pushes.take(&pushed.push).ok_or("this push is not known")?;
    let target = {
        let view = server.core.view();
        let record = mutations::app(&view.records, &app).map_err(|problem| problem.message)?;
        Target { app: &app, branch: record.branch.clone(), serves: record.current.is_some() }
    };
    for note in server.repairs.take(&app) {
        voice.say(&format!("-----> {note}")).await;
    }
    let update = target.update(&pushed)?.cloned();
    if let Some(line) = target.passed_over(&pushed) {
        voice.say(&format!("-----> {line}")).await;
    }
    let Some(update) = update else {
        voice.say(&format!("       Nothing is deployed; push the branch: git push … HEAD:{}", target.branch)).await;
        return Ok(true);
    };
    let wanted = Wanted::parse(&pushed.options)?;
    let until = if wanted.wait { FollowLimit::Verdict } else { server.settings.until };
    let commit = update.new.clone();
    gantry_failpoint::failpoint!("push.received");
    let hold_on_source = server.gc_pins.take();
    voice.word(&Word::Archive(commit.clone())).await;
    // Last bytes received. A complete archive ends with two blocks of zeros; a truncated archive does not.
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
    gantry_failpoint::failpoint!("push.kept");
    let cause = DeployCause::Push { commit, source };
    let name = app.clone();
    let base = mutations::Base { history: pushed.history, old: update.old, seen: came };
    let number = server
        .core
        .mutate(move |records, now| {
            mutations::is_built_on_others(records, now, &name, &base)?;
            mutations::start_deploy(records, now, &by, &name, cause, wanted.hold)
        })
        .await
        .map_err(|problem| match problem.hint {
            Some(hint) => format!("{}; {hint}", problem.message),
            None => problem.message,
        })?;
    drop(hold_on_source);
    gantry_failpoint::failpoint!("push.begun");
    let mut progress = follow::follow(server, app, number, until);
    while let Some(event) = progress.recv().await {
        match event {
            Progress::Line { text } => voice.say(&text).await,
            Progress::End { deploy, url } if deploy.state == DeployState::Done => {
                let seconds = deploy.entered.since(deploy.created) / 1000;
                voice.say(&format!("-----> Done in {seconds} s")).await;
                voice.address(url).await;
                return Ok(true);
            }
            Progress::End { deploy, url } if deploy.state == DeployState::Draining => {
                voice.say(&format!("       `gantry why {}` tells if it is taken back in that time", deploy.app)).await;
                voice.address(url).await;
                return Ok(true);
            }
            Progress::End { deploy, url } if deploy.state == DeployState::Held => {
                voice.address(url).await;
                return Ok(true);
            }
            Progress::End { .. } => return Ok(false),
        }
    }
    Err("the deploy can no longer be followed; `gantry status` tells how it goes".to_owned())
}

/// Options of a push, from `git push -o`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wanted {
    /// Stop before promotion, so that the deploy is held.
    hold: bool,
    /// Wait until the bake time is over.
    wait: bool,
}

impl Wanted {
    fn parse(options: &[String]) -> Result<Self, String> {
        let mut wanted = Self::default();
        for option in options {
            match option.as_str() {
                "hold" => wanted.hold = true,
                "wait" => wanted.wait = true,
                unknown => {
                    let shown: String = unknown.chars().take(40).collect();
                    let why = "there are `git push -o hold` and `git push -o wait`";
                    return Err(format!("{shown:?} is no option of a push; {why}"));
                }
            }
        }
        Ok(wanted)
    }
}

/// Deploy target of a push: the app and its branch.
struct Target<'a> {
    app: &'a AppName,
    branch: String,
    /// Whether a release of the app serves already.
    serves: bool,
}

impl Target<'_> {
    /// Returns the update of the app's branch. Returns `None` for other refs alone where the user may well mean that:
    /// `--tags`, and `--all` and `--mirror` while the branch is up to date. Refuses any other push without the branch.
    fn update<'p>(&self, pushed: &'p Pushed) -> Result<Option<&'p Update>, String> {
        let Self { app, branch, .. } = self;
        if pushed.branch != *branch {
            return Err(format!("{app} is deployed from {branch} from now on; push again"));
        }
        let wanted = format!("refs/heads/{branch}");
        let is_hash = |text: &str| text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match pushed.updates.iter().find(|update| update.name == wanted) {
            Some(update) if is_hash(&update.new) && update.new.bytes().any(|byte| byte != b'0') => Ok(Some(update)),
            Some(_) => Err(format!("{branch} is what {app} is deployed from and cannot be removed")),
            None if pushed.others > 0 && (pushed.branches == 0 || pushed.branches > 1 && self.serves) => Ok(None),
            None => Err(format!("{app} is deployed from {branch} alone; push that: git push … HEAD:{branch}")),
        }
    }

    /// Returns a line about the refs that are pushed beside the branch and passed over.
    fn passed_over(&self, pushed: &Pushed) -> Option<String> {
        let wanted = format!("refs/heads/{}", self.branch);
        let others = pushed.updates.iter().filter(|update| update.name != wanted).take(NAMED);
        let named: Vec<String> = others.map(|update| shown(&update.name)).collect();
        let more = match pushed.others - named.len().min(pushed.others) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (app, branch) = (self.app, &self.branch);
        (!named.is_empty())
            .then(|| format!("Passed over: {}{more}; {app} is deployed from {branch} alone", named.join(", ")))
    }
}

/// Most refs that this line names.
const NAMED: usize = 5;
const _: () = assert!(NAMED <= OTHERS_MAX);

/// Renders a ref as people call it, without control characters: git has not checked the name yet.
fn shown(name: &str) -> String {
    let plain = match (name.strip_prefix("refs/heads/"), name.strip_prefix("refs/tags/")) {
        (Some(branch), _) => format!("branch {branch}"),
        (_, Some(tag)) => format!("tag {tag}"),
        _ => name.to_owned(),
    };
    plain.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_may_ask_to_be_held_and_to_wait_and_for_nothing_else() {
        let parse = |options: &[&str]| Wanted::parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        let wanted = |hold, wait| Ok(Wanted { hold, wait });
        assert_eq!((parse(&[]), parse(&["hold"])), (wanted(false, false), wanted(true, false)));
        assert_eq!((parse(&["wait"]), parse(&["wait", "hold", "wait"])), (wanted(false, true), wanted(true, true)));
        let error = parse(&["hold", "\x1b[2J--upload-pack"]).expect_err("refused");
        assert!(error.contains("-o hold") && error.contains("-o wait") && !error.contains('\x1b'), "{error}");
    }

    fn pushed(refs: &[(&str, &str)]) -> Pushed {
        let updates: Vec<Update> = refs
            .iter()
            .map(|(name, new)| Update { old: "0".repeat(40), new: new.repeat(40), name: (*name).into() })
            .collect();
        let others = updates.iter().filter(|update| update.name != "refs/heads/main");
        Pushed {
            push: String::new(),
            branch: "main".to_owned(),
            others: others.clone().count(),
            branches: others.filter(|update| update.name.starts_with("refs/heads/")).count(),
            updates,
            options: Vec::new(),
            history: Vec::new(),
        }
    }

    #[test]
    fn the_branch_is_deployed_and_the_rest_passed_over() {
        let app = AppName::parse("shop").expect("a name");
        let target = |serves| Target { app: &app, branch: "main".to_owned(), serves };
        let main = ("refs/heads/main", "a");
        let others = [("refs/tags/v1", "b"), ("refs/heads/x", "c"), ("refs/notes/\x1bn", "d"), ("refs/heads/y", "0")];
        let all = [&[main][..], &others].concat();
        for refs in [&all[..1], &all[..2], &all] {
            let pushed = pushed(refs);
            let update = target(false).update(&pushed).expect("taken").expect("the branch");
            assert_eq!(update.name, "refs/heads/main");
        }
        let told = target(true).passed_over(&pushed(&all));
        let wanted = "Passed over: tag v1, branch x, refs/notes/n, branch y; shop is deployed from main alone";
        assert_eq!(told.as_deref(), Some(wanted));
        assert_eq!(target(true).passed_over(&pushed(&[main])), None);
        let many: Vec<String> = (0..20).map(|number| format!("refs/tags/v{number}")).collect();
        let mut many = pushed(&many.iter().map(|name| (name.as_str(), "b")).collect::<Vec<_>>());
        many.others = 1000;
        let told = target(true).passed_over(&many).expect("told");
        assert!(told.contains("tag v4 and 995 more;"), "{told}");
    }

    #[test]
    fn a_push_without_the_branch_is_refused_unless_it_may_well_be_meant() {
        let app = AppName::parse("shop").expect("a name");
        let target = |serves| Target { app: &app, branch: "main".to_owned(), serves };
        let (tag, x, y) = (("refs/tags/main", "a"), ("refs/heads/x", "a"), ("refs/heads/y", "a"));
        for (refs, serves, passed) in [
            (&[tag][..], false, true),
            (&[tag, ("refs/tags/v2", "a")], true, true),
            (&[x, y], true, true),
            (&[x, y, tag], true, true),
            (&[x, y], false, false),
            (&[x], true, false),
            (&[x, tag], true, false),
            (&[], true, false),
        ] {
            let pushed = pushed(refs);
            match target(serves).update(&pushed) {
                Ok(None) => assert!(passed, "{refs:?}"),
                Err(error) => assert!(!passed && error.contains("HEAD:main"), "{refs:?}: {error}"),
                Ok(Some(update)) => panic!("{update:?}"),
            }
        }
        for bad in ["0", "-"] {
            let error = target(true).update(&pushed(&[("refs/heads/main", bad), x])).expect_err("refused");
            assert!(error.contains("cannot be removed"), "{error}");
        }
        let other = Target { app: &app, branch: "live".to_owned(), serves: true };
        let error = other.update(&pushed(&[("refs/heads/main", "a")])).expect_err("refused");
        assert!(error.contains("live"), "{error}");
    }
}
