//! Translates an instance into the contents of a container.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use gantry_image::{APP_USER, Account, Accounts, Runtime};
use gantry_model::role::DEFAULT_PORT;
use gantry_model::{AllocationId, AppName, InstanceSpec, RoleCommand};
use gantry_sandbox::{BindMount, ContainerLimits, ExecSpec, ProcessUser};

use crate::images::{self, LocalImage};
use crate::records::{self, ContainerPaths};
use crate::workload::ContainerParts;
use crate::{AgentContext, AgentSettings, app_api};

/// The search path for images that set none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest host name that `uname` can return.
const HOSTNAME_MAX: usize = 64;

/// The names of a container, inside and outside.
pub(crate) struct ContainerNames {
    pub(crate) app: AppName,
    /// `web-1`.
    pub(crate) short: String,
    pub(crate) release: String,
    pub(crate) role: String,
}

/// The contents of an instance's or a one-off's container, whose name is `holder`. Creates missing volumes.
pub(crate) fn container_parts(
    agent: &AgentContext,
    holder: &str,
    names: &ContainerNames,
    spec: &InstanceSpec,
    image: &LocalImage,
) -> io::Result<ContainerParts> {
    let hostname = hostname(names, &agent.settings.machine);
    let runtime = &image.config.config;
    let accounts = Accounts::read(&image.layers);
    let account = account_of(runtime, &accounts)?;
    let user = ProcessUser { uid: account.uid, gid: account.gid };
    let mut volumes = Vec::new();
    for (name, target) in &spec.role.volumes {
        let source = agent.volumes.bind(&agent.settings, spec.volume_folder(&names.app), name, holder, user)?;
        volumes.push(BindMount { source, target: target.into(), writable: true });
    }
    Ok(ContainerParts {
        layers: image.layers.clone(),
        args: command_words(&spec.role.command),
        env: environment(&agent.settings, names, spec, runtime, &account, &hostname),
        hostname,
        short: names.short.clone(),
        cwd: runtime.working_folder(),
        user,
        groups: account.groups,
        users: agent.users.of(&names.app, || records::apps_on_machine(&agent.settings))?,
        limits: ContainerLimits {
            memory: spec.role.limits.memory.0,
            milli_cpu: spec.role.limits.cpu.0,
            pids: spec.role.limits.pids,
            // The agent counts usage instead (see `disk`): a limit on file size would also count the holes of sparse
            // files.
            disk: None,
        },
        // An image built by Gantry runs as the user `app`; the base may have no name for that user.
        accounts: accounts.with(APP_USER, "app", "/app").filter(|_| runtime.is_built()),
        volumes,
        network: true,
    })
}

/// Reason why a command cannot be prepared for a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error(transparent)]
    Fetch(#[from] images::FetchError),
    #[error("cannot find the user of the image")]
    Account(#[source] io::Error),
    #[error("a task of the agent ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// The specification of a command that runs in an instance's container: same user and environment as the application,
/// no terminal.
pub(crate) async fn exec_spec(
    agent: &Arc<AgentContext>,
    id: &AllocationId,
    spec: &InstanceSpec,
    command: Vec<String>,
) -> Result<ExecSpec, ExecError> {
    let image = images::fetch(agent, &id.slot.app, &spec.image).await?;
    let runtime = &image.config.config;
    let names = ContainerNames {
        app: id.slot.app.clone(),
        short: id.slot.short(),
        release: id.slot.release.to_string(),
        role: id.slot.role.to_string(),
    };
    let layers = image.layers.clone();
    let accounts = tokio::task::spawn_blocking(move || Accounts::read(&layers)).await?;
    let account = account_of(runtime, &accounts).map_err(ExecError::Account)?;
    let hostname = hostname(&names, &agent.settings.machine);
    Ok(ExecSpec {
        cgroup: ContainerPaths::of(&agent.settings, id).cgroup,
        args: command,
        env: environment(&agent.settings, &names, spec, runtime, &account, &hostname),
        cwd: runtime.working_folder(),
        user: ProcessUser { uid: account.uid, gid: account.gid },
        groups: account.groups,
        terminal: false,
    })
}

/// The host name that `uname` returns in a container.
pub(crate) fn hostname(names: &ContainerNames, machine: &impl std::fmt::Display) -> String {
    format!("{}.{machine}", names.short).chars().take(HOSTNAME_MAX).collect()
}

/// The environment of a container. Later sources override earlier ones: Docker's defaults, image, role, configuration,
/// Gantry's own variables.
pub(crate) fn environment(
    settings: &AgentSettings,
    names: &ContainerNames,
    spec: &InstanceSpec,
    runtime: &Runtime,
    account: &Account,
    hostname: &str,
) -> Vec<(String, String)> {
    let defaults = [("PATH", PATH), ("HOME", &account.home), ("HOSTNAME", hostname)];
    let mut env: BTreeMap<String, String> =
        defaults.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let of_image = runtime.env.iter().flatten().filter_map(|pair| pair.split_once('='));
    env.extend(of_image.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.extend(spec.role.env.clone());
    env.extend((*spec.config).clone());
    let port = spec.role.port.unwrap_or(DEFAULT_PORT);
    let own = [
        ("PORT", port.to_string()),
        ("GANTRY_APP", names.app.to_string()),
        ("GANTRY_ROLE", names.role.clone()),
        ("GANTRY_INSTANCE", names.short.clone()),
        ("GANTRY_RELEASE", names.release.clone()),
        ("GANTRY_API", app_api::url(settings.gateway)),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    env.extend(spec.commit.clone().map(|commit| ("REVISION".to_owned(), commit)));
    // An image may hold a variable without a name, which cannot be set.
    env.into_iter().filter(|(name, value)| !name.is_empty() && !value.contains('\0')).collect()
}

/// The arguments of the container's process. A plain command line replaces its shell through `exec`, so that the
/// application is pid 3 and gets its signals.
fn command_words(command: &RoleCommand) -> Vec<String> {
    match command {
        RoleCommand::Argv(words) => words.clone(),
        RoleCommand::Shell(line) => {
            let line = exec_of(line);
            vec!["/bin/sh".to_owned(), "-c".to_owned(), line]
        }
    }
}

/// Prefixes a line with `exec` if the line is one plain command; returns any other line unchanged.
fn exec_of(line: &str) -> String {
    let line = line.trim();
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let plain = !line.contains([';', '&', '|', '(', ')', '<', '>', '\n', '`', '{', '}'])
        && !first.contains('=')
        && !RESERVED.contains(&first)
        && !BUILTINS.contains(&first);
    // `command` only bypasses shell functions. With an option, `command` prints a description and runs nothing.
    let called = rest.trim_start();
    match first {
        "command" if !called.is_empty() && !called.starts_with('-') => exec_of(called),
        _ if plain => format!("exec {line}"),
        _ => line.to_owned(),
    }
}

/// Words that begin a compound command in dash and in bash.
const RESERVED: [&str; 12] =
    ["!", "[[", "case", "coproc", "for", "function", "if", "select", "time", "until", "while", "{"];

/// Built-in commands of dash and bash. `exec` finds no program for most of these names.
const BUILTINS: [&str; 62] = [
    ".",
    ":",
    "[",
    "alias",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "cd",
    "chdir",
    "command",
    "compgen",
    "complete",
    "compopt",
    "continue",
    "declare",
    "dirs",
    "disown",
    "echo",
    "enable",
    "eval",
    "exec",
    "exit",
    "export",
    "false",
    "fc",
    "fg",
    "getopts",
    "hash",
    "help",
    "history",
    "jobs",
    "kill",
    "let",
    "local",
    "logout",
    "mapfile",
    "popd",
    "printf",
    "pushd",
    "pwd",
    "read",
    "readarray",
    "readonly",
    "return",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "test",
    "times",
    "trap",
    "true",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "wait",
];

/// The account that a container of this image runs as. In an image built by Gantry the home is `/app`, whatever home
/// the base gives the user.
pub(crate) fn account_of(runtime: &Runtime, accounts: &Accounts) -> io::Result<Account> {
    let mut account = accounts.find(runtime.user.as_deref().unwrap_or_default()).map_err(io::Error::other)?;
    if runtime.is_built() {
        account.home = "/app".to_owned();
    }
    Ok(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_home_from_passwd_except_in_built_images() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n".to_owned();
        let accounts = Accounts { passwd, group: String::new() };
        let runtime = |user: &str, label: &str| Runtime {
            user: Some(user.to_owned()),
            labels: Some(BTreeMap::from([(label.to_owned(), "{}".to_owned())])),
            ..Runtime::default()
        };
        for (user, label, home) in [
            ("", "", "/root"),
            ("node", "", "/home/node"),
            ("1000:1000", "", "/home/node"),
            ("4000", "", "/"),
            ("1000:1000", gantry_image::RECIPE_LABEL, "/app"),
            // Derived by others from an image that Gantry built.
            ("root", gantry_image::RECIPE_LABEL, "/root"),
        ] {
            assert_eq!(account_of(&runtime(user, label), &accounts).expect(user).home, home, "{user}");
        }
    }

    fn shell(line: &str) -> String {
        command_words(&RoleCommand::Shell(line.to_owned())).pop().expect("a line")
    }

    #[test]
    fn execs_a_plain_command_in_place_of_the_shell() {
        assert_eq!(shell("unicorn -p $PORT"), "exec unicorn -p $PORT");
        for compound in ["cd x && run", "A=b run", "a; b", "exec run", "a | b", "if a", "time run", "[[ -e x ]]"] {
            assert_eq!(shell(compound), compound);
        }
    }

    #[test]
    fn keeps_the_shell_for_builtin_commands() {
        for builtin in [
            "eval \"$START\"",
            "eval\t$START",
            ". ./env",
            "wait",
            "read line",
            "trap : TERM",
            "command -v sh",
            "command",
        ] {
            assert_eq!(shell(builtin), builtin);
        }
        assert_eq!(shell("command python3 -m http.server $PORT"), "exec python3 -m http.server $PORT");
        assert_eq!(shell("command  command run"), "exec run");
        assert_eq!(shell("command eval run"), "eval run");
        assert_eq!(shell(" evaluate x"), "exec evaluate x");
        assert_eq!(shell("command a; b"), "a; b");
    }
}
