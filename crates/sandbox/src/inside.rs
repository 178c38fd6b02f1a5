//! The child's side of a launch: turns a new fork into the container, up to the exec of `gantry-init`. The first half
//! runs while the worker makes the control group and the network link, or while a seed names the groups that it made
//! ahead.

use std::ffi::CString;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use gantry_linux::cgroup::Cgroup;
use gantry_linux::link;
use gantry_linux::process::{enter_users, run_from, unshare};
use gantry_linux::{LinuxError, WithAction, mounts, rooted};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, mknodat, symlinkat};
use rustix::mount::{MountAttrFlags, MountFlags, UnmountFlags, unmount};
use rustix::process::{Signal, fchdir, pivot_root, umask};
use rustix::thread::UnshareFlags;

use crate::init_program::InitProgram;
use crate::spec::{BindMount, ContainerNetwork, ContainerSpec, ProcessUser};
use crate::{cgroupfs, posture};

/// Devices that every container has: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links in `/dev` that every container has: target, name.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Bytes that Gantry's own lines may add to a log beyond its limit, with a margin (see `gantry-relay`).
const OWN_LINES: u64 = 128 << 10;

/// Group id of terminals, in Debian and other distributions.
const TTY: u32 = 5;

/// Mount flags of information file systems: no setuid, no devices, no execution.
pub(crate) const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// The two pipes between the worker and its child.
pub(crate) struct Handshake {
    /// The child writes a byte here once its namespaces exist.
    pub(crate) ready: PipeWriter,
    /// The child reads a byte here before it continues. An end of file without a byte means that the worker gave up.
    pub(crate) go: PipeReader,
}

/// Users, init and network that a container's process inherits from its parent.
pub(crate) struct Inheritance {
    /// The namespace of the container's users.
    pub(crate) users: Option<OwnedFd>,
    /// The init that the launcher opened.
    pub(crate) init: Option<InitProgram>,
    /// True if the parent's network is the container's, complete with its link and its addresses.
    pub(crate) network: bool,
}

/// Turns this process into the container. Returns only after a failure, and without an error if the worker gave up.
pub(crate) fn become_container(
    spec: &ContainerSpec,
    inheritance: Inheritance,
    handshake: Handshake,
) -> Option<LinuxError> {
    let Inheritance { users, init, network } = inheritance;
    let Handshake { ready, mut go } = handshake;
    // This process ends with its worker. Its lock and mounts end too, so the next launch finds neither.
    end_with_parent(Some(Signal::KILL));
    if is_closed(&go) {
        return None;
    }
    let (program, root) = match furnish(spec, users.as_ref(), init, network, ready) {
        Ok(furnished) => furnished,
        Err(error) => return Some(error),
    };
    // The closed pipe tells the worker's end from here on. A released container no longer depends on the worker.
    end_with_parent(None);
    go.read_exact(&mut [0]).ok()?;
    drop(go);
    match enter(spec, users, root, network) {
        Ok(()) => Some(program.run()),
        Err(error) => Some(error),
    }
}

fn end_with_parent(signal: Option<Signal>) {
    let _ = rustix::process::set_parent_process_death_signal(signal);
}

/// Reports whether the other end of a pipe is closed.
fn is_closed(pipe: &PipeReader) -> bool {
    let mut polled = [PollFd::new(pipe, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

/// Makes all that needs neither the control group nor the network link, while the worker makes those.
fn furnish(
    spec: &ContainerSpec,
    users: Option<&OwnedFd>,
    init: Option<InitProgram>,
    has_network: bool,
    mut ready: PipeWriter,
) -> Result<(InitCommand, ContainerRoot), LinuxError> {
    let apart = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    match has_network {
        true => unshare(apart)?,
        false => unshare(apart | UnshareFlags::NEWNET).and_then(|()| open_ports())?,
    }
    gantry_failpoint::failpoint!("inside.apart");
    ready.write_all(b"r").with_action(|| "notify the launcher".to_owned())?;
    let program = InitCommand::of(spec, init)?;
    gantry_failpoint::failpoint!("inside.opened");
    Ok((program, build_root(spec, users)?))
}

/// Allows in this process's network namespace what needs no right there.
pub(crate) fn open_ports() -> Result<(), LinuxError> {
    // Each container has its own ports, so any user inside may use the ports below 1024.
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
        .with_action(|| "allow ports below 1024".to_owned())?;
    // Any group may send ICMP echo requests without a raw socket. The kernel counts these group ids in the machine's
    // numbers.
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").with_action(|| "allow ping".to_owned())
}

/// Enters the root that [`furnish`] built, and gives up all rights that init does not need.
fn enter(
    spec: &ContainerSpec,
    users: Option<OwnedFd>,
    mut root: ContainerRoot,
    has_network: bool,
) -> Result<(), LinuxError> {
    // This process is in its control group now. That group becomes the root of the new cgroup namespace.
    unshare(UnshareFlags::NEWCGROUP)?;
    if !has_network {
        link::configure(spec.network.as_ref().map(ContainerNetwork::inside))?;
        gantry_failpoint::failpoint!("inside.connected");
    }
    cgroupfs::mount(&root.folder, &Cgroup::named(&spec.cgroup), &mut root.mounted)?;
    pivot(&root.folder)?;
    drop(root);
    rustix::system::sethostname(spec.hostname.as_bytes())
        .with_action(|| format!("set the host name {}", spec.hostname))?;
    posture::cover_paths()?;
    // Init writes the log under the same file-size limit, after Gantry's own lines.
    posture::limit_resources(spec.limits.disk.map(|disk| disk.max(spec.log.limit + OWN_LINES)))?;
    umask(Mode::from_raw_mode(0o022));
    rustix::process::setsid().with_action(|| "start a session".to_owned())?;
    rustix::thread::set_thread_groups(&[]).with_action(|| "clear the supplementary groups".to_owned())?;
    // The steps below need no capability of the host.
    if let Some(users) = &users {
        enter_users(users)?;
    }
    make_working_folder(&spec.cwd, spec.user)?;
    posture::drop_rights(spec.user.uid)?;
    posture::filter_system_calls()
}

/// The program of pid 1, its command line and its three descriptors, all opened while the host's paths are reachable.
/// The program runs by its descriptor: the container's root folder does not contain it.
struct InitCommand {
    program: OwnedFd,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    record: File,
    log: [File; 2],
}

impl InitCommand {
    fn of(spec: &ContainerSpec, init: Option<InitProgram>) -> Result<Self, LinuxError> {
        let open = |path: &Path| {
            File::options()
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
                .open(path)
                .with_action(|| format!("open {}", path.display()))
        };
        let text = |text: &[u8]| CString::new(text).with_action(|| "describe the application to init".to_owned());
        let groups = spec.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let switch = |on: bool| u8::from(on).to_string();
        let own = [
            "gantry-init".to_owned(),
            "init".to_owned(),
            spec.user.uid.to_string(),
            spec.user.gid.to_string(),
            groups,
            spec.log.limit.to_string(),
            switch(spec.fenced),
            switch(spec.durable_exit),
        ];
        let arguments = own.iter().chain(std::iter::once(&spec.cwd)).chain(&spec.args);
        let environment = spec.env.iter().map(|(name, value)| text(format!("{name}={value}").as_bytes()));
        Ok(Self {
            program: InitProgram::at(init, &spec.init)?,
            arguments: arguments.map(|word| text(word.as_bytes())).collect::<Result<_, _>>()?,
            environment: environment.collect::<Result<_, _>>()?,
            record: open(&spec.exit)?,
            log: [open(&spec.log.segments[0])?, open(&spec.log.segments[1])?],
        })
    }

    /// Runs init in place of this process. Returns only after a failure.
    fn run(self) -> LinuxError {
        let streams = || -> rustix::io::Result<()> {
            rustix::stdio::dup2_stdin(&self.record)?;
            rustix::stdio::dup2_stdout(&self.log[0])?;
            rustix::stdio::dup2_stderr(&self.log[1])
        };
        match streams().with_action(|| "set init's standard streams".to_owned()) {
            Ok(()) => run_from(&self.program, &self.arguments, &self.environment),
            Err(error) => error,
        }
    }
}

/// The container's root folder with all its mounts, before this process enters the folder.
struct ContainerRoot {
    folder: OwnedFd,
    mounted: OwnMounts,
}

/// Builds the root. The image is not trusted: the kernel resolves every path inside the root.
fn build_root(spec: &ContainerSpec, users: Option<&OwnedFd>) -> Result<ContainerRoot, LinuxError> {
    mounts::make_private()?;
    let layers: Vec<&Path> = spec.root.layers.iter().map(AsRef::as_ref).collect();
    if let (Some(users), Some(first)) = (users, spec.users) {
        // In this mount namespace, the layers' files belong to the container's users. On the disk, they have the owners
        // that all images share.
        layers.iter().try_for_each(|layer| mounts::map_in_place(layer, users))?;
        // The container's writes belong to its own users on the disk too, and are deleted with the container.
        std::os::unix::fs::chown(&spec.root.upper, Some(first), Some(first))
            .with_action(|| format!("change the owner of {} to the container's root", spec.root.upper.display()))?;
    }
    mounts::overlay(&layers, &spec.root.upper, &spec.root.work, &spec.root.mountpoint)?;
    gantry_failpoint::failpoint!("inside.layered");
    let folder =
        rustix::fs::open(&spec.root.mountpoint, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_action(|| "open the root".to_owned())?;
    let mut root = ContainerRoot { folder, mounted: OwnMounts::default() };
    mount_kernel_folders(spec, &mut root)?;
    for bind in &spec.binds {
        put_bind(&root.folder, bind, users, &root.mounted)?;
    }
    make_temporary(&root.folder)?;
    gantry_failpoint::failpoint!("inside.furnished");
    Ok(root)
}

/// Mounts `/proc`, `/sys` and `/dev`.
fn mount_kernel_folders(spec: &ContainerSpec, root: &mut ContainerRoot) -> Result<(), LinuxError> {
    let ContainerRoot { folder: root, mounted } = root;
    mounted.mount_at(root, "/proc", &mounts::detached("proc", &[], INERT)?)?;
    mounted.mount_at(root, "/sys", &mounts::detached("sysfs", &[], INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?)?;
    mounted.mount_at(root, "/dev", &make_devices()?)?;
    let terminals = spec.users.map_or(TTY, |first| first + TTY).to_string();
    let pts = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", terminals.as_str())];
    let no_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mounted.mount_at(root, "/dev/pts", &mounts::detached("devpts", &pts, no_exec)?)?;
    // Shared memory counts as the container's memory, so the size of `/dev/shm` is the memory limit.
    let shared = spec.limits.memory.to_string();
    let shared = [("mode", "1777"), ("size", shared.as_str())];
    mounted.mount_at(root, "/dev/shm", &mounts::detached("tmpfs", &shared, INERT)?)?;
    mounted.mount_at(root, "/dev/mqueue", &mounts::detached("mqueue", &[], INERT)?)
}

/// Makes the folder `/`, and unmounts the host's root.
fn pivot(root: &OwnedFd) -> Result<(), LinuxError> {
    fchdir(root).with_action(|| "enter the root".to_owned())?;
    pivot_root(".", ".").with_action(|| "pivot to the container's root".to_owned())?;
    unmount(".", UnmountFlags::DETACH).with_action(|| "unmount the host's root".to_owned())?;
    rustix::process::chdir("/").with_action(|| "enter the root".to_owned())
}

/// The runtime's own mounts, identified by their device numbers.
#[derive(Default)]
pub(crate) struct OwnMounts(Vec<u64>);

impl OwnMounts {
    /// Attaches a mount to the folder `path`, and creates the folder if it is missing.
    fn mount_at(&mut self, root: &OwnedFd, path: &str, mount: &OwnedFd) -> Result<(), LinuxError> {
        let target = rooted::make_folder(root, Path::new(path))?;
        self.attach(mount, &target, path)
    }

    /// Attaches a mount to `target`, the open file or folder at `path`.
    pub(crate) fn attach(&mut self, mount: &OwnedFd, target: &OwnedFd, path: &str) -> Result<(), LinuxError> {
        self.0.push(fstat(mount).with_action(|| format!("inspect the mount of {path}"))?.st_dev);
        mounts::attach(mount, target).with_path(path)
    }

    /// Returns whether the file or folder is on one of the runtime's mounts.
    fn holds(&self, target: &OwnedFd) -> Result<bool, LinuxError> {
        let device = fstat(target).with_action(|| "inspect a mount target".to_owned())?.st_dev;
        Ok(self.0.contains(&device))
    }
}

/// Adds the path to the error of a mount.
trait WithPath<T> {
    fn with_path(self, path: &str) -> Result<T, LinuxError>;
}

impl<T> WithPath<T> for Result<T, LinuxError> {
    fn with_path(self, path: &str) -> Result<T, LinuxError> {
        self.map_err(|error| LinuxError { action: format!("{} at {path}", error.action), source: error.source })
    }
}

/// Top-level folders that a bind may not cover: the runtime and every program inside read information about themselves
/// there.
const OWN: [&str; 3] = ["proc", "sys", "dev"];

fn put_bind(root: &OwnedFd, bind: &BindMount, users: Option<&OwnedFd>, mounted: &OwnMounts) -> Result<(), LinuxError> {
    let above = bind.target.components().any(|part| part == std::path::Component::ParentDir);
    let own = rooted::names(&bind.target).next().is_some_and(|name| OWN.iter().any(|own| name == *own));
    if above || own {
        return refuse_bind(bind);
    }
    let is_folder = bind.source.is_dir();
    let target =
        if is_folder { rooted::make_folder(root, &bind.target)? } else { rooted::make_file(root, &bind.target)? };
    // A writable bind outlives the container. Its files therefore have the image's owners on the disk.
    let copy = match users.filter(|_| bind.writable) {
        Some(users) => mounts::mapped_copy_of(&bind.source, users)?,
        None => mounts::copy_of(&bind.source)?,
    };
    // A link in the image may have led to one of the runtime's own mounts.
    if mounted.holds(&target)? {
        return refuse_bind(bind);
    }
    mounts::attach(&copy, target).with_path(&bind.target.display().to_string())?;
    let write = if bind.writable { MountFlags::empty() } else { MountFlags::RDONLY };
    mounts::restrict(&copy, write | MountFlags::NOSUID | MountFlags::NODEV)
}

fn refuse_bind(bind: &BindMount) -> Result<(), LinuxError> {
    let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    Err(refused).with_action(|| format!("mount over {}", bind.target.display()))
}

/// Creates `/dev` as a detached, complete file system.
fn make_devices() -> Result<OwnedFd, LinuxError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let folder = mounts::detached("tmpfs", &[("mode", "755"), ("size", "65536")], attributes)?;
    // The umask that this process inherited must not change the devices' modes.
    umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let device = rustix::fs::makedev(major, minor);
        mknodat(&folder, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)
            .with_action(|| format!("create /dev/{name}"))?;
    }
    for (target, name) in DEVICE_LINKS {
        symlinkat(target, &folder, name).with_action(|| format!("link /dev/{name}"))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)).with_action(|| format!("create /dev/{name}"))?;
    }
    Ok(folder)
}

/// Creates `/tmp` if the image has none, as an image with only a binary does. Programs expect `/tmp`.
fn make_temporary(root: &OwnedFd) -> Result<(), LinuxError> {
    if rooted::open(root, Path::new("/tmp"), OFlags::PATH).is_ok() {
        return Ok(());
    }
    rooted::make_folder(root, Path::new("/tmp"))?;
    let folder = File::from(rooted::open(root, Path::new("/tmp"), OFlags::RDONLY | OFlags::DIRECTORY)?);
    folder.set_permissions(std::fs::Permissions::from_mode(0o1777)).with_action(|| "set the mode of /tmp".to_owned())
}

/// Creates the application's working folder if the image has none, and gives the folder to the application's user. At
/// this point this process is root of the container's user namespace.
fn make_working_folder(path: &str, user: ProcessUser) -> Result<(), LinuxError> {
    let action = || format!("create the working folder {path}");
    let root =
        rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).with_action(action)?;
    match rooted::open(&root, Path::new(path), OFlags::PATH | OFlags::DIRECTORY) {
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
        // The folder exists, or init will write the problem with the path to the application's log.
        _ => return Ok(()),
    }
    let folder = rooted::make_folder_through_links(&root, Path::new(path))?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    chownat(&folder, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).with_action(action)
}
