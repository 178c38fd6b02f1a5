//! Authentication of callers and checks of their scopes.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use base64::Engine;
use gantry_admission::{Actor, Admitted, Refusal};
use gantry_api::endpoint::AccessScope;
use gantry_api::{ErrorCode, Problem};
use gantry_model::{AppName, JoinRole, MachineName, Scope};
use gantry_records::TokenRecord;
use gantry_trust::Peer;
use http::HeaderValue;
use http::header;
use http::request::Parts;

use super::{ErrorResponse, HttpResult, parse_name};
use crate::core::ClusterView;
use crate::servers::ForwardingServer;
use crate::{Server, core, tokens};

/// The authenticated caller of a request, known by its token or by its machine's certificate.
pub(crate) struct Caller {
    pub(crate) name: String,
    scope: Scope,
    credential: Credential,
}

/// Means by which a caller was authenticated.
enum Credential {
    /// The token with this hash.
    Token(String),
    /// The certificate of a machine.
    Certificate(MachineCertificate),
}

/// A machine that has shown its certificate.
struct MachineCertificate {
    machine: MachineName,
    /// Hash of the key. None for the process of a server, which has a key of its own.
    key: Option<String>,
}

impl MachineCertificate {
    /// Requires that the machine still belongs to the cluster, with this key.
    fn check(&self, view: &ClusterView) -> Result<(), Problem> {
        let is_member = view.records.members.get(&self.machine).is_some_and(|member| match &self.key {
            Some(key) => member.key == *key,
            None => member.role == JoinRole::Server,
        });
        if is_member { Ok(()) } else { Err(not_member(&self.machine)) }
    }
}

/// Error response for a machine that does not belong to the cluster.
pub(crate) fn not_member(machine: &MachineName) -> Problem {
    let refusal = Refusal::NotMember { machine: machine.clone() };
    Problem { hint: refusal.hint(), ..Problem::new(refusal.code(), refusal.to_string()) }
}

impl Caller {
    /// The caller with this token.
    pub(crate) fn of_secret(server: &Server, secret: &str) -> Result<Self, ErrorResponse> {
        let hash = tokens::hash(secret);
        let view = server.core.view();
        let token = valid_token(&view, &hash)?;
        Ok(Self { name: token.name.clone(), scope: token.scope.clone(), credential: Credential::Token(hash) })
    }

    /// Requires the admin scope.
    pub(crate) fn admin(&self) -> Result<(), ErrorResponse> {
        self.allow(matches!(self.scope, Scope::Admin), "admin")
    }

    /// Requires the scope that an endpoint declares, for the app and the machine that the call names.
    pub(crate) fn check(
        &self,
        scope: AccessScope,
        app: Option<&AppName>,
        machine: Option<&MachineName>,
    ) -> Result<(), ErrorResponse> {
        match (scope, app) {
            // The handler checks a scope that follows from the object.
            (AccessScope::Open | AccessScope::ReadOfObject | AccessScope::DeployOfObject, _) => Ok(()),
            (AccessScope::Read, None) => self.allow(matches!(self.scope, Scope::Admin | Scope::Read), "read"),
            (AccessScope::Read, Some(app)) => self.may_read(app),
            (AccessScope::Deploy, Some(app)) => self.allow(self.may_deploy(app), &format!("deploy to {app}")),
            (AccessScope::Deploy, None) | (AccessScope::Admin, _) => self.admin(),
            (AccessScope::Machine, _) => machine.map_or_else(|| self.any_machine(), |machine| self.machine(machine)),
            (AccessScope::MachineOfObject, _) => self.any_machine(),
            // Such callers have no tokens.
            (AccessScope::Container | AccessScope::ContainerOfApp | AccessScope::Key, _) => {
                self.allow(false, scope.word())
            }
        }
    }

    /// Parses the app's name and requires the right to read the app.
    pub(crate) fn read_app(&self, app: &str) -> Result<AppName, ErrorResponse> {
        let app: AppName = parse_name(app)?;
        self.may_read(&app)?;
        Ok(app)
    }

    /// Parses the app's name and requires the right to deploy the app.
    pub(crate) fn deploy(&self, app: &str) -> Result<AppName, ErrorResponse> {
        let app: AppName = parse_name(app)?;
        self.allow(self.may_deploy(&app), &format!("deploy to {app}"))?;
        Ok(app)
    }

    /// Requires the token of this machine.
    pub(crate) fn machine(&self, machine: &MachineName) -> Result<(), ErrorResponse> {
        let own = matches!(&self.scope, Scope::Machine { machine: own } if own == machine);
        self.allow(own, &format!("machine {machine}"))
    }

    /// Requires the token of any machine.
    pub(crate) fn any_machine(&self) -> Result<(), ErrorResponse> {
        self.allow(matches!(self.scope, Scope::Machine { .. }), "machine")
    }

    /// Requires the right to pull from a repository: admin, read and machine tokens, and the deploy token of the
    /// repository's app.
    pub(crate) fn pull(&self, repository: &str) -> Result<(), ErrorResponse> {
        let own = matches!(&self.scope, Scope::Deploy { app } if app.as_str() == repository);
        let any = matches!(self.scope, Scope::Admin | Scope::Read | Scope::Machine { .. });
        self.allow(own || any, &format!("read of {repository}"))
    }

    /// Reports whether the caller is a machine of the cluster.
    pub(crate) fn is_machine(&self) -> bool {
        matches!(self.scope, Scope::Machine { .. })
    }

    /// Reports whether the scope of the caller is one app. Such a caller sees nothing of the earlier apps of the name.
    pub(crate) fn is_of_app(&self) -> bool {
        matches!(self.scope, Scope::Deploy { .. })
    }

    /// Requires the right to push to a repository: admin tokens, and the deploy token of the repository's app.
    pub(crate) fn push(&self, repository: &str) -> Result<(), ErrorResponse> {
        let own = matches!(&self.scope, Scope::Deploy { app } if app.as_str() == repository);
        self.allow(own || matches!(self.scope, Scope::Admin), &format!("deploy to {repository}"))
    }

    /// Changes the records in the caller's name. On return the change is durable.
    pub(crate) async fn mutate<T: Send + 'static>(
        &self,
        server: &Server,
        change: impl FnOnce(Actor<'_>) -> Admitted<T> + Send + 'static,
    ) -> HttpResult<T> {
        let name = self.name.clone();
        Ok(server.core.mutate(move |records, now| change(Actor::new(records, now, &name))).await?)
    }

    /// Checks that the token or the certificate still counts, for a connection that outlives its request.
    pub(crate) fn revalidate(&self, view: &ClusterView) -> Result<(), Problem> {
        match &self.credential {
            Credential::Token(hash) => valid_token(view, hash).map(drop),
            Credential::Certificate(certificate) => certificate.check(view),
        }
    }

    /// The caller of a connection without a token: the machine whose certificate the connection has shown.
    fn of_machine(parts: &Parts, view: &ClusterView) -> Result<Option<Self>, Problem> {
        let Some(Peer::Machine { name, key, is_server }) = parts.extensions.get::<Peer>() else { return Ok(None) };
        let key = (!is_server).then(|| key.hash().to_string());
        let certificate = MachineCertificate { machine: name.clone(), key };
        certificate.check(view)?;
        if let Some(ForwardingServer(machine)) = parts.extensions.get() {
            MachineCertificate { machine: machine.clone(), key: None }.check(view)?;
        }
        let (name, scope) = (format!("machine {name}"), Scope::Machine { machine: name.clone() });
        Ok(Some(Self { name, scope, credential: Credential::Certificate(certificate) }))
    }

    fn may_read(&self, app: &AppName) -> Result<(), ErrorResponse> {
        self.allow(matches!(self.scope, Scope::Read) || self.may_deploy(app), "read")
    }

    fn may_deploy(&self, app: &AppName) -> bool {
        match &self.scope {
            Scope::Admin => true,
            Scope::Deploy { app: own } => own == app,
            Scope::Read | Scope::Machine { .. } => false,
        }
    }

    fn allow(&self, allowed: bool, needed: &str) -> Result<(), ErrorResponse> {
        if allowed {
            return Ok(());
        }
        let message = format!("token {:?} may not do this; it needs the scope: {needed}", self.name);
        Err(Problem::new(ErrorCode::ScopeInsufficient, message).into())
    }
}

/// Extracts the secret from a bearer token or from a basic password. The user name is ignored.
pub(crate) fn secret(authorization: Option<&HeaderValue>) -> Option<String> {
    let value = authorization?.to_str().ok()?;
    let (kind, rest) = value.split_once(' ')?;
    if kind.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !kind.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

impl FromRequestParts<Arc<Server>> for Caller {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, ErrorResponse> {
        let Some(secret) = secret(parts.headers.get(header::AUTHORIZATION)) else {
            if let Some(caller) = Self::of_machine(parts, &server.core.view())? {
                return Ok(caller);
            }
            return Err(Problem::new(ErrorCode::TokenRequired, "a token is needed")
                .hint("send a token as the password, or set GANTRY_TOKEN; `gantry token create NAME --deploy APP` makes a token")
                .into());
        };
        Self::of_secret(server, &secret)
    }
}

/// Returns the token with this hash, unless it is unknown or has expired.
fn valid_token<'v>(view: &'v ClusterView, hash: &str) -> Result<&'v TokenRecord, Problem> {
    match view.records.tokens.get(hash) {
        Some(token) if token.expires.is_some_and(|end| end <= core::now()) => {
            Err(Problem::new(ErrorCode::TokenExpired, "this token has expired")
                .hint("`gantry token create NAME --deploy APP` makes a new token"))
        }
        Some(token) => Ok(token),
        None => Err(Problem::new(ErrorCode::TokenUnknown, "this token is not known; it may have been revoked")),
    }
}
