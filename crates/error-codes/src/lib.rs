//! Stable error codes: what each means, why it happens, and what to do.
//!
//! An error has one code in all its forms: `deploy_in_progress` in the API's JSON, `E_DEPLOY_IN_PROGRESS` in a
//! terminal. A code never changes its meaning; messages may change at any time, and no program reads messages.
//!
//! [`table`] is the only place where codes are written down. `gantry explain` prints the table, and `docs/errors.md` is
//! made from the table (a test compares the two).

mod table;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use table::{ErrorCode, GROUPS};

/// The table's row for a code.
#[derive(Debug, Clone, Copy)]
pub struct CodeDescription {
    /// The code.
    pub code: ErrorCode,
    /// The code's name in JSON.
    pub name: &'static str,
    /// HTTP status of an error response with this code; 0 for errors of the command line and of a push.
    pub status: u16,
    /// Meaning of the code, in one sentence.
    pub meaning: &'static str,
    /// Cause of the error.
    pub cause: &'static str,
    /// The remedy.
    pub remedy: &'static str,
}

/// Codes of one area.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Title of the area.
    pub title: &'static str,
    /// Rows of the area.
    pub rows: &'static [CodeDescription],
}

/// Returns all rows of the table.
pub fn all() -> impl Iterator<Item = &'static CodeDescription> + Clone {
    GROUPS.iter().flat_map(|group| group.rows)
}

impl ErrorCode {
    /// Returns the code's name in JSON: `deploy_in_progress`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.description().name
    }

    /// Returns the HTTP status of an error response with this code; 500 for a code that no response has.
    #[must_use]
    pub fn status(self) -> u16 {
        match self.description().status {
            0 => 500,
            status => status,
        }
    }

    /// Parses either form of a code, in any case: `deploy_in_progress`, `E_DEPLOY_IN_PROGRESS`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = plain(text);
        all().find(|row| row.name == name).map(|row| row.code)
    }
}

/// Returns the JSON form of a code in either form.
fn plain(text: &str) -> String {
    let lower = text.trim().to_ascii_lowercase().replace('-', "_");
    lower.strip_prefix("e_").map(str::to_owned).unwrap_or(lower)
}

/// Returns the name that is most like `text`, a code in either form, if any is similar.
#[must_use]
pub fn similar<'a>(text: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let searched = plain(text);
    let distance = |name: &&str| strsim::damerau_levenshtein(name, &searched);
    let near = names.clone().min_by_key(distance).filter(|name| distance(name) <= 2 + searched.len() / 4);
    let part = || names.clone().find(|name| searched.len() >= 4 && name.contains(&searched));
    near.or_else(part)
}

/// The form of a code in a terminal: `E_DEPLOY_IN_PROGRESS`.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E_{}", self.name().to_ascii_uppercase())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A code as a client receives it. A newer server may send codes that this program does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceivedCode {
    /// A code of this program's table.
    Known(ErrorCode),
    /// The name of a code that only the server knows; empty if the server sent none.
    Unknown(String),
}

impl ReceivedCode {
    /// Returns the known code.
    #[must_use]
    pub fn known(&self) -> Option<ErrorCode> {
        match self {
            Self::Known(code) => Some(*code),
            Self::Unknown(_) => None,
        }
    }
}

impl Default for ReceivedCode {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

impl From<ErrorCode> for ReceivedCode {
    fn from(code: ErrorCode) -> Self {
        Self::Known(code)
    }
}

impl fmt::Display for ReceivedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(code) => code.fmt(f),
            Self::Unknown(name) if name.is_empty() => f.write_str("E_UNKNOWN"),
            Self::Unknown(name) => write!(f, "E_{}", name.to_ascii_uppercase()),
        }
    }
}

impl Serialize for ReceivedCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(code) => code.serialize(serializer),
            Self::Unknown(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for ReceivedCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(all().find(|row| row.name == name).map_or(Self::Unknown(name), |row| Self::Known(row.code)))
    }
}

/// Renders the table as the manual's page `docs/errors.md`.
#[must_use]
pub fn manual() -> String {
    let mut page = HEAD.to_owned();
    for group in GROUPS {
        page += &format!("\n## {}\n", group.title);
        for row in group.rows {
            let CodeDescription { code, meaning, cause, remedy, status, .. } = row;
            let status = if *status == 0 { String::new() } else { format!(" HTTP status {status}.") };
            let items = [format!("- **Why:** {cause}"), format!("- **What to do:** {remedy}")];
            page += &format!("\n### {code}\n\n{meaning}{status}\n\n{}\n", items.map(|item| wrapped(&item)).join("\n"));
        }
    }
    page
}

/// Width of the manual's lines, in characters.
const WIDTH: usize = 130;

/// Breaks the lines of a list item.
fn wrapped(text: &str) -> String {
    let (mut lines, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let width = word.chars().count();
        let breaks = column + 1 + width > WIDTH;
        lines += match (lines.is_empty(), breaks) {
            (true, _) => "",
            (_, true) => "\n  ",
            (_, false) => " ",
        };
        column = if breaks { 2 + width } else { column + 1 + width };
        lines += word;
    }
    lines
}

const HEAD: &str = "# Error codes

Each error of Gantry has a stable code. The code is the same in all places, and a program may rely on it:

| place | form |
|---|---|
| command line | `gantry: there is no app shp [E_APP_NOT_FOUND]` |
| `git push` | ` !     deploy #2 of ci is under way with 1f0c… [E_DEPLOY_IN_PROGRESS]` |
| API | `{\"code\": \"app_not_found\", \"error\": \"there is no app shp\", \"hint\": \"…\", \"status\": 404}` |
| registry | `{\"errors\": [{\"code\": \"NAME_UNKNOWN\", \"message\": \"…\", \"detail\": {\"code\": \"repository_not_found\"}}]}` |

`gantry explain CODE` prints an entry of this page, and `gantry explain` lists all codes. The text of a message may change; the code
does not.

`gantry why` names causes by codes without the prefix `E_`, such as `checks_fail`: [codes of the causes](deploys.md#codes-of-the-causes).
";

#[cfg(test)]
mod tests;
