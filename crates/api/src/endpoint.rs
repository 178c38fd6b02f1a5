//! Endpoints: what a declaration states, and what the server, the client and the OpenAPI document take from it.
//!
//! The [`endpoints!`] macro declares an endpoint: method, path, scope, query, request, response and error codes. A value
//! of the endpoint's type is one call: its fields are the parameters of the path.

use gantry_error_codes::ErrorCode;
use gantry_model::{AppName, BaseName, DeployNumber, Digest, MachineName, NameError, RoleName, VolumeName};
use gantry_queue::CodeName;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::samples::Sample;

/// An endpoint of the public API.
pub trait Endpoint: Sized + Send + 'static {
    /// Description of the endpoint in the OpenAPI document.
    const SUMMARY: &'static str;
    /// The method.
    const METHOD: Method;
    /// The path, with its parameters in braces.
    const PATH: &'static str;
    /// The scope that a token needs.
    const SCOPE: AccessScope;
    /// Codes of errors beside those that every endpoint may return.
    const ERRORS: &'static [ErrorCode];
    /// Parameters of the query.
    type Query: QueryParameters;
    /// The request's body.
    type Request: RequestBody;
    /// The response's body.
    type Response: ResponseBody;

    /// The path of this call.
    fn path(&self) -> String;

    /// Parses the parameters of a path, which are given by name.
    ///
    /// # Errors
    /// When a parameter is invalid.
    fn from_path<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> Result<Self, ParameterError>;

    /// The app in the path.
    fn app(&self) -> Option<&AppName>;

    /// The machine in the path.
    fn machine(&self) -> Option<&MachineName>;
}

/// Codes of errors that every endpoint may return.
const COMMON_ERRORS: [ErrorCode; 17] = [
    ErrorCode::TokenRequired,
    ErrorCode::TokenUnknown,
    ErrorCode::TokenExpired,
    ErrorCode::ScopeInsufficient,
    ErrorCode::NotMember,
    ErrorCode::InvalidRequest,
    ErrorCode::InvalidName,
    ErrorCode::RequestTooLarge,
    ErrorCode::RequestBroken,
    ErrorCode::DiskFull,
    ErrorCode::DiskReadOnly,
    ErrorCode::StoreUnavailable,
    ErrorCode::ServerStopping,
    ErrorCode::NoMachine,
    ErrorCode::AgentUnreachable,
    ErrorCode::AgentFailed,
    ErrorCode::Internal,
];

/// Codes of errors that every endpoint for containers may return.
const CONTAINER_ERRORS: [ErrorCode; 4] =
    [ErrorCode::ContainerUnknown, ErrorCode::AppNotFound, ErrorCode::AppBeingDestroyed, ErrorCode::AppQuotaExceeded];

/// Reports whether an endpoint may return an error of this code.
#[must_use]
pub fn is_declared<E: Endpoint>(code: ErrorCode) -> bool {
    let is_for_containers = matches!(E::SCOPE, AccessScope::Container | AccessScope::ContainerOfApp);
    E::ERRORS.contains(&code) || COMMON_ERRORS.contains(&code) || is_for_containers && CONTAINER_ERRORS.contains(&code)
}

/// The scope that a token needs for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessScope {
    /// No token.
    Open,
    /// Read: of the app in the path or the query, or else of the whole cluster.
    Read,
    /// Deploy of the app in the path.
    Deploy,
    /// Read of the app that the named object belongs to. The handler checks the scope, because only the object names the
    /// app.
    ReadOfObject,
    /// Deploy of the app that the named object belongs to. The handler checks the scope.
    DeployOfObject,
    /// Everything.
    Admin,
    /// No token: any container, which is known by its address.
    Container,
    /// No token: a container of the app in the path.
    ContainerOfApp,
    /// The machine in the path, by its token or its certificate.
    Machine,
    /// The machine that works on the named object. The handler checks which machine that is.
    MachineOfObject,
    /// No token: a machine that proves its key in the TLS handshake.
    Key,
}

impl AccessScope {
    /// The scope's name in the OpenAPI document.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "none",
            Self::Read | Self::ReadOfObject => "read",
            Self::Deploy | Self::DeployOfObject => "deploy",
            Self::Admin => "admin",
            Self::Container | Self::ContainerOfApp => "container",
            Self::Machine | Self::MachineOfObject => "machine",
            Self::Key => "key",
        }
    }
}

/// A parameter of a path that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ParameterError {
    /// The parameter is missing: the route has another path than the declaration.
    #[error("the path lacks the parameter {0}")]
    Missing(&'static str),
    /// The parameter is no valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The parameter is no code of a queue.
    #[error("{0}")]
    Code(String),
    /// The parameter is no digest.
    #[error("{0:?} is not a digest")]
    Digest(String),
    /// The parameter is no number of a deploy.
    #[error("{0:?} is not the number of a deploy")]
    Deploy(String),
}

/// A parameter of a path.
pub trait PathParameter: Sized {
    /// Parses the parameter.
    ///
    /// # Errors
    /// When the text is no value of the parameter.
    fn parse_parameter(text: &str) -> Result<Self, ParameterError>;

    /// The parameter as text, without escapes.
    fn to_parameter(&self) -> String;

    /// The app, if the parameter is one.
    fn as_app(&self) -> Option<&AppName> {
        None
    }

    /// The machine, if the parameter is one.
    fn as_machine(&self) -> Option<&MachineName> {
        None
    }
}

impl PathParameter for AppName {
    fn parse_parameter(text: &str) -> Result<Self, ParameterError> {
        Ok(Self::parse(text)?)
    }

    fn to_parameter(&self) -> String {
        self.to_string()
    }

    fn as_app(&self) -> Option<&AppName> {
        Some(self)
    }
}

macro_rules! name_parameter {
    ($($type:ty),+) => {
        $(impl PathParameter for $type {
            fn parse_parameter(text: &str) -> Result<Self, ParameterError> {
                Ok(Self::parse(text)?)
            }

            fn to_parameter(&self) -> String {
                self.to_string()
            }
        })+
    };
}

name_parameter!(BaseName, RoleName, VolumeName);

impl PathParameter for MachineName {
    fn parse_parameter(text: &str) -> Result<Self, ParameterError> {
        Ok(Self::parse(text)?)
    }

    fn to_parameter(&self) -> String {
        self.to_string()
    }

    fn as_machine(&self) -> Option<&MachineName> {
        Some(self)
    }
}

impl PathParameter for Digest {
    fn parse_parameter(text: &str) -> Result<Self, ParameterError> {
        text.parse().map_err(|_| ParameterError::Digest(text.chars().take(80).collect()))
    }

    fn to_parameter(&self) -> String {
        self.to_string()
    }
}

impl PathParameter for DeployNumber {
    fn parse_parameter(text: &str) -> Result<Self, ParameterError> {
        text.parse().map(Self).map_err(|_| ParameterError::Deploy(text.chars().take(60).collect()))
    }

    fn to_parameter(&self) -> String {
        self.0.to_string()
    }
}

impl PathParameter for CodeName {
    fn parse_parameter(text: &str) -> Result<Self, ParameterError> {
        text.parse().map_err(|error: <Self as std::str::FromStr>::Err| ParameterError::Code(error.to_string()))
    }

    fn to_parameter(&self) -> String {
        self.to_string()
    }
}

impl PathParameter for String {
    fn parse_parameter(text: &str) -> Result<Self, ParameterError> {
        Ok(text.to_owned())
    }

    fn to_parameter(&self) -> String {
        self.clone()
    }
}

/// Escapes a text as one segment of a path.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    let escaped = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escaped).collect()
}

/// Puts the value of a parameter into a path. The value of a parameter with a star is the rest of the path.
#[must_use]
pub fn fill(path: &str, name: &str, value: &str) -> String {
    let rest = value.split('/').map(escape).collect::<Vec<_>>().join("/");
    path.replace(&format!("{{*{name}}}"), &rest).replace(&format!("{{{name}}}"), &escape(value))
}

/// Parameters of a query.
pub trait QueryParameters: Serialize + DeserializeOwned + Default + Send + 'static {
    /// Name and meaning of each parameter.
    const PARAMETERS: &'static [(&'static str, &'static str)];

    /// The app whose data alone the query asks for.
    fn app(&self) -> Option<&AppName> {
        None
    }
}

/// A query without parameters.
#[derive(Debug, Clone, Copy, Default, Serialize, serde::Deserialize)]
pub struct NoQuery {}

impl QueryParameters for NoQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[];
}

/// The body of a request, for the OpenAPI document.
pub trait RequestBody: Send + 'static {
    /// Media type and sample; none for a request without a body.
    fn media() -> Option<Media>;
}

/// The body of a response, for the OpenAPI document.
pub trait ResponseBody: Send + 'static {
    /// Status of a success.
    const STATUS: u16;
    /// Media type and sample; none for a response without a body.
    fn media() -> Option<Media>;
}

/// A body in the OpenAPI document.
#[derive(Debug, Clone)]
pub struct Media {
    /// The media type.
    pub kind: &'static str,
    /// A sample; null for bytes.
    pub sample: Value,
}

/// No body; as a response, the JSON value null.
#[derive(Debug)]
pub struct NoBody;

/// A JSON value.
#[derive(Debug)]
pub struct Json<T>(std::marker::PhantomData<T>);

/// A JSON value of up to 16 MiB.
#[derive(Debug)]
pub struct LargeJson<T>(std::marker::PhantomData<T>);

/// A JSON value in a request. An empty body stands for an object without fields.
#[derive(Debug)]
pub struct JsonOrEmpty<T>(std::marker::PhantomData<T>);

/// A JSON value in a response, or bytes if the query asks for them.
#[derive(Debug)]
pub struct JsonOrBytes<T>(std::marker::PhantomData<T>);

/// JSON of another product's API, whose documentation describes it.
#[derive(Debug)]
pub struct ForeignJson;

/// Bytes of a media type that the endpoint's summary names.
#[derive(Debug)]
pub struct RawBytes;

/// A file that is streamed.
#[derive(Debug)]
pub struct Upload;

/// A file that is streamed to the client.
#[derive(Debug)]
pub struct Download;

/// Values as newline-delimited JSON, or as server-sent events.
#[derive(Debug)]
pub struct Lines<T>(std::marker::PhantomData<T>);

/// The connection becomes a session of frames; see [`crate::frame`].
#[derive(Debug)]
pub struct SessionStart;

fn json<T: Sample>() -> Option<Media> {
    Some(Media { kind: "application/json", sample: T::json() })
}

impl RequestBody for NoBody {
    fn media() -> Option<Media> {
        None
    }
}

impl<T: Sample + Send + 'static> RequestBody for Json<T> {
    fn media() -> Option<Media> {
        json::<T>()
    }
}

impl<T: Sample + Send + 'static> RequestBody for LargeJson<T> {
    fn media() -> Option<Media> {
        json::<T>()
    }
}

impl<T: Sample + Send + 'static> RequestBody for JsonOrEmpty<T> {
    fn media() -> Option<Media> {
        json::<T>()
    }
}

impl RequestBody for ForeignJson {
    fn media() -> Option<Media> {
        Some(Media { kind: "application/json", sample: Value::Null })
    }
}

impl RequestBody for RawBytes {
    fn media() -> Option<Media> {
        Some(Media { kind: "application/octet-stream", sample: Value::Null })
    }
}

impl RequestBody for Upload {
    fn media() -> Option<Media> {
        <RawBytes as RequestBody>::media()
    }
}

impl ResponseBody for NoBody {
    const STATUS: u16 = 200;

    fn media() -> Option<Media> {
        None
    }
}

impl<T: Sample + Send + 'static> ResponseBody for Json<T> {
    const STATUS: u16 = 200;

    fn media() -> Option<Media> {
        json::<T>()
    }
}

impl<T: Sample + Send + 'static> ResponseBody for JsonOrBytes<T> {
    const STATUS: u16 = 200;

    fn media() -> Option<Media> {
        json::<T>()
    }
}

impl ResponseBody for ForeignJson {
    const STATUS: u16 = 200;

    fn media() -> Option<Media> {
        <Self as RequestBody>::media()
    }
}

impl<T: Sample + Send + 'static> ResponseBody for Lines<T> {
    const STATUS: u16 = 200;

    fn media() -> Option<Media> {
        Some(Media { kind: "application/x-ndjson", sample: T::json() })
    }
}

impl ResponseBody for Download {
    const STATUS: u16 = 200;

    fn media() -> Option<Media> {
        <RawBytes as RequestBody>::media()
    }
}

impl ResponseBody for SessionStart {
    const STATUS: u16 = 101;

    fn media() -> Option<Media> {
        None
    }
}

/// A declaration as data.
#[derive(Debug, Clone)]
pub struct EndpointDescription {
    /// Description.
    pub summary: &'static str,
    /// The method.
    pub method: Method,
    /// The path, with its parameters in braces.
    pub path: &'static str,
    /// The scope.
    pub scope: AccessScope,
    /// Name and meaning of each query parameter.
    pub query: &'static [(&'static str, &'static str)],
    /// The request's body.
    pub request: Option<Media>,
    /// Status of a success.
    pub status: u16,
    /// The response's body.
    pub response: Option<Media>,
    /// Codes of errors beside those that every endpoint may return.
    pub errors: &'static [ErrorCode],
}

impl EndpointDescription {
    /// Describes an endpoint.
    #[must_use]
    pub fn of<E: Endpoint>() -> Self {
        Self {
            summary: E::SUMMARY.trim(),
            method: E::METHOD,
            path: E::PATH,
            scope: E::SCOPE,
            query: E::Query::PARAMETERS,
            request: E::Request::media(),
            status: E::Response::STATUS,
            response: E::Response::media(),
            errors: E::ERRORS,
        }
    }
}

/// Declares the endpoints of a module, and a function `describe` that lists them.
///
/// `Name { parameter: Type }: METHOD "path" ? Query, Scope, Request => Response, [Code, …];`
///
/// The crate that declares endpoints needs the crates `http` and `gantry-model`.
#[macro_export]
macro_rules! endpoints {
    (@query) => { $crate::endpoint::NoQuery };
    (@query $query:ty) => { $query };
    ($(
        $(#[doc = $summary:literal])+
        $name:ident $({ $($field:ident: $type:ty),+ })?: $method:ident $path:literal $(? $query:ty)?, $scope:ident,
            $request:ty => $response:ty, [$($error:ident),* $(,)?];
    )+) => {
        $(
            $(#[doc = $summary])+
            #[derive(Debug, Clone)]
            pub struct $name {
                $($(#[doc = concat!("Parameter `", stringify!($field), "` of the path.")] pub $field: $type,)+)?
            }

            impl $crate::endpoint::Endpoint for $name {
                const SUMMARY: &'static str = concat!($($summary),+);
                const METHOD: http::Method = http::Method::$method;
                const PATH: &'static str = $path;
                const SCOPE: $crate::endpoint::AccessScope = $crate::endpoint::AccessScope::$scope;
                const ERRORS: &'static [$crate::ErrorCode] = &[$($crate::ErrorCode::$error),*];
                type Query = $crate::endpoint::endpoints!(@query $($query)?);
                type Request = $request;
                type Response = $response;

                fn path(&self) -> String {
                    let path = $path.to_owned();
                    $($(let path = $crate::endpoint::fill(
                        &path,
                        stringify!($field),
                        &$crate::endpoint::PathParameter::to_parameter(&self.$field),
                    );)+)?
                    path
                }

                #[allow(unused_variables, reason = "a path without parameters reads none")]
                fn from_path<'a>(
                    parameter: impl Fn(&str) -> Option<&'a str>,
                ) -> Result<Self, $crate::endpoint::ParameterError> {
                    Ok(Self {
                        $($($field: {
                            let text = parameter(stringify!($field));
                            let text = text.ok_or($crate::endpoint::ParameterError::Missing(stringify!($field)))?;
                            <$type as $crate::endpoint::PathParameter>::parse_parameter(text)?
                        },)+)?
                    })
                }

                fn app(&self) -> Option<&gantry_model::AppName> {
                    $($(if let Some(app) = $crate::endpoint::PathParameter::as_app(&self.$field) {
                        return Some(app);
                    })+)?
                    None
                }

                fn machine(&self) -> Option<&gantry_model::MachineName> {
                    $($(if let Some(machine) = $crate::endpoint::PathParameter::as_machine(&self.$field) {
                        return Some(machine);
                    })+)?
                    None
                }
            }
        )+

        /// Describes the endpoints of this module.
        pub(crate) fn describe() -> Vec<$crate::endpoint::EndpointDescription> {
            vec![$($crate::endpoint::EndpointDescription::of::<$name>()),+]
        }
    };
}

pub use endpoints;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::{applications, apps, deploys, tokens};

    #[test]
    fn a_call_has_the_path_that_the_server_reads() {
        let call = deploys::Follow { app: "shop".parse().expect("a name"), number: DeployNumber(7) };
        assert_eq!(call.path(), "/v1/apps/shop/deploys/7/follow");
        let parameter = |name: &str| match name {
            "app" => Some("shop"),
            "number" => Some("7"),
            _ => None,
        };
        let read = deploys::Follow::from_path(parameter).expect("read");
        assert_eq!((read.app.as_str(), read.number), ("shop", DeployNumber(7)));
        assert_eq!(read.app().map(AppName::as_str), Some("shop"));
        let wrong = deploys::Follow::from_path(|name| if name == "app" { Some("shop") } else { Some("x") });
        assert_eq!(wrong.expect_err("no number").to_string(), "\"x\" is not the number of a deploy");
        assert!(apps::Show::from_path(|_| Some("No Name")).is_err());
    }

    #[test]
    fn a_parameter_stays_one_segment() {
        let call = tokens::Revoke { name: "a/b ?ü".to_owned() };
        assert_eq!(call.path(), "/v1/tokens/a%2Fb%20%3F%C3%BC");
    }

    #[test]
    fn a_parameter_with_a_star_keeps_its_slashes() {
        let call = applications::ShowKey { key: "config/a b/{key}".to_owned() };
        assert_eq!(call.path(), "/v1/kv/config/a%20b/%7Bkey%7D");
    }
}
