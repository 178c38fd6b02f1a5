//! Name resolution of a statically linked program.
//!
//! The C library loads a library for each service that `/etc/nsswitch.conf` names, such as `resolve` or `sss`. In a static
//! program, such a library brings the machine's own C library along, and works with one version of it alone. The C library
//! itself contains the services `files` and `dns`.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

/// Databases of names, with the services that the C library contains.
const SERVICES: [(&CStr, &CStr); 3] = [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")];

unsafe extern "C" {
    /// Sets the services of a database for this process, as a line of `/etc/nsswitch.conf` does. Part of glibc since 2.2.5.
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// Lets this process find names in files and by DNS alone, without a library of the machine.
///
/// # Errors
/// If there is no memory.
pub fn use_files_and_dns() -> std::io::Result<()> {
    for (database, services) in SERVICES {
        // SAFETY: both texts end with a zero byte and live as long as the program. The C library copies them.
        if unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::ToSocketAddrs;

    use super::*;

    #[test]
    fn the_c_library_knows_the_services_and_finds_a_name_in_a_file() {
        use_files_and_dns().expect("the C library knows these databases and services");
        let found = ("localhost", 1).to_socket_addrs().expect("a line of /etc/hosts");
        assert!(found.map(|address| address.ip()).all(|address| address.is_loopback()));
    }
}
