//! `gantry stack`.

use gantry_api::endpoints::stacks;
use gantry_api::types::{BaseInfo, ImageProgress, StackInfo};
use gantry_api::{Client, LineStream};
use gantry_model::BaseName;

use super::{bases, pulls};
use crate::args::Stack;
use crate::exit::{DONE, Exit};
use crate::printer::{age, json as print_json, table};

pub(crate) async fn run(client: &Client, command: Stack, json: bool) -> anyhow::Result<Exit> {
    match command {
        Stack::Create { name } => bases::show(&create(client, name).await?, json),
        Stack::Ls => {
            let stacks = client.fetch(&stacks::List {}).await?;
            if json {
                print_json(&stacks)?;
            } else {
                table(&["stack", "for", "packages", "made"], stacks.iter().map(row));
            }
            Ok(DONE)
        }
    }
}

async fn create(client: &Client, name: BaseName) -> anyhow::Result<BaseInfo> {
    pulls::base(client.submit_and_follow(&stacks::Create { name }, &()).await?).await
}

/// Shows the progress of a stack that is made.
pub(super) async fn made(events: LineStream<ImageProgress>) -> anyhow::Result<()> {
    pulls::base(events).await.map(drop)
}

fn row(stack: &StackInfo) -> Vec<String> {
    let packages = if stack.packages.is_empty() { "-".to_owned() } else { stack.packages.join(", ") };
    let of_operator = if stack.of_operator { ", as a base of your own" } else { "" };
    let made = stack.base.as_ref().map(|base| format!("{} ago{of_operator}", age(base.created)));
    vec![stack.name.to_string(), stack.about.clone(), packages, made.unwrap_or_else(|| "not yet".to_owned())]
}
