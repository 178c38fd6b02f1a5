//! Errors in the files of a recipe.

use gantry_model::role::UnknownSchedulePolicy;
use gantry_model::{Bytes, NameError, RolePatternError, SizeError};
use gantry_schedule::{InvalidCron, UnknownZone};

use super::{HEADER_BYTES_MAX, HEADERS_MAX, SIZE_MAX};

/// Reason why a file of roles cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RolesError {
    #[error("it has {0} bytes; at most {SIZE_MAX} are read")]
    TooLarge(usize),
    #[error("it is nested too deeply at line {line} column {column}")]
    TooDeep { line: usize, column: usize },
    #[error("{0}")]
    Syntax(json5::Error),
    #[error("{setting}: {error}")]
    Setting { setting: String, error: json5::Error },
    #[error("it names no role; write for example {{ \"web\": \"bin/server\" }}")]
    NoRole,
}

/// Reason why a value cannot be a setting of a role.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SettingError {
    /// The number is not whole, or out of range.
    #[error("{number} is not a whole number from {least} to {most}")]
    NotWhole {
        /// The number.
        number: f64,
        /// The least number.
        least: u32,
        /// The greatest number.
        most: u32,
    },
    /// A text stands where a number belongs.
    #[error("{0:?} is not a number; write a number without quotes")]
    NotNumber(String),
    /// The number is no size.
    #[error("{0} is not a size; write for example \"512M\"")]
    NotSize(f64),
    /// The text is no size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The size is too small.
    #[error("{written} is less than the minimum of {least}; write for example \"512M\"")]
    TooSmall {
        /// The size, as the file has it.
        written: String,
        /// The minimum.
        least: Bytes,
    },
    /// The number is no number of processors.
    #[error("{0} is not a number of processors from 0.01 to 1024")]
    NotProcessors(f64),
    /// A text stands where a number of processors belongs.
    #[error("{0:?} is not a number of processors; write for example 0.5")]
    ProcessorsText(String),
    /// The size of a buffer is negative.
    #[error("request_buffer may not be less than 0")]
    NegativeBuffer,
    /// The size of a buffer is too large.
    #[error("request_buffer may be 1M at most, and 0 collects nothing")]
    LargeBuffer,
    /// A number stands where a text belongs.
    #[error("{0} is not a text; put it in quotes")]
    NotText(f64),
    /// The command line is empty.
    #[error("a command line is empty")]
    EmptyCommand,
    /// The command line cannot be an argument of a program.
    #[error("a command line holds a NUL character")]
    NulInCommand,
    /// The key is unknown and similar to another one.
    #[error("unknown key {key:?}; did you mean {meant:?}?")]
    MisspelledKey {
        /// The key.
        key: String,
        /// The similar key.
        meant: &'static str,
    },
    /// The key is unknown.
    #[error("unknown key {key:?}; known are {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The known keys.
        known: String,
    },
    /// The text is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The text is no pattern of roles.
    #[error(transparent)]
    Pattern(#[from] RolePatternError),
    /// The text is no architecture.
    #[error("{0:?} is not an architecture, such as amd64")]
    Architecture(String),
    /// The text is not a cron expression.
    #[error(transparent)]
    Cron(#[from] InvalidCron),
    /// The text is no time zone.
    #[error(transparent)]
    Zone(#[from] UnknownZone),
    /// The text is no policy of a schedule.
    #[error(transparent)]
    Policy(#[from] UnknownSchedulePolicy),
    /// The text is not a host name.
    #[error("{0:?} is not a host name; write for example \"shop.example\"")]
    Host(String),
    /// The text is not the name of a header field.
    #[error("{0:?} is not the name of a header field")]
    HeaderName(String),
    /// Gantry or the connection sets the header field.
    #[error("a check cannot set the header field {name}{remedy}")]
    ReservedHeader {
        /// The name.
        name: String,
        /// The remedy, behind a semicolon; empty if there is none.
        remedy: &'static str,
    },
    /// The value of a header field is not plain text.
    #[error("the value of the header field {0} is not plain ASCII text")]
    HeaderValue(String),
    /// The header fields are too many or too long.
    #[error("{count} header fields of {bytes} bytes; at most {HEADERS_MAX} of {HEADER_BYTES_MAX} bytes")]
    TooManyHeaders {
        /// Number of fields.
        count: usize,
        /// Length of all names and values.
        bytes: usize,
    },
    /// The settings of a health check contradict each other.
    #[error(transparent)]
    Health(#[from] HealthConflict),
    /// The text is no protocol.
    #[error("{0:?} is not a protocol; known are http1, h2c")]
    Protocol(String),
    /// The text is no signal that stops a role.
    #[error("{text:?} is not a stop signal; known are {known}")]
    StopSignal {
        /// The text.
        text: String,
        /// The known signals.
        known: String,
    },
    /// The text is no path of a request.
    #[error("{0:?} is not a path; write for example \"/up\"")]
    Path(String),
    /// The text is no name of an environment variable.
    #[error("{0:?} cannot be the name of an environment variable")]
    VariableName(String),
    /// The value of an environment variable cannot be passed on.
    #[error("an env value holds a NUL character")]
    NulInValue,
    /// The text is no name of a volume.
    #[error("{0:?} cannot be the name of a volume")]
    VolumeName(String),
    /// A volume cannot be at the path.
    #[error("{0:?} is not a place for a volume; write an absolute path such as \"/data\"")]
    VolumePlace(String),
}

/// Contradiction between the settings of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HealthConflict {
    /// The check has a command and settings of a GET.
    #[error("a check is a command or a GET; name \"command\" alone, or \"path\" with \"host\" and \"headers\"")]
    CommandAndGet,
    /// The check has settings of a GET and no path.
    #[error("\"host\" and \"headers\" are of a GET; name its \"path\" too")]
    GetWithoutPath,
}
