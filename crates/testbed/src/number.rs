//! What keeps the clouds of one machine apart: each has a number that nobody else has, and everything follows from it.

use std::fs::File;
use std::net::TcpListener;

/// As many as there are ports for, below those that the kernel hands out to whoever connects (32768 and up).
const NUMBERS: u16 = 3000;

/// The first port of number 0.
const PORTS: u16 = 20_000;

/// A number, until it is dropped or its process ends.
pub(crate) struct Number {
    pub(crate) value: u16,
    _lock: File,
}

impl Number {
    /// The first one, from a place of this process's own, that is free and whose ports are.
    pub(crate) fn claim() -> Self {
        let folder = std::env::temp_dir().join("gantry-numbers");
        std::fs::create_dir_all(&folder).expect("a folder");
        let first = u16::try_from(std::process::id() * 16 % u32::from(NUMBERS)).expect("below 3000");
        let claim = |value: u16| {
            let lock = File::create(folder.join(value.to_string())).expect("a file to lock");
            lock.try_lock().ok()?;
            let number = Self { value, _lock: lock };
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            number.ports().into_iter().all(is_free).then_some(number)
        };
        (0..NUMBERS).find_map(|step| claim((first + step) % NUMBERS)).expect("one of 3000 clouds")
    }

    /// The first three bytes of the addresses of a network that is nobody else's.
    pub(crate) fn network(&self) -> [u16; 3] {
        [10, 84 + self.value / 250, self.value % 250]
    }

    /// Two ports that are nobody else's.
    pub(crate) fn ports(&self) -> [u16; 2] {
        [PORTS + self.value * 2, PORTS + self.value * 2 + 1]
    }
}
