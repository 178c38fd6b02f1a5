//! The child's side of a launch: turns a new fork into the container, up to the exec of `gantry-init`.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use gantry_linux::cgroup::Cgroup;
use gantry_linux::process::{enter_users, unshare};
use gantry_linux::{LinuxError, WithAction, mounts, network, rooted};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, mknodat, symlinkat};
use rustix::mount::{MountAttrFlags, MountFlags, UnmountFlags, unmount};
use rustix::process::{fchdir, pivot_root, umask};
use rustix::thread::UnshareFlags;

use crate::spec::{BindMount, ContainerSpec, ProcessUser};
use crate::{cgroupfs, posture};

/// Path of init inside.
const INIT: &str = "/.gantry/init";

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

/// The two pipes between the launcher and its child.
pub(crate) struct Handshake {
    /// The child writes a byte here once its namespaces exist.
    pub(crate) ready: PipeWriter,
    /// The child reads a byte here before it continues. An end of file without a byte means that the launcher is gone.
    pub(crate) go: PipeReader,
}

/// Turns this process into the container. Returns only after a failure.
pub(crate) fn become_container(spec: &ContainerSpec, users: Option<OwnedFd>, mut handshake: Handshake) -> LinuxError {
    let mut becoming = || -> Result<Command, LinuxError> {
        unshare(UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWNET)?;
        gantry_failpoint::failpoint!("inside.apart");
        handshake.ready.write_all(b"r").with_action(|| "notify the launcher".to_owned())?;
        let mut byte = [0];
        handshake.go.read_exact(&mut byte).with_action(|| "wait for the launcher".to_owned())?;
        // The launcher has now added this process to its control group. That group becomes the root of the new cgroup
        // namespace.
        unshare(UnshareFlags::NEWCGROUP)?;
        configure_network(spec)?;
        gantry_failpoint::failpoint!("inside.connected");
        let command = init_command(spec)?;
        gantry_failpoint::failpoint!("inside.opened");
        enter_root(spec, users.as_ref())?;
        rustix::system::sethostname(spec.hostname.as_bytes())
            .with_action(|| format!("set the host name {}", spec.hostname))?;
        posture::cover_paths()?;
        // Init writes the log under the same file-size limit, after Gantry's own lines.
        posture::limit_resources(spec.limits.disk.map(|disk| disk.max(spec.log.limit + OWN_LINES)))?;
        umask(Mode::from_raw_mode(0o022));
        rustix::process::setsid().with_action(|| "start a session".to_owned())?;
        rustix::thread::set_thread_groups(&[]).with_action(|| "clear the supplementary groups".to_owned())?;
        // Nothing after this line needs the host's capabilities.
        if let Some(users) = &users {
            enter_users(users)?;
        }
        make_working_folder(&spec.cwd, spec.user)?;
        posture::drop_rights(spec.user.uid)?;
        posture::filter_system_calls()?;
        Ok(command)
    };
    match becoming() {
        Ok(mut command) => LinuxError { action: "run init".to_owned(), source: command.exec() },
        Err(error) => error,
    }
}

/// Builds the command that runs init, and opens its three descriptors while the host's paths are still reachable.
fn init_command(spec: &ContainerSpec) -> Result<Command, LinuxError> {
    let open = |path: &Path| {
        File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
            .open(path)
            .with_action(|| format!("open {}", path.display()))
    };
    let (record, out, err) = (open(&spec.exit)?, open(&spec.log.segments[0])?, open(&spec.log.segments[1])?);
    let mut command = Command::new(INIT);
    command
        .arg("init")
        .args([spec.user.uid.to_string(), spec.user.gid.to_string()])
        .arg(spec.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
        .args([spec.log.limit.to_string(), u8::from(spec.fenced).to_string()])
        .arg(&spec.cwd)
        .args(&spec.args)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(record)
        .stdout(out)
        .stderr(err);
    Ok(command)
}

fn configure_network(spec: &ContainerSpec) -> Result<(), LinuxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_action(|| "configure the network".to_owned())?;
    let address = spec.network.as_ref().map(|network| (network.address, network.prefix, network.gateway));
    runtime.block_on(network::configure(address))
}

/// Builds the root and makes it `/`. The image is not trusted: the kernel resolves every path inside the root.
fn enter_root(spec: &ContainerSpec, users: Option<&OwnedFd>) -> Result<(), LinuxError> {
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
    let root =
        rustix::fs::open(&spec.root.mountpoint, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_action(|| "open the root".to_owned())?;
    let proc = mounts::detached("proc", &[], INERT)?;
    let mut mounted = OwnMounts::default();
    mounted.mount_at(&root, "/proc", &proc)?;
    // Each container has its own ports, so any user inside may use the ports below 1024.
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
        .with_action(|| "allow ports below 1024".to_owned())?;
    // Any group may send ICMP echo requests without a raw socket. The kernel counts these group ids in the machine's
    // numbers.
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").with_action(|| "allow ping".to_owned())?;
    mounted.mount_at(&root, "/sys", &mounts::detached("sysfs", &[], INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?)?;
    cgroupfs::mount(&root, &Cgroup::named(&spec.cgroup), &mut mounted)?;
    mounted.mount_at(&root, "/dev", &make_devices()?)?;
    let terminals = spec.users.map_or(TTY, |first| first + TTY).to_string();
    let pts = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", terminals.as_str())];
    let no_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mounted.mount_at(&root, "/dev/pts", &mounts::detached("devpts", &pts, no_exec)?)?;
    // Shared memory counts as the container's memory, so the size of `/dev/shm` is the memory limit.
    let shared = spec.limits.memory.to_string();
    let shared = [("mode", "1777"), ("size", shared.as_str())];
    mounted.mount_at(&root, "/dev/shm", &mounts::detached("tmpfs", &shared, INERT)?)?;
    mounted.mount_at(&root, "/dev/mqueue", &mounts::detached("mqueue", &[], INERT)?)?;
    let init = BindMount { source: spec.init.clone(), target: INIT.into(), writable: false };
    for bind in std::iter::once(&init).chain(&spec.binds) {
        put_bind(&root, bind, users, &mounted)?;
    }
    make_temporary(&root)?;
    gantry_failpoint::failpoint!("inside.furnished");
    fchdir(&root).with_action(|| "enter the root".to_owned())?;
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
