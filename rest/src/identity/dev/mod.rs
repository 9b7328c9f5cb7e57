//! The dev identity: a small Keystone v3 over users of the configuration, so that unmodified
//! clients log in to a bare machine. Not for production: no password hashing, no lock-out, no
//! lasting revocation.
//!
//! Tokens are stateless: signed claims. They say who and for what; what the user may do there is
//! looked up at each validation, so a user taken out of the configuration loses at once.

mod directory;
mod login;
mod revocations;
mod routes;
mod token;
mod views;

use std::sync::Arc;

use async_trait::async_trait;

use self::directory::{Directory, Project, User};
use self::revocations::Revocations;
use self::token::{Claims, Signer};
use super::{Identity, IdentityError, Named, TokenInfo, TokenSource};
use crate::Secret;

pub use directory::derived_id;
pub use routes::router;

/// The one domain, as a fresh Keystone has it.
pub const DOMAIN_ID: &str = "default";
pub const DOMAIN_NAME: &str = "Default";

/// Keystone's `allow_expired_window`: so long after its end a service may still bring a token.
const EXPIRED_WINDOW_US: i64 = 172_800_000_000;

/// A user of the configuration.
#[derive(Debug, Clone)]
pub struct DevUser {
    pub name: String,
    /// 32 hex digits; `None`: derived from the name.
    pub id: Option<String>,
    /// `None`: nobody can log in as this user.
    pub password: Option<Secret>,
    /// Project name and role names. Keystone's implications are added: admin, then member, then
    /// reader.
    pub grants: Vec<(String, Vec<String>)>,
    /// Roles on the system scope.
    pub system_roles: Vec<String>,
}

impl DevUser {
    pub fn new(name: &str, password: Option<Secret>, project: &str, roles: &[&str]) -> Self {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Self {
            name: name.to_owned(),
            id: None,
            password,
            grants: vec![(project.to_owned(), roles)],
            system_roles: Vec::new(),
        }
    }
}

/// A service of the catalog, reached at the same address on all three interfaces.
#[derive(Debug, Clone)]
pub struct CatalogService {
    /// `block-storage`, `image`, …
    pub kind: String,
    pub name: String,
    /// `$(project_id)s` stands for the token's project.
    pub url: String,
}

/// Where the services listen: `http://host:port`, no path.
#[derive(Debug, Clone)]
pub struct Endpoints {
    pub identity: String,
    pub volume: String,
    pub image: String,
}

#[derive(Debug, Clone)]
pub struct DevOptions {
    /// Keep it over restarts: tokens are signed with it.
    pub signing_key: [u8; 32],
    /// Of a fresh log-in; a rescoped token ends with its parent.
    pub token_lifetime_s: u32,
    pub region: String,
    /// `http://host:port`; in `WWW-Authenticate`.
    pub auth_uri: String,
    pub catalog: Vec<CatalogService>,
    /// Projects besides those that grants name.
    pub projects: Vec<String>,
    pub users: Vec<DevUser>,
    /// Whose token the services use among themselves, and in which project.
    pub service_user: (String, String),
}

impl DevOptions {
    /// The default users: `admin` in project `admin`, `demo` (with `demo_password`, or unable to
    /// log in) in project `demo`, and the services' own user `basalt` in project `service`.
    pub fn new(
        signing_key: [u8; 32],
        admin_password: Secret,
        demo_password: Option<Secret>,
        endpoints: &Endpoints,
    ) -> Self {
        let service = |kind: &str, name: &str, url: String| CatalogService {
            kind: kind.to_owned(),
            name: name.to_owned(),
            url,
        };
        let volume_url = format!("{}/v3/$(project_id)s", endpoints.volume);
        let mut admin = DevUser::new("admin", Some(admin_password), "admin", &["admin"]);
        admin.system_roles = vec!["admin".to_owned()];
        Self {
            signing_key,
            token_lifetime_s: 12 * 3600,
            region: "RegionOne".to_owned(),
            auth_uri: endpoints.identity.clone(),
            catalog: vec![
                service("identity", "keystone", format!("{}/v3", endpoints.identity)),
                service("block-storage", "cinder", volume_url.clone()),
                service("volumev3", "cinderv3", volume_url),
                service("image", "glance", endpoints.image.clone()),
            ],
            projects: Vec::new(),
            users: vec![
                admin,
                DevUser::new("demo", demo_password, "demo", &["member"]),
                DevUser::new("basalt", None, "service", &["service", "admin"]),
            ],
            service_user: ("basalt".to_owned(), "service".to_owned()),
        }
    }
}

/// Why the options make no directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DevOptionsError {
    #[error("two users or projects have the id {0}")]
    Duplicate(String),
    #[error("the service user {user} has no role in project {project}")]
    NoServiceUser { user: String, project: String },
    #[error("the token lifetime must be 3600 to 86400 seconds, not {0}")]
    Lifetime(u32),
}

/// Users, projects and tokens. Cheap to share behind an [`Arc`].
#[derive(Debug)]
pub struct DevIdentity {
    directory: Directory,
    signer: Signer,
    revocations: Revocations,
    token_lifetime_us: i64,
    auth_uri: String,
    /// Ids of the services' own user and project.
    service: (String, String),
}

impl DevIdentity {
    pub fn new(options: DevOptions) -> Result<Self, DevOptionsError> {
        if !(3600..=86_400).contains(&options.token_lifetime_s) {
            return Err(DevOptionsError::Lifetime(options.token_lifetime_s));
        }
        let directory = Directory::new(&options)?;
        let (user, project) = options.service_user;
        let service = directory
            .user_named(&user)
            .zip(directory.project_named(&project))
            .filter(|(user, project)| user.grants.contains_key(&project.id))
            .map(|(user, project)| (user.id.clone(), project.id.clone()));
        let service = service.ok_or(DevOptionsError::NoServiceUser { user, project })?;
        Ok(Self {
            directory,
            signer: Signer::new(&options.signing_key),
            revocations: Revocations::default(),
            token_lifetime_us: i64::from(options.token_lifetime_s) * 1_000_000,
            auth_uri: options.auth_uri,
            service,
        })
    }

    /// The id of a project, to print or to prepare quotas.
    pub fn project_id(&self, name: &str) -> Option<&str> {
        self.directory
            .project_named(name)
            .map(|project| project.id.as_str())
    }

    /// The id of a user.
    pub fn user_id(&self, name: &str) -> Option<&str> {
        self.directory.user_named(name).map(|user| user.id.as_str())
    }

    /// The claims of a token that is genuine, in time, not revoked, and still backed by a grant.
    fn read(&self, token: &str) -> Option<Session<'_>> {
        self.read_as_of(token, database::now_us())
    }

    fn read_as_of(&self, token: &str, now_us: i64) -> Option<Session<'_>> {
        let claims = self.signer.verify(token)?;
        if claims.expires_at_us <= now_us || self.revocations.contains(claims.audit_id()) {
            return None;
        }
        self.session(claims)
    }

    fn session(&self, claims: Claims) -> Option<Session<'_>> {
        let user = self.directory.user(&claims.user_id)?;
        let project = match &claims.project_id {
            Some(id) => Some(self.directory.project(id)?),
            None => None,
        };
        let roles: &[String] = match project {
            Some(project) => user.grants.get(&project.id)?,
            None if claims.system => &user.system_roles,
            None => &[],
        };
        if claims.system && roles.is_empty() {
            return None;
        }
        Some(Session {
            claims,
            user,
            project,
            roles,
        })
    }
}

/// A valid token and what it stands for.
#[derive(Debug)]
struct Session<'a> {
    claims: Claims,
    user: &'a User,
    project: Option<&'a Project>,
    roles: &'a [String],
}

impl Session<'_> {
    fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }

    fn info(&self) -> TokenInfo {
        TokenInfo {
            user: named(&self.user.id, &self.user.name),
            project: self
                .project
                .map(|project| named(&project.id, &project.name)),
            domain_id: None,
            is_system: self.claims.system,
            is_admin_project: true,
            roles: self.roles.to_vec(),
            expires_at_us: self.claims.expires_at_us,
            is_admin: false,
        }
    }
}

fn named(id: &str, name: &str) -> Named {
    Named {
        id: id.to_owned(),
        name: name.to_owned(),
        domain_id: DOMAIN_ID.to_owned(),
        domain_name: DOMAIN_NAME.to_owned(),
    }
}

#[async_trait]
impl Identity for DevIdentity {
    async fn validate(&self, token: &Secret) -> Result<Arc<TokenInfo>, IdentityError> {
        let session = self
            .read(token.expose())
            .ok_or(IdentityError::Unauthorized)?;
        Ok(Arc::new(session.info()))
    }

    async fn validate_expired(&self, token: &Secret) -> Result<Arc<TokenInfo>, IdentityError> {
        let as_of_us = database::now_us().saturating_sub(EXPIRED_WINDOW_US);
        let session = self
            .read_as_of(token.expose(), as_of_us)
            .ok_or(IdentityError::Unauthorized)?;
        Ok(Arc::new(session.info()))
    }

    fn auth_uri(&self) -> &str {
        &self.auth_uri
    }
}

#[async_trait]
impl TokenSource for DevIdentity {
    /// A fresh token of the service user, valid for an hour.
    async fn token(&self) -> Result<Secret, IdentityError> {
        let (user, project) = &self.service;
        let now_us = database::now_us();
        let claims = Claims {
            user_id: user.clone(),
            project_id: Some(project.clone()),
            system: false,
            issued_at_us: now_us,
            expires_at_us: now_us + 3_600_000_000,
            audit_ids: vec![token::new_audit_id()],
            methods: vec!["password".to_owned()],
        };
        Ok(Secret::new(self.signer.sign(&claims)))
    }
}
