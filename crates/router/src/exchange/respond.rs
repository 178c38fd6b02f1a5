//! Response to the client: relays the response of an instance, or joins both sides after a change of protocol.

use gantry_model::RequestFailure;
use http::header::{TRAILER, UPGRADE};
use http::{Response, StatusCode, Version};
use hyper::body::Body;
use hyper_util::rt::TokioIo;

use crate::client::upgrade::{ClientUpgrade, StreamUpgrade};
use crate::exchange::http_exchange::{ChosenTarget, HttpExchange, Outcome};
use crate::exchange::response_body::{RelayedBody, ResponseBody, ResponseEnd, text};
use crate::exchange::upgrade::{self, WEBSOCKET_ACCEPT};
use crate::exchange::upgrade_tunnel::UpgradeTunnel;
use crate::headers;
use crate::http2::body::{BodyReceiver, Http2Reader, Http2Writer};
use crate::upstream::response_body::InstanceBody;
use crate::upstream::switched::{SwitchedReader, SwitchedWriter};

/// Both ends of a connection whose protocol changed.
struct ProtocolSwitch {
    head: http::response::Parts,
    client: ClientUpgrade,
    instance: (SwitchedReader, SwitchedWriter),
    tunnel: UpgradeTunnel,
}

impl HttpExchange {
    /// Turns the outcome of [`Self::run`] into the response to the client.
    pub(super) fn respond(mut self, outcome: Outcome) -> Response<ResponseBody> {
        let response = match outcome {
            // A success would open the websocket for the client.
            Ok((_, response)) if self.over_http2 && response.status().is_success() => {
                self.broken_instance("the instance responded to a websocket's request without a change of protocol")
            }
            Ok((chosen, response)) if response.status() != StatusCode::SWITCHING_PROTOCOLS => {
                return self.relay(chosen, response);
            }
            Ok((chosen, response)) => match self.check_switch(&chosen, response) {
                Ok(switched) => return self.join(chosen, switched),
                Err(why) => self.broken_instance(why),
            },
            Err(page) => page,
        };
        self.entry.answered(*response)
    }

    /// Streams the response to the client.
    fn relay(mut self, chosen: ChosenTarget, response: Response<InstanceBody>) -> Response<ResponseBody> {
        let (mut parts, body) = response.into_parts();
        // Only announced trailers may follow a body of HTTP/1.1.
        let announced = if body.size_hint().exact().is_none() { parts.headers.get(TRAILER).cloned() } else { None };
        headers::strip_hop(&mut parts.headers);
        if let Some(announced) = announced {
            parts.headers.insert(TRAILER, announced);
        }
        parts.version = Version::HTTP_11;
        self.entry.status = parts.status.as_u16();
        self.entry.failure = parts.status.is_server_error().then_some(RequestFailure::ServerError);
        let (admitted, entry) = (self.admitted, self.entry);
        let done = ResponseEnd { target: chosen.target, active: chosen.active, admitted, entry };
        Response::from_parts(
            parts,
            ResponseBody::Relayed(Box::new(RelayedBody { body, done: Some(done), on_loss: None })),
        )
    }

    /// Checks a change of protocol: the client asked for the protocol, and both directions are free.
    fn check_switch(
        &mut self,
        chosen: &ChosenTarget,
        response: Response<InstanceBody>,
    ) -> Result<ProtocolSwitch, &'static str> {
        let client = self.client.take().ok_or("the instance changed the protocol without a request to do so")?;
        let (head, body) = response.into_parts();
        let instance = body.into_switched()?;
        let requested = self.request.headers.get(UPGRADE);
        if !head
            .headers
            .get(UPGRADE)
            .is_none_or(|answered| requested.is_some_and(|requested| upgrade::is_same_protocol(answered, requested)))
        {
            return Err("the instance changed to another protocol than requested");
        }
        // A client of HTTP/2 does not check the key.
        if self.over_http2 && !head.headers.contains_key(WEBSOCKET_ACCEPT) {
            return Err("the instance changed to a websocket without Sec-WebSocket-Accept");
        }
        let is_websocket = requested.is_some_and(upgrade::is_websocket);
        Ok(ProtocolSwitch {
            head,
            client,
            instance,
            tunnel: UpgradeTunnel { is_websocket, leaving: chosen.target.leaving() },
        })
    }

    /// Joins client and instance after a change of protocol, and copies bytes in both directions until either side
    /// ends.
    fn join(mut self, chosen: ChosenTarget, switched: ProtocolSwitch) -> Response<ResponseBody> {
        let ProtocolSwitch { mut head, client, instance, tunnel } = switched;
        if self.over_http2 {
            headers::strip_hop(&mut head.headers);
            head.headers.remove(WEBSOCKET_ACCEPT);
            head.status = StatusCode::OK;
        }
        self.entry.status = 101;
        #[expect(clippy::disallowed_methods, reason = "client and instance see the end of the connection")]
        tokio::spawn(async move {
            let mut counted = (self.entry, chosen, self.admitted);
            let sent = &mut counted.0.bytes;
            match client {
                ClientUpgrade::Http1(client) => {
                    if let Ok(client) = client.await {
                        tunnel.copy_until_end(tokio::io::split(TokioIo::new(client)), instance, sent).await;
                    }
                }
                ClientUpgrade::Http2(StreamUpgrade { from, to }) => {
                    if let Ok(to) = to.await {
                        let client = (Http2Reader::new(BodyReceiver::new(from), None), Http2Writer(to));
                        tunnel.copy_until_end(client, instance, sent).await;
                    }
                }
            }
        });
        Response::from_parts(head, text(String::new()))
    }
}
