//! `gantry docs`: the manual, which is part of the program.

use crate::coded::fail;
use crate::exit::{DONE, Exit};
use crate::printer::out;

const TOPICS: &[(&str, &str)] = &[
    ("tutorial", include_str!("../../../../docs/tutorial.md")),
    ("apps", include_str!("../../../../docs/apps.md")),
    ("deploys", include_str!("../../../../docs/deploys.md")),
    ("jobs", include_str!("../../../../docs/jobs.md")),
    ("machines", include_str!("../../../../docs/machines.md")),
    ("discovery", include_str!("../../../../docs/discovery.md")),
    ("operating", include_str!("../../../../docs/operating.md")),
    ("cli", include_str!("../../../../docs/cli.md")),
    ("security", include_str!("../../../../docs/security.md")),
    ("errors", include_str!("../../../../docs/errors.md")),
    ("howto-several-machines", include_str!("../../../../docs/howto/several-machines.md")),
    ("howto-django", include_str!("../../../../docs/howto/django.md")),
    ("howto-database", include_str!("../../../../docs/howto/database.md")),
    ("howto-volumes", include_str!("../../../../docs/howto/volumes.md")),
    ("howto-php", include_str!("../../../../docs/howto/php.md")),
    ("howto-worker", include_str!("../../../../docs/howto/worker.md")),
    ("howto-cron", include_str!("../../../../docs/howto/cron.md")),
    ("howto-ironworker", include_str!("../../../../docs/howto/ironworker.md")),
    ("howto-settings", include_str!("../../../../docs/howto/settings.md")),
    ("howto-rollback", include_str!("../../../../docs/howto/rollback.md")),
    ("howto-tls", include_str!("../../../../docs/howto/tls.md")),
    ("howto-primary", include_str!("../../../../docs/howto/primary.md")),
    ("howto-company-ca", include_str!("../../../../docs/howto/company-ca.md")),
];

/// Pages that are a section of a longer document: name, document, heading.
const SECTIONS: &[(&str, &str, &str)] = &[("first-app", include_str!("../../../../README.md"), "## Your first app")];

pub(crate) fn run(topic: Option<&str>) -> anyhow::Result<Exit> {
    let pages: Vec<(&str, &str)> = pages().collect();
    let Some(topic) = topic else {
        let width = pages.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, text) in pages {
            let title = text.lines().next().unwrap_or_default().trim_start_matches('#').trim_start();
            out!("{name:<width$} {title}");
        }
        return Ok(DONE);
    };
    let Some(text) = find(&pages, topic) else {
        fail!(PageNotFound, "there is no page {topic:?}; `gantry docs` lists all pages");
    };
    out!("{}", text.trim_end());
    Ok(DONE)
}

/// Finds a page by its name. The name of a how-to needs no `howto-`.
fn find<'a>(pages: &[(&str, &'a str)], topic: &str) -> Option<&'a str> {
    let named = |page_name: &str| pages.iter().find(|(name, _)| *name == page_name).map(|(_, text)| *text);
    named(topic).or_else(|| named(&format!("howto-{topic}")))
}

/// Name and text of each page, those for a beginner first.
fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
    let sections = SECTIONS.iter().map(|(name, text, heading)| (*name, section(text, heading)));
    sections.chain(TOPICS.iter().copied())
}

/// The part of a document from a heading of the second level to the next one.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let begin = text.find(&format!("{heading}\n")).unwrap_or_default();
    let end = text[begin + heading.len()..].find("\n## ").map_or(text.len(), |at| begin + heading.len() + at);
    &text[begin..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_how_to_is_found_without_its_prefix() {
        let pages: Vec<(&str, &str)> = pages().collect();
        for (name, text) in &pages {
            assert_eq!(find(&pages, name), Some(*text), "{name}");
        }
        assert_eq!(find(&pages, "django"), find(&pages, "howto-django"));
        assert!(find(&pages, "django").is_some() && find(&pages, "howto").is_none() && find(&pages, "").is_none());
    }

    #[test]
    fn each_section_is_in_its_document() {
        for (name, text, heading) in SECTIONS {
            let page = section(text, heading);
            assert!(page.starts_with(heading) && page.lines().count() > 5, "{name}");
            assert_eq!(page.lines().filter(|line| line.starts_with("## ")).count(), 1, "{name}");
        }
    }
}
