//! From checked options to what the binary itself needs: where to listen, how to log, when to
//! give up waiting. What the services need is in [`super::services`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use amqp::RabbitOptions;
use rest::server::ServerOptions;

use super::messaging::{NotificationOptions, notification_options, rabbit_options};
use super::{Config, ConfigError};

/// Who answers the question who may do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthStrategy {
    /// The built-in identity service.
    Dev,
    /// Keystone, as `[keystone_authtoken]` says.
    Keystone,
    /// Nobody is asked: the token itself says who calls, as Cinder's `noauth`.
    NoAuth,
}

/// An address to listen on, and the option that gave its port (for messages).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    pub option: String,
}

/// One more user of the dev identity.
#[derive(Clone, PartialEq, Eq)]
pub struct DevUser {
    pub name: String,
    pub password: String,
    pub project: String,
    pub roles: Vec<String>,
}

/// What the binary itself needs.
#[derive(Clone)]
pub struct Settings {
    pub debug: bool,
    pub host: String,
    pub auth: AuthStrategy,
    /// How long a stop waits for what runs.
    pub grace: Duration,
    /// How long a silent process keeps its flows.
    pub lease: Duration,
    /// Limits of the APIs.
    pub server: ServerOptions,
    pub volume: Listen,
    /// What clients are told instead of the address; the same for `image_endpoint`.
    pub volume_endpoint: Option<String>,
    pub image: Listen,
    pub image_endpoint: Option<String>,
    pub identity: Listen,
    pub region: String,
    pub token_lifetime_s: u32,
    pub users: Vec<DevUser>,
    /// Of an image service elsewhere.
    pub image_service_url: Option<String>,
    /// `None`: `DIR/basalt.sqlite`.
    pub database_url: Option<String>,
    pub nbd: Nbd,
    /// `None`: the bus inside the process.
    pub rabbit: Option<RabbitOptions>,
    pub notifications: NotificationOptions,
}

/// Section `[nbd]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nbd {
    /// `None`: `DIR/nbd.sock`.
    pub socket: Option<PathBuf>,
    pub tcp: Option<Listen>,
    /// Names without a secret open every volume.
    pub unix_is_open: bool,
    pub tcp_is_open: bool,
    /// The folder of certificates, and whether clients must show one.
    pub tls: Option<(PathBuf, bool)>,
    pub tls_verify_host: bool,
    pub max_connections: usize,
    pub stall_timeout: Duration,
    pub idle_timeout: Option<Duration>,
}

impl Settings {
    pub fn of(config: &Config) -> Result<Self, ConfigError> {
        Ok(Settings {
            debug: config.boolean("DEFAULT", "debug")?,
            host: host(config)?,
            auth: auth_strategy(config)?,
            grace: Duration::from_secs(config.integer("DEFAULT", "graceful_shutdown_timeout")?),
            lease: Duration::from_secs(config.integer("DEFAULT", "flow_lease_time")?),
            server: server_options(config)?,
            volume: listen(
                config,
                "DEFAULT",
                "osapi_volume_listen",
                "osapi_volume_listen_port",
            )?,
            volume_endpoint: config.text("DEFAULT", "public_endpoint")?,
            image_endpoint: config.text("image_api", "public_endpoint")?,
            image: listen(config, "image_api", "bind_host", "bind_port")?,
            identity: listen(config, "dev_identity", "bind_host", "bind_port")?,
            region: required(config, "dev_identity", "region")?,
            token_lifetime_s: config.integer("dev_identity", "token_expiration")?,
            users: users(config)?,
            image_service_url: config
                .list("DEFAULT", "glance_api_servers")?
                .into_iter()
                .next(),
            database_url: config.text("database", "connection")?,
            nbd: nbd(config)?,
            rabbit: rabbit_options(config)?,
            notifications: notification_options(config)?,
        })
    }
}

fn server_options(config: &Config) -> Result<ServerOptions, ConfigError> {
    let patience = Duration::from_secs(config.integer("DEFAULT", "client_socket_timeout")?);
    Ok(ServerOptions {
        max_connections: config.integer("DEFAULT", "wsgi_default_pool_size")?,
        header_read_timeout: patience,
        stall_timeout: patience,
        max_header_bytes: config.integer("DEFAULT", "max_header_line")?,
        ..ServerOptions::default()
    })
}

/// A text option that must not be empty.
pub(crate) fn required(config: &Config, section: &str, name: &str) -> Result<String, ConfigError> {
    config
        .text(section, name)?
        .ok_or_else(|| ConfigError::option(section, name, "must not be empty"))
}

/// The node's name becomes part of `host@backend#pool`.
fn host(config: &Config) -> Result<String, ConfigError> {
    let host = required(config, "DEFAULT", "host")?;
    if host.len() > 128 || host.contains(['@', '#', '/']) || host.contains(char::is_whitespace) {
        let reason = "must have at most 128 characters, none of them a blank, @, # or /";
        return Err(ConfigError::option("DEFAULT", "host", reason));
    }
    Ok(host)
}

fn auth_strategy(config: &Config) -> Result<AuthStrategy, ConfigError> {
    match config.text("DEFAULT", "auth_strategy")?.as_deref() {
        Some("noauth") => Ok(AuthStrategy::NoAuth),
        Some("keystone") => Ok(AuthStrategy::Keystone),
        _ => Ok(AuthStrategy::Dev),
    }
}

fn listen(config: &Config, section: &str, host: &str, port: &str) -> Result<Listen, ConfigError> {
    let text = required(config, section, host)?;
    let address: IpAddr = match text.trim_matches(['[', ']']) {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        text => text.parse().map_err(|_| {
            ConfigError::option(section, host, format!("{text:?} is not an IP address"))
        })?,
    };
    Ok(Listen {
        address: SocketAddr::new(address, config.integer(section, port)?),
        option: format!("[{section}] {port}"),
    })
}

fn nbd(config: &Config) -> Result<Nbd, ConfigError> {
    let is_open = |name| Ok(config.text("nbd", name)?.as_deref() == Some("open"));
    let verify_peer = config.boolean("nbd", "tls_x509_verify")?;
    let folder = config.text("nbd", "tls_x509_cert_dir")?;
    let tls_verify_host = config.boolean("nbd", "tls_verify_host")?;
    if tls_verify_host && (folder.is_none() || !verify_peer) {
        let reason = "needs tls_x509_cert_dir and tls_x509_verify";
        return Err(ConfigError::option("nbd", "tls_verify_host", reason));
    }
    let idle_s: u64 = config.integer("nbd", "idle_timeout")?;
    Ok(Nbd {
        socket: config.text("nbd", "unix_socket")?.map(PathBuf::from),
        tcp: nbd_tcp(config)?,
        unix_is_open: is_open("unix_access")?,
        tcp_is_open: is_open("tcp_access")?,
        tls: folder.map(|folder| (PathBuf::from(folder), verify_peer)),
        tls_verify_host,
        max_connections: config.integer("nbd", "max_connections")?,
        stall_timeout: Duration::from_secs(config.integer("nbd", "stall_timeout")?),
        idle_timeout: (idle_s > 0).then(|| Duration::from_secs(idle_s)),
    })
}

fn nbd_tcp(config: &Config) -> Result<Option<Listen>, ConfigError> {
    let Some(text) = config.text("nbd", "tcp_listen")? else {
        return Ok(None);
    };
    let address = text.parse().map_err(|_| {
        ConfigError::option("nbd", "tcp_listen", format!("{text:?} is not address:port"))
    })?;
    Ok(Some(Listen {
        address,
        option: "[nbd] tcp_listen".to_owned(),
    }))
}

fn users(config: &Config) -> Result<Vec<DevUser>, ConfigError> {
    let texts = config.list("dev_identity", "user")?;
    let user = |text: &String| {
        dev_user(text).ok_or_else(|| {
            ConfigError::option(
                "dev_identity",
                "user",
                "must be name:password:project:role[,role]",
            )
        })
    };
    texts.iter().map(user).collect()
}

/// The password may hold colons: the outer parts are split off first.
fn dev_user(text: &str) -> Option<DevUser> {
    let (name, rest) = text.trim().split_once(':')?;
    let (rest, roles) = rest.rsplit_once(':')?;
    let (password, project) = rest.rsplit_once(':')?;
    let roles: Vec<_> = roles
        .split(',')
        .map(str::trim)
        .filter(|role| !role.is_empty())
        .map(str::to_owned)
        .collect();
    if name.is_empty() || password.is_empty() || project.is_empty() || roles.is_empty() {
        return None;
    }
    let (name, password, project) = (name.to_owned(), password.to_owned(), project.to_owned());
    Some(DevUser {
        name,
        password,
        project,
        roles,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let environment = pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let config = Config::load(&[], environment).map_err(|error| error.to_string())?;
        Settings::of(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_configured_listens_on_loopback() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.volume.address.to_string(), "127.0.0.1:8776");
        assert_eq!(settings.image.address.to_string(), "127.0.0.1:9292");
        assert_eq!(settings.identity.address.to_string(), "127.0.0.1:5000");
        assert_eq!(settings.auth, AuthStrategy::Dev);
        assert!(
            settings.nbd.tcp.is_none() && !settings.nbd.tcp_is_open && settings.users.is_empty()
        );
    }

    #[test]
    fn what_does_not_fit_names_its_option() {
        for (name, text, message) in [
            (
                "OS_DEFAULT__OSAPI_VOLUME_LISTEN",
                "nowhere",
                "option [DEFAULT] osapi_volume_listen: \"nowhere\" is not an IP address",
            ),
            (
                "OS_DEFAULT__HOST",
                "a@b",
                "option [DEFAULT] host: must have at most 128 characters, none of them a blank, @, # or /",
            ),
            (
                "OS_DEFAULT__TRANSPORT_URL",
                "zmq://u:secret@h/",
                "option [DEFAULT] transport_url: must begin with rabbit://",
            ),
            (
                "OS_DEV_IDENTITY__USER",
                "name:secret",
                "option [dev_identity] user: must be name:password:project:role[,role]",
            ),
            (
                "OS_NBD__TLS_VERIFY_HOST",
                "true",
                "option [nbd] tls_verify_host: needs tls_x509_cert_dir and tls_x509_verify",
            ),
            (
                "OS_NBD__TCP_LISTEN",
                "10809",
                "option [nbd] tcp_listen: \"10809\" is not address:port",
            ),
        ] {
            assert_eq!(settings(&[(name, text)]).err().as_deref(), Some(message));
        }
    }

    #[test]
    fn a_user_may_have_colons_in_the_password() {
        let user = dev_user("ann:a:b:demo:member, reader").unwrap();
        assert_eq!((user.name.as_str(), user.password.as_str()), ("ann", "a:b"));
        assert_eq!((user.project.as_str(), user.roles.len()), ("demo", 2));
    }
}
