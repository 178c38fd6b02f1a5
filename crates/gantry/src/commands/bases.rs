//! `gantry base`.

use anyhow::Context;
use futures_util::StreamExt;
use gantry_api::types::BaseInfo;
use gantry_api::{Client, ClientError, Problem};
use http::Method;
use serde::Deserialize;

use crate::args::Base;
use crate::exit::{DONE, Exit, FAILED};
use crate::printer::{age, json as print_json, out, table};

/// What comes while a base is made.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Making {
    Line { text: String },
    Done { base: BaseInfo },
    Failed { problem: Problem },
}

pub(crate) async fn run(client: &Client, command: Base, json: bool) -> anyhow::Result<Exit> {
    match command {
        Base::Create { name, from } => {
            let recipe =
                std::fs::read_to_string(&from).with_context(|| format!("cannot read the recipe {}", from.display()))?;
            let path = format!("/v1/bases/{name}");
            let mut events = client.lines::<Making>(Method::POST, &path, recipe).await?;
            while let Some(event) = events.next().await {
                match event? {
                    Making::Line { text } => eprintln!("{text}"),
                    Making::Done { base } => {
                        if json {
                            print_json(&base)?
                        } else {
                            out!("{} {}", base.name, base.image)
                        }
                        return Ok(DONE);
                    }
                    Making::Failed { problem } => return Err(ClientError::from(problem).into()),
                }
            }
            Ok(FAILED)
        }
        Base::Import { name, archive } => {
            let file = std::fs::File::open(&archive)
                .with_context(|| format!("cannot read the archive {}", archive.display()))?;
            let base: BaseInfo = client.upload(&format!("/v1/bases/{name}/import"), file).await?;
            if json {
                print_json(&base)?
            } else {
                out!("{} {}", base.name, base.image)
            }
            Ok(DONE)
        }
        Base::Ls => {
            let bases: Vec<BaseInfo> = client.get("/v1/bases").await?;
            if json {
                print_json(&bases)?;
            } else {
                let rows = bases.iter().map(|base| {
                    let image = base.image.short().to_owned();
                    vec![base.name.to_string(), image, base.from.clone(), format!("{} ago", age(base.created))]
                });
                table(&["base", "image", "from", "when"], rows);
            }
            Ok(DONE)
        }
    }
}
