//! The file of one version: what is recorded, and what today's types write.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use gantry_control::ProtocolVersion;
use gantry_control::version::SUPPORTED_VERSIONS;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The recorded messages of a version beside today's.
pub(crate) struct Transcript {
    /// The version.
    pub(crate) version: ProtocolVersion,
    path: PathBuf,
    /// Text of the file; none for a version without a file.
    text: Option<String>,
    recorded: BTreeMap<String, Value>,
    written: BTreeMap<String, Value>,
    problems: Vec<String>,
}

/// The value of a message on the wire.
pub(crate) fn on_the_wire(message: &impl Serialize) -> Value {
    let text = serde_json::to_vec(message).expect("written");
    serde_json::from_slice(&text).expect("JSON")
}

/// The form of the files.
fn pretty(messages: &impl Serialize) -> String {
    serde_json::to_string_pretty(messages).expect("written")
}

impl Transcript {
    /// Opens the file of a version.
    pub(crate) fn open(version: ProtocolVersion) -> Self {
        let name = format!("tests/transcripts/version-{}.json", version.0);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let text = std::fs::read_to_string(&path).ok();
        let recorded = text.as_deref().map(|text| serde_json::from_str(text).expect("a map of messages"));
        let recorded: BTreeMap<String, Value> = recorded.unwrap_or_default();
        Self { version, path, text, recorded, written: BTreeMap::new(), problems: Vec::new() }
    }

    /// Adds a message that is read as it was sent.
    pub(crate) fn message<M: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, message: &M) {
        self.entry(name, on_the_wire(message), message, serde_json::from_value);
    }

    /// Adds a message. `read` reads the recorded message, and must return `expected`.
    pub(crate) fn entry<R: PartialEq + Debug>(
        &mut self,
        name: &str,
        sent: Value,
        expected: &R,
        read: impl FnOnce(Value) -> serde_json::Result<R>,
    ) {
        let recorded = match &self.text {
            Some(_) => self.recorded.get(name).cloned(),
            None => Some(sent.clone()),
        };
        let mut problem = |text: String| self.problems.push(format!("{name}: {text}"));
        match recorded {
            None => {
                problem(format!("the file lacks this entry; add it:\n{}", pretty(&BTreeMap::from([(name, &sent)]))))
            }
            Some(recorded) => {
                match read(recorded.clone()) {
                    Ok(read) if read == *expected => {}
                    Ok(read) => problem(format!("the recorded message is read as\n{read:?}\nand not as\n{expected:?}")),
                    Err(error) => problem(format!("the recorded message cannot be read: {error}")),
                }
                if recorded != sent {
                    problem(format!("the message is written as\n{sent}\nand recorded as\n{recorded}"));
                }
            }
        }
        assert!(self.written.insert(name.to_owned(), sent).is_none(), "{name} is there twice");
    }

    /// Compares the file with what today's types write. Writes the file of a new version, if that is asked for.
    pub(crate) fn check(mut self) {
        let (version, path) = (self.version.0, self.path.display());
        let gone = self.recorded.keys().filter(|name| !self.written.contains_key(*name));
        self.problems.extend(gone.map(|name| format!("{name}: the entry is recorded, and no sample has this name")));
        assert!(self.problems.is_empty(), "version {version}, {path}:\n{}", self.problems.join("\n"));
        let written = format!("{}\n", pretty(&self.written));
        match &self.text {
            Some(text) => assert!(*text == written, "{path} has other spaces or another order than its entries need"),
            None => {
                let is_asked =
                    std::env::var_os("GANTRY_TEST_BLESS").is_some() && self.version == SUPPORTED_VERSIONS.newest;
                assert!(is_asked, "{path} is missing; GANTRY_TEST_BLESS=1 writes the file of the newest version alone");
                std::fs::write(&self.path, written).expect("written");
            }
        }
    }
}
