//! Numbers that keep the test clusters of one machine apart. Each cluster claims a unique number, and its ports and
//! network follow from the number.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;

/// Count of numbers. All their ports lie below the kernel's range for outgoing connections (32768 and up).
const NUMBERS: u16 = 3000;

/// Folder of the numbers' locks: one for all test runs of a machine, wherever their files are.
const NUMBERS_FOLDER: &str = "/run/gantry-test-numbers";

/// The first port of number 0.
const PORTS: u16 = 20_000;

/// A unique number, locked until the value is dropped or its process ends.
pub(crate) struct Number {
    value: u16,
    _lock: File,
}

impl Number {
    /// Claims the first number that is unlocked, has free ports, and neither a bridge nor a namespace: those with the
    /// number's name are what a killed test left behind. The search begins at a number derived from the process id.
    pub(crate) fn claim() -> Self {
        let folder = Path::new(NUMBERS_FOLDER);
        std::fs::create_dir_all(folder).expect("a folder");
        let first = u16::try_from(std::process::id() * 16 % u32::from(NUMBERS)).expect("below 3000");
        let has_namespace = |name: &str| {
            let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
            entries
                .filter_map(|entry| entry.file_name().into_string().ok())
                .any(|found| found.split('-').next() == Some(name))
        };
        let claim = |value: u16| {
            let lock = File::create(folder.join(value.to_string())).expect("a file to lock");
            lock.try_lock().ok()?;
            let number = Self { value, _lock: lock };
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            let is_taken = Path::new("/sys/class/net").join(number.name()).exists() || has_namespace(&number.name());
            (!is_taken && number.ports().into_iter().all(is_free)).then_some(number)
        };
        (0..NUMBERS).find_map(|step| claim((first + step) % NUMBERS)).expect("one of 3000 clouds")
    }

    /// Name of the cluster's bridge, nftables table and control group, and first part of the names of a fleet's.
    pub(crate) fn name(&self) -> String {
        format!("gt{}", self.value)
    }

    /// First three bytes of the addresses of this number's network.
    pub(crate) fn network(&self) -> [u16; 3] {
        [10, 84 + self.value / 250, self.value % 250]
    }

    /// The two ports of this number.
    pub(crate) fn ports(&self) -> [u16; 2] {
        [PORTS + self.value * 2, PORTS + self.value * 2 + 1]
    }
}
