//! Typed calls of the declared endpoints.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::endpoint::{
    Endpoint, Json, LargeJson, Lines, NoBody, NoQuery, RawBytes, RequestBody, ResponseBody, SessionStart, Upload,
};
use crate::samples::Sample;
use crate::{Client, ClientError, Session};

/// Writing of a request's body by the client.
pub trait SentRequest: RequestBody {
    /// The body in the caller's hands.
    type Value: Sync;

    /// Serializes the body.
    ///
    /// # Errors
    /// When the value has no form in JSON.
    fn encode(value: &Self::Value) -> Result<Bytes, serde_json::Error>;
}

/// Reading of a response by the client.
pub trait ReceivedResponse: ResponseBody {
    /// The result of a call.
    type Value: DeserializeOwned;
}

impl SentRequest for NoBody {
    type Value = ();

    fn encode((): &()) -> Result<Bytes, serde_json::Error> {
        Ok(Bytes::new())
    }
}

impl<T: Sample + Serialize + Send + Sync + 'static> SentRequest for Json<T> {
    type Value = T;

    fn encode(value: &T) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(value).map(Bytes::from)
    }
}

impl<T: Sample + Serialize + Send + Sync + 'static> SentRequest for LargeJson<T> {
    type Value = T;

    fn encode(value: &T) -> Result<Bytes, serde_json::Error> {
        Json::<T>::encode(value)
    }
}

impl SentRequest for RawBytes {
    type Value = Bytes;

    fn encode(value: &Bytes) -> Result<Bytes, serde_json::Error> {
        Ok(value.clone())
    }
}

impl ReceivedResponse for NoBody {
    type Value = ();
}

impl<T: Sample + DeserializeOwned + Send + 'static> ReceivedResponse for Json<T> {
    type Value = T;
}

/// The stream of a call whose response has one value for each line.
pub type LineStream<T> = BoxStream<'static, Result<T, ClientError>>;

impl Client {
    /// Calls an endpoint that takes neither a query nor a body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fetch<E>(&self, at: &E) -> Result<<E::Response as ReceivedResponse>::Value, ClientError>
    where
        E: Endpoint<Query = NoQuery, Request = NoBody, Response: ReceivedResponse> + Sync,
    {
        self.fetch_with(at, &NoQuery {}).await
    }

    /// Calls an endpoint with a query.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fetch_with<E>(
        &self,
        at: &E,
        query: &E::Query,
    ) -> Result<<E::Response as ReceivedResponse>::Value, ClientError>
    where
        E: Endpoint<Request = NoBody, Response: ReceivedResponse>,
    {
        let path = self.path_of(at, query)?;
        self.call(E::METHOD, &path, Bytes::new()).await
    }

    /// Calls an endpoint with a body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn submit<E>(
        &self,
        at: &E,
        body: &<E::Request as SentRequest>::Value,
    ) -> Result<<E::Response as ReceivedResponse>::Value, ClientError>
    where
        E: Endpoint<Query = NoQuery, Request: SentRequest, Response: ReceivedResponse>,
    {
        let body = E::Request::encode(body).map_err(|error| self.invalid_response(error))?;
        self.call(E::METHOD, &at.path(), body).await
    }

    /// Calls an endpoint that streams values.
    ///
    /// # Errors
    /// [`ClientError`]; each line may also fail separately.
    pub async fn follow<E, T>(&self, at: &E, query: &E::Query) -> Result<LineStream<T>, ClientError>
    where
        E: Endpoint<Request = NoBody, Response = Lines<T>>,
        T: Sample + DeserializeOwned + Send + 'static,
    {
        let path = self.path_of(at, query)?;
        self.lines(E::METHOD, &path, Bytes::new()).await
    }

    /// Calls an endpoint that takes a body and streams values.
    ///
    /// # Errors
    /// [`ClientError`]; each line may also fail separately.
    pub async fn submit_and_follow<E, T>(
        &self,
        at: &E,
        body: &<E::Request as SentRequest>::Value,
    ) -> Result<LineStream<T>, ClientError>
    where
        E: Endpoint<Query = NoQuery, Request: SentRequest, Response = Lines<T>>,
        T: Sample + DeserializeOwned + Send + 'static,
    {
        let body = E::Request::encode(body).map_err(|error| self.invalid_response(error))?;
        self.lines(E::METHOD, &at.path(), body).await
    }

    /// Opens a session.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open<E>(&self, at: &E, body: &<E::Request as SentRequest>::Value) -> Result<Session, ClientError>
    where
        E: Endpoint<Query = NoQuery, Request: SentRequest, Response = SessionStart>,
    {
        let body = E::Request::encode(body).map_err(|error| self.invalid_response(error))?;
        self.session(&at.path(), body).await
    }

    /// Sends a file to an endpoint. No timeout covers the upload, only the connection's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send_file<E>(
        &self,
        at: &E,
        file: std::fs::File,
    ) -> Result<<E::Response as ReceivedResponse>::Value, ClientError>
    where
        E: Endpoint<Query = NoQuery, Request = Upload, Response: ReceivedResponse>,
    {
        self.upload(&at.path(), file).await
    }

    /// Sends a file to an endpoint with a query. No timeout covers the upload, only the connection's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send_file_with<E>(
        &self,
        at: &E,
        query: &E::Query,
        file: std::fs::File,
    ) -> Result<<E::Response as ReceivedResponse>::Value, ClientError>
    where
        E: Endpoint<Request = Upload, Response: ReceivedResponse>,
    {
        self.upload(&self.path_of(at, query)?, file).await
    }

    /// The path of a call, with its query.
    fn path_of<E: Endpoint>(&self, at: &E, query: &E::Query) -> Result<String, ClientError> {
        let query = serde_urlencoded::to_string(query).map_err(|error| self.invalid_response(error))?;
        Ok(if query.is_empty() { at.path() } else { format!("{}?{query}", at.path()) })
    }
}

#[cfg(test)]
mod tests {
    use gantry_model::Moment;

    use super::*;
    use crate::endpoints::sessions::{Logs, LogsQuery};
    use crate::endpoints::{apps, cluster};

    #[test]
    fn a_query_has_only_what_is_asked_for_and_is_escaped() {
        let client = Client::new("http://127.0.0.1:1", "token");
        let app: gantry_model::AppName = "shop".parse().expect("a name");
        let logs = Logs { app: app.clone() };
        let query = LogsQuery { grep: Some("a&b =ü".to_owned()), since: Some(Moment(7)), ..LogsQuery::default() };
        assert_eq!(
            client.path_of(&logs, &query).expect("a path"),
            "/v1/apps/shop/logs?since=7&grep=a%26b+%3D%C3%BC&follow=false"
        );
        assert_eq!(client.path_of(&apps::Show { app }, &NoQuery {}).expect("a path"), "/v1/apps/shop");
        assert_eq!(
            client.path_of(&cluster::Events {}, &cluster::EventsQuery::default()).expect("a path"),
            "/v1/events"
        );
    }
}
