//! Settings besides flags and environment: the settings file, and the record of the last `gantry up` of a data folder.
//!
//! Precedence: flag, environment, settings file, record of `up`, default. Values of the file and the record become
//! defaults of the command line, so that clap itself applies the order and checks the values.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _, Command, CommandFactory, FromArgMatches};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use gantry_error_codes::ErrorCode;

use crate::args::{Args, Machine, Remote};
use crate::services::SUPERVISED_BY;

/// The default settings file.
const FILE: &str = "/etc/gantry/gantry.toml";

/// Name of the record of the last `gantry up`, in the data folder and in the run folder.
const RECORD: &str = "up.toml";

/// Maximum size of a settings file.
const SIZE_MAX: u64 = 1 << 20;

/// Settings of a client that are not flags of `up`.
const CLIENT: [&str; 2] = ["url", "token-file"];

/// Values by flag name.
type Values = BTreeMap<String, String>;

/// Reason why a settings file is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}: {source}")]
    Read {
        /// Path of the file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file has a wrong entry.
    #[error("settings file {path}, line {line}, column {column}: {why}")]
    Wrong {
        /// Path of the file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The column, from 1, in characters.
        column: usize,
        /// The fault and a correct example.
        why: String,
    },
}

/// Reads the command line, with defaults from the settings file and the record.
pub(crate) fn parse() -> Result<Args, SettingsError> {
    let matches = parse_with(&Values::new());
    // `up` passes every setting to its services as a flag.
    if std::env::var_os(SUPERVISED_BY).is_some() {
        return Ok(args(&matches));
    }
    let mut values = match matches.get_one::<PathBuf>("config") {
        Some(path) => read(path)?,
        None => read_default(Path::new(FILE))?,
    };
    let (name, own) = innermost(&matches);
    // `up` does not read its own record: the record serves the commands that follow `up`.
    if name != "up" {
        let told = |id: &str| {
            // Not every command has this flag. `try_get_one` comes first, because clap panics if `value_source` is
            // called for an unknown flag.
            let path = own.try_get_one::<PathBuf>(id).ok().flatten()?;
            let set = matches!(own.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable));
            set.then(|| path.clone())
        };
        // A folder from the settings file takes precedence over the default folder.
        let of_file = |id: &str| values.get(id).map(PathBuf::from);
        let folder = told("data").or_else(|| told("run")).or_else(|| of_file("data")).or_else(|| of_file("run"));
        let folder = folder.unwrap_or_else(|| PathBuf::from("/var/lib/gantry"));
        for (key, value) in recorded(&folder) {
            values.entry(key).or_insert(value);
        }
    }
    // A settings file that sets the listen address of a server thereby sets the URL of that server.
    if !values.contains_key("url")
        && let Some(url) = values.get("listen").and_then(|listen| listen.parse().ok()).map(crate::machine::url_of)
    {
        values.insert("url".to_owned(), url);
    }
    let mut args = args(&if values.is_empty() { matches } else { parse_with(&values) });
    args.remote.data = values.get("data").map(PathBuf::from);
    Ok(args)
}

/// Parses the command line with these values as defaults; ends the process if the command line is refused. The texts of
/// the help take longer to put together than a command line to parse, and only a refusal shows them.
fn parse_with(values: &Values) -> ArgMatches {
    let parse = |command: Command| with_defaults(command, values).try_get_matches();
    parse(Args::command()).or_else(|_| parse(crate::help::command())).unwrap_or_else(|error| refuse(&error))
}

fn args(matches: &ArgMatches) -> Args {
    Args::from_arg_matches(matches).unwrap_or_else(|error| refuse(&error))
}

/// Prints clap's refusal of the command line and ends the process. The first line of an error has the error's code.
#[expect(clippy::disallowed_methods, reason = "clap itself exits for the help")]
fn refuse(error: &clap::Error) -> ! {
    use clap::error::ErrorKind;
    // Help and the version are not errors.
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    let rendered = error.render();
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let text = if colours { rendered.ansi().to_string() } else { rendered.to_string() };
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    eprint!("{first} [{}]\n{rest}", ErrorCode::InvalidArguments);
    std::process::exit(error.exit_code())
}

/// The innermost subcommand, whose settings apply: `check` in `gantry store check`.
fn innermost(matches: &ArgMatches) -> (&str, &ArgMatches) {
    let mut found = ("", matches);
    while let Some(next) = found.1.subcommand() {
        found = next;
    }
    found
}

/// All settings that a file may have: the flags of `up` and those of a client.
fn known() -> Command {
    Remote::augment_args(Machine::augment_args(Command::new("gantry")))
}

/// The names of these flags.
fn keys(known: &Command) -> Vec<&str> {
    let machine = Machine::augment_args(Command::new(""));
    let of_machine = |key: &str| machine.get_arguments().any(|arg| arg.get_long() == Some(key));
    let all = known.get_arguments().filter_map(clap::Arg::get_long);
    all.filter(|key| CLIENT.contains(key) || of_machine(key)).collect()
}

fn read_default(path: &Path) -> Result<Values, SettingsError> {
    match read(path) {
        // The default file is optional, and a user who may not read it has other sources of settings.
        Err(SettingsError::Read { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) =>
        {
            Ok(Values::new())
        }
        read => read,
    }
}

fn read(path: &Path) -> Result<Values, SettingsError> {
    use std::io::Read;
    let failed = |source| SettingsError::Read { path: path.display().to_string(), source };
    let mut text = String::new();
    std::fs::File::open(path).and_then(|file| file.take(SIZE_MAX).read_to_string(&mut text)).map_err(failed)?;
    values(&path.display().to_string(), &text)
}

/// The record of the last `gantry up` of a folder; empty if there is no readable record.
fn recorded(folder: &Path) -> Values {
    let path = folder.join(RECORD);
    std::fs::read_to_string(&path).ok().and_then(|text| values("", &text).ok()).unwrap_or_default()
}

/// Parses and checks a settings file.
fn values(path: &str, text: &str) -> Result<Values, SettingsError> {
    let wrong = |at: usize, why: String| {
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        SettingsError::Wrong { path: path.to_owned(), line, column, why }
    };
    let table = DeTable::parse(text)
        .map_err(|error| wrong(error.span().map_or(0, |span| span.start), error.message().trim().to_owned()))?;
    let known = known();
    let keys = keys(&known);
    let mut found = Values::new();
    for (key, value) in table.get_ref() {
        let (name, at) = (current_name(&known, key.get_ref().as_ref()), key.span().start);
        if !keys.contains(&name) {
            return Err(wrong(at, unknown(name, &keys)));
        }
        let value_at = value.span().start;
        let text = plain(value).ok_or_else(|| {
            wrong(value_at, format!("{name} is a text in quotes or a whole number, for example {name} = \"…\""))
        })?;
        if let Some(why) = refusal(&known, name, &text) {
            return Err(wrong(value_at, why));
        }
        found.insert(name.to_owned(), text);
    }
    Ok(found)
}

/// The name of a flag that has the given name or had it before.
fn current_name<'a>(known: &'a Command, name: &'a str) -> &'a str {
    let had = |arg: &&clap::Arg| arg.get_all_aliases().is_some_and(|all| all.contains(&name));
    known.get_arguments().find(had).and_then(clap::Arg::get_long).unwrap_or(name)
}

/// The text of a TOML string or integer, in the form a flag accepts.
fn plain(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string()),
        _ => None,
    }
}

fn unknown(name: &str, keys: &[&str]) -> String {
    if matches!(name, "token" | "admin-token" | "password" | "secret") {
        return format!("{name} is a secret and does not belong here; token-file names the file that holds it");
    }
    let alike = |key: &&&str| strsim::damerau_levenshtein(&name.to_lowercase().replace('_', "-"), key);
    match keys.iter().min_by_key(alike).filter(|key| alike(key) <= 1 + name.len() / 4) {
        Some(near) => format!("there is no setting {name}; did you mean {near}?"),
        None => format!("there is no setting {name}; `gantry up --help` lists the settings"),
    }
}

/// Returns the reason in words why a flag does not accept this value. clap has the reason as a text only.
fn refusal(known: &Command, name: &str, value: &str) -> Option<String> {
    let arg = known.get_arguments().find(|arg| arg.get_long() == Some(name))?;
    let command = Command::new("gantry").arg(arg.clone().global(false));
    let words = [OsString::from("gantry"), format!("--{name}={value}").into()];
    let text = command.try_get_matches_from(words).err()?.to_string();
    let first = text.lines().next().unwrap_or_default();
    // clap's message first names the flag; the reason follows.
    let why = first.rsplit_once(">': ").map_or(first, |(_, why)| why);
    if name == "job-store" {
        // The value may contain a password.
        return Some(why.trim_start_matches("error: --").to_owned());
    }
    Some(format!("{name} cannot be {value:?}: {why}"))
}

/// The command line with these values as defaults of their flags, in all subcommands.
fn with_defaults(command: Command, values: &Values) -> Command {
    if values.is_empty() {
        return command;
    }
    // clap borrows default values for `'static`, so they are leaked.
    let leak = |text: &String| -> &'static str { Box::leak(text.clone().into_boxed_str()) };
    let mut command = command;
    for (key, value) in values {
        let ids: Vec<String> = command
            .get_arguments()
            .filter(|arg| arg.get_long() == Some(key) && arg.get_id().as_str() == key.replace('-', "_"))
            .map(|arg| arg.get_id().to_string())
            .collect();
        for id in ids {
            command = command.mut_arg(id, |arg| arg.default_value(leak(value)));
        }
    }
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, |sub| with_defaults(sub, values));
    }
    command
}

/// Records the settings of `up` in the data folder and in the run folder, for later commands such as `down` and
/// `backup`.
pub(crate) fn record(machine: &Machine, arguments: &[(String, String)]) -> std::io::Result<()> {
    let mut text = String::from(
        "# Settings of the last `gantry up`. Commands on this machine read the file, and each `gantry up` replaces it.\n",
    );
    for (flag, value) in arguments {
        text.push_str(&format!("{flag} = {}\n", toml_text(value)));
    }
    for folder in [&machine.data, &machine.run] {
        let path = folder.join(RECORD);
        if std::fs::read_to_string(&path).is_ok_and(|known| known == text) {
            continue;
        }
        gantry_ledger::replace(&path, text.as_bytes())?;
    }
    Ok(())
}

/// Quotes a text as a TOML string.
fn toml_text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use gantry_model::PolicyKey;

    use super::*;

    fn refused(text: &str) -> String {
        values("g.toml", text).expect_err(text).to_string()
    }

    #[test]
    fn a_settings_file_has_the_flags_of_up() {
        let text = "# one\ndata = \"/srv/a \\\"b\\\"\"\nwatch = 7\nreserve = \"2G\"\ncompile-memory = 1048576\nurl = 'http://h:1'\n";
        let found = values("g.toml", text).expect("read");
        let expected = [
            ("bake-time", "7"),
            ("compile-memory", "1048576"),
            ("data", "/srv/a \"b\""),
            ("reserve", "2G"),
            ("url", "http://h:1"),
        ];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        for (key, value) in &found {
            assert_eq!(values("", &format!("{key} = {}", toml_text(value))).expect("read")[key], *value);
        }
        let keys: Vec<String> = keys(&known()).into_iter().map(str::to_owned).collect();
        assert!(keys.contains(&"tls-cert".to_owned()) && keys.contains(&"token-file".to_owned()) && keys.len() > 20);
        assert!(!keys.iter().any(|key| key == "json" || key == "config"), "{keys:?}");
    }

    /// The arguments of a command and its subcommands, as far as they decide what a command line means.
    fn arguments(command: &Command, path: &str, found: &mut Vec<String>) {
        for arg in command.get_arguments() {
            let names = (arg.get_id(), arg.get_long_and_visible_aliases(), arg.get_short(), arg.get_index());
            let values = (arg.get_action(), arg.get_num_args(), arg.get_default_values(), arg.get_env());
            found.push(format!("{path} {names:?} {values:?} {} {}", arg.is_required_set(), arg.is_global_set()));
        }
        for sub in command.get_subcommands() {
            arguments(sub, &format!("{path} {}", sub.get_name()), found);
        }
    }

    #[test]
    fn the_help_changes_no_argument() {
        let [mut plain, mut helped] = [Vec::new(), Vec::new()];
        arguments(&Args::command(), "gantry", &mut plain);
        arguments(&crate::help::command(), "gantry", &mut helped);
        assert!(plain.len() > 100, "{} arguments", plain.len());
        // The help adds the commands again in its own order.
        plain.sort();
        helped.sort();
        assert_eq!(plain, helped);
    }

    #[test]
    fn an_invalid_setting_is_named_with_its_place_and_the_nearest_key() {
        for (text, place, why) in [
            ("\n  dta = \"/x\"", "line 2, column 3", "there is no setting dta; did you mean data?"),
            ("compile_time = 3", "line 1, column 1", "did you mean compile-time?"),
            ("Listen = \"127.0.0.1:1\"", "line 1, column 1", "did you mean listen?"),
            ("colour = 1", "line 1, column 1", "`gantry up --help` lists the settings"),
            (
                "job-store = 'postgres://g:geheim@db/jobs'",
                "line 1, column 13",
                "job-store: the address contains a password",
            ),
            ("token = 'x'", "line 1, column 1", "token is a secret and does not belong here; token-file names"),
            ("watch = 'soon'", "line 1, column 9", "bake-time cannot be \"soon\": \"soon\" is not a time"),
            ("watch = -1", "line 1, column 9", "bake-time cannot be \"-1\""),
            ("reserve = 'lots'", "line 1, column 11", "\"lots\" is not a size"),
            ("domain = 'ü ü'", "line 1, column 10", "domain cannot be"),
            ("listen = true", "line 1, column 10", "listen is a text in quotes or a whole number"),
            ("[up]\nlisten = '127.0.0.1:1'", "line 1, column 2", "there is no setting up"),
            ("data = '/x'\ndata = '/y'", "line 2, column 1", "duplicate key"),
            ("data = ", "line 1, column", ""),
        ] {
            let text_of_error = refused(text);
            assert!(
                text_of_error.starts_with(&format!("settings file g.toml, {place}")) && text_of_error.contains(why),
                "{text}: {text_of_error}"
            );
        }
    }

    #[test]
    fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
        let values = values("", "watch = 7\ndrain = 8\nhttp = '0.0.0.0:81'\nurl = 'http://h:1'").expect("read");
        let parsed = |words: &[&str]| {
            let matches =
                with_defaults(crate::help::command(), &values).try_get_matches_from(words).expect("good words");
            Args::from_arg_matches(&matches).expect("arguments")
        };
        let args = parsed(&["gantry", "up", "--watch", "9"]);
        assert_eq!(args.remote.url, "http://h:1");
        let crate::args::Command::Up(machine) = args.command else { panic!("up") };
        let given: Vec<_> = machine.policy.given_rules().collect();
        assert_eq!(given, [(PolicyKey::BakeTime, "9"), (PolicyKey::Drain, "8")]);
        assert_eq!(machine.http.port(), 81);
        let args = parsed(&["gantry", "--url", "http://h:2", "store", "check"]);
        let crate::args::Command::Store(crate::args::Store::Check { machine }) = args.command else { panic!("check") };
        assert_eq!((machine.policy.drain.as_deref(), args.remote.url.as_str()), (Some("8"), "http://h:2"));
    }
}
