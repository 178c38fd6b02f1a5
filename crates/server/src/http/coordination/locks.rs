//! Locks and elections: for the containers of an app, and for people with a token.

use std::sync::Arc;
use std::time::Duration;

use gantry_admission::find_app;
use gantry_api::endpoint::{Endpoint, Json, JsonOrEmpty, NoBody};
use gantry_api::endpoints::applications::{self, WatchLockQuery};
use gantry_api::endpoints::locks as endpoints;
use gantry_api::endpoints::locks::TokenQuery;
use gantry_api::locks::{AcquireLock, HeldLock, LockHolder, LockInfo, RenewLock};
use gantry_api::{ErrorCode, Problem};
use gantry_coordination::{Command, Reply, Revision};
use gantry_model::AppName;
use gantry_model::output::within_a_line;

use super::super::HttpResult;
use super::super::call::{Call, Routes};
use super::{AppCall, AppCaller};
use crate::Server;
use crate::coordination::{AcquireOrder, Coordination, CoordinationError, HeldPlace, WAIT_MAX};

/// Longest time to live of a lock in seconds: a lock that is not renewed is free within a day.
const TTL_MAX: u64 = 86_400;

/// Adds the endpoints of the locks and elections of a container's own app.
pub(super) fn own_routes(routes: Routes<AppCaller>) -> Routes<AppCaller> {
    routes
        .endpoint(own_show::<applications::ShowLock>)
        .endpoint(own_acquire::<applications::AcquireLock>)
        .endpoint(own_renew::<applications::RenewLock>)
        .endpoint(own_release::<applications::ReleaseLock>)
        .endpoint(own_show::<applications::ShowElection>)
        .endpoint(own_acquire::<applications::WinElection>)
        .endpoint(own_renew::<applications::RenewElection>)
        .endpoint(own_release::<applications::ResignElection>)
        .endpoint(own_show::<applications::ShowAppLock>)
        .endpoint(own_acquire::<applications::AcquireAppLock>)
        .endpoint(own_renew::<applications::RenewAppLock>)
        .endpoint(own_release::<applications::ReleaseAppLock>)
}

/// A path that ends with the name of a lock. An election is the lock of its name.
trait LockPath {
    /// Name of the lock.
    fn into_name(self) -> String;
}

macro_rules! lock_paths {
    ($($endpoint:ident),+ $(,)?) => {
        $(impl LockPath for applications::$endpoint {
            fn into_name(self) -> String {
                self.name
            }
        })+
    };
}

lock_paths!(
    ShowLock,
    AcquireLock,
    RenewLock,
    ReleaseLock,
    ShowElection,
    WinElection,
    RenewElection,
    ResignElection,
    ShowAppLock,
    AcquireAppLock,
    RenewAppLock,
    ReleaseAppLock,
);

/// Adds the endpoints for people.
pub(in crate::http) fn public_routes(routes: Routes) -> Routes {
    routes.endpoint(show).endpoint(acquire).endpoint(renew).endpoint(release)
}

/// A lock of an app.
struct Lock<'a> {
    server: &'a Arc<Server>,
    space: AppName,
    name: String,
}

impl<'a> Lock<'a> {
    fn of_app(server: &'a Arc<Server>, app: &AppName, name: String) -> HttpResult<Self> {
        let space = find_app(&server.core.view().records, app)?.volume_folder().clone();
        Ok(Self { server, space, name })
    }

    fn of_caller(caller: &'a AppCaller, at: impl LockPath) -> Self {
        let name = at.into_name();
        Self { server: &caller.server, space: caller.space.clone(), name }
    }

    async fn run(&self, command: Command) -> Result<crate::coordination::ReplyAtRevision, CoordinationError> {
        self.server.coordination.run(&self.space, command).await
    }

    async fn info(&self) -> HttpResult<LockInfo> {
        let found = self.run(Command::Lock(self.name.clone().into_bytes())).await?;
        let Reply::Lock(state) = found.reply else { return Err(CoordinationError::Stopping.into()) };
        let holder = state.holder.map(|entry| LockHolder {
            token: entry.created,
            value: String::from_utf8_lossy(&entry.value).into_owned(),
        });
        Ok(LockInfo { name: self.name.clone(), holder, waiting: state.waiting, revision: found.revision })
    }

    async fn acquire(&self, order: AcquireLock) -> HttpResult<HeldLock> {
        if !(1..=TTL_MAX).contains(&order.ttl) {
            let message = format!("the time to live of a lock is 1 to {TTL_MAX} seconds, not {}", order.ttl);
            return Err(Problem::new(ErrorCode::InvalidKey, message).into());
        }
        let ttl = i64::try_from(order.ttl).unwrap_or_default();
        let wait = Duration::from_secs(order.wait).min(WAIT_MAX);
        let order = AcquireOrder {
            space: self.space.clone(),
            name: self.name.clone().into_bytes(),
            lease: None,
            ttl,
            value: order.value.map(String::into_bytes),
            wait: Some(wait),
        };
        match Coordination::acquire(self.server, order).await? {
            HeldPlace::Held(entry) => self.held(entry.created, entry.lease).await,
            HeldPlace::Taken => {
                let info = self.info().await?;
                Err(held_by_other(&self.name, info.holder.as_ref()).into())
            }
        }
    }

    async fn renew(&self, order: RenewLock) -> HttpResult<HeldLock> {
        let value = order.value.map(String::into_bytes);
        let renewal = Command::Renew { name: self.name.clone().into_bytes(), token: order.token, value };
        let Reply::Place(entry) = self.run(renewal).await?.reply else {
            return Err(CoordinationError::Stopping.into());
        };
        self.held(order.token, entry.lease).await
    }

    /// The lock with the time that its lease was granted.
    async fn held(&self, token: Revision, lease: Option<gantry_coordination::LeaseId>) -> HttpResult<HeldLock> {
        let lost = || Problem::new(ErrorCode::LockLost, format!("the lock {:?} has been lost", self.name));
        let found = self.run(Command::Lease(lease.ok_or_else(lost)?)).await?;
        let Reply::Lease(lease) = found.reply else { return Err(lost().into()) };
        Ok(HeldLock { name: self.name.clone(), token, ttl: lease.granted.unsigned_abs() })
    }

    async fn release(&self, token: Revision) -> HttpResult<()> {
        self.run(Command::Leave { name: self.name.clone().into_bytes(), token }).await?;
        Ok(())
    }
}

/// The refusal of a lock that another has. Names the holder, unless the lock became free meanwhile.
fn held_by_other(name: &str, holder: Option<&LockHolder>) -> Problem {
    let holder = holder.map(|LockHolder { token, value }| match within_a_line(value) {
        value if value.is_empty() => format!(" with the token {token}"),
        value => format!(" ({value}, with the token {token})"),
    });
    let message = format!("another holder{} has the lock {name:?}", holder.unwrap_or_default());
    Problem::new(ErrorCode::LockHeld, message)
        .hint(format!("wait longer for the lock; `gantry lock show APP/{name}` shows who holds the lock"))
}

async fn own_show<E>(Call { caller, at, query, .. }: AppCall<E>) -> HttpResult<LockInfo>
where
    E: LockPath + Endpoint<Query = WatchLockQuery, Request = NoBody, Response = Json<LockInfo>>,
{
    let lock = Lock::of_caller(&caller, at);
    let mut poll = caller.poll(query.wait.is_some());
    loop {
        poll.mark_seen();
        let info = lock.info().await?;
        let token = info.holder.as_ref().map_or(0, |holder| holder.token);
        if query.wait.is_none_or(|known| known != token) || !poll.changed().await? {
            return Ok(info);
        }
    }
}

async fn own_acquire<E>(Call { caller, at, body, .. }: AppCall<E>) -> HttpResult<HeldLock>
where
    E: LockPath + Endpoint<Request = JsonOrEmpty<AcquireLock>, Response = Json<HeldLock>>,
{
    Lock::of_caller(&caller, at).acquire(body).await
}

async fn own_renew<E>(Call { caller, at, body, .. }: AppCall<E>) -> HttpResult<HeldLock>
where
    E: LockPath + Endpoint<Request = Json<RenewLock>, Response = Json<HeldLock>>,
{
    Lock::of_caller(&caller, at).renew(body).await
}

async fn own_release<E>(Call { caller, at, query, .. }: AppCall<E>) -> HttpResult<()>
where
    E: LockPath + Endpoint<Query = TokenQuery, Request = NoBody, Response = NoBody>,
{
    Lock::of_caller(&caller, at).release(query.token).await
}

async fn show(Call { server, at, .. }: Call<endpoints::Show>) -> HttpResult<LockInfo> {
    Lock::of_app(&server, &at.app, at.name)?.info().await
}

async fn acquire(Call { server, at, body, .. }: Call<endpoints::Acquire>) -> HttpResult<HeldLock> {
    let lock = Lock::of_app(&server, &at.app, at.name)?;
    let _slot = server.coordination.admit(&lock.space)?;
    lock.acquire(body).await
}

async fn renew(Call { server, at, body, .. }: Call<endpoints::Renew>) -> HttpResult<HeldLock> {
    Lock::of_app(&server, &at.app, at.name)?.renew(body).await
}

async fn release(Call { server, at, query, .. }: Call<endpoints::Release>) -> HttpResult<()> {
    Lock::of_app(&server, &at.app, at.name)?.release(query.token).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_names_its_holder_and_the_remedy() {
        let holder = |value: &str| LockHolder { token: 7, value: value.to_owned() };
        for (holder, message) in [
            (Some(holder("web-1\u{1b}[2J\n")), "another holder (web-1[2J, with the token 7) has the lock \"job\""),
            (Some(holder("")), "another holder with the token 7 has the lock \"job\""),
            (None, "another holder has the lock \"job\""),
        ] {
            let problem = held_by_other("job", holder.as_ref());
            assert_eq!((problem.message.as_str(), problem.status), (message, 409));
            assert!(problem.hint.is_some_and(|hint| hint.contains("`gantry lock show APP/job`")));
        }
    }
}
