//! The users and groups of an image, from the image's own `/etc/passwd` and `/etc/group`.

use std::io;
use std::path::{Path, PathBuf};

use gantry_linux::process::USERS;

use crate::merged::read_text;

/// The user and groups of a container's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Home folder; `/` if the image has no entry for the user.
    pub home: String,
}

/// Reasons why an image's user is refused. `user` is the text in the image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The user is unknown or invalid.
    #[error(
        "the image sets the user {user:?} and has no such user; add the user to /etc/passwd of the image, or set a number"
    )]
    NoUser {
        /// User text of the image.
        user: String,
    },
    /// The group is unknown or invalid.
    #[error(
        "the image sets the user {user:?} and has no such group; add the group to /etc/group of the image, or set a number"
    )]
    NoGroup {
        /// User text of the image.
        user: String,
    },
    /// The user or group id is beyond the ids of a container.
    #[error(
        "the image's user {user:?}: number {number} is beyond the 65,536 that a container has (0 to 65535); \
         build the image with a smaller one"
    )]
    Beyond {
        /// User text of the image.
        user: String,
        /// The user or group id.
        number: u32,
    },
}

/// The contents of the image's two account files. A missing file counts as an empty file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

impl Accounts {
    /// Reads the account files of an image from its unpacked layers, listed from the top down. Links are resolved
    /// inside the image.
    #[must_use]
    pub fn read(layers: &[PathBuf]) -> Self {
        let text = |path: &str| read_text(layers, Path::new(path)).unwrap_or_default();
        Self { passwd: text("/etc/passwd"), group: text("/etc/group") }
    }

    /// Looks up `uid`, `uid:gid`, or the names of user and group; an empty text means root.
    ///
    /// As in Docker, an unknown user id gets the group 0 and the home `/`. Supplementary groups apply only if the text
    /// names no group.
    ///
    /// # Errors
    /// [`AccountError`] when a name is unknown, or an id is beyond the ids of a container.
    pub fn find(&self, user: &str) -> Result<Account, AccountError> {
        let text = if user.is_empty() { "0" } else { user };
        let (name, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let group = group.filter(|group| !group.is_empty());
        let no_user = || AccountError::NoUser { user: user.to_owned() };
        let no_group = || AccountError::NoGroup { user: user.to_owned() };
        let (uid, line) = match name.parse::<u32>() {
            // A number always means an id, even if a user has this number as a name.
            Ok(uid) => (uid, line(&self.passwd, 2, name)),
            Err(_) => {
                let fields = line(&self.passwd, 0, name).ok_or_else(no_user)?;
                (fields[2].parse().map_err(|_| no_user())?, Some(fields))
            }
        };
        // The kernel reads the highest number as "unchanged". An image must not keep root that way.
        let within = |number: u32, none: AccountError| match number {
            u32::MAX => Err(none),
            USERS.. => Err(AccountError::Beyond { user: user.to_owned(), number }),
            _ => Ok(()),
        };
        within(uid, no_user())?;
        let gid = match group {
            None => line.as_ref().and_then(|fields| fields[3].parse().ok()).unwrap_or(0),
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => {
                    let fields = self::line(&self.group, 0, group).ok_or_else(no_group)?;
                    fields[2].parse().map_err(|_| no_group())?
                }
            },
        };
        let groups = match (group, &line) {
            (None, Some(fields)) => self.groups_of(fields[0], gid),
            _ => Vec::new(),
        };
        within(gid, no_group())?;
        let home = line.and_then(|fields| fields.get(5).copied()).filter(|home| home.starts_with('/')).unwrap_or("/");
        Ok(Account { uid, gid, groups, home: home.to_owned() })
    }

    /// Returns the ids of the groups with the user as a member, except the user's own group.
    fn groups_of(&self, user: &str, own: u32) -> Vec<u32> {
        let lines = self.group.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let member =
            lines.filter(|fields| fields.len() >= 4 && fields[3].split(',').any(|member| member.trim() == user));
        let numbers = member.filter_map(|fields| fields[2].parse().ok());
        let mut groups: Vec<u32> = numbers.filter(|gid| *gid != own && *gid < USERS).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.truncate(GROUPS_MAX);
        groups
    }

    /// Writes both files into `folder`, as `passwd` and `group`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<[PathBuf; 2]> {
        let paths = ["passwd", "group"].map(|name| folder.join(name));
        std::fs::write(&paths[0], &self.passwd)?;
        std::fs::write(&paths[1], &self.group)?;
        Ok(paths)
    }

    /// Returns the files with added lines for this user and group id, or none if both files have the id already.
    /// Programs that look up their own user then find a name.
    #[must_use]
    pub fn with(&self, number: u32, name: &str, home: &str) -> Option<Self> {
        let text = number.to_string();
        let has = [line(&self.passwd, 2, &text).is_some(), line(&self.group, 2, &text).is_some()];
        if has == [true, true] {
            return None;
        }
        // A name that belongs to another id would become ambiguous.
        let free = |file: &str| {
            let taken = line(file, 0, name).is_some();
            if taken { format!("{name}-{number}") } else { name.to_owned() }
        };
        let mut with = self.clone();
        if !has[0] {
            add(&mut with.passwd, &format!("{}:x:{number}:{number}::{home}:/bin/sh", free(&self.passwd)));
        }
        if !has[1] {
            add(&mut with.group, &format!("{}:x:{number}:", free(&self.group)));
        }
        Some(with)
    }
}

/// Limit on the supplementary groups of a user; the kernel accepts 65,536.
const GROUPS_MAX: usize = 1024;

fn add(file: &mut String, line: &str) {
    if !file.is_empty() && !file.ends_with('\n') {
        file.push('\n');
    }
    file.push_str(line);
    file.push('\n');
}

/// Returns the fields of the first line of passwd or group whose field `at` equals `value`.
fn line<'a>(file: &'a str, at: usize, value: &str) -> Option<Vec<&'a str>> {
    file.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 4 && fields[at] == value).then_some(fields)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nshop:x:1001:1002::/home/shop:/bin/sh\nodd:x\nbare:x:7:7\n\
                     far:x:100000:100000::/home/far:/bin/sh\nrelative:x:8:8::home:/bin/sh\n"
                .to_owned(),
            group:
                "root:x:0:root\nadm:x:4:shop,root\nstaff:x:50: shop\nshop:x:1002:shop\nfar:x:1000680000:shop\nodd:x\n"
                    .to_owned(),
        }
    }

    #[test]
    fn resolves_users_as_docker_does() {
        for (user, expected, groups, home) in [
            ("", (0, 0), &[4][..], "/root"),
            ("0", (0, 0), &[4], "/root"),
            ("root", (0, 0), &[4], "/root"),
            ("shop", (1001, 1002), &[4, 50], "/home/shop"),
            ("shop:", (1001, 1002), &[4, 50], "/home/shop"),
            ("1001", (1001, 1002), &[4, 50], "/home/shop"),
            ("shop:staff", (1001, 50), &[], "/home/shop"),
            ("1001:7", (1001, 7), &[], "/home/shop"),
            ("4000", (4000, 0), &[], "/"),
            ("4000:staff", (4000, 50), &[], "/"),
            ("65535:65535", (65_535, 65_535), &[], "/"),
            ("bare", (7, 7), &[], "/"),
            ("relative", (8, 8), &[], "/"),
        ] {
            let found = accounts().find(user).expect(user);
            assert_eq!((found.uid, found.gid), expected, "{user}");
            assert_eq!((found.groups.as_slice(), found.home.as_str()), (groups, home), "{user}");
        }
        let nothing = Accounts::default().find("").expect("root");
        assert_eq!((nothing.uid, nothing.gid, nothing.home.as_str()), (0, 0, "/"), "a lone binary's");
    }

    #[test]
    fn an_unknown_user_is_refused() {
        for user in
            ["nobody", "shop:nobody", "odd", "-1", "4294967296", "x\ny", "../shop", ":", "7:4294967295", "shop:odd"]
        {
            let why = accounts().find(user).expect_err(user).to_string();
            assert!(why.contains("such user") || why.contains("such group"), "{user}: {why}");
        }
        assert_eq!(accounts().find("4294967295"), Err(AccountError::NoUser { user: "4294967295".to_owned() }));
    }

    #[test]
    fn a_number_beyond_a_container_s_is_refused_by_name() {
        for (user, number) in [
            ("100000", 100_000),
            ("far", 100_000),
            ("1000680000", 1_000_680_000),
            ("100000:nobody", 100_000),
            ("1000:65536", 65_536),
            ("1000:far", 1_000_680_000),
        ] {
            let why = accounts().find(user).expect_err(user);
            assert_eq!(why, AccountError::Beyond { user: user.to_owned(), number });
            assert!(why.to_string().contains("beyond the 65,536"), "{why}");
        }
    }

    #[test]
    fn a_hostile_passwd_gives_no_user_the_id_of_another() {
        // The lines have numeric names, invalid ids, ids that mean "unchanged", missing fields, and are very many.
        let lines =
            "1000:x:0:0::/:/bin/sh\nhigh:x:4294967295:0::/:\nword:x:root:0::/:\nshort:x:0\n\n:::\n\0:x:0:0::/:\n";
        let accounts = Accounts { passwd: lines.repeat(5000), group: String::new() };
        assert_eq!(accounts.find("1000").map(|found| (found.uid, found.gid)), Ok((1000, 0)), "a number is a number");
        assert!(["high", "word", "short"].iter().all(|user| accounts.find(user).is_err()));
    }

    #[test]
    fn a_line_is_added_where_there_is_none() {
        let with = accounts().with(1000, "app", "/app").expect("changed");
        let found = with.find("app").expect("there");
        assert_eq!((found.uid, found.gid, found.home.as_str()), (1000, 1000, "/app"));
        assert_eq!(with.find("shop:app").map(|found| found.gid), Ok(1000));
        assert_eq!(with.with(1000, "app", "/app"), None, "once");

        // A file without a final line end, a taken name, and an id that only one file lacks.
        let some = Accounts { passwd: "app:x:7:7::/:/bin/sh".to_owned(), group: "node:x:1000:\n".to_owned() };
        let with = some.with(1000, "app", "/app").expect("changed");
        assert_eq!(with.passwd, "app:x:7:7::/:/bin/sh\napp-1000:x:1000:1000::/app:/bin/sh\n");
        assert_eq!(with.group, "node:x:1000:\n");
        assert_eq!(Accounts::default().with(1000, "app", "/app").expect("changed").group, "app:x:1000:\n");
    }
}
