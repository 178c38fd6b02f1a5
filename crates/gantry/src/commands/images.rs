//! `gantry image`.

use gantry_api::Client;
use gantry_api::endpoints::images::{self, ReportQuery};
use gantry_api::types::{FileCount, ImageReport, OpensReport, SurplusKind, SurplusReport};
use gantry_model::Bytes;
use serde::Serialize;

use super::session;
use crate::args::Image;
use crate::exit::{DONE, Exit};
use crate::printer::{json as print_json, one_line, out, table};

/// A report with the files that a command opened.
#[derive(Serialize)]
struct FullReport {
    #[serde(flatten)]
    image: ImageReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    opens: Option<OpensReport>,
}

pub(crate) async fn run(client: &Client, command: Image, json: bool) -> anyhow::Result<Exit> {
    let Image::Report { reference, trace, command } = command;
    let (exit, opens) = match trace {
        true => session::trace(client, reference.clone(), command).await.map(|(exit, opens)| (exit, Some(opens)))?,
        false => (DONE, None),
    };
    let image = client.fetch_with(&images::Report {}, &ReportQuery { reference }).await?;
    if json {
        print_json(&FullReport { image, opens })?;
    } else {
        show(&image);
        opens.iter().for_each(show_opens);
    }
    Ok(exit)
}

/// Shows the files that no process opened.
fn show_opens(opens: &OpensReport) {
    let FileCount { files, size } = opens.unopened;
    out!("");
    out!(
        "no process opened {files} files of {}, and {} files of {} were opened",
        Bytes(size),
        opens.opened.files,
        Bytes(opens.opened.size)
    );
    let rows = opens.folders.iter().map(|folder| {
        vec![Bytes(folder.unopened.size).to_string(), folder.unopened.files.to_string(), folder.path.clone()]
    });
    table(&["not opened", "files", "folder"], rows);
    if !opens.is_whole {
        out!("The kernel did not report every open: some of these files may have been opened.");
    }
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
        advice.iter().for_each(|line| out!("- {}", one_line(line)));
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
