//! The job of a schedule, as the queue stores it.

use std::collections::BTreeMap;

use gantry_api::jobs::{JobSource, SubmitJob};
use gantry_model::{AppName, Bytes, RoleName};
use gantry_queue::JobSettings;
use serde::{Deserialize, Serialize};

/// The job of a schedule. A role and a tag are resolved at each due time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredTemplate {
    source: TemplateSource,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    memory: Option<Bytes>,
    network: bool,
    #[serde(default)]
    payload: String,
    settings: JobSettings,
}

/// Names the environment without its values, which may be secret.
impl std::fmt::Debug for StoredTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { source, command, env, memory, network, payload, settings } = self;
        f.debug_struct("StoredTemplate")
            .field("source", source)
            .field("command", command)
            .field("env", &env.keys())
            .field("memory", memory)
            .field("network", network)
            .field("payload", payload)
            .field("settings", settings)
            .finish()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TemplateSource {
    Role { app: AppName, role: RoleName },
    Image { reference: String },
}

impl StoredTemplate {
    /// The job of a role with a schedule of its own.
    pub(crate) fn of_role(app: AppName, role: RoleName) -> Self {
        Self {
            source: TemplateSource::Role { app, role },
            command: Vec::new(),
            env: BTreeMap::new(),
            memory: None,
            network: true,
            payload: String::new(),
            settings: JobSettings::default(),
        }
    }
}

impl From<SubmitJob> for StoredTemplate {
    fn from(job: SubmitJob) -> Self {
        let SubmitJob { source, command, env, memory, network, payload, settings } = job;
        let source = match source {
            JobSource::Role { app, role } => TemplateSource::Role { app, role },
            JobSource::Image { reference } => TemplateSource::Image { reference },
        };
        Self { source, command, env, memory, network, payload, settings }
    }
}

impl From<StoredTemplate> for SubmitJob {
    fn from(template: StoredTemplate) -> Self {
        let StoredTemplate { source, command, env, memory, network, payload, settings } = template;
        let source = match source {
            TemplateSource::Role { app, role } => JobSource::Role { app, role },
            TemplateSource::Image { reference } => JobSource::Image { reference },
        };
        Self { source, command, env, memory, network, payload, settings }
    }
}
