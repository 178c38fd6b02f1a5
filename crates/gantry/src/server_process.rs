//! The server's process below `gantry up`: a system user of its own, without any capability, in a view of the folders that
//! shows the server's own ones.
//!
//! The API's socket comes from `up`, because the server may not bind a port below 1024. The socket is bound and does not
//! listen: a client's connection is refused until the server can serve.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_linux::confinement::{Confinement, UserIds};
use gantry_store::StoreAddress;
use rustix::fs::{Access, access};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::args::Machine;
use crate::coded::{WithCode, require};
use crate::upgrade::Program;
use crate::{server_folder, server_init, server_tokens, server_user};

/// Number of connections that may wait until the server accepts them.
const BACKLOG: i32 = 1024;

/// Poll interval of the server's data folder.
const FOLDER_POLL: Duration = Duration::from_secs(2);

/// Identity of a folder: its file system and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FolderId {
    device: u64,
    inode: u64,
}

/// The user, the folders and the address of the server's process.
#[derive(Debug, Clone)]
pub(crate) struct ServerProcess {
    user: UserIds,
    data: PathBuf,
    /// The server's folders, without links on the way.
    own: [PathBuf; 2],
    /// The folder of a store that is not in the server's data folder.
    store: Option<PathBuf>,
    /// Files that the addresses of the stores name: for TLS, and the password of the jobs' database.
    named: Vec<PathBuf>,
    listen: SocketAddr,
}

impl ServerProcess {
    /// Finds or makes the server's user, and gives the user the server's folders. No server may run.
    pub(crate) fn prepare(machine: &Machine) -> anyhow::Result<Self> {
        let user = server_user::find_or_make(&machine.server_user)?;
        server_folder::take_over(&machine.data, user, machine.store.is_none())?;
        server_folder::take_over(&machine.run, user, false)?;
        let own = |folder: &Path| {
            let real = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
            anyhow::Ok(real.join(server_folder::NAME))
        };
        let store = match &machine.store {
            Some(StoreAddress::File(path)) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                Some(
                    folder
                        .canonicalize()
                        .with_context(|| format!("cannot find the store's folder {}", folder.display()))?,
                )
            }
            _ => None,
        };
        let mut named: Vec<PathBuf> = match &machine.store {
            Some(StoreAddress::Etcd { tls: Some(tls), .. }) => tls.files().map(Path::to_owned).collect(),
            _ => Vec::new(),
        };
        if let Some(jobs) = &machine.job_store {
            named.extend(jobs.password.iter().chain(&jobs.ca).cloned());
        }
        let (data, listen) = (machine.data.clone(), machine.listen);
        let process = Self { user, data, own: [own(&machine.data)?, own(&machine.run)?], store, named, listen };
        process.check_store(machine)?;
        Ok(process)
    }

    /// The settings of this machine with the server's own folders.
    pub(crate) fn settings(&self, machine: &Machine) -> Machine {
        let [data, run] = self.own.clone();
        Machine { data, run, ..machine.clone() }
    }

    /// Confines a command that runs this program.
    pub(crate) fn confine(&self, command: &mut std::process::Command, program: &Program) -> anyhow::Result<()> {
        // Git's hooks run the program by its path, which an update may take away for a moment.
        let program = Some(program.path()).filter(|path| path.exists());
        let confinement = self.confinement(program).context("cannot confine the server")?;
        command.current_dir("/").env("HOME", "/nonexistent").env_remove("TMPDIR");
        confinement.apply(command);
        Ok(())
    }

    /// Hands the tokens over, and opens the socket of the API.
    pub(crate) fn before_start(&self) -> anyhow::Result<TcpListener> {
        server_tokens::hand_over(&self.data, &self.own[0], self.user)?;
        server_init::hand_over(&self.data, &self.own[0], self.user)?;
        bound(self.listen)
            .with_context(|| format!("cannot listen on {}; choose another with --listen", self.listen))
            .with_code(ErrorCode::AddressUnavailable)
    }

    /// The folder that stands in place of the server's data folder now.
    pub(crate) fn folder(&self) -> Option<FolderId> {
        folder_id(&self.own[0])
    }

    /// Waits until another folder than `known` stands in place of the server's data folder: a repaired disk was mounted,
    /// for example. The view of a running server keeps the folder that it was started with.
    pub(crate) async fn other_folder(&self, known: Option<FolderId>) -> FolderId {
        loop {
            tokio::time::sleep(FOLDER_POLL).await;
            let path = self.own[0].clone();
            // A disk that hangs holds no thread of this process but one.
            if let Ok(Some(found)) = tokio::task::spawn_blocking(move || folder_id(&path)).await
                && Some(found) != known
            {
                return found;
            }
        }
    }

    fn confinement(&self, program: Option<&Path>) -> Result<Confinement, gantry_linux::LinuxError> {
        let folders = self.own.iter().chain(&self.store).chain(&self.named).map(PathBuf::as_path);
        Confinement::new(self.user, &folders.chain(program).collect::<Vec<_>>())
    }

    /// Fails unless the user may write a store that is not in the server's data folder, and may read the files that the
    /// addresses name.
    fn check_store(&self, machine: &Machine) -> anyhow::Result<()> {
        for file in &self.named {
            require!(
                file.is_file(),
                StoreUnavailable,
                "there is no file {}, which the address of the store names",
                file.display()
            );
            let may_read = self.confinement(None)?.run(|| access(file.as_path(), Access::READ_OK).is_ok());
            let (user, file) = (&machine.server_user, file.display());
            require!(
                may_read.context("cannot ask")?,
                ServerUserUnusable,
                "the server runs as the user {user}, who may not read {file}: chown {user} {file}, or name another user \
                 with --server-user"
            );
        }
        let (Some(folder), Some(StoreAddress::File(path))) = (&self.store, &machine.store) else { return Ok(()) };
        let file = folder.join(path.file_name().unwrap_or_default());
        let may = |path: &Path, rights: Access| !path.exists() || access(path, rights).is_ok();
        let all = Access::READ_OK | Access::WRITE_OK;
        let may_write = self
            .confinement(None)?
            .run(|| may(folder, all | Access::EXEC_OK) && may(&file, all))
            .context("cannot ask")?;
        let (user, folder, file) = (&machine.server_user, folder.display(), file.display());
        require!(
            may_write,
            ServerUserUnusable,
            "the server runs as the user {user}, who may not write the store {file}: \
             chown {user} {folder} {file}*, or name another user with --server-user"
        );
        Ok(())
    }
}

fn folder_id(path: &Path) -> Option<FolderId> {
    let about = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_dir)?;
    Some(FolderId { device: about.dev(), inode: about.ino() })
}

/// A socket that is bound to an address, and does not listen yet.
fn bound(address: SocketAddr) -> std::io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    Ok(socket.into())
}

/// Lets the socket of [`ServerProcess::before_start`] listen, or opens one for a server that was started by hand.
pub(crate) fn listen(given: Option<TcpListener>, address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = given.map_or_else(|| bound(address), Ok)?;
    rustix::net::listen(&socket, BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn another_folder_in_place_of_the_server_s_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join("server");
        std::fs::create_dir(&own).expect("made");
        let server = ServerProcess {
            user: UserIds::ROOT,
            data: folder.path().to_owned(),
            own: [own.clone(), own.clone()],
            store: None,
            named: Vec::new(),
            listen: "127.0.0.1:0".parse().expect("an address"),
        };
        let known = server.folder();
        assert!(known.is_some());
        std::fs::rename(&own, folder.path().join("old")).expect("renamed");
        assert_eq!(server.folder(), None);
        std::fs::create_dir(&own).expect("made");
        assert_eq!(Some(server.other_folder(known).await), server.folder());
    }

    #[test]
    fn a_bound_socket_refuses_until_the_server_listens() {
        let socket = bound("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let address = socket.local_addr().expect("an address");
        assert!(TcpStream::connect(address).is_err());
        let socket = listen(Some(socket), address).expect("listens");
        TcpStream::connect(address).expect("connects");
        assert!(bound(address).is_err(), "the port is taken");
        drop(socket);
        let again = listen(None, address).expect("listens again at once");
        assert_eq!(again.local_addr().expect("an address"), address);
    }
}
