//! The address of the queue in PostgreSQL: `postgres://user@host[:port][,host[:port]]/database[?password=FILE][&ca=FILE]`.

use std::path::PathBuf;

/// Port of PostgreSQL.
const PORT: u16 = 5432;

/// A database, and the files for its use. The address has no secret: it names the file of the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresAddress {
    /// Role.
    pub user: String,
    /// Hosts with their ports. The writable one is used.
    pub hosts: Vec<(String, u16)>,
    /// Name of the database.
    pub database: String,
    /// File of the password; none if the database asks for none.
    pub password: Option<PathBuf>,
    /// Certificate of the authority that issued the database's certificate, PEM; none for plain connections.
    pub ca: Option<PathBuf>,
}

/// Reason why a text is not an address of a queue in PostgreSQL. The error does not repeat the text, which may contain a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostgresAddressError {
    /// The address has another form.
    #[error(
        "write postgres://USER@HOST[:PORT][,HOST[:PORT]]/DATABASE, and ?password=FILE and ca=FILE with absolute paths"
    )]
    Form,
    /// The address contains a password.
    #[error(
        "the address contains a password, which every user of the machine could read; write the password to a file \
         and name the file: ?password=/etc/gantry/job-store-password"
    )]
    Password,
}

impl std::str::FromStr for PostgresAddress {
    type Err = PostgresAddressError;

    fn from_str(text: &str) -> Result<Self, PostgresAddressError> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let (place, query) = rest.map(|rest| rest.split_once('?').unwrap_or((rest, ""))).ok_or(Self::Err::Form)?;
        let (user, place) = place.rsplit_once('@').ok_or(Self::Err::Form)?;
        if user.contains(':') {
            return Err(Self::Err::Password);
        }
        let (hosts, database) = place.split_once('/').ok_or(Self::Err::Form)?;
        let hosts = hosts.split(',').map(host).collect::<Option<Vec<_>>>().ok_or(Self::Err::Form)?;
        let plain = |name: &str| !name.is_empty() && !name.contains(['/', '\0', '%', '@', ':']);
        if !plain(user) || !plain(database) {
            return Err(Self::Err::Form);
        }
        let (mut password, mut ca) = (None, None);
        for (name, value) in query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split_once('=')) {
            let file = match name {
                "password" => &mut password,
                "ca" => &mut ca,
                _ => return Err(Self::Err::Form),
            };
            // A service has another working directory than the person who gave the path.
            if !value.starts_with('/') {
                return Err(if name == "password" { Self::Err::Password } else { Self::Err::Form });
            }
            *file = Some(PathBuf::from(value));
        }
        Ok(Self { user: user.to_owned(), hosts, database: database.to_owned(), password, ca })
    }
}

/// A host with its port. An IPv6 address stands in brackets.
fn host(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, PORT),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    let valid = !host.is_empty() && (bare.is_some() || !host.contains(':')) && !host.contains(['/', '[', ']', '\0']);
    valid.then(|| (host.to_owned(), port))
}

impl std::fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "postgres://{}@", self.user)?;
        for (place, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        write!(f, "/{}", self.database)?;
        let files = [("password", &self.password), ("ca", &self.ca)];
        let files = files.into_iter().filter_map(|(name, path)| path.as_ref().map(|path| (name, path)));
        for (place, (name, path)) in files.enumerate() {
            write!(f, "{}{name}={}", if place == 0 { '?' } else { '&' }, path.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, shown) in [
            ("postgres://gantry@db/jobs", "postgres://gantry@db:5432/jobs"),
            ("postgresql://gantry@a:1,[::1]:2/jobs", "postgres://gantry@a:1,[::1]:2/jobs"),
            (
                "postgres://g@[fd00::1]/jobs?ca=/ca.pem&password=/p",
                "postgres://g@[fd00::1]:5432/jobs?password=/p&ca=/ca.pem",
            ),
        ] {
            let address: PostgresAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
        for text in [
            "",
            "postgres://",
            "postgres://db/jobs",
            "postgres://g@db",
            "postgres://g@/jobs",
            "postgres://g@db/",
            "mysql://g@db/jobs",
            "postgres://g@db:x/jobs",
            "postgres://g@::1/jobs",
            "postgres://g@db/jobs?ca=ca.pem",
            "postgres://g@db/jobs?sslmode=require",
        ] {
            assert_eq!(text.parse::<PostgresAddress>(), Err(PostgresAddressError::Form), "{text}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        for text in
            ["postgres://g:geheim@db/jobs", "postgres://g@db/jobs?password=geheim", "postgres://g:a@b:geheim@db/jobs"]
        {
            let error = text.parse::<PostgresAddress>().expect_err(text);
            assert_eq!(error, PostgresAddressError::Password);
            assert!(!error.to_string().contains("geheim"));
        }
    }
}
