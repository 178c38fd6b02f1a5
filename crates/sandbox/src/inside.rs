//! The child's side: from a fresh fork to the exec of `gantry-init`, becoming the container on the way.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use gantry_linux::cgroup::Cgroup;
use gantry_linux::process::{enter_users, unshare};
use gantry_linux::{LinuxError, Tried, mounts, network, rooted};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, mknodat, symlinkat};
use rustix::mount::{MountAttrFlags, MountFlags, UnmountFlags, unmount};
use rustix::process::{fchdir, pivot_root, umask};
use rustix::thread::UnshareFlags;

use crate::spec::{Bind, Spec, User};
use crate::{cgroupfs, posture};

/// Where init is seen inside.
const INIT: &str = "/.gantry/init";

/// The devices every program may count on: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that every program may count on.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// What Gantry's own lines may take of a log beyond its limit, and some (see `gantry-relay`).
const OWN_LINES: u64 = 128 << 10;

/// The group of terminals, in Debian as elsewhere.
const TTY: u32 = 5;

/// Read-only, nothing to execute, no devices, no setuid: what information file systems are mounted with.
pub(crate) const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// The two pipes between the launcher and its child.
pub(crate) struct Handshake {
    /// The child says that its namespaces are there.
    pub(crate) ready: PipeWriter,
    /// The launcher lets it go on; its end without a byte means that the launcher is gone.
    pub(crate) go: PipeReader,
}

/// Becomes the container. Returns only when something failed.
pub(crate) fn become_container(spec: &Spec, users: Option<OwnedFd>, mut handshake: Handshake) -> LinuxError {
    let mut becoming = || -> Result<Command, LinuxError> {
        unshare(UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWNET)?;
        gantry_linux::step!("inside.apart");
        handshake.ready.write_all(b"r").tried(|| "tell the launcher".to_owned())?;
        let mut byte = [0];
        handshake.go.read_exact(&mut byte).tried(|| "wait for the launcher".to_owned())?;
        // Only now is this process in its control group, which becomes the root of what it sees of them.
        unshare(UnshareFlags::NEWCGROUP)?;
        configure_network(spec)?;
        gantry_linux::step!("inside.connected");
        let command = init_command(spec)?;
        gantry_linux::step!("inside.opened");
        enter_root(spec, users.as_ref())?;
        rustix::system::sethostname(spec.hostname.as_bytes())
            .tried(|| format!("set the host name {}", spec.hostname))?;
        posture::cover_paths()?;
        // Init writes the log under the same limit, behind Gantry's own lines in it.
        posture::limit_resources(spec.limits.disk.map(|disk| disk.max(spec.log.limit + OWN_LINES)))?;
        umask(Mode::from_raw_mode(0o022));
        rustix::process::setsid().tried(|| "begin a session".to_owned())?;
        rustix::thread::set_thread_groups(&[]).tried(|| "leave all groups".to_owned())?;
        // The last thing that needs the host's rights is done.
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

/// Init with its three descriptors, opened while the host's paths are still there.
fn init_command(spec: &Spec) -> Result<Command, LinuxError> {
    let open = |path: &Path| {
        File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
            .open(path)
            .tried(|| format!("open {}", path.display()))
    };
    let (record, out, err) = (open(&spec.exit)?, open(&spec.log.segments[0])?, open(&spec.log.segments[1])?);
    let mut command = Command::new(INIT);
    command
        .arg("init")
        .args([spec.user.uid.to_string(), spec.user.gid.to_string()])
        .arg(spec.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
        .arg(spec.log.limit.to_string())
        .arg(&spec.cwd)
        .args(&spec.args)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(record)
        .stdout(out)
        .stderr(err);
    Ok(command)
}

fn configure_network(spec: &Spec) -> Result<(), LinuxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .tried(|| "configure the network".to_owned())?;
    let address = spec.network.as_ref().map(|network| (network.address, network.prefix, network.gateway));
    runtime.block_on(network::configure(address))
}

/// Builds the root and makes it `/`. Nothing in it is trusted: every path is resolved by the kernel inside it.
fn enter_root(spec: &Spec, users: Option<&OwnedFd>) -> Result<(), LinuxError> {
    mounts::make_private()?;
    let layers: Vec<&Path> = spec.root.layers.iter().map(AsRef::as_ref).collect();
    if let (Some(users), Some(first)) = (users, spec.users) {
        // In this mount namespace the layers belong to the container's users; on the disk to those of every image.
        layers.iter().try_for_each(|layer| mounts::map_in_place(layer, users))?;
        // What it writes is on the disk as its own, and goes with it.
        std::os::unix::fs::chown(&spec.root.upper, Some(first), Some(first))
            .tried(|| format!("give {} to the container", spec.root.upper.display()))?;
    }
    mounts::overlay(&layers, &spec.root.upper, &spec.root.work, &spec.root.mountpoint)?;
    gantry_linux::step!("inside.layered");
    let root =
        rustix::fs::open(&spec.root.mountpoint, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .tried(|| "open the root".to_owned())?;
    let proc = mounts::detached("proc", &[], INERT)?;
    let mut mounted = Mounted::default();
    mounted.put(&root, "/proc", &proc)?;
    // Ports below 1024 are free inside: each container has its own.
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").tried(|| "free the low ports".to_owned())?;
    // And so is an ICMP echo, which needs no raw socket then: the groups are the machine's numbers.
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").tried(|| "allow ping".to_owned())?;
    mounted.put(&root, "/sys", &mounts::detached("sysfs", &[], INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?)?;
    cgroupfs::mount(&root, &Cgroup::named(&spec.cgroup), &mut mounted)?;
    mounted.put(&root, "/dev", &devices()?)?;
    let terminals = spec.users.map_or(TTY, |first| first + TTY).to_string();
    let pts = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", terminals.as_str())];
    let no_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mounted.put(&root, "/dev/pts", &mounts::detached("devpts", &pts, no_exec)?)?;
    // What is in it is memory of the container's, and counted as such: its limit is the same.
    let shared = spec.limits.memory.to_string();
    let shared = [("mode", "1777"), ("size", shared.as_str())];
    mounted.put(&root, "/dev/shm", &mounts::detached("tmpfs", &shared, INERT)?)?;
    mounted.put(&root, "/dev/mqueue", &mounts::detached("mqueue", &[], INERT)?)?;
    let init = Bind { source: spec.init.clone(), target: INIT.into(), writable: false };
    for bind in std::iter::once(&init).chain(&spec.binds) {
        put_bind(&root, bind, users, &mounted)?;
    }
    make_temporary(&root)?;
    gantry_linux::step!("inside.furnished");
    fchdir(&root).tried(|| "enter the root".to_owned())?;
    pivot_root(".", ".").tried(|| "make the root".to_owned())?;
    unmount(".", UnmountFlags::DETACH).tried(|| "leave the host's root".to_owned())?;
    rustix::process::chdir("/").tried(|| "enter the root".to_owned())
}

/// The runtime's own mounts, by the device number that each has.
#[derive(Default)]
pub(crate) struct Mounted(Vec<u64>);

impl Mounted {
    /// Puts a mount onto the folder `path`, which is made where it is missing.
    fn put(&mut self, root: &OwnedFd, path: &str, mount: &OwnedFd) -> Result<(), LinuxError> {
        let target = rooted::make_folder(root, Path::new(path))?;
        self.attach(mount, &target, path)
    }

    /// Puts a mount onto what `target` is, which is called `path`.
    pub(crate) fn attach(&mut self, mount: &OwnedFd, target: &OwnedFd, path: &str) -> Result<(), LinuxError> {
        self.0.push(fstat(mount).tried(|| format!("look at the mount of {path}"))?.st_dev);
        mounts::attach(mount, target).tried_at(path)
    }

    /// The file or folder is on one of them.
    fn holds(&self, target: &OwnedFd) -> Result<bool, LinuxError> {
        let device = fstat(target).tried(|| "look at a place to mount on".to_owned())?.st_dev;
        Ok(self.0.contains(&device))
    }
}

/// Adds the path to a mount's error.
trait TriedAt<T> {
    fn tried_at(self, path: &str) -> Result<T, LinuxError>;
}

impl<T> TriedAt<T> for Result<T, LinuxError> {
    fn tried_at(self, path: &str) -> Result<T, LinuxError> {
        self.map_err(|error| LinuxError { action: format!("{} at {path}", error.action), source: error.source })
    }
}

/// Whoever mounts over these decides what the runtime, and every program inside, reads of itself.
const OWN: [&str; 3] = ["proc", "sys", "dev"];

fn put_bind(root: &OwnedFd, bind: &Bind, users: Option<&OwnedFd>, mounted: &Mounted) -> Result<(), LinuxError> {
    let above = bind.target.components().any(|part| part == std::path::Component::ParentDir);
    let own = rooted::names(&bind.target).next().is_some_and(|name| OWN.iter().any(|own| name == *own));
    if above || own {
        return refuse(bind);
    }
    let is_folder = bind.source.is_dir();
    let target =
        if is_folder { rooted::make_folder(root, &bind.target)? } else { rooted::make_file(root, &bind.target)? };
    // What may be written outlives the container, and its owners on the disk are those of the image.
    let copy = match users.filter(|_| bind.writable) {
        Some(users) => mounts::mapped_copy_of(&bind.source, users)?,
        None => mounts::copy_of(&bind.source)?,
    };
    // A link of the image's may have led there: these are the runtime's.
    if mounted.holds(&target)? {
        return refuse(bind);
    }
    mounts::attach(&copy, target).tried_at(&bind.target.display().to_string())?;
    let write = if bind.writable { MountFlags::empty() } else { MountFlags::RDONLY };
    mounts::restrict(&copy, write | MountFlags::NOSUID | MountFlags::NODEV)
}

fn refuse(bind: &Bind) -> Result<(), LinuxError> {
    let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    Err(refused).tried(|| format!("mount over {}", bind.target.display()))
}

/// `/dev`, complete before it is put anywhere.
fn devices() -> Result<OwnedFd, LinuxError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let folder = mounts::detached("tmpfs", &[("mode", "755"), ("size", "65536")], attributes)?;
    // The mode of a device is what it says, whatever this process inherited.
    umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let device = rustix::fs::makedev(major, minor);
        mknodat(&folder, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)
            .tried(|| format!("make /dev/{name}"))?;
    }
    for (target, name) in DEVICE_LINKS {
        symlinkat(target, &folder, name).tried(|| format!("link /dev/{name}"))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)).tried(|| format!("make /dev/{name}"))?;
    }
    Ok(folder)
}

/// An image that is nothing but a binary has no `/tmp`; programs expect one.
fn make_temporary(root: &OwnedFd) -> Result<(), LinuxError> {
    if rooted::open(root, Path::new("/tmp"), OFlags::PATH).is_ok() {
        return Ok(());
    }
    rooted::make_folder(root, Path::new("/tmp"))?;
    let folder = File::from(rooted::open(root, Path::new("/tmp"), OFlags::RDONLY | OFlags::DIRECTORY)?);
    folder.set_permissions(std::fs::Permissions::from_mode(0o1777)).tried(|| "open /tmp to all".to_owned())
}

/// Makes the folder that the application starts in, where the image has none, and gives it to the application's user. This
/// process is the container's own root by now.
fn make_working_folder(path: &str, user: User) -> Result<(), LinuxError> {
    let action = || format!("make the working folder {path}");
    let root =
        rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).tried(action)?;
    match rooted::open(&root, Path::new(path), OFlags::PATH | OFlags::DIRECTORY) {
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
        // It is there, or what is wrong with it is said in the application's log.
        _ => return Ok(()),
    }
    let folder = rooted::make_folder_through_links(&root, Path::new(path))?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    chownat(&folder, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).tried(action)
}
