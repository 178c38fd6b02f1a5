//! The conversation with the hook of one push: stores the source tree, starts the deploy and reports its progress.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use gantry_admission::{Actor, AncestorQuestion, PushBase, check_history, find_app};
use gantry_api::types::{DeployProgress, DeployStateInfo};
use gantry_api::{ErrorCode, Problem, ReceivedCode};
use gantry_git::hook::{PushReport, RefUpdate, ServerMessage};
use gantry_model::{AppName, DeployCause, DeployNumber, Digest};
use gantry_records::{GitPack, GitPacks, StoreRecord};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::target::{DeployTarget, PushOptions, TargetError};
use crate::ChangeError;
use crate::follow::FollowLimit;
use crate::{Server, causes, follow};

/// Largest source tree, as bytes of its archive. Before that, the hook counts the contents of the tree.
const SOURCE_MAX: u64 = 3 << 30;

/// Largest line that a hook may send: a push with its refs and options.
const LINE_MAX: u64 = 16 << 20;

/// Largest chunk of an archive.
const CHUNK_MAX: u32 = 1 << 20;

/// Timeout for each message of a hook, and for the source tree to arrive.
const HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// Maximum number of rounds of questions to a hook. Each round needs another push that began meanwhile.
const QUESTIONS_MAX: usize = 20;

/// Reason why a push is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error("the git hook sent nothing for {} s; push again", HOOK_TIMEOUT.as_secs())]
    Silent,
    #[error("cannot read the git hook's message; push again")]
    Message(#[source] io::Error),
    #[error("the server no longer knows this push; push again")]
    Unknown,
    #[error("{}", with_hint(.0))]
    Refused(Problem),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("cannot store the pushed files")]
    Source(#[source] gantry_blobs::BlobError),
    #[error("the branch is not yet at commit {0}, which the server accepted before this push; push again")]
    Unsettled(String),
    #[error("other pushes to this app began during this push; push again")]
    Overtaken,
    #[error("the server cannot follow the deploy any further; `gantry status` shows the state of the deploy")]
    Lost,
}

impl PushError {
    fn refused(error: impl Into<ChangeError>) -> Self {
        Self::Refused(error.into().into())
    }

    /// Returns the stable code.
    fn code(&self) -> ReceivedCode {
        let code = match self {
            Self::Refused(problem) => return problem.code.clone(),
            Self::Silent | Self::Message(_) | Self::Unknown => ErrorCode::PushIncomplete,
            Self::Target(error) => error.code(),
            Self::Source(_) => ErrorCode::SourceNotStored,
            Self::Unsettled(_) => ErrorCode::BranchMoved,
            Self::Overtaken => ErrorCode::DeployInProgress,
            Self::Lost => ErrorCode::DeployUnfollowed,
        };
        code.into()
    }
}

fn with_hint(problem: &Problem) -> String {
    match &problem.hint {
        Some(hint) => format!("{}; {hint}", problem.message),
        None => problem.message.clone(),
    }
}

/// The connection to a hook.
pub(super) struct HookSocket {
    pub(super) reader: BufReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
}

impl HookSocket {
    /// Reads one message.
    pub(super) async fn read_line<T: DeserializeOwned>(&mut self) -> Result<T, PushError> {
        let mut line = String::new();
        let mut limited = (&mut self.reader).take(LINE_MAX);
        tokio::time::timeout(HOOK_TIMEOUT, limited.read_line(&mut line))
            .await
            .map_err(|_| PushError::Silent)?
            .map_err(PushError::Message)?;
        serde_json::from_str(&line).map_err(|error| PushError::Message(error.into()))
    }

    async fn send(&mut self, message: &ServerMessage) {
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            // A hook that exited reads nothing more; the deploy goes on.
            let _ = self.writer.write_all(&line).await;
        }
    }

    async fn send_line(&mut self, text: &str) {
        self.send(&ServerMessage::Say(text.to_owned())).await;
    }

    /// Sends the app's URL, if there is one, as the last line of a successful push.
    async fn say_url(&mut self, url: Option<String>) {
        if let Some(url) = url {
            self.send_line(&url).await;
        }
    }

    /// Sends the verdict, which ends the conversation.
    pub(super) async fn finish(&mut self, verdict: Result<bool, PushError>) {
        let accepted = match verdict {
            Ok(accepted) => accepted,
            Err(error) => {
                self.send_line(&format!(" !     {} [{}]", causes(&error), error.code())).await;
                false
            }
        };
        self.send(&ServerMessage::Verdict(accepted)).await;
    }

    /// Streams the archive that the hook sends, in chunks after their lengths.
    fn archive(&mut self) -> impl Stream<Item = io::Result<Bytes>> {
        futures_util::stream::try_unfold((&mut self.reader, 0u64), async |(reader, size)| {
            let length = reader.read_u32().await?;
            let size = size + u64::from(length);
            match length {
                0 => return Ok(None),
                length if length > CHUNK_MAX => return Err(io::Error::other("a chunk of the archive is too large")),
                _ if size > SOURCE_MAX => {
                    let limit = gantry_model::Bytes(SOURCE_MAX);
                    return Err(io::Error::other(format!("the tree has more than {limit}")));
                }
                _ => {}
            }
            let mut chunk = BytesMut::zeroed(length as usize);
            reader.read_exact(&mut chunk).await?;
            Ok(Some((chunk.freeze(), (reader, size))))
        })
    }
}

/// The conversation about one push.
pub(super) struct PushConversation<'a> {
    pub(super) server: &'a Arc<Server>,
    pub(super) socket: &'a mut HookSocket,
}

impl PushConversation<'_> {
    /// Returns the verdict on the push.
    pub(super) async fn run(&mut self, report: &PushReport) -> Result<bool, PushError> {
        let (app, user) = self.server.pushes.connect(&report.push).ok_or(PushError::Unknown)?;
        let target = {
            let view = self.server.core.view();
            let record = find_app(&view.records, &app).map_err(PushError::refused)?;
            DeployTarget { app: &app, branch: record.branch.clone(), serves: record.current.is_some() }
        };
        for note in self.server.repairs.take(&app) {
            self.socket.send_line(&format!("-----> {note}")).await;
        }
        let update = target.update(report)?;
        if let Some(line) = target.passed_over(report) {
            self.socket.send_line(&format!("-----> {line}")).await;
        }
        let Some(update) = update else {
            let branch = &target.branch;
            self.socket
                .send_line(&format!("       Nothing is deployed; push the branch: git push … HEAD:{branch}"))
                .await;
            return Ok(true);
        };
        let options = PushOptions::parse(&report.options)?;
        gantry_failpoint::failpoint!("push.received");
        let number = self.deploy(&report.push, &app, &user, update, options).await?;
        gantry_failpoint::failpoint!("push.begun");
        let until =
            if options.wait { FollowLimit::Verdict } else { FollowLimit::of(&self.server.core.view().records.policy) };
        self.follow(app, number, until).await
    }

    /// Stores the pushed tree and starts its deploy.
    async fn deploy(
        &mut self,
        push: &str,
        app: &AppName,
        user: &str,
        update: &RefUpdate,
        options: PushOptions,
    ) -> Result<DeployNumber, PushError> {
        let mut base = PushBase { new: update.new.clone(), old: update.old.clone(), answers: BTreeMap::new() };
        // A push that must be refused is refused before the tree is stored.
        let questions = check_history(&self.server.core.view().records, app, &base).map_err(PushError::refused)?;
        self.query_ancestors(app, &mut base, questions).await?;
        let gc_pin = self.server.gc_pins.take();
        let source = self.store_tree().await?;
        gantry_failpoint::failpoint!("push.kept");
        let pack = self.store_pack(app, &update.new).await?;
        self.server.pushes.expect_move(push, &update.new);
        let cause = DeployCause::Push { commit: update.new.clone(), source };
        for _ in 0..QUESTIONS_MAX {
            let (name, by, cause, known) = (app.clone(), user.to_owned(), cause.clone(), base.clone());
            let pack = pack.clone();
            let begun = self.server.core.mutate(move |records, now| {
                let questions = check_history(records, &name, &known)?;
                if !questions.is_empty() {
                    return Ok((Vec::new(), Err(questions)));
                }
                let (mut changes, number) = Actor::new(records, now, &by).start_deploy(&name, cause, options.hold)?;
                if let Some((pack, known)) = pack {
                    let before = records.packs.get(&name).cloned().unwrap_or_default();
                    // Another push has replaced the packs that this one builds upon.
                    let Some(packs) = before.with(pack, &known) else { return Ok((Vec::new(), Ok(None))) };
                    changes.push(StoreRecord::Packs(name, packs).into());
                }
                Ok((changes, Ok(Some(number))))
            });
            match begun.await.map_err(PushError::refused)? {
                Ok(None) => return Err(PushError::Overtaken),
                Ok(Some(number)) => {
                    drop(gc_pin);
                    return Ok(number);
                }
                Err(questions) => self.query_ancestors(app, &mut base, questions).await?,
            }
        }
        Err(PushError::Overtaken)
    }

    /// Asks the hook which commits the pushed commit contains. The branch has moved to each accepted one by then, if
    /// git will ever move it: so the hook, which compares the branch before it answers, refuses a push that would lose
    /// one.
    async fn query_ancestors(
        &mut self,
        app: &AppName,
        base: &mut PushBase,
        questions: Vec<AncestorQuestion>,
    ) -> Result<(), PushError> {
        if questions.is_empty() {
            return Ok(());
        }
        for question in questions.iter().filter(|question| question.accepted) {
            if !self.server.pushes.moves_ended(app, &question.commit).await {
                return Err(PushError::Unsettled(question.commit.chars().take(12).collect()));
            }
        }
        let commits: Vec<String> = questions.into_iter().map(|question| question.commit).collect();
        self.socket.send(&ServerMessage::Ancestors(commits.clone())).await;
        let contained: Vec<String> = self.socket.read_line().await?;
        base.answers.extend(commits.into_iter().map(|commit| {
            let is_contained = contained.contains(&commit);
            (commit, is_contained)
        }));
        Ok(())
    }

    /// Stores the tree of the pushed commit as a blob.
    async fn store_tree(&mut self) -> Result<Digest, PushError> {
        self.socket.send(&ServerMessage::Archive).await;
        let stored = self.server.blobs.put_stream(self.socket.archive().boxed(), None);
        let (source, _) = tokio::time::timeout(HOOK_TIMEOUT, stored)
            .await
            .map_err(|_| PushError::Silent)?
            .map_err(PushError::Source)?;
        Ok(source)
    }

    /// Stores the objects of the pushed commit as a blob, from which every server can make the repository. The only
    /// server of a cluster needs no pack. Returns the pack, and the commits whose objects it leaves out.
    async fn store_pack(&mut self, app: &AppName, commit: &str) -> Result<Option<(GitPack, Vec<String>)>, PushError> {
        if self.server.servers.is_none() {
            return Ok(None);
        }
        let known = self.server.core.view().records.packs.get(app).map(GitPacks::known).unwrap_or_default();
        self.socket.send(&ServerMessage::Pack(known.clone())).await;
        let stored = self.server.blobs.put_stream(self.socket.archive().boxed(), None);
        let (pack, _) = tokio::time::timeout(HOOK_TIMEOUT, stored)
            .await
            .map_err(|_| PushError::Silent)?
            .map_err(PushError::Source)?;
        gantry_failpoint::failpoint!("push.packed");
        Ok(Some((GitPack { pack, commit: commit.to_owned() }, known)))
    }

    /// Reports the progress of the deploy, and returns the verdict.
    async fn follow(&mut self, app: AppName, number: DeployNumber, until: FollowLimit) -> Result<bool, PushError> {
        let mut progress = follow::follow(self.server, app, number, until);
        while let Some(event) = progress.recv().await {
            let (deploy, url) = match event {
                DeployProgress::Line { text } => {
                    self.socket.send_line(&text).await;
                    continue;
                }
                DeployProgress::End { deploy, url } => (deploy, url),
            };
            match deploy.state {
                DeployStateInfo::Done => {
                    let seconds = deploy.entered.since(deploy.created) / 1000;
                    self.socket.send_line(&format!("-----> Done in {seconds} s")).await;
                }
                DeployStateInfo::Draining => {
                    let line = format!("       `gantry why {}` tells if it is taken back in that time", deploy.app);
                    self.socket.send_line(&line).await;
                }
                DeployStateInfo::Held => {}
                _ => return Ok(false),
            }
            self.socket.say_url(url).await;
            return Ok(true);
        }
        Err(PushError::Lost)
    }
}
