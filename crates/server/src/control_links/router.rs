//! Connections of routers.

use gantry_control::{LinkStream, RouterReport, SharedRoutes, link};
use gantry_model::RouterId;

use super::peer_link::{PeerLink, Received, log_end};
use super::peer_news::PeerNews;
use super::{AdmittedPeer, Peer};

/// Serves the connection of a router until it ends.
pub(crate) async fn serve_router(AdmittedPeer { server, caller, machine }: AdmittedPeer, mut stream: LinkStream) {
    let served = async {
        let hello = link::receive_hello(&mut stream).await?;
        let number = hello.number;
        let peer = Peer::Router(machine.clone(), number);
        let mut router = PeerLink::<SharedRoutes, RouterReport>::welcome(&server, peer, hello, stream).await?;
        let mut news = PeerNews::new(&server, server.core.watch_routes());
        loop {
            news.mark_seen();
            router.revalidate(&server, &caller).await?;
            let routes = server.core.routes();
            router.send_routes(&routes).await?;
            tokio::select! {
                received = router.receive() => match received? {
                    Received::Report(report) => {
                        let gone = router.left;
                        server.core.router(machine.clone(), RouterReport { number, gone, ..report }).await;
                        if gone {
                            return Ok(());
                        }
                    }
                    Received::Alive(report) => {
                        let router = RouterId { machine: machine.clone(), number };
                        server.core.router_alive(router, report).await;
                    }
                    Received::Lease(..)
                    | Received::Jobs(_)
                    | Received::Layers(_)
                    | Received::Clock(_)
                    | Received::Request => {}
                    Received::End => return Ok(()),
                },
                () = news.next() => {}
            }
        }
    };
    log_end(&machine, served.await);
}
