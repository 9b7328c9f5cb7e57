//! Who checks tokens, whose tokens the services use, and what clients are told to log in.

use std::sync::Arc;

use rest::Secret;
use rest::identity::dev::{DevIdentity, DevOptions, DevUser, Endpoints};
use rest::identity::keystone::{AccountTokens, Keystone};
use rest::identity::{Identity, NoAuth, TokenSource};

use super::listen::Sockets;
use crate::clouds_yaml::{self, Cloud};
use crate::config::settings::AuthStrategy;
use crate::config::{Config, ConfigError, Settings, identity};
use crate::data_dir::{DataDir, replace_file};
use crate::error::{Error, Result};
use crate::secrets::Secrets;

/// The identity of the process.
pub struct Identities {
    pub identity: Arc<dyn Identity>,
    /// Of the services' own calls to each other.
    pub tokens: Arc<dyn TokenSource>,
    /// The identity service, if it is ours.
    pub dev: Option<Arc<DevIdentity>>,
}

/// As `auth_strategy` says.
pub fn identities(
    config: &Config,
    settings: &Settings,
    secrets: &Secrets,
    sockets: &Sockets,
) -> Result<Identities> {
    match settings.auth {
        AuthStrategy::Dev => dev(settings, secrets, sockets),
        AuthStrategy::Keystone => keystone(config),
        AuthStrategy::NoAuth => Ok(Identities {
            identity: Arc::new(NoAuth),
            tokens: Arc::new(NoAuth),
            dev: None,
        }),
    }
}

fn keystone(config: &Config) -> Result<Identities> {
    let failed = |section: &str, error: rest::http_client::ClientError| {
        ConfigError::option(section, "cafile, certfile or keyfile", error.to_string())
    };
    let keystone = Keystone::new(identity::keystone(config)?);
    let keystone = keystone.map_err(|error| failed("keystone_authtoken", error))?;
    let tokens: Arc<dyn TokenSource> = match identity::service_user(config)? {
        Some((server, credentials)) => {
            let tokens = AccountTokens::new(&server, credentials);
            Arc::new(tokens.map_err(|error| failed("service_user", error))?)
        }
        None => Arc::new(keystone.clone()),
    };
    Ok(Identities {
        identity: Arc::new(keystone),
        tokens,
        dev: None,
    })
}

fn dev(settings: &Settings, secrets: &Secrets, sockets: &Sockets) -> Result<Identities> {
    let endpoints = Endpoints {
        identity: sockets.identity_url.clone().unwrap_or_default(),
        volume: sockets.volume_url.clone().unwrap_or_default(),
        image: sockets.image_url.clone().unwrap_or_default(),
    };
    let secret = |text: &str| Secret::new(text);
    let mut options = DevOptions::new(
        secrets.signing_key()?,
        secret(&secrets.admin_password),
        Some(secret(&secrets.demo_password)),
        &endpoints,
    );
    options.region = settings.region.clone();
    options.token_lifetime_s = settings.token_lifetime_s;
    // A service that does not run here is not in the catalogue.
    options
        .catalog
        .retain(|service| service.url.starts_with("http"));
    options.users.extend(settings.users.iter().map(|user| {
        let roles: Vec<_> = user.roles.iter().map(String::as_str).collect();
        DevUser::new(
            &user.name,
            Some(secret(&user.password)),
            &user.project,
            &roles,
        )
    }));
    let identity = DevIdentity::new(options)
        .map_err(|error| Error::Start(format!("section [dev_identity]: {error}")))?;
    let identity = Arc::new(identity);
    Ok(Identities {
        identity: Arc::clone(&identity) as _,
        tokens: Arc::clone(&identity) as _,
        dev: Some(identity),
    })
}

/// Writes `DIR/clouds.yaml`, unless a Keystone has the users: then only its operator can.
pub fn write_clouds_yaml(
    settings: &Settings,
    data_dir: &DataDir,
    secrets: &Secrets,
    sockets: &Sockets,
) -> Result<()> {
    let text = match (&sockets.identity_url, settings.auth) {
        (_, AuthStrategy::Keystone) => return Ok(()),
        (Some(url), _) => {
            let cloud = |name, username, password| Cloud {
                name,
                username,
                password,
                project: username,
            };
            let clouds = [
                cloud("basalt", "admin", secrets.admin_password.as_str()),
                cloud("basalt-demo", "demo", secrets.demo_password.as_str()),
            ];
            clouds_yaml::with_identity(&format!("{url}/v3"), &settings.region, &clouds)
        }
        (None, _) => clouds_yaml::without_identity(
            sockets.volume_url.as_deref().unwrap_or_default(),
            sockets.image_url.as_deref().unwrap_or_default(),
            &settings.region,
        ),
    };
    let path = data_dir.join("clouds.yaml");
    replace_file(&path, text.as_bytes()).map_err(|error| Error::Write {
        path,
        reason: error.to_string(),
    })
}
