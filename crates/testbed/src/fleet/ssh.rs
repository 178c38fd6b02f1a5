//! A machine with nothing but an ssh server, on which nothing of Gantry is installed.
//!
//! The machine has views of its own of the folders in which Gantry is installed and keeps its data, in a mount namespace:
//! `/etc`, `/var` and `/usr/local` lie over this computer's, and `/run` is empty.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use super::Fleet;
use crate::command::command;
use crate::run;

/// Makes the machine's view, and becomes its ssh server. The arguments are the folder and the machine's name.
const BOOT: &str = r#"set -e
mount --make-rprivate /
hostname "$2"
for folder in etc var usr/local; do
  mkdir -p "$1/over/$folder" "$1/work/$folder"
  mount -t overlay -o "lowerdir=/$folder,upperdir=$1/over/$folder,workdir=$1/work/$folder" overlay "/$folder"
done
mkdir -p /var/lib/gantry /etc/gantry
mount --bind "$1/data" /var/lib/gantry
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
cp "$1/gantry.toml" /etc/gantry/gantry.toml
echo 'guest:x:4242:4242::/:/bin/sh' >>/etc/passwd
echo 'guest:*:19000:0:99999:7:::' >>/etc/shadow
exec /usr/sbin/sshd -D -e -f "$1/sshd_config""#;

impl Fleet {
    /// Adds a machine with an ssh server, and returns its name and the options with which ssh reaches it.
    ///
    /// # Panics
    /// If the ssh server does not start.
    pub fn add_with_ssh(&mut self) -> (String, Vec<String>) {
        let name = self.add();
        let (machine, network) = self.parts(&name);
        let folder = machine.path("");
        let settings = format!("cgroup = \"{}\"\nmachine = \"{name}\"\n", machine.cgroup());
        std::fs::write(folder.join("gantry.toml"), settings).expect("written");
        for key in ["host-key", "client-key"] {
            let mut keygen = command("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f"]);
            keygen.arg(folder.join(key));
            let _ = run(keygen).good();
        }
        let path = |name: &str| folder.join(name).display().to_string();
        let host_key = std::fs::read_to_string(folder.join("host-key.pub")).expect("a key");
        std::fs::write(folder.join("known-hosts"), format!("{} {host_key}", machine.address())).expect("written");
        std::fs::write(folder.join("sshd_config"), sshd_config(&folder)).expect("written");
        let mut boot = network.program(&name, Path::new("unshare"));
        boot.args(["--mount", "--uts", "sh", "-c", BOOT, "boot"]).arg(&folder).arg(&name);
        let log = File::options().create(true).append(true).open(machine.path("log")).expect("a log");
        let child = boot.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("started");
        machine.boot(child);
        let address = machine.address();
        self.wait("the ssh server listens", |_| std::net::TcpStream::connect((address.as_str(), 22)).ok());
        let known = format!("UserKnownHostsFile={}", path("known-hosts"));
        let options = [known, format!("IdentityFile={}", path("client-key")), "IdentitiesOnly=yes".to_owned()];
        (name, options.into())
    }
}

fn sshd_config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "HostKey {folder}/host-key\nAuthorizedKeysFile {folder}/client-key.pub\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n"
    )
}
