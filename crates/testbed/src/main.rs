//! `gantry-load`: load on an app of this machine until SIGTERM; then a line of JSON says what came of it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use gantry_testbed::load::{Load, Target};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
struct Args {
    /// Where the router listens
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
    let target = Target { address: args.address, host: args.host, path: args.path, awaited: args.awaited };
    let limit = Duration::from_secs(args.seconds);
    let mut ended = signal(SignalKind::terminate())?;
    let load = Load::begin(&target, args.clients.min(256), limit);
    let _ = tokio::time::timeout(limit, ended.recv()).await;
    println!("{}", serde_json::to_string(&load.end().await)?);
    Ok(())
}
