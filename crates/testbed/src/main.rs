//! `gantry-load`: puts load on an app of this machine until SIGTERM, then prints a report as one line of JSON.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use gantry_testbed::load::{Load, LoadKind, PLAIN, Target};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
struct Args {
    /// Address on which the router listens
    #[arg(long)]
    address: SocketAddr,
    /// The app's host name
    #[arg(long)]
    host: String,
    /// The path
    #[arg(long, default_value = "/")]
    path: String,
    /// Note when this text first comes
    #[arg(long)]
    awaited: Option<String>,
    /// Kinds of the clients, in turn
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<LoadKind>,
    /// Milliseconds between two requests of a client
    #[arg(long, default_value_t = 2)]
    pause: u64,
    /// Clients at once
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Ends by itself after this
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let kinds = if args.kinds.is_empty() { PLAIN.to_vec() } else { args.kinds };
    let pause = Duration::from_millis(args.pause);
    let Args { address, host, path, awaited, .. } = args;
    let target = Target { address, host, path, awaited, kinds, pause };
    let limit = Duration::from_secs(args.seconds);
    let mut ended = signal(SignalKind::terminate())?;
    let load = Load::begin(&target, args.clients.min(256), limit);
    let _ = tokio::time::timeout(limit, ended.recv()).await;
    println!("{}", serde_json::to_string(&load.end().await)?);
    Ok(())
}
