//! Images that Gantry did not build: their port, and the data that they expect to persist.

use std::collections::{BTreeMap, BTreeSet};

use gantry_image::Runtime;
use gantry_model::role::DEFAULT_PORT;
use gantry_model::{AppName, ImageSettings, Role, RoleName};

use crate::recipe::LABEL;
use crate::roles::check_volume;

/// Usual ports of web servers. An image that exposes such a port exposes any others for other purposes.
const WEB_PORTS: [u16; 2] = [80, 8080];

/// Maximum number of paths that a deploy prints. A longer list would not help the reader.
const PATHS_SHOWN: usize = 20;

/// Returns whether an image carries no recipe, and thus no roles.
#[must_use]
pub fn is_foreign(runtime: &Runtime) -> bool {
    runtime.labels.as_ref().is_none_or(|labels| !labels.contains_key(LABEL))
}

/// Port of an image, and the origin of the port.
///
/// In order of precedence: the deploy's setting, `ENV PORT`, an exposed TCP port 80 or 8080, the lowest exposed TCP
/// port, the default port.
pub(crate) fn port(runtime: &Runtime, set: Option<u16>) -> (u16, String) {
    if let Some(port) = set {
        return (port, "as `--port` of `gantry deploy` said".to_owned());
    }
    let mut told = runtime.env.iter().flatten().filter_map(|pair| pair.strip_prefix("PORT=")?.trim().parse().ok());
    if let Some(port) = told.rfind(|port| *port > 0) {
        return (port, "the image's ENV PORT".to_owned());
    }
    let exposed: Vec<(u16, u16)> =
        runtime.exposed_ports.iter().flatten().filter_map(|(text, _)| exposed(text)).collect();
    let has = |port: &&u16| exposed.iter().any(|(first, last)| (*first..=*last).contains(*port));
    let lowest = exposed.iter().map(|(first, _)| *first).min();
    let Some(port) = WEB_PORTS.iter().find(has).copied().or(lowest) else {
        return (DEFAULT_PORT, "for the image exposes none".to_owned());
    };
    let several = exposed.len() > 1 || exposed.iter().any(|(first, last)| first < last);
    let origin = if several {
        "of those that it exposes (`--port PORT` of `gantry deploy` names another)"
    } else {
        "which it exposes"
    };
    (port, origin.to_owned())
}

/// Parses the first and last port of `80`, `80/tcp`, `8000-8010` and the like; `None` for other protocols.
fn exposed(text: &str) -> Option<(u16, u16)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !protocol.eq_ignore_ascii_case("tcp") {
        return None;
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (last > 0 && first <= last).then_some((first.max(1), last))
}

/// Notes on the `VOLUME` paths of an image at which no role mounts a volume: data there does not persist.
///
/// `reference` is the deployed reference of a foreign image; `None` for an image that Gantry built.
#[must_use]
pub fn lost(
    runtime: &Runtime,
    roles: &BTreeMap<RoleName, Role>,
    app: &AppName,
    reference: Option<&str>,
) -> Vec<String> {
    let volumes = || roles.values().flat_map(|role| &role.volumes);
    let kept = |path: &str| volumes().any(|(_, mounted)| is_at_or_below(path, &plain(mounted)));
    let paths: BTreeSet<String> = runtime.volumes.iter().flatten().map(|(path, _)| plain(path)).collect();
    let mut names: BTreeSet<String> = volumes().map(|(name, _)| name.clone()).collect();
    let (mut notes, mut settings) = (Vec::new(), ImageSettings::default());
    for path in paths.iter().filter(|path| !kept(path)).take(PATHS_SHOWN) {
        let shown: String = path.chars().take(200).flat_map(char::escape_debug).collect();
        notes.push(format!("VOLUME {shown} of the image does not last: files there are removed with each instance"));
        let name = name_of(path, &names);
        if check_volume(&name, path).is_ok() && *path == shown {
            names.insert(name.clone());
            settings.volumes.insert(name, path.clone());
        }
    }
    let remedy = match reference {
        Some(reference) => {
            let flags: String =
                settings.volumes.iter().map(|(name, path)| format!(" --volume {name}:{path}")).collect();
            format!(
                "Keep it with `gantry deploy {app} --image {reference}{flags}`: web has one copy then, replaced stop-first"
            )
        }
        None => {
            let pairs: Vec<String> = settings.volumes.iter().map(|(name, path)| format!("{name}: '{path}'")).collect();
            format!(
                "Keep it with `volumes: {{ {} }}` of a role in container/roles.json: it has one copy then",
                pairs.join(", ")
            )
        }
    };
    notes.extend((!settings.volumes.is_empty()).then_some(remedy));
    notes
}

/// Normalizes a path as the kernel resolves the path: a single slash before each name.
fn plain(path: &str) -> String {
    let names = path.split('/').filter(|name| !name.is_empty() && *name != ".");
    names.fold(String::new(), |path, name| format!("{path}/{name}"))
}

fn is_at_or_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Makes a volume name from the end of a path, different from all names in `taken`.
fn name_of(path: &str, taken: &BTreeSet<String>) -> String {
    let last = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let clean: String = last.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(30).collect();
    let clean = clean.trim_matches('-');
    let name =
        if clean.starts_with(|c: char| c.is_ascii_lowercase()) { clean.to_owned() } else { format!("data-{clean}") };
    let name = name.trim_end_matches('-').to_owned();
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use gantry_model::RoleCommand;

    use super::*;

    fn image(env: &[&str], exposed: &[&str], volumes: &[&str]) -> Runtime {
        let keys = |keys: &[&str]| Some(keys.iter().map(|key| ((*key).to_owned(), serde_json::json!({}))).collect());
        Runtime {
            env: Some(env.iter().map(|pair| (*pair).to_owned()).collect()),
            exposed_ports: keys(exposed),
            volumes: keys(volumes),
            ..Runtime::default()
        }
    }

    #[test]
    fn the_port_of_an_image_is_the_one_that_people_expect() {
        for (set, env, exposed, expected) in [
            (None, &[][..], &["80/tcp", "443/tcp"][..], 80),
            (None, &[], &["80/tcp", "443/tcp", "2019/tcp"], 80),
            (None, &[], &["443/tcp", "8080/tcp", "2019/tcp"], 8080),
            (None, &[], &["80", "8080"], 80),
            (None, &[], &["9000/tcp", "3000/tcp"], 3000),
            (None, &[], &["443/tcp", "9/tcp"], 9),
            (None, &["PORT=5000"], &["80/tcp"], 5000),
            (None, &["PORT="], &["81/tcp"], 81),
            (None, &["PORT=0"], &["81/tcp"], 81),
            (None, &["PORT=http"], &["81/tcp"], 81),
            (None, &["SUPPORT=1", "PORT=1", "PORT=2"], &[], 2),
            (Some(7), &["PORT=5000"], &["80/tcp"], 7),
            (None, &[], &["0/tcp"], DEFAULT_PORT),
            (None, &[], &["53/udp", "5353/tcp"], 5353),
            (None, &[], &["80/udp"], DEFAULT_PORT),
            (None, &[], &["80/sctp", "81/TCP"], 81),
            (None, &[], &["8000-8100/tcp"], 8080),
            (None, &[], &["9000-9010/tcp", "9500/tcp"], 9000),
            (None, &[], &["9010-9000/tcp", "70000/tcp", "x", "-", ""], DEFAULT_PORT),
            (None, &[], &[], DEFAULT_PORT),
        ] {
            let (port, origin) = port(&image(env, exposed, &[]), set);
            assert_eq!(port, expected, "{set:?} {env:?} {exposed:?}: {origin}");
        }
    }

    #[test]
    fn volumes_that_do_not_last_are_named_with_the_remedy() {
        let app = AppName::parse("shop").expect("a name");
        let web = RoleName::parse("web").expect("a name");
        let roles = |volumes: &[(&str, &str)]| {
            let mut role = Role::new(RoleCommand::Argv(vec!["x".to_owned()]));
            role.volumes = volumes.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
            BTreeMap::from([(web.clone(), role)])
        };
        let told = |paths: &[&str], volumes: &[(&str, &str)]| {
            lost(&image(&[], &[], paths), &roles(volumes), &app, Some("shop:1"))
        };
        assert_eq!(
            told(&["/data"], &[]),
            [
                "VOLUME /data of the image does not last: files there are removed with each instance",
                "Keep it with `gantry deploy shop --image shop:1 --volume data:/data`: web has one copy then, replaced stop-first",
            ]
        );
        for (paths, volumes, flags) in [
            (&["/a/data", "/b/data"][..], &[][..], " --volume data:/a/data --volume data-2:/b/data`"),
            (&["/data", "/etc/Conf.d/"], &[("data", "/data")], "shop:1 --volume conf-d:/etc/Conf.d`"),
            (&["/data", "/srv/data"], &[("data", "/data")], "shop:1 --volume data-2:/srv/data`"),
            (&["/var/lib/9p"], &[], " --volume data-9p:/var/lib/9p`"),
            (&["/data", "data/", "/./data"], &[], "shop:1 --volume data:/data`"),
        ] {
            let notes = told(paths, volumes);
            assert!(notes.last().is_some_and(|note| note.contains(flags)), "{notes:?}");
        }
        for kept in ["/data", "/data/", "/"] {
            assert!(told(&["/data", "//data/"], &[("x", kept)]).is_empty(), "{kept}");
        }
        assert!(!told(&["/data"], &[("x", "/dat")]).is_empty() && told(&[], &[]).is_empty());
        // No volume can be mounted at these paths: the note names the path and suggests no remedy.
        for odd in ["/proc/x", "/", "/a/../b", "/a\u{1b}[31m"] {
            let notes = told(&[odd], &[]);
            assert!(notes.len() == 1 && !notes[0].contains('\u{1b}'), "{odd}: {notes:?}");
        }
        let built = lost(&image(&[], &[], &["/data"]), &roles(&[]), &app, None);
        assert!(built[1].contains("`volumes: { data: '/data' }` of a role in container/roles.json"), "{built:?}");
    }
}
