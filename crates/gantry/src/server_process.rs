//! The server's process below `gantry up`: a system user of its own, without any capability, in a view of the folders that
//! shows the server's own ones.
//!
//! The API's socket comes from `up`, because the server may not bind a port below 1024. The socket is bound and does not
//! listen: a client's connection is refused until the server can serve.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_linux::confinement::{Confinement, UserIds};
use gantry_store::StoreAddress;
use rustix::fs::{Access, access};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::args::Machine;
use crate::coded::{WithCode, require};
use crate::upgrade::Program;
use crate::{server_folder, server_tokens, server_user};

/// Number of connections that may wait until the server accepts them.
const BACKLOG: i32 = 1024;

/// The user, the folders and the address of the server's process.
#[derive(Debug, Clone)]
pub(crate) struct ServerProcess {
    user: UserIds,
    data: PathBuf,
    /// The server's folders, without links on the way.
    own: [PathBuf; 2],
    /// The folder of a store that is not in the server's data folder.
    store: Option<PathBuf>,
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
        let (data, listen) = (machine.data.clone(), machine.listen);
        let process = Self { user, data, own: [own(&machine.data)?, own(&machine.run)?], store, listen };
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
        bound(self.listen)
            .with_context(|| format!("cannot listen on {}; choose another with --listen", self.listen))
            .with_code(ErrorCode::AddressUnavailable)
    }

    fn confinement(&self, program: Option<&Path>) -> Result<Confinement, gantry_linux::LinuxError> {
        let folders = self.own.iter().chain(&self.store).map(PathBuf::as_path);
        Confinement::new(self.user, &folders.chain(program).collect::<Vec<_>>())
    }

    /// Fails unless the user may write a store that is not in the server's data folder.
    fn check_store(&self, machine: &Machine) -> anyhow::Result<()> {
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
