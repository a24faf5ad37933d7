//! Where etcd is and how it is reached: read from the command line's words and files into plain data, checked before anything connects.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use weft_certs::files;

use super::super::{Options, Place};

/// How an etcd store is reached and kept.
#[derive(Clone)]
pub struct Settings {
    /// `host:port` of members, tried in turn.
    pub members: Vec<String>,
    /// With TLS 1.2 or 1.3; `None`: in the clear.
    pub tls: Option<ClientTlsConfig>,
    /// User and password; `None`: etcd asks for none, or takes the name in the client certificate.
    pub user: Option<(String, String)>,
    /// What every key begins with: `/weft/`.
    pub prefix: String,
    /// The name of this replica, as it holds the lead; a control plane adds where it serves.
    pub replica: String,
    /// Where it serves. One that serves is known to the others, and writes only while it leads; `None`: neither.
    pub serves: Option<Place>,
    /// History in memory; what etcd itself keeps is compacted to as much.
    pub options: Options,
    /// How often the replica that leads has etcd forget history: 5 min.
    pub compaction: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither password nor key.
        write!(f, "etcd at {} under {}", self.members.join(","), self.prefix)
    }
}

/// Files that the connection needs.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Certificates (PEM) of the authorities that etcd's certificate may come from.
    pub ca: Option<PathBuf>,
    /// This client's certificate (PEM).
    pub cert: Option<PathBuf>,
    /// Its key (PEM, 0600).
    pub key: Option<PathBuf>,
    /// The password (0600, first line) of the user in the address.
    pub password: Option<PathBuf>,
}

impl Settings {
    /// From an address: `etcd://[USER@]HOST:PORT[,HOST:PORT…][/PREFIX]`, with TLS as `etcds://`.
    ///
    /// # Errors
    /// When the address is none of these, a file cannot be read, or a private one is open to others.
    pub fn read(address: &str, given: &Files) -> Result<Self, String> {
        let bad =
            |why: &str| format!("{address:?}: {why}; write etcd://HOST:PORT[,HOST:PORT][/PREFIX], or etcds:// for TLS");
        let (scheme, rest) = address.split_once("://").ok_or_else(|| bad("no scheme"))?;
        let encrypted = match scheme {
            "etcd" => false,
            "etcds" => true,
            _ => return Err(bad("another scheme than etcd and etcds")),
        };
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, "weft"));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let members: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        for member in &members {
            let port = member.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if port.and_then(|p| p.parse::<u16>().ok()).is_none_or(|port| port == 0) {
                return Err(bad(&format!("{member:?} is no HOST:PORT")));
            }
        }
        let user = match (user, &given.password) {
            (None, None) => None,
            (Some(user), _) if user.is_empty() || user.contains(':') => {
                return Err(bad("the user is a name alone; its password comes from --store-password-file"));
            }
            (Some(user), Some(path)) => Some((user.to_owned(), first_line(path)?)),
            (Some(_), None) => return Err(bad("a user needs --store-password-file")),
            (None, Some(_)) => return Err(bad("--store-password-file needs a user in the address (USER@HOST:PORT)")),
        };
        let prefix = if prefix.trim_matches('/').is_empty() { "weft" } else { prefix };
        Ok(Self {
            members,
            tls: tls(encrypted, given)?,
            user,
            prefix: format!("/{}/", prefix.trim_matches('/')),
            replica: String::new(),
            serves: None,
            options: Options::default(),
            compaction: Duration::from_secs(300),
        })
    }
}

fn tls(encrypted: bool, given: &Files) -> Result<Option<ClientTlsConfig>, String> {
    if !encrypted {
        let unused = given.ca.is_some() || given.cert.is_some() || given.key.is_some();
        return if unused {
            Err("--store-ca, --store-cert and --store-key need etcds://".to_owned())
        } else {
            Ok(None)
        };
    }
    // Whom to trust is said: the system's authorities vouch for anybody.
    let ca = given.ca.as_deref().ok_or("etcds:// needs --store-ca FILE, the authority of etcd's certificates")?;
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    match (&given.cert, &given.key) {
        (Some(cert), Some(key)) => {
            let key = files::read_private(key).map_err(|e| e.to_string())?;
            config = config.identity(Identity::from_pem(read(cert)?, key));
        }
        (None, None) => {}
        _ => return Err("--store-cert and --store-key go together".to_owned()),
    }
    Ok(Some(config))
}

fn read(path: &Path) -> Result<String, String> {
    files::read(path).map_err(|e| e.to_string())
}

fn first_line(path: &Path) -> Result<String, String> {
    let text = files::read_private(path).map_err(|e| e.to_string())?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(format!("{}: the first line is empty", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(address: &str) -> Result<Settings, String> {
        Settings::read(address, &Files::default())
    }

    #[test]
    fn an_address_names_members_and_a_prefix() {
        let settings = parse("etcd://192.0.2.1:2379,etcd-2.example.com:2379/meshes/shop").unwrap();
        assert_eq!(settings.members, ["192.0.2.1:2379", "etcd-2.example.com:2379"]);
        assert_eq!(settings.prefix, "/meshes/shop/");
        assert_eq!(parse("etcd://[2001:db8::1]:2379/").unwrap().prefix, "/weft/");
        assert!(settings.tls.is_none() && settings.user.is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_write() {
        for (address, why) in [
            ("192.0.2.1:2379", "no scheme"),
            ("redis://192.0.2.1:2379", "another scheme"),
            ("etcd://192.0.2.1", "is no HOST:PORT"),
            ("etcd://192.0.2.1:0", "is no HOST:PORT"),
            ("etcd://:2379", "is no HOST:PORT"),
            ("etcd://192.0.2.1:2379,", "is no HOST:PORT"),
            ("etcd://weft@192.0.2.1:2379", "needs --store-password-file"),
            ("etcd://weft:secret@192.0.2.1:2379", "a name alone"),
            ("etcds://192.0.2.1:2379", "needs --store-ca"),
        ] {
            let error = parse(address).unwrap_err();
            assert!(error.contains(why), "{address}: {error}");
        }
    }

    #[test]
    fn a_password_comes_from_a_private_file_and_is_not_shown() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "s3cret\n").unwrap();
        let given = Files { password: Some(path.clone()), ..Files::default() };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Settings::read("etcd://weft@192.0.2.1:2379", &given).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let settings = Settings::read("etcd://weft@192.0.2.1:2379", &given).unwrap();
        assert_eq!(settings.user, Some(("weft".to_owned(), "s3cret".to_owned())));
        assert!(!format!("{settings:?}").contains("s3cret"));
        assert!(Settings::read("etcd://192.0.2.1:2379", &given).is_err());
    }
}
