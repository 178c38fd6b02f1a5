//! The first tokens, as files: people and the other services use those in the data folder, and the server has copies in its
//! own folder. A token that is missing is made here, before the server starts.
//!
//! The server takes a secret in `new-NAME` for a new one, which replaces an earlier token of the same name. The copy comes
//! first, so that a kill in between only makes another secret.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_ledger::Replacement;
use gantry_linux::confinement::UserIds;
use gantry_server::{TOKEN_FILES, new_secret, new_token_file};
use rustix::fs::OFlags;

use crate::coded::WithCode;
use crate::server_folder;

/// Maximum size of a token's file.
const SIZE_MAX: u64 = 4096;

/// Removes the tokens of an earlier cloud from the data folder of a machine that joins a cluster. No server knows them. The
/// next `gantry up` of a machine with a server makes new ones.
pub(crate) fn forget(data: &Path) -> anyhow::Result<()> {
    let server = data.join(server_folder::NAME);
    let files = TOKEN_FILES.map(|name| [server.join(name), new_token_file(&server.join(name)), data.join(name)]);
    // The last is the one that the others are made from.
    for path in files.iter().flatten() {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot remove the token of an earlier cloud {}", path.display()))
                    .with_code(ErrorCode::FileUnwritable);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ensures that the server's folder has the tokens of the data folder.
pub(crate) fn hand_over(data: &Path, server: &Path, user: UserIds) -> anyhow::Result<()> {
    TOKEN_FILES.into_iter().try_for_each(|name| {
        let written = hand_over_one(&data.join(name), &server.join(name), user);
        written
            .with_context(|| format!("cannot hand the token {name} to the server"))
            .with_code(ErrorCode::FileUnwritable)
    })
}

fn hand_over_one(own: &Path, copy: &Path, user: UserIds) -> std::io::Result<()> {
    let fresh = new_token_file(copy);
    let give = |path: &Path, secret: &str| {
        Replacement::of(path).mode(0o600).owner(user.uid, user.gid).write(format!("{secret}\n").as_bytes())
    };
    match read(own)? {
        Some(secret) if read(copy)?.as_ref() == Some(&secret) || read(&fresh)?.as_ref() == Some(&secret) => Ok(()),
        Some(secret) => {
            match std::fs::remove_file(&fresh) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            give(copy, &secret)
        }
        None => {
            let secret = new_secret();
            give(&fresh, &secret)?;
            Replacement::of(own).mode(0o600).write(format!("{secret}\n").as_bytes())
        }
    }
}

/// The secret in a file; `None` if there is no file, or no secret in it. The server may put anything in place of its
/// copies, so no link is followed, and a pipe blocks nothing.
fn read(path: &Path) -> std::io::Result<Option<String>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // A link.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.take(SIZE_MAX).read_to_end(&mut bytes)?;
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok((!text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const USER: UserIds = UserIds { uid: 54_322, gid: 54_323 };

    fn folders() -> (tempfile::TempDir, std::path::PathBuf) {
        let data = tempfile::tempdir().expect("a folder");
        let server = data.path().join("server");
        std::fs::create_dir(&server).expect("made");
        (data, server)
    }

    #[test]
    fn a_missing_token_is_made_and_offered_as_new() {
        let (data, server) = folders();
        for _ in 0..2 {
            hand_over(data.path(), &server, USER).expect("handed over");
            for name in TOKEN_FILES {
                let own = std::fs::read_to_string(data.path().join(name)).expect("made");
                let offered = server.join(format!("new-{name}"));
                assert_eq!(std::fs::read_to_string(&offered).expect("offered"), own);
                assert!(own.starts_with("gantry_") && !server.join(name).exists());
                let about = std::fs::metadata(data.path().join(name)).expect("there");
                assert_eq!((about.uid(), about.mode() & 0o777), (0, 0o600));
                let about = std::fs::metadata(offered).expect("there");
                assert_eq!((about.uid(), about.gid(), about.mode() & 0o777), (USER.uid, USER.gid, 0o600));
            }
        }
    }

    #[test]
    fn a_known_token_replaces_the_copy_of_another() {
        let (data, server) = folders();
        std::fs::write(data.path().join("admin-token"), "gantry_restored\n").expect("written");
        for name in ["admin-token", "new-admin-token"] {
            std::fs::write(server.join(name), "gantry_other\n").expect("written");
        }
        hand_over(data.path(), &server, USER).expect("handed over");
        assert_eq!(std::fs::read_to_string(server.join("admin-token")).expect("there"), "gantry_restored\n");
        assert!(!server.join("new-admin-token").exists(), "another secret is offered as new");
    }

    #[test]
    fn a_machine_that_joins_forgets_the_tokens_of_its_own_cloud() {
        let (data, server) = folders();
        hand_over(data.path(), &server, USER).expect("handed over");
        let before = std::fs::read_to_string(data.path().join("admin-token")).expect("made");
        std::fs::write(server.join("admin-token"), &before).expect("written");
        for _ in 0..2 {
            forget(data.path()).expect("removed");
            let left = |folder: &Path| std::fs::read_dir(folder).expect("a folder").flatten().count();
            assert_eq!((left(data.path()), left(&server)), (1, 0));
        }
        hand_over(data.path(), &server, USER).expect("handed over");
        let offered = std::fs::read_to_string(server.join("new-admin-token")).expect("offered as new");
        assert_ne!(offered, before);
    }

    #[test]
    fn links_of_the_server_lead_nowhere() {
        let (data, server) = folders();
        let outside = data.path().join("outside");
        std::fs::write(&outside, "kept").expect("written");
        std::fs::write(data.path().join("admin-token"), "gantry_known\n").expect("written");
        for name in ["admin-token", "admin-token.new", "new-machine-token", "machine-token"] {
            std::os::unix::fs::symlink(&outside, server.join(name)).expect("linked");
        }
        hand_over(data.path(), &server, USER).expect("handed over");
        assert_eq!(std::fs::read_to_string(server.join("admin-token")).expect("there"), "gantry_known\n");
        let about = std::fs::metadata(&outside).expect("there");
        assert_eq!((std::fs::read_to_string(&outside).expect("there").as_str(), about.uid()), ("kept", 0));
        assert_ne!(read(&data.path().join("machine-token")).expect("read"), None);
    }
}
