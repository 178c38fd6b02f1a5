//! `gantry base`.

use std::path::Path;

use anyhow::Context;
use gantry_api::endpoints::bases;
use gantry_api::types::BaseInfo;
use gantry_api::{Client, ErrorCode};

use super::pulls;
use crate::args::Base;
use crate::coded::{WithCode, require};
use crate::exit::{DONE, Exit};
use crate::printer::{age, json as print_json, out, status, table};

pub(crate) async fn run(client: &Client, command: Base, json: bool) -> anyhow::Result<Exit> {
    match command {
        Base::Create { name, from } => {
            // Sent as bytes: if the recipe is not UTF-8, the server's error names the actual encoding.
            let recipe = std::fs::read(&from).with_context(|| format!("cannot read the recipe {}", from.display()));
            let recipe = recipe.with_code(ErrorCode::FileUnreadable)?;
            let events = client.submit_and_follow(&bases::Create { name }, &recipe.into()).await?;
            let base = pulls::base(events).await?;
            show(&base, json)
        }
        Base::Import { name, from } if Path::new(&from).exists() => {
            let file = std::fs::File::open(&from).with_context(|| format!("cannot read the archive {from}"));
            let file = file.with_code(ErrorCode::FileUnreadable)?;
            show(&client.send_file(&bases::Import { name }, file).await?, json)
        }
        Base::Import { name, from } => {
            require!(from.contains('/'), InvalidArguments, "{from} is neither a file nor an image of a registry");
            let events = client.submit_and_follow(&bases::Pull { name }, &pulls::request(&from)).await?;
            show(&pulls::base(events).await?, json)
        }
        Base::Rm { name } => {
            client.fetch(&bases::Remove { name: name.clone() }).await?;
            status!("Removed base {name}; images that were built on it stay");
            Ok(DONE)
        }
        Base::Ls => {
            let bases = client.fetch(&bases::List {}).await?;
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

pub(super) fn show(base: &BaseInfo, json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(base)?;
    } else {
        out!("{} {}", base.name, base.image);
    }
    Ok(DONE)
}
