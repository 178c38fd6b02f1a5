//! `gantry docs`: the manual, which is part of the program.

use crate::coded::fail;
use crate::exit::{DONE, Exit};
use crate::printer::out;

const TOPICS: &[(&str, &str)] = &[
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

pub(crate) fn run(topic: Option<&str>) -> anyhow::Result<Exit> {
    let Some(topic) = topic else {
        for (name, text) in TOPICS {
            let title = text.lines().next().unwrap_or_default().trim_start_matches("# ");
            out!("{name:<16} {title}");
        }
        return Ok(DONE);
    };
    let Some((_, text)) = TOPICS.iter().find(|(name, _)| *name == topic) else {
        let names: Vec<&str> = TOPICS.iter().map(|(name, _)| *name).collect();
        fail!(PageNotFound, "there is no page {topic:?}; there are {}", names.join(", "));
    };
    out!("{}", text.trim_end());
    Ok(DONE)
}
