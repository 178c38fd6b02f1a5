//! The connection over a real socket: greetings, versions, and the end of either side.

use std::time::Duration;

use gantry_api::Client;
use gantry_control::version::SUPPORTED_VERSIONS;
use gantry_control::{
    Hello, LinkError, LinkStream, PeerMessage, ProtocolRange, ProtocolVersion, ServerMessage, Welcome, link,
};
use gantry_fixtures::control_server;

fn hello(versions: ProtocolRange) -> Hello {
    Hello { versions, program: "test".to_owned(), revision: Some(7), machine: None, number: 3 }
}

/// Greets as the server does, and repeats how many heartbeats it heard.
async fn greet_and_count(mut stream: LinkStream) {
    let hello = link::receive_hello(&mut stream).await.expect("a greeting");
    let answer = match SUPPORTED_VERSIONS.agree(hello.versions) {
        Ok(version) => ServerMessage::Welcome(Welcome { version, lease_millis: 1000 }),
        Err(mismatch) => ServerMessage::Refused { reason: mismatch.to_string() },
    };
    stream.sender.send(&answer).await.expect("sent");
    let mut heard = 0u64;
    while let Ok(Some(message)) = stream.receiver.next().await {
        match message {
            PeerMessage::Alive => heard += 1,
            PeerMessage::Unknown => {}
            _ => return,
        }
        let request = serde_json::json!(heard);
        stream.sender.send(&ServerMessage::Session { request }).await.expect("sent");
    }
}

#[tokio::test]
async fn carries_messages_of_both_sides_in_order() {
    let client = Client::new(&control_server(greet_and_count).await, "token");
    let mut connection = link::connect(&client, "/control", hello(SUPPORTED_VERSIONS)).await.expect("connected");
    assert_eq!(connection.welcome, Welcome { version: SUPPORTED_VERSIONS.newest, lease_millis: 1000 });
    for count in 1..=100u64 {
        connection.stream.sender.send(&PeerMessage::Alive).await.expect("sent");
        let heard = connection.stream.receiver.next().await.expect("a message");
        assert_eq!(heard, Some(ServerMessage::Session { request: count.into() }));
    }
    // The server ends its side after the peer's last message.
    connection.stream.sender.send(&PeerMessage::Leaving).await.expect("sent");
    assert_eq!(connection.stream.receiver.next::<ServerMessage>().await.expect("the end"), None);
}

#[tokio::test]
async fn refuses_a_program_without_a_common_version() {
    let client = Client::new(&control_server(greet_and_count).await, "token");
    let next = ProtocolVersion(SUPPORTED_VERSIONS.newest.0 + 1);
    let newer = ProtocolRange { oldest: next, newest: next };
    let error = link::connect(&client, "/control", hello(newer)).await.expect_err("refused");
    assert!(matches!(&error, LinkError::Refused(reason) if reason.contains("update the older program")), "{error:?}");
    // A program that also speaks an older version is welcome.
    let both = ProtocolRange { oldest: SUPPORTED_VERSIONS.newest, newest: next };
    let connection = link::connect(&client, "/control", hello(both)).await.expect("connected");
    assert_eq!(connection.welcome.version, SUPPORTED_VERSIONS.newest);
}

#[tokio::test]
async fn passes_over_a_message_of_a_newer_version() {
    let client = Client::new(&control_server(greet_and_count).await, "token");
    let mut connection = link::connect(&client, "/control", hello(SUPPORTED_VERSIONS)).await.expect("connected");
    let news = serde_json::json!({"type": "weather", "rain": true});
    connection.stream.sender.send(&news).await.expect("sent");
    let heard = connection.stream.receiver.next().await.expect("a message");
    assert_eq!(heard, Some(ServerMessage::Session { request: 0.into() }));
}

#[tokio::test]
async fn ends_when_the_peer_is_gone() {
    let (gone, mut noticed) = tokio::sync::mpsc::channel(1);
    let url = control_server(move |stream| {
        let gone = gone.clone();
        async move {
            greet_and_count(stream).await;
            let _ = gone.send(()).await;
        }
    });
    let client = Client::new(&url.await, "token");
    let connection = link::connect(&client, "/control", hello(SUPPORTED_VERSIONS)).await.expect("connected");
    drop(connection);
    let deadline = Duration::from_secs(30);
    tokio::time::timeout(deadline, noticed.recv()).await.expect("the server notices").expect("the end");
}

#[tokio::test]
async fn a_greeting_that_is_no_message_is_an_error() {
    let url = control_server(|mut stream: LinkStream| async move {
        assert!(matches!(link::receive_hello(&mut stream).await, Err(LinkError::Greeting) | Ok(_)));
        // JSON, but no object with a type.
        let _ = stream.sender.send(&"not a message").await;
    });
    let client = Client::new(&url.await, "token");
    let error = link::connect(&client, "/control", hello(SUPPORTED_VERSIONS)).await.expect_err("an error");
    assert!(matches!(error, LinkError::Message(_)), "{error:?}");
}
