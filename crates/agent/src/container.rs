//! An instance as a container's specification.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use gantry_image::Runtime;
use gantry_linux::rooted;
use gantry_model::role::{DEFAULT_PORT, Role};
use gantry_model::{AppName, Command, InstanceSpec};
use gantry_sandbox::{Bind, Limits, Log, Network, Root, Spec, User};
use rustix::fs::{Mode, OFlags};

use crate::Agent;
use crate::images::Image;
use crate::records::{self, Places};

/// Bytes of each of the two segments of a log.
pub(crate) const SEGMENT: u64 = 8 << 20;

/// Where programs are when an image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest host name that `uname` can say.
const HOSTNAME_MAX: usize = 64;

/// What a container is called, from inside and outside.
pub(crate) struct Names {
    pub(crate) app: AppName,
    /// `web-1`.
    pub(crate) short: String,
    pub(crate) release: String,
    pub(crate) role: String,
}

/// Makes the folders of a container, empty, and its specification.
pub(crate) fn prepare(
    agent: &Agent,
    places: &Places,
    names: &Names,
    spec: &InstanceSpec,
    image: &Image,
    address: Ipv4Addr,
) -> io::Result<Spec> {
    let hostname: String = format!("{}.{}", names.short, agent.settings.machine).chars().take(HOSTNAME_MAX).collect();
    for name in ["upper", "work", "root"] {
        let folder = places.folder.join(name);
        gantry_linux::tree::remove(&folder)?;
        std::fs::create_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&places.state)?;
    std::fs::create_dir_all(&places.logs)?;
    let (hosts, resolv) = (places.folder.join("hosts"), places.folder.join("resolv.conf"));
    let machine = format!("{} host.internal host.docker.internal", agent.settings.gateway);
    let own = format!("{address} {hostname} {}", names.short);
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n::1 localhost\n{own}\n{machine}\n"))?;
    std::fs::write(&resolv, format!("nameserver {}\n", agent.settings.gateway))?;
    let runtime = &image.config.config;
    let user = user_of(runtime, &image.layers)?;
    let mut binds = vec![
        Bind { source: hosts, target: "/etc/hosts".into(), writable: false },
        Bind { source: resolv, target: "/etc/resolv.conf".into(), writable: false },
    ];
    for (name, target) in &spec.role.volumes {
        let source = agent.settings.data.join("volumes").join(names.app.as_str()).join(name);
        if !source.exists() {
            // Whole or not at all: one that was left to root is of no use to the app. No volume's name begins with a dot.
            let fresh = source.with_file_name(format!(".new-{name}"));
            std::fs::create_dir_all(&fresh)?;
            std::os::unix::fs::chown(&fresh, Some(user.uid), Some(user.gid))?;
            gantry_linux::step!("volume.made");
            std::fs::rename(&fresh, &source)?;
            gantry_linux::step!("volume.named");
        }
        binds.push(Bind { source, target: target.into(), writable: true });
    }
    Ok(Spec {
        state: places.state.clone(),
        cgroup: places.cgroup.clone(),
        root: Root {
            layers: image.layers.clone(),
            upper: places.folder.join("upper"),
            work: places.folder.join("work"),
            mountpoint: places.folder.join("root"),
        },
        hostname,
        args: words(&spec.role.command),
        env: environment(names, spec, runtime),
        cwd: runtime.working_dir.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
        user,
        users: agent.users.of(&names.app, || records::apps(&agent.settings))?,
        limits: Limits {
            memory: spec.role.limits.memory.0,
            milli_cpu: spec.role.limits.cpu.0,
            pids: spec.role.limits.pids,
            disk: file_max(&spec.role),
        },
        network: Some(Network {
            bridge: agent.settings.bridge.clone(),
            link: format!("gt{:08x}", u32::from(address)),
            address,
            prefix: agent.settings.prefix,
            gateway: agent.settings.gateway,
        }),
        binds,
        log: Log { segments: gantry_relay::segments(&places.logs), limit: SEGMENT },
        exit: places.folder.join("exit"),
        init: agent.init.clone(),
    })
}

/// The largest file of a role's, in bytes. A volume's files may be larger than what the rest of the root may take.
pub(crate) fn file_max(role: &Role) -> Option<u64> {
    role.volumes.is_empty().then_some(role.limits.disk.0)
}

/// Image, role, configuration, and then what Gantry itself says.
pub(crate) fn environment(names: &Names, spec: &InstanceSpec, runtime: &Runtime) -> Vec<(String, String)> {
    let mut env: BTreeMap<String, String> =
        BTreeMap::from([("PATH".to_owned(), PATH.to_owned()), ("HOME".to_owned(), "/app".to_owned())]);
    let of_image = runtime.env.iter().flatten().filter_map(|pair| pair.split_once('='));
    env.extend(of_image.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.extend(spec.role.env.clone());
    env.extend(spec.config.clone());
    let port = spec.role.port.unwrap_or(DEFAULT_PORT);
    let own = [
        ("PORT", port.to_string()),
        ("GANTRY_APP", names.app.to_string()),
        ("GANTRY_ROLE", names.role.clone()),
        ("GANTRY_INSTANCE", names.short.clone()),
        ("GANTRY_RELEASE", names.release.clone()),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    env.extend(spec.commit.clone().map(|commit| ("REVISION".to_owned(), commit)));
    // An empty name cannot be set, and an image may hold one.
    env.into_iter().filter(|(name, value)| !name.is_empty() && !value.contains('\0')).collect()
}

/// A plain command line replaces the shell that reads it, so that the application is pid 3 and gets its signals.
fn words(command: &Command) -> Vec<String> {
    match command {
        Command::Argv(words) => words.clone(),
        Command::Shell(line) => {
            let first = line.split_whitespace().next().unwrap_or_default();
            let plain = !line.contains([';', '&', '|', '(', ')', '<', '>', '\n', '`', '{', '}'])
                && !first.contains('=')
                && !["exec", "cd", "export", "set", ".", "source", "if", "for", "while", "case", "!"].contains(&first);
            let line = if plain { format!("exec {line}") } else { line.clone() };
            vec!["/bin/sh".to_owned(), "-c".to_owned(), line]
        }
    }
}

/// `uid`, `uid:gid`, or names of the image's own `/etc/passwd` and `/etc/group`; root if the image says nothing.
pub(crate) fn user_of(runtime: &Runtime, layers: &[PathBuf]) -> io::Result<User> {
    // Docker says nothing with an empty text.
    let text = runtime.user.as_deref().filter(|text| !text.is_empty()).unwrap_or("0");
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let unknown = |what: &str| io::Error::other(format!("the image's user {text:?}: it has no {what}"));
    let users = || file_of(layers, "etc/passwd");
    let (uid, own_gid) = match user.parse::<u32>() {
        Ok(uid) => {
            (uid, users().lines().find_map(|line| entry(line, 2, user)).and_then(|fields| fields[3].parse().ok()))
        }
        Err(_) => {
            let text = users();
            let fields = text.lines().find_map(|line| entry(line, 0, user)).ok_or_else(|| unknown("such user"))?;
            (fields[2].parse().map_err(|_| unknown("such user"))?, fields[3].parse().ok())
        }
    };
    let gid = match group {
        None | Some("") => own_gid.unwrap_or(uid),
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let text = file_of(layers, "etc/group");
                let fields =
                    text.lines().find_map(|line| entry(line, 0, group)).ok_or_else(|| unknown("such group"))?;
                fields[2].parse().map_err(|_| unknown("such group"))?
            }
        },
    };
    // The highest number means "unchanged" to the kernel: an image must not keep root that way.
    if uid == u32::MAX || gid == u32::MAX {
        return Err(unknown("such user"));
    }
    Ok(User { uid, gid })
}

/// The fields of a line of passwd or group whose field `at` is `wanted`.
fn entry<'a>(line: &'a str, at: usize, wanted: &str) -> Option<Vec<&'a str>> {
    let fields: Vec<&str> = line.split(':').collect();
    (fields.len() >= 4 && fields[at] == wanted).then_some(fields)
}

/// A small file of the image's, from the topmost layer that has it; a layer is foreign, so never followed out of it.
fn file_of(layers: &[PathBuf], path: &str) -> String {
    use std::io::Read;
    let open = |layer: &Path| -> Option<OwnedFd> {
        let root = rustix::fs::open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        rooted::open(&root, Path::new(path), OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK).ok()
    };
    let mut text = String::new();
    if let Some(file) = layers.iter().find_map(|layer| open(layer)) {
        let _ = std::fs::File::from(file).take(1 << 20).read_to_string(&mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> String {
        words(&Command::Shell(line.to_owned())).pop().expect("a line")
    }

    /// An image with one layer that has these files.
    fn image(passwd: &str, group: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("etc")).expect("made");
        for (name, text) in [("passwd", passwd), ("group", group)] {
            std::fs::write(folder.path().join("etc").join(name), text).expect("written");
        }
        let layers = vec![folder.path().to_owned()];
        (folder, layers)
    }

    #[test]
    fn an_image_s_user_is_looked_up_in_its_own_files() {
        let (_folder, layers) =
            image("root:x:0:0::/:/bin/sh\nshop:x:1001:1002::/:/bin/sh\nodd:x\n", "staff:x:50:shop\nshop:x:1002:\n");
        let of = |user: &str| {
            let runtime = Runtime { user: Some(user.to_owned()), ..Runtime::default() };
            user_of(&runtime, &layers).map(|user| (user.uid, user.gid)).map_err(|error| error.to_string())
        };
        assert_eq!(user_of(&Runtime::default(), &layers).map(|user| user.uid).ok(), Some(0), "Docker's default");
        for (user, wanted) in [
            ("", (0, 0)),
            ("shop", (1001, 1002)),
            ("shop:staff", (1001, 50)),
            ("shop:7", (1001, 7)),
            ("shop:", (1001, 1002)),
            ("1001", (1001, 1002)),
            ("4000", (4000, 4000)),
            ("4000:staff", (4000, 50)),
        ] {
            assert_eq!(of(user), Ok(wanted), "{user}");
        }
        for user in
            ["nobody", "shop:nobody", "odd", "-1", "4294967296", "x\ny", "../shop", ":", "4294967295", "7:4294967295"]
        {
            let why = of(user).expect_err(user);
            assert!(why.contains("such user") || why.contains("such group"), "{user}: {why}");
        }
    }

    #[test]
    fn a_hostile_passwd_gives_nobody_another_s_number() {
        // Names that are numbers, numbers that are none or mean "unchanged", fields that are missing, and no end of lines.
        let lines =
            "1000:x:0:0::/:/bin/sh\nhigh:x:4294967295:0::/:\nword:x:root:0::/:\nshort:x:0\n\n:::\n\0:x:0:0::/:\n";
        let (folder, layers) = image(&lines.repeat(20_000), "");
        let of = |user: &str| {
            let runtime = Runtime { user: Some(user.to_owned()), ..Runtime::default() };
            user_of(&runtime, &layers).map(|user| (user.uid, user.gid)).ok()
        };
        assert_eq!(of("1000"), Some((1000, 1000)), "a number is a number");
        assert!(["high", "word", "short"].iter().all(|user| of(user).is_none()));
        // A file that is a link to the machine's is not the image's.
        let passwd = folder.path().join("etc/passwd");
        std::fs::remove_file(&passwd).expect("removed");
        std::os::unix::fs::symlink("/etc/passwd", &passwd).expect("a link");
        assert_eq!(of("daemon"), None);
    }

    #[test]
    fn a_plain_command_replaces_its_shell() {
        assert_eq!(shell("unicorn -p $PORT"), "exec unicorn -p $PORT");
        for compound in ["cd x && run", "A=b run", "a; b", "exec run", "a | b"] {
            assert_eq!(shell(compound), compound);
        }
    }
}
