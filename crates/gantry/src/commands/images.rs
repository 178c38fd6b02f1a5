//! `gantry image`.

use gantry_api::Client;
use gantry_api::endpoints::images::{self, ReportQuery};
use gantry_api::types::{ImageReport, SurplusKind, SurplusReport};
use gantry_model::Bytes;

use crate::args::Image;
use crate::exit::{DONE, Exit};
use crate::printer::{json as print_json, out, table};

pub(crate) async fn run(client: &Client, command: Image, json: bool) -> anyhow::Result<Exit> {
    let Image::Report { reference } = command;
    let report = client.fetch_with(&images::Report {}, &ReportQuery { reference }).await?;
    if json {
        print_json(&report)?;
    } else {
        show(&report);
    }
    Ok(DONE)
}

fn show(report: &ImageReport) {
    out!("image {}: {} to transfer, {} of files", report.image, Bytes(report.packed), Bytes(report.size));
    out!("");
    let layers = report.layers.iter().zip(1..).map(|(layer, number)| {
        let sizes = [layer.packed, layer.size, layer.hidden].map(|size| Bytes(size).to_string());
        let [packed, size, hidden] = sizes;
        vec![number.to_string(), layer.digest.short().to_owned(), packed, size, layer.files.to_string(), hidden]
    });
    table(&["layer", "digest", "to transfer", "files of", "files", "hidden"], layers);
    out!("");
    let files =
        report.largest.iter().map(|file| vec![Bytes(file.size).to_string(), file.layer.to_string(), file.path.clone()]);
    table(&["size", "layer", "largest files"], files);
    let advice: Vec<String> =
        hidden_advice(report).into_iter().chain(report.surplus.iter().filter_map(advice)).collect();
    if !advice.is_empty() {
        out!("");
        out!("To shrink the image:");
        advice.iter().for_each(|line| out!("- {line}"));
    }
}

/// Advice about bytes that upper layers hide.
fn hidden_advice(report: &ImageReport) -> Option<String> {
    let hidden: u64 = report.layers.iter().map(|layer| layer.hidden).sum();
    (hidden > 0).then(|| {
        format!(
            "{} are in a layer and removed or replaced above: remove files in the step that makes them",
            Bytes(hidden)
        )
    })
}

fn advice(surplus: &SurplusReport) -> Option<String> {
    let remedy = match surplus.kind {
        SurplusKind::PackageCache => "package lists, caches and logs: remove them in the step that installs packages",
        SurplusKind::Documentation => "documentation and translations: exclude them when packages are installed",
        SurplusKind::Compilers => {
            "compilers, headers and static libraries: compile in another image and copy the result"
        }
        SurplusKind::Caches => {
            "caches: set PYTHONDONTWRITEBYTECODE=1, and install with --no-cache-dir or npm ci --omit=dev"
        }
        SurplusKind::Repositories => "repositories of version control: leave .git out of the image",
        SurplusKind::Unknown => return None,
    };
    Some(format!("{} of {remedy}", Bytes(surplus.size)))
}
