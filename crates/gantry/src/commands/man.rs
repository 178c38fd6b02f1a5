//! `gantry man`: writes the manual pages.

use std::path::Path;

use anyhow::Context;
use gantry_api::ErrorCode;

use crate::coded::WithCode;
use crate::exit::{DONE, Exit};
use crate::help::man_pages;
use crate::printer::status;

pub(crate) fn run(folder: &Path) -> anyhow::Result<Exit> {
    let pages = man_pages()?;
    let make = || {
        std::fs::create_dir_all(folder)?;
        pages.iter().try_for_each(|page| std::fs::write(folder.join(&page.file), &page.text))
    };
    make()
        .with_context(|| format!("cannot write the manual pages into {}", folder.display()))
        .with_code(ErrorCode::FileUnwritable)?;
    status!("{} manual pages are in {}", pages.len(), folder.display());
    Ok(DONE)
}
