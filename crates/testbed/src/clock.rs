//! A wall clock that tests shift. A preloaded library (`clock.c`) shifts the clock of the programs that have the
//! environment of a [`ShiftedClock`]; this computer's own clock is never touched.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::command::command;
use crate::run;

/// A clock with its offset from this computer's clock.
pub struct ShiftedClock {
    library: PathBuf,
    offset: PathBuf,
    _folder: tempfile::TempDir,
}

impl ShiftedClock {
    /// Compiles the library. The offset is 0.
    ///
    /// # Panics
    /// If there is no C compiler.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // The server's user reads the library, too.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("opened");
        let (library, offset) = (folder.path().join("clock.so"), folder.path().join("offset"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clock.c");
        let mut gcc = command("gcc", &["-shared", "-fPIC", "-O1", "-o"]);
        gcc.arg(&library).arg(source);
        let _ = run(gcc).good();
        std::fs::write(&offset, 0_i64.to_le_bytes()).expect("written");
        Self { library, offset, _folder: folder }
    }

    /// Variables of the programs that have this clock.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", self.library.as_path()), ("GANTRY_TEST_CLOCK", self.offset.as_path())]
    }

    /// Sets the offset in milliseconds.
    ///
    /// # Panics
    /// If the file with the offset cannot be written.
    pub fn set(&self, millis: i64) {
        let file = File::options().write(true).open(&self.offset).expect("opened");
        file.write_all_at(&millis.to_le_bytes(), 0).expect("written");
    }
}

impl Default for ShiftedClock {
    fn default() -> Self {
        Self::new()
    }
}
