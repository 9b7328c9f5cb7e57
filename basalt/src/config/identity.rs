//! `[keystone_authtoken]`, `[service_user]` and `[oslo_limit]`: how tokens are checked, and whose
//! are used towards other services. Names and meaning are those of keystonemiddleware and keystoneauth.

use std::borrow::Cow;
use std::time::Duration;

use rest::Secret;
use rest::http_client::{ClientError, Tls};
use rest::identity::ServiceTokens;
use rest::identity::keystone::{
    Account, Credentials, KeystoneOptions, LimitedEndpoint, LoginScope, ServerOptions,
    UnifiedLimits,
};

use super::{Config, ConfigError};

/// Where tokens are validated.
const AUTHTOKEN: &str = "keystone_authtoken";
/// Who calls other services.
const SERVICE_USER: &str = "service_user";
/// Who asks for limits, and which ones.
const OSLO_LIMIT: &str = "oslo_limit";

/// How tokens are validated at Keystone.
pub fn keystone(config: &Config) -> Result<KeystoneOptions, ConfigError> {
    let cache_s: i64 = config.integer(AUTHTOKEN, "token_cache_time")?;
    let roles = config.list(AUTHTOKEN, "service_token_roles")?;
    Ok(KeystoneOptions {
        www_authenticate_uri: config.text(AUTHTOKEN, "www_authenticate_uri")?,
        server: server(config, AUTHTOKEN)?,
        credentials: credentials(config, AUTHTOKEN)?,
        token_cache_time: u64::try_from(cache_s).ok().map(Duration::from_secs),
        service_tokens: ServiceTokens {
            roles: roles.into_iter().map(Cow::Owned).collect(),
            are_required: config.boolean(AUTHTOKEN, "service_token_roles_required")?,
        },
    })
}

/// An account of its own for calls to other services; `None`: that of `[keystone_authtoken]`.
pub fn service_user(config: &Config) -> Result<Option<(ServerOptions, Credentials)>, ConfigError> {
    if config.text(SERVICE_USER, "auth_type")?.is_none() {
        return Ok(None);
    }
    let server = server(config, SERVICE_USER)?;
    Ok(Some((server, credentials(config, SERVICE_USER)?)))
}

/// Where the limits of projects are; `None`: in the configuration.
pub fn unified_limits(config: &Config) -> Result<Option<UnifiedLimits>, ConfigError> {
    if !config.boolean("image_api", "use_keystone_limits")? {
        return Ok(None);
    }
    let text = |name: &str| config.text(OSLO_LIMIT, name);
    let interface = text("endpoint_interface")?.unwrap_or_default();
    let endpoint = LimitedEndpoint {
        id: text("endpoint_id")?,
        service_type: text("endpoint_service_type")?,
        service_name: text("endpoint_service_name")?,
        region: text("endpoint_region_name")?,
        interface: interface.trim_end_matches("URL").to_owned(),
    };
    if endpoint.id.is_none() && endpoint.service_type.is_none() && endpoint.service_name.is_none() {
        let reason = "must be set, or else endpoint_service_type or endpoint_service_name";
        return Err(ConfigError::option(OSLO_LIMIT, "endpoint_id", reason));
    }
    let (server, credentials) = (
        server(config, OSLO_LIMIT)?,
        credentials(config, OSLO_LIMIT)?,
    );
    let limits = UnifiedLimits::new(&server, credentials, endpoint);
    let failed = |error: ClientError| {
        ConfigError::option(OSLO_LIMIT, "cafile, certfile or keyfile", error.to_string())
    };
    limits.map(Some).map_err(failed)
}

fn server(config: &Config, section: &str) -> Result<ServerOptions, ConfigError> {
    let url = needed(config, section, "auth_url")?;
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        let reason = "must begin with http:// or https://";
        return Err(ConfigError::option(section, "auth_url", reason));
    }
    let path = |name: &str| {
        let path = config.text(section, name)?;
        Ok::<_, ConfigError>(path.map(|path| config.beside(&path)))
    };
    Ok(ServerOptions {
        auth_url: url,
        tls: Tls {
            cafile: path("cafile")?,
            certfile: path("certfile")?,
            keyfile: path("keyfile")?,
            insecure: config.boolean(section, "insecure")?,
        },
        timeout: Duration::from_secs(config.integer(AUTHTOKEN, "http_connect_timeout")?),
        retries: config.integer(AUTHTOKEN, "http_request_max_retries")?,
    })
}

fn credentials(config: &Config, section: &str) -> Result<Credentials, ConfigError> {
    let user = account(config, section, "user")?;
    if config.text(section, "auth_type")?.as_deref() == Some("v3applicationcredential") {
        let id = config.text(section, "application_credential_id")?;
        let name = config.text(section, "application_credential_name")?;
        let has_user = user.id.is_some() || user.name.is_some();
        if id.is_none() && (name.is_none() || !has_user) {
            let reason = "must be set, or else application_credential_name and the user";
            return Err(ConfigError::option(
                section,
                "application_credential_id",
                reason,
            ));
        }
        return Ok(Credentials::ApplicationCredential {
            id,
            name,
            user,
            secret: Secret::new(needed(config, section, "application_credential_secret")?),
        });
    }
    if user.id.is_none() && user.name.is_none() {
        let reason = "must be set, or else user_id";
        return Err(ConfigError::option(section, "username", reason));
    }
    Ok(Credentials::Password {
        user,
        password: Secret::new(needed(config, section, "password")?),
        scope: scope(config, section)?,
    })
}

fn scope(config: &Config, section: &str) -> Result<LoginScope, ConfigError> {
    if config.text(section, "system_scope")?.is_some() {
        return Ok(LoginScope::System);
    }
    let project = account(config, section, "project")?;
    if project.id.is_some() || project.name.is_some() {
        return Ok(LoginScope::Project(project));
    }
    let domain_id = config.text(section, "domain_id")?;
    let domain_name = config.text(section, "domain_name")?;
    if domain_id.is_some() || domain_name.is_some() {
        return Ok(LoginScope::Domain(Account {
            domain_id,
            domain_name,
            ..Account::default()
        }));
    }
    Ok(LoginScope::Unscoped)
}

/// A user or a project, from the options that begin so.
fn account(config: &Config, section: &str, kind: &str) -> Result<Account, ConfigError> {
    let name = match kind {
        "user" => "username".to_owned(),
        kind => format!("{kind}_name"),
    };
    Ok(Account {
        id: config.text(section, &format!("{kind}_id"))?,
        name: config.text(section, &name)?,
        domain_id: config.text(section, &format!("{kind}_domain_id"))?,
        domain_name: config.text(section, &format!("{kind}_domain_name"))?,
    })
}

fn needed(config: &Config, section: &str, name: &str) -> Result<String, ConfigError> {
    let text = config.text(section, name)?;
    text.ok_or_else(|| ConfigError::option(section, name, "must be set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(options: &[(&str, &str)]) -> Config {
        let variable = |(name, text): &(&str, &str)| {
            let name = format!("OS_KEYSTONE_AUTHTOKEN__{}", name.to_uppercase());
            (name, (*text).to_owned())
        };
        Config::load(&[], options.iter().map(variable)).unwrap()
    }

    #[test]
    fn a_cinder_conf_logs_in_as_it_says() {
        let config = config(&[
            ("auth_url", "http://keystone:5000"),
            ("username", "cinder"),
            ("password", "secret"),
            ("user_domain_name", "Default"),
            ("project_name", "service"),
            ("project_domain_id", "default"),
            ("token_cache_time", "-1"),
            ("service_token_roles", "service, nova"),
            ("cafile", "/etc/ssl/ca.pem"),
            ("insecure", "yes"),
        ]);
        let options = keystone(&config).unwrap();
        let Credentials::Password {
            user,
            password,
            scope: LoginScope::Project(project),
        } = options.credentials
        else {
            panic!("no password in a project");
        };
        assert_eq!(
            (user.name.as_deref(), password.expose()),
            (Some("cinder"), "secret")
        );
        assert_eq!(user.domain_name.as_deref(), Some("Default"));
        assert_eq!(project.domain_id.as_deref(), Some("default"));
        assert_eq!(options.token_cache_time, None);
        assert_eq!(options.service_tokens.roles.len(), 2);
        let tls = options.server.tls;
        assert!(tls.insecure && tls.cafile.is_some());
        assert!(service_user(&config).unwrap().is_none());
    }

    #[test]
    fn limits_are_those_of_one_endpoint() {
        let limits = |options: &[(&str, &str)]| {
            let given = options.iter();
            let pairs = given.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            unified_limits(&Config::load(&[], pairs).unwrap())
        };
        assert!(limits(&[]).unwrap().is_none());
        let on = ("OS_IMAGE_API__USE_KEYSTONE_LIMITS", "true");
        let refused = limits(&[on]).unwrap_err().to_string();
        assert!(refused.starts_with("option [oslo_limit] endpoint_id: must be set"));
        let account = [
            on,
            ("OS_OSLO_LIMIT__ENDPOINT_ID", "e"),
            ("OS_OSLO_LIMIT__AUTH_URL", "http://keystone"),
            ("OS_OSLO_LIMIT__USERNAME", "glance"),
            ("OS_OSLO_LIMIT__PASSWORD", "secret"),
            ("OS_OSLO_LIMIT__SYSTEM_SCOPE", "all"),
        ];
        assert!(limits(&account).unwrap().is_some());
    }

    #[test]
    fn what_is_missing_is_named() {
        let url = ("auth_url", "http://k");
        let by_credential = ("auth_type", "v3applicationcredential");
        for (options, name) in [
            (&[][..], "auth_url"),
            (&[("auth_url", "keystone:5000")], "auth_url"),
            (&[url], "username"),
            (&[url, ("username", "u")], "password"),
            (&[url, by_credential], "application_credential_id"),
            (
                &[url, by_credential, ("application_credential_id", "i")],
                "application_credential_secret",
            ),
        ] {
            let error = keystone(&config(options)).unwrap_err().to_string();
            let option = format!("option [keystone_authtoken] {name}: must ");
            assert!(error.starts_with(&option), "{error}");
        }
    }
}
